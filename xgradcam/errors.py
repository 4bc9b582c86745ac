"""The one error that users meet."""


class XGradCamError(Exception):
    """Something the user can mend; the message names the value and the remedy. All else is a bug."""


class CannotWriteError(XGradCamError):
    """A result that could not be written: a full disk, a folder that has gone."""
