"""A stand-in for CUDA graphs on a CPU: it notes every operation, and repeats it on the same tensors."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from xgradcam.operations.calls import tensors_of


class RecordedGraphs:
    """Like a CUDA graph, its replay runs no Python of the model's, reads and writes the memory that was
    captured, and cannot be captured where a number is read."""

    device = "cpu"

    def __init__(self):
        self.captures = self.replays = 0

    def capture(self, work, device):
        assert device.type == self.device
        tape = _Tape()
        with tape:
            result = work()
        self.captures += 1

        def replay():
            self.replays += 1
            tape.replay()

        return result, replay


class _Tape(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, function, _types, args=(), kwargs=None):
        if torch.Tag.data_dependent_output in function.tags:
            raise RuntimeError("operation not permitted when stream is capturing")
        result = function(*args, **(kwargs or {}))
        self.calls.append((function, args, kwargs or {}, result))
        return result

    def replay(self):
        with torch.no_grad():
            for function, args, kwargs, result in self.calls:
                for old, new in zip(tensors_of(result), tensors_of(function(*args, **kwargs)), strict=True):
                    if old.data_ptr() != new.data_ptr():
                        old.copy_(new)
