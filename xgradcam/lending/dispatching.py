"""Modes that see PyTorch's operations, in the thread in which they are entered."""

from torch.utils._python_dispatch import TorchDispatchMode


class DispatchMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A dispatch mode that does not import the compiler, which takes a second and 150 MB.

    PyTorch would do that to keep `__torch_dispatch__` from being compiled; compiled models step aside here.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False
