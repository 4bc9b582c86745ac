"""Models of the Hugging Face Hub: in its cache, to be downloaded, or why not."""

from xgradcam.errors import WeightsUnavailableError, XGradCamError, first_line
from xgradcam.models.download import Report, require_reachable

CONFIG = "config.json"


def is_cached(repository: str, revision: str, name: str) -> bool:
    """True if the configuration of a model of the Hub is in the cache.

    revision: '' for the usual one. name: the model's, for the XGradCamError for no name of a repository.
    """
    from huggingface_hub import try_to_load_from_cache

    try:
        return isinstance(try_to_load_from_cache(repository, CONFIG, revision=revision or None), str)
    except ValueError as error:
        raise XGradCamError(f"no model {name}: {first_line(error)}") from None


def require_config(repository: str, revision: str, name: str, report: Report) -> None:
    """Raise WeightsUnavailableError unless a model of the Hub is in the cache or can be downloaded."""
    from huggingface_hub import constants

    if is_cached(repository, revision, name):
        return
    if constants.HF_HUB_OFFLINE:
        raise WeightsUnavailableError(
            f"{repository} is not in the cache {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE is set"
        )
    require_reachable(constants.ENDPOINT)
    report(f"downloading {repository} from {constants.ENDPOINT}")


def why_not(error: BaseException) -> str:
    """The reason in an error of the Hub's, or of a library that asked it, in a line with the remedy."""
    from huggingface_hub import errors

    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    for kind, reason in (
        (errors.GatedRepoError, "it is gated: ask for access on its page, then log in by `hf auth login`"),
        (errors.RevisionNotFoundError, "there is no such revision: give another behind the @, or none"),
        (errors.RepositoryNotFoundError, "the Hub has none of this name, or it is private: `hf auth login`"),
    ):
        if any(isinstance(one, kind) for one in causes):
            return reason
    return " ".join(line.strip() for line in str(error).splitlines()[:2]) or type(error).__name__
