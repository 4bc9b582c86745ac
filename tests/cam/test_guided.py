import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from tests.support import EXAMPLES, TinyNet, assert_same_state, lived_in, state_of
from xgradcam.cam.explain import explain
from xgradcam.cam.guided import gradient_picture, guided_backpropagation, guided_map
from xgradcam.errors import XGradCamError
from xgradcam.pictures.photograph import read_image, to_input


def guided_by_modules(modules, image, target):
    """The slow reference for a chain of modules: dense Jacobians, and the rule of the paper at a ReLU."""
    values = [image[None]]
    for module in modules:
        values.append(module(values[-1].clone()).detach())
    gradient = torch.zeros_like(values[-1])
    gradient[0, target] = 1
    for module, value in zip(reversed(modules), reversed(values[:-1]), strict=True):
        if isinstance(module, (nn.ReLU, nn.ReLU6)):
            cap = 6 if isinstance(module, nn.ReLU6) else torch.inf
            rule = [
                g if g > 0 and 0 < v < cap else 0
                for g, v in zip(gradient.ravel(), value.ravel(), strict=True)
            ]
            gradient = torch.tensor(rule, dtype=value.dtype).reshape(value.shape)
        else:
            jacobian = torch.autograd.functional.jacobian(lambda x, module=module: module(x.clone()), value)
            gradient = torch.tensordot(gradient, jacobian, dims=gradient.ndim)
    return gradient[0]


def chain_of(net):
    return [*net.features, nn.Flatten(), *net.classifier]


@pytest.mark.parametrize("target", [0, 3])
def test_guided_backpropagation_is_the_papers_rule_at_every_relu(net, batch, target):
    guided = guided_backpropagation(net, batch, target)
    expected = torch.stack([guided_by_modules(chain_of(net), image, target) for image in batch])
    torch.testing.assert_close(guided, expected)
    plain = batch.clone().requires_grad_()
    (plain,) = torch.autograd.grad(net(plain)[:, target].sum(), plain)
    assert (guided - plain).abs().max() > 0.1 * plain.abs().max()


def test_a_cap_and_an_activation_that_is_no_rectifier_keep_their_own_derivatives(batch):
    torch.manual_seed(0)
    chain = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU6(inplace=True), nn.Conv2d(4, 4, 3), nn.LeakyReLU(0.2), nn.Conv2d(4, 4, 3),
        nn.SiLU(), nn.Flatten(), nn.Linear(16, 9), nn.ReLU(), nn.Linear(9, 2),
    ).double()  # fmt: skip
    images = 20 * batch
    assert (chain[0](images) > 6).any()
    expected = torch.stack([guided_by_modules([*chain], image, 1) for image in images])
    torch.testing.assert_close(guided_backpropagation(chain, images, 1), expected)


class Spelled(nn.Module):
    """Two convolutions with a rectifier behind each, written in one of many ways."""

    def __init__(self, rectify):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
            self.last = nn.Linear(4, 3)
        self.rectify = rectify
        self.double()

    def forward(self, images):
        maps = self.rectify(4 * self.first(images))
        return self.last(self.rectify(4 * self.second(maps)).mean(dim=(2, 3)))


def in_a_view(maps):
    maps[:, :2].relu_()
    functional.relu(maps[:, 2:], inplace=True)
    return maps


def over_a_view(maps):
    """The view, not its base, is used on."""
    return maps.transpose(2, 3).relu_().transpose(2, 3)


RELUS = {
    "module in place": nn.ReLU(inplace=True),
    "F.relu": functional.relu,
    "F.relu in place": lambda maps: functional.relu(maps, inplace=True),
    "F.relu in place, by position": lambda maps: functional.relu(maps, True),
    "F.relu_": functional.relu_,
    "torch.relu": torch.relu,
    "torch.relu_": torch.relu_,
    "Tensor.relu": lambda maps: maps.relu(),
    "Tensor.relu_": lambda maps: maps.relu_(),
    "operator": torch.ops.aten.relu.default,
    "operator in place": torch.ops.aten.relu_.default,
    "clamp": lambda maps: maps.clamp(min=0),
    "clamp_": lambda maps: maps.clamp_(0.0),
    "torch.clip": lambda maps: torch.clip(maps, min=0),
    "clamp_min": lambda maps: maps.clamp_min(0),
    "in views": in_a_view,
    "over a view": over_a_view,
    "written over later": lambda maps: maps.clamp(min=0).mul_(2).div_(2),
}


