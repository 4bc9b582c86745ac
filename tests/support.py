"""What several test files share: small networks, slow references, photographs, a measured command."""

import copy
import io
import os
import shutil
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models import vgg16

from xgradcam.cam.explanation import Explanation
from xgradcam.cam.methods import METHODS

# The methods for any network with maps, and those of them that apply at every layer.
OF_ACTIVATION = [name for name, method in METHODS.items() if not method.of_attention]
ANYWHERE = [name for name in OF_ACTIVATION if name != "cam"]

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


# Browsers: names of their programs, and a package to install.
BROWSERS = {
    "Chromium": (("chromium", "chromium-browser", "google-chrome", "chrome"), "chromium"),
    "Firefox": (("firefox-esr", "firefox"), "firefox-esr"),
}


def find_browser(name: str) -> str:
    """Path of a browser; without one the test fails in CI and is skipped elsewhere."""
    programs, package = BROWSERS[name]
    for path in map(shutil.which, programs):
        if path is not None:
            return path
    reason = f"no {name} on the PATH ({', '.join(programs)}): install one, e.g. apt-get install {package}"
    if os.environ.get("CI", "").lower() in ("", "0", "false"):
        pytest.skip(reason)
    pytest.fail(reason)


# Models as users write them, each in a file of its own: Tiny of 32 x 32 pixels, Pooled of any size.
TINY = """
import torch
from torch import nn

class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.head = nn.Linear(8 * 16 * 16, 4)

    def forward(self, images):
        return self.head(self.features(images).flatten(1))
"""
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


def noise(folder: str, count: int, side: int = 40) -> None:
    """A new folder with this many photographs of noise, the same on every machine."""
    Path(folder).mkdir()
    random = np.random.default_rng(0)
    for index in range(count):
        pixels = random.integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"{folder}/{index:04}.png")


def default_interrupts() -> None:
    """Have a child process obey Ctrl-C: a shell's background jobs are started with it ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


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


def full_graph_gradient(net: nn.Module, inputs: Tensor, layer: str, target: int) -> tuple[Tensor, ...]:
    """The slow reference: no operation in place, the graph of the whole network, one sample at a time."""
    plain = copy.deepcopy(net).eval()
    for module in plain.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    kept = []
    dict(plain.named_modules())[layer].register_forward_hook(lambda _m, _i, output: kept.append(output))
    pairs = []
    for sample in inputs:
        kept.clear()
        score = plain(sample[None])[0, target]
        pairs.append((kept[0].detach(), torch.autograd.grad(score, kept[0])[0]))
    return tuple(torch.cat(parts) for parts in zip(*pairs, strict=True))


def explained(signed: Tensor) -> Explanation:
    """An explanation of samples with these maps (N, h, w)."""
    count = len(signed)
    return Explanation({"grad-cam": torch.as_tensor(signed)}, torch.zeros(count), ((),) * count)


def features_by_autograd(
    model: nn.Module, inputs: Tensor, layers: Sequence[str], target: int | None
) -> dict[str, Tensor]:
    """The feature terms of Eq. 5, ⟨∂S/∂A, A⟩ (N,), from the graph of the whole network.

    target: None for each sample's highest score. Every layer hands on a copy of its output, so that
    operations in place behind it do not change what is kept.
    """
    kept: dict[str, Tensor] = {}

    def keep(name: str, output: Tensor) -> Tensor:
        kept[name] = output
        return output.clone()

    hooks = [
        model.get_submodule(name).register_forward_hook(lambda _m, _i, output, name=name: keep(name, output))
        for name in layers
    ]
    terms = []
    for sample in inputs:
        scores = model(sample[None])[0]
        score = scores.max() if target is None else scores[target]
        gradients = torch.autograd.grad(score, [kept[name] for name in layers], allow_unused=True)
        activations = [kept[name].detach().double() for name in layers]
        terms.append(
            [
                torch.zeros(()) if gradient is None else (gradient.double() * activation).sum()
                for activation, gradient in zip(activations, gradients, strict=True)
            ]
        )
    for hook in hooks:
        hook.remove()
    return {name: torch.stack(values) for name, values in zip(layers, zip(*terms, strict=True), strict=True)}


def state_of(model: nn.Module) -> dict[str, list]:
    """All that a call must leave as it was."""
    return {
        "training": [module.training for module in model.modules()],
        "requires_grad": [parameter.requires_grad for parameter in model.parameters()],
        "grad": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "tensors": [tensor.clone() for tensor in model.state_dict().values()],
        "hooks": [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()],
    }


def assert_same_state(left: dict[str, list], right: dict[str, list]) -> None:
    assert left["training"] == right["training"]
    assert left["requires_grad"] == right["requires_grad"]
    assert left["hooks"] == right["hooks"]
    for one, other in zip(left["grad"], right["grad"], strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.equal(one, other)
    assert all(torch.equal(one, other) for one, other in zip(left["tensors"], right["tensors"], strict=True))


def lived_in(net: TinyNet) -> TinyNet:
    """A model in the middle of its owner's work: mixed flags, a frozen layer, gradients in place."""
    net.train()
    net.features[1].eval()
    net.features[0].weight.requires_grad_(False)
    net.classifier[0].weight.grad = torch.full_like(net.classifier[0].weight, 7.0)
    net.features[3].register_forward_hook(lambda *_: None)
    return net


