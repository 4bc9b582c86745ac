"""Small networks for Eq. 5 that the tests of the proof share."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tests.support import features_by_autograd
from xgradcam.proof.verification import Verification
from xgradcam.proof.verify import verify


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def redrawn(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model in float64 and evaluation mode, every parameter and statistic drawn anew."""
    generator = torch.Generator().manual_seed(seed)
    model = model.double().eval()
    with torch.no_grad():
        for name, value in (*model.named_parameters(), *model.named_buffers()):
            if value.is_floating_point():
                value.normal_(0, 0.5, generator=generator)
                if name.endswith("running_var"):
                    value.abs_().add_(0.5)
    return model


class Net(nn.Module):
    """A convolution, `between`, and a linear layer of everything: (N, 3, 8, 8) to (N, 4)."""

    def __init__(self, between: Callable[..., Tensor], *modules: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.between = between
        self.parts = nn.ModuleList(modules)
        self.head = nn.LazyLinear(4)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.between(self.stem(inputs), *self.parts).flatten(1))


def net(between: Callable[..., Tensor], *modules: nn.Module, seed: int = 0) -> nn.Module:
    model = Net(between, *modules).double().eval()
    with torch.no_grad():
        model(IMAGES[:1])
    return redrawn(model, seed)


IMAGES = random(2, 3, 8, 8, seed=5)


def kinds(found: Verification, *, without: str = "head") -> list[tuple[str, str, str]]:
    return [
        (term.module, term.operation, term.kind) for term in found.contributions if term.module != without
    ]


def closing(
    model: nn.Module, layer: str = "stem", images: Tensor = IMAGES, *, differentiable: bool = True
) -> Verification:
    """The terms for class 1, checked: they sum to the model's score, and the feature is autograd's.

    differentiable: False for a model that autograd cannot run as it is written.
    """
    found = verify(model, images, layer, 1)
    assert found.closes.all(), (found.residual, found.tolerance)
    with torch.no_grad():
        scores = torch.cat([model(image[None]) for image in images])
    torch.testing.assert_close(found.score, scores[:, 1])
    assert (found.score != 0).all()
    total = found.feature + sum(term.value for term in found.contributions)
    torch.testing.assert_close(total, found.score, rtol=1e-10, atol=1e-10)
    assert any((term.value != 0).all() for term in found.contributions)
    if differentiable:
        expected = features_by_autograd(model, images, [layer], 1)[layer]
        torch.testing.assert_close(found.feature, expected, rtol=1e-9, atol=1e-11)
    return found


class Branched(nn.Module):
    """stem → (left + right, stem) → head; the layer `left` is bypassed by an addition and a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.left = nn.Conv2d(4, 4, 3, padding=1)
        self.right = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        stem = self.stem(inputs).relu()
        joined = torch.cat([self.left(stem).relu_() + self.right(stem), stem], 1)
        return self.head(self.norm(joined).relu().mean((2, 3)))


def sequential() -> nn.Module:
    """One of each kind of operation with a constant; ReLU6's cap is a buffer so that it can be doubled."""
    return redrawn(
        nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.ReLU6(),
            nn.Conv2d(6, 6, 3, groups=2),
            nn.BatchNorm2d(6, affine=False),
            nn.LeakyReLU(0.25),
            nn.MaxPool2d(2),
            nn.ConvTranspose2d(6, 4, 2),
            nn.PReLU(4),
            nn.ConstantPad2d(1, 1.25),
            nn.Hardtanh(-0.5, 2.0),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Linear(36, 4),
        ),
        seed=3,
    )