RELU6S = {
    "module in place": nn.ReLU6(inplace=True),
    "F.relu6": functional.relu6,
    "F.relu6 in place": lambda maps: functional.relu6(maps, inplace=True),
    "hardtanh": lambda maps: functional.hardtanh(maps, 0, 6),
    "hardtanh_": lambda maps: functional.hardtanh_(maps, min_val=0.0, max_val=6.0),
    "clamp": lambda maps: maps.clamp(0, 6),
    "nn.Hardtanh": nn.Hardtanh(0, 6),
}


@pytest.mark.parametrize("spelling", RELUS)
def test_every_spelling_of_relu_is_the_module(batch, spelling):
    expected = guided_backpropagation(Spelled(nn.ReLU()), batch, 1)
    torch.testing.assert_close(guided_backpropagation(Spelled(RELUS[spelling]), batch, 1), expected)
    assert expected.abs().max() > 0


@pytest.mark.parametrize("spelling", RELU6S)
def test_every_spelling_of_relu6_is_the_module(batch, spelling):
    expected = guided_backpropagation(Spelled(nn.ReLU6()), batch, 1)
    torch.testing.assert_close(guided_backpropagation(Spelled(RELU6S[spelling]), batch, 1), expected)
    assert not torch.allclose(expected, guided_backpropagation(Spelled(nn.ReLU()), batch, 1))