def randomised(model: nn.Module, generator: torch.Generator) -> nn.Module:
    """The network with He weights, and constants that are far from their defaults."""
    with torch.no_grad():
        for parameter in model.parameters():
            deviation = (2 / parameter[0].numel()) ** 0.5 if parameter.dim() in (2, 4) else 0.3
            parameter.normal_(0, deviation, generator=generator)
        for module in model.modules():
            if isinstance(module, (_BatchNorm, nn.LayerNorm)):
                module.weight.uniform_(0.5, 1.5, generator=generator)
            if isinstance(module, _BatchNorm):
                module.running_mean.normal_(0, 0.3, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
    return model.eval()


def layers_of(model: nn.Module, image: Tensor, dims: tuple[int, ...] = (4,)) -> list[str]:
    """Every module that runs exactly once and returns a feature map."""
    runs: Counter[str] = Counter()
    maps: set[str] = set()

    def note(name: str, output: object) -> None:
        runs[name] += 1
        if isinstance(output, Tensor) and output.dim() in dims:
            maps.add(name)

    hooks = [
        module.register_forward_hook(lambda _m, _i, output, name=name: note(name, output))
        for name, module in model.named_modules()
    ]
    with torch.no_grad():
        model(image)
    for hook in hooks:
        hook.remove()
    return [name for name in runs if runs[name] == 1 and name in maps]


def evenly(layers: list[str], count: int) -> list[str]:
    """This many of the layers, spread over all of them."""
    return [layers[round(index * (len(layers) - 1) / (count - 1))] for index in range(count)]


def vgg16_state_dict(seed: int) -> dict[str, Tensor]:
    """Weights of the golden cases' VGG-16, the same on every machine, with no download.

    Uniform with He's variance, biases uniform in [-0.1, 0.1], drawn in the order of the state dict.
    `golden/*.npz` hold what the authors' original scripts computed with seed 0 for scikit-image's
    `chelsea.png`: `cam` and `X_cam` (224, 224), `proof` (score, gradients*feature, bias_term, residual)
    and `target`.
    """
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in vgg16().state_dict().items()}
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes.items():
        bound = 0.1 if len(shape) == 1 else (6 / shape[1:].numel()) ** 0.5
        state[name] = torch.empty(shape).uniform_(-bound, bound, generator=generator)
    return state


def damaged() -> Iterator[tuple[str, bytes]]:
    """Names and contents of 2,000 files of five formats with flipped bits; a third are cut short."""
    cat = data.chelsea()
    random = np.random.default_rng(0)
    kinds = ("jpeg", "png", "webp", "bmp", "tiff")
    whole = {}
    for kind in kinds:
        buffer = io.BytesIO()
        Image.fromarray(cat[::3, ::3]).save(buffer, format=kind)
        whole[kind] = np.frombuffer(buffer.getvalue(), np.uint8)
    for index in range(2000):
        kind = kinds[index % len(kinds)]
        content = whole[kind].copy()
        # Half of the flips in the header, where they do the most harm.
        reach = len(content) if index % 2 else 200
        places = random.integers(0, reach, random.integers(1, 12))
        content[places] ^= (1 << random.integers(0, 8, len(places))).astype(np.uint8)
        if index % 3 == 0:
            content = content[: random.integers(0, len(content))]
        yield f"{index:04}.{kind}", content.tobytes()
