"""What the tests share: a small network, the example photographs, a command that measures itself."""

from pathlib import Path

import torch
from torch import Tensor, nn

# Runs xgrad-cam and prints its peak memory in bytes; what getrusage says would include pytest's own.
MEASURED_COMMAND = """
import re, sys
from pathlib import Path
from xgradcam.cli.xgrad_cam import main
code = main(sys.argv[1:])
print(1024 * int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text()).group(1)))
sys.exit(code)
"""

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"

# A user's model: 4 classes by a linear layer on the averages of the maps of `features.0` and `features.1`.
POOLED = """
import torch
from torch import nn

class Pooled(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(8, 4)

    def forward(self, images):
        return self.head(self.features(images).mean(dim=(2, 3)))
"""


class TinyNet(nn.Module):
    """Convolutions, a batch norm, in-place ReLUs and a linear head: 5 classes from (N, 3, 8, 8), float64."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.features = nn.Sequential(
                nn.Conv2d(3, 6, 3, padding=1),
                nn.BatchNorm2d(6),
                nn.ReLU(inplace=True),
                nn.Conv2d(6, 4, 3, padding=1),
                nn.ReLU(inplace=True),
                nn.MaxPool2d(2),
            )
            self.classifier = nn.Sequential(nn.Linear(4 * 4 * 4, 16), nn.ReLU(inplace=True), nn.Linear(16, 5))
            with torch.no_grad():
                for name, tensor in self.named_buffers():
                    if name.endswith(("running_mean", "running_var")):
                        tensor.uniform_(0.5, 1.5)
        self.double()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.classifier(self.features(inputs).flatten(1))