class Shared(nn.Module):
    """One ReLU and one matrix, run twice, and a skip path around the second run."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(2)
            self.matrix, self.scores = nn.Linear(6, 6), nn.Linear(6, 3)
        self.relu = nn.ReLU(inplace=True)
        self.double()

    def forward(self, values):
        hidden = self.relu(self.matrix(values))
        hidden = hidden + self.relu(self.matrix(hidden))
        return self.scores(hidden)


def test_shared_modules_and_skip_paths_by_loops():
    """The two ways to one place are added before the sum is rectified."""
    net = Shared()
    values = torch.randn(4, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    matrix, bias = (tensor.detach().numpy() for tensor in net.matrix.parameters())
    scores = net.scores.weight.detach().numpy()
    guided = guided_backpropagation(net, values, 2)
    for sample, result in zip(values.numpy(), guided.numpy(), strict=True):
        first = [max(sum(matrix[i, j] * sample[j] for j in range(6)) + bias[i], 0) for i in range(6)]
        second = [max(sum(matrix[i, j] * first[j] for j in range(6)) + bias[i], 0) for i in range(6)]
        at_second = [max(scores[2, i], 0) * (second[i] > 0) for i in range(6)]
        at_first = [scores[2, j] + sum(matrix[i, j] * at_second[i] for i in range(6)) for j in range(6)]
        through = [max(at_first[i], 0) * (first[i] > 0) for i in range(6)]
        np.testing.assert_allclose(
            result, [sum(matrix[i, j] * through[i] for i in range(6)) for j in range(6)]
        )
    assert guided.abs().max() > 0


def test_a_batch_is_its_samples_one_at_a_time_each_with_its_class(net, batch):
    targets = [4, 0, 2]
    guided = guided_backpropagation(net, batch, targets)
    for sample, target in enumerate(targets):
        alone = guided_backpropagation(net, batch[sample : sample + 1], target)
        torch.testing.assert_close(guided[sample : sample + 1], alone)


def test_without_targets_it_is_of_the_highest_score(net, batch):
    highest = net(batch).argmax(dim=1)
    assert torch.equal(guided_backpropagation(net, batch), guided_backpropagation(net, batch, highest))


def test_scores_may_be_one_output_of_several(net, batch):
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, images):
            return {"logits": self.net(images)}

    found = guided_backpropagation(Wrapped(), batch, 1, output="logits")
    assert torch.equal(found, guided_backpropagation(net, batch, 1))


def test_the_model_and_the_inputs_are_left_as_found(batch):
    net = lived_in(TinyNet())
    before, images = state_of(net), batch.clone().requires_grad_()
    images.grad = torch.full_like(images, 3.0)
    guided = guided_backpropagation(net, images, 0)
    assert_same_state(before, state_of(net))
    assert torch.equal(images.detach(), batch)
    assert images.grad.eq(3).all()
    assert not guided.requires_grad
    images = batch.clone()
    guided_backpropagation(net, images, 0)
    assert not images.requires_grad


@pytest.mark.parametrize("broken", ["features.0", "classifier.1"])
def test_the_model_is_left_as_found_when_it_raises(batch, broken):
    net = lived_in(TinyNet())

    def fail(*_):
        raise RuntimeError("inside the model")

    dict(net.named_modules())[broken].register_forward_pre_hook(fail)
    before = state_of(net)
    for grad_mode in (True, False):
        with torch.set_grad_enabled(grad_mode):
            with pytest.raises(RuntimeError, match="inside the model"):
                guided_backpropagation(net, batch)
            assert torch.is_grad_enabled() == grad_mode
    assert_same_state(before, state_of(net))
    tracked = batch.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(
        functional.relu(tracked).sum(), tracked, torch.tensor(-1.0, dtype=torch.float64)
    )
    assert gradient.min() == -1  # no rectifier is guided any more


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_callers_grad_mode_neither_matters_nor_changes(net, batch, mode):
    expected = guided_backpropagation(net, batch, 1)
    with mode():
        flags = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        guided = guided_backpropagation(net, batch.clone(), 1)
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == flags
    assert torch.equal(guided, expected)
    assert not guided.is_inference()


def test_a_frozen_model_gives_the_same(net, batch):
    expected = guided_backpropagation(net, batch, 1)
    assert torch.equal(guided_backpropagation(net.requires_grad_(False), batch, 1), expected)


def test_training_mode_counts_for_evaluation(batch):
    net = TinyNet().train()
    assert torch.equal(
        guided_backpropagation(net, batch, 1), guided_backpropagation(TinyNet().eval(), batch, 1)
    )


@pytest.mark.parametrize("samples", [1, 2])
def test_a_batch_norm_beside_tokens_has_the_right_gradient(samples):
    """PyTorch's own gradient is wrong here for one sample: the layout of the tokens deceives it."""

    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(8).double()
            self.norm.running_var.uniform_(0.5, 2.0, generator=torch.Generator().manual_seed(2))

        def forward(self, maps):
            tokens = self.norm(functional.relu(maps)).flatten(2).transpose(1, 2)
            return torch.stack([(tokens * weights).sum(dim=(1, 2))], 1)

    generator = torch.Generator().manual_seed(1)
    maps = torch.randn(samples, 8, 5, 5, generator=generator, dtype=torch.float64)
    weights = torch.randn(samples, 25, 8, generator=generator, dtype=torch.float64)
    net = Tokens().eval()
    slope = (net.norm.running_var + net.norm.eps).rsqrt()[:, None, None]
    positive = weights.transpose(1, 2).reshape(maps.shape).clamp(min=0)
    torch.testing.assert_close(guided_backpropagation(net, maps, 0), positive * (maps > 0) * slope)


def test_a_checkpointed_block_is_guided_too():
    class Net(nn.Module):
        def __init__(self, checkpointed):
            super().__init__()
            self.checkpointed = checkpointed
            self.block = copy.deepcopy(block)

        def forward(self, images):
            if self.checkpointed:
                maps = checkpoint(self.block, images, use_reentrant=False)
            else:
                maps = self.block(images)
            return maps.mean(dim=(2, 3))

    torch.manual_seed(0)
    block = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Conv2d(4, 4, 1))
    images = torch.randn(2, 3, 4, 4)
    expected = guided_backpropagation(Net(False), images, 1)
    torch.testing.assert_close(guided_backpropagation(Net(True), images, 1), expected)


def test_an_operation_without_a_gradient_beside_the_way_is_no_obstacle():
    class Blocked(torch.autograd.Function):
        @staticmethod
        def forward(_context, values):
            return values.clone()

        @staticmethod
        def backward(_context, _gradient):
            return None

    class Net(nn.Module):
        def forward(self, values):
            return functional.relu(values) + Blocked.apply(functional.relu(2 * values))

    values = torch.tensor([[1.0, -1.0]])
    assert guided_backpropagation(Net(), values, 0).tolist() == [[1, 0]]


@pytest.mark.parametrize(
    "write",
    [
        lambda images: images.relu_(),
        lambda images: images[:, :].relu_(),
        lambda images: images.copy_(functional.relu(images)),
    ],
    ids=["in place", "in a view", "beside"],
)
def test_a_rectifier_without_a_graph_runs_as_it_is(net, batch, write):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, images):
            with torch.no_grad():
                write(images)
            return self.net(images) + functional.relu(torch.ones(5, dtype=images.dtype))

    expected = guided_backpropagation(net, batch.clamp(min=0), 1)
    assert torch.equal(guided_backpropagation(Net(), batch, 1), expected)
    assert expected.min() < 0


def test_another_librarys_relu_may_be_anything():
    @torch.library.custom_op("xgradcam_tests::relu", mutates_args=())
    def relu(values: torch.Tensor) -> torch.Tensor:
        return 2 * values

    relu.register_autograd(lambda _context, gradient: 2 * gradient)
    chain = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3)).double()
    values = torch.randn(2, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    class Net(nn.Module):
        def forward(self, values):
            return -torch.ops.xgradcam_tests.relu(-chain(values))

    assert torch.equal(guided_backpropagation(Net(), values, 1), 2 * guided_backpropagation(chain, values, 1))


def test_a_network_without_rectifiers_is_refused_by_what_it_has_instead():
    leaky = nn.Sequential(nn.Linear(4, 3), nn.LeakyReLU(), nn.Linear(3, 3), nn.GELU(), nn.LeakyReLU())
    with pytest.raises(XGradCamError, match=r"needs rectifiers, .* has none: it has leaky_relu, gelu$"):
        guided_backpropagation(leaky, torch.ones(1, 4))
    with pytest.raises(XGradCamError, match=r"this model's score has none$"):
        guided_backpropagation(nn.Linear(4, 3), torch.ones(1, 4))


def test_a_rectifier_that_is_not_on_the_way_does_not_count():
    class Beside(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

        def forward(self, values):
            return values * functional.relu(self.scale), functional.relu(values)

    with pytest.raises(XGradCamError, match="needs rectifiers"):
        guided_backpropagation(Beside(), torch.ones(1, 3), output="0")


def test_other_bounds_than_0_do_not_rectify():
    class Bounded(nn.Module):
        def forward(self, values):
            values = values.clamp(-1, 1).clamp(max=0.9).clamp(min=torch.tensor(0.0))
            return functional.hardtanh(values)

    with pytest.raises(XGradCamError, match=r"it has hardtanh$"):
        guided_backpropagation(Bounded(), torch.ones(1, 3))


def test_what_has_no_gradient_is_refused(net, batch):
    class Constant(nn.Module):
        def forward(self, images):
            return functional.relu(images).detach().mean(dim=(2, 3))

    with pytest.raises(XGradCamError, match="no gradient reaches the inputs: the score does not depend"):
        guided_backpropagation(Constant(), batch)
    with pytest.raises(XGradCamError, match=r"the inputs are torch\.uint8 numbers"):
        guided_backpropagation(net, torch.ones(1, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(XGradCamError, match=r"no class 9: .* 0 to 4"):
        guided_backpropagation(net, batch, 9)
    with torch.inference_mode():
        made = TinyNet()
    with pytest.raises(XGradCamError, match="inference_mode"):
        guided_backpropagation(made, batch)


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_traced_models_are_refused_and_compiled_ones_taken_for_what_they_were_made_from(net, batch):
    with pytest.raises(XGradCamError, match="scripted or traced"):
        guided_backpropagation(torch.jit.trace(net, batch), batch)
    expected = guided_backpropagation(net, batch, 1)
    assert torch.equal(guided_backpropagation(torch.compile(net), batch, 1), expected)


def photograph_224():
    return to_input(
        read_image(EXAMPLES / "cat.jpg"), (224, 224), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    )


def by_grad_cam_package(model, images, target):
    """(1, 3, H, W); it replaces the model's modules."""
    peer = pytest.importorskip("pytorch_grad_cam", reason="the package grad-cam is not installed")
    found = peer.GuidedBackpropReLUModel(model, torch.device("cpu"))(images.clone(), target)
    return torch.from_numpy(found.transpose(2, 0, 1)[None])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vgg11", "resnet18"])
def test_agrees_with_the_package_grad_cam_on_a_photograph(name):
    torchvision = pytest.importorskip("torchvision")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(torchvision.models, name)(weights=None).eval()
    images = photograph_224()
    guided = guided_backpropagation(model, images, 285)
    expected = by_grad_cam_package(model, images, 285)
    assert expected.std() > 0
    torch.testing.assert_close(guided, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def test_the_package_grad_cam_misses_functional_relus():
    """It replaces modules: of a ReLU that is a function, it returns the plain gradient."""
    images = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    tracked = images.clone().requires_grad_()
    (plain,) = torch.autograd.grad(Spelled(functional.relu)(tracked)[0, 1], tracked)
    torch.testing.assert_close(by_grad_cam_package(Spelled(functional.relu), images, 1), plain)
    expected = by_grad_cam_package(Spelled(nn.ReLU()), images, 1)
    torch.testing.assert_close(guided_backpropagation(Spelled(functional.relu), images, 1), expected)
    assert not torch.allclose(plain, expected)


def test_guided_map_is_the_product_of_every_channel_with_the_heatmap(net, batch):
    guided = guided_backpropagation(net, batch, 1)
    heatmap = explain(net, batch, "features.4", 1).heatmap("xgrad-cam", (8, 8))
    product = guided_map(guided, heatmap)
    assert product.shape == guided.shape
    for n, c, y, x in np.ndindex(*guided.shape):
        assert product[n, c, y, x] == guided[n, c, y, x] * heatmap[n, y, x]
    assert product.abs().max() > 0


@pytest.mark.parametrize("shape", [(3, 4, 4), (1, 8, 8), (8, 8), (3, 1, 8, 8)])
def test_guided_map_refuses_other_sizes(batch, shape):
    with pytest.raises(XGradCamError, match=r"a heatmap \(.*\) for gradients \(3, 3, 8, 8\)"):
        guided_map(batch, torch.ones(shape))


@pytest.mark.parametrize("scale", [1.0, 1e-4, 100.0])
def test_picture_is_its_formula_pixel_by_pixel(scale):
    guided = scale * torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    guided[1, 2, 3] = 90 * scale  # far out of the range
    values = [float(value) for value in guided.ravel()]
    mean = sum(values) / len(values)
    deviation = (sum((value - mean) ** 2 for value in values) / len(values)) ** 0.5
    picture = gradient_picture(guided)
    assert picture.shape == (5, 4, 3)
    assert picture.dtype == np.uint8
    for c, y, x in np.ndindex(3, 5, 4):
        level = 0.5 + 0.1 * (float(guided[c, y, x]) - mean) / (deviation + 1e-5)
        assert picture[y, x, c] == int(255 * min(max(level, 0), 1))
    assert picture.max() == 255


def test_picture_is_that_of_the_package_grad_cam():
    peer = pytest.importorskip("pytorch_grad_cam.utils.image", reason="the package grad-cam is not installed")
    guided = 0.01 * torch.randn(3, 60, 50, generator=torch.Generator().manual_seed(7))
    expected = peer.deprocess_image(guided.numpy().transpose(1, 2, 0))
    difference = np.abs(gradient_picture(guided).astype(int) - expected)
    assert difference.max() <= 1  # they compute in float32
    assert (difference > 0).mean() < 1e-3


def test_no_gradient_is_plain_grey():
    for guided in (torch.zeros(3, 4, 5), torch.full((3, 4, 5), 0.25)):
        assert (gradient_picture(guided) == 127).all()


def test_one_channel_is_grey_and_other_numbers_are_refused():
    picture = gradient_picture(torch.randn(1, 4, 5, generator=torch.Generator().manual_seed(7)))
    assert picture.shape == (4, 5, 3)
    assert (picture == picture[..., :1]).all()
    assert len(np.unique(picture)) > 5
    for shape in [(2, 4, 5), (4, 4, 5), (1, 3, 4, 5), (4, 5), (3, 0, 5)]:
        with pytest.raises(XGradCamError, match="are no picture"):
            gradient_picture(torch.ones(shape))
    with pytest.raises(XGradCamError, match="not finite"):
        gradient_picture(torch.full((3, 2, 2), torch.nan))
