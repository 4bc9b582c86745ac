import pytest
import torch
from torch import nn

from xgradcam.evaluation.randomisation import randomised, rank_correlation, with_parameters


def test_modules_are_randomised_from_the_output_down_and_stay_so(net, batch):
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    names, order = [], with_parameters(net)
    assert order == ["features.0", "features.1", "features.3", "classifier.0", "classifier.2"]
    for name, changed in randomised(net, batch):
        names.append(name)
        assert changed is not net
        for module in order:
            weight = f"{module}.weight"
            same = torch.equal(changed.state_dict()[weight], before[weight])
            # What batch normalisation is initialised with is what this one has.
            assert same == (module not in names) or module == "features.1"
    assert names == order[::-1]
    given = changed.features[0](batch)
    state = changed.state_dict()
    torch.testing.assert_close(state["features.1.running_mean"], given.mean((0, 2, 3)))
    torch.testing.assert_close(state["features.1.running_var"], given.var((0, 2, 3), correction=0))
    assert changed.training == net.training
    assert not any(module._forward_pre_hooks for module in changed.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_a_seed_draws_the_same_and_leaves_the_callers_numbers(net, batch):
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    drawn = {
        seed: [
            changed.state_dict()["classifier.0.weight"].clone() for _, changed in randomised(net, batch, seed)
        ]
        for seed in (0, 1)
    }
    again = [changed.state_dict()["classifier.0.weight"].clone() for _, changed in randomised(net, batch, 0)]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(map(torch.equal, drawn[0], again))
    assert not torch.equal(drawn[0][-1], drawn[1][-1])


def test_what_cannot_reset_itself_is_drawn_as_it_is_spread():
    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.factor = nn.Parameter(3 + 0.1 * torch.randn(10_000))
            self.alone = nn.Parameter(torch.tensor(2.0))

        def forward(self, inputs):
            return inputs * self.alone

    net = Scale()
    ((_, changed),) = randomised(net, torch.ones(1))
    assert not torch.equal(changed.factor, net.factor)
    assert changed.factor.mean().item() == pytest.approx(3, abs=0.01)
    assert changed.factor.std().item() == pytest.approx(0.1, rel=0.05)
    assert changed.alone.item() == 2


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize(
    "normed",
    [nn.utils.weight_norm, nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm],
)
def test_weights_that_are_computed_from_others_are_randomised_too(normed):
    torch.manual_seed(0)
    net = (
        nn.Sequential(normed(nn.Conv2d(3, 8, 3)), nn.ReLU(), normed(nn.Linear(6, 4)))
        .eval()
        .requires_grad_(False)
    )
    inputs = torch.rand(2, 3, 8, 8)
    net(inputs)  # as the old way computes weights when the module is called
    before = [net[0](inputs), net[2].weight.clone()]
    found = [(name, changed) for name, changed in randomised(net, inputs)]
    assert [name for name, _ in found] == with_parameters(net)[::-1] == ["2", "0"]
    changed = found[-1][1]
    with torch.no_grad():
        after = [changed[0](inputs), changed[2].weight]
    for old, new in zip(before, after, strict=True):
        assert abs(torch.corrcoef(torch.stack([old.flatten(), new.flatten()]))[0, 1]) < 0.9
        assert 0.1 < new.norm() / old.norm() < 10


def test_batch_norms_without_parameters_have_the_statistics_of_what_they_are_given(batch):
    net = nn.Sequential(
        nn.BatchNorm2d(3, affine=False), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False), nn.Flatten()
    )
    net = net.double().eval()
    ((_, changed),) = randomised(net, batch)
    given = changed[:2](batch)
    torch.testing.assert_close(changed[2].running_var, given.var((0, 2, 3), correction=0))
    assert changed[0].running_mean.tolist() == [0, 0, 0]


def test_one_value_has_no_variance():
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).eval()
    for _, changed in randomised(net, torch.rand(1, 3)):
        assert changed[1].running_var.tolist() == [1, 1, 1, 1]


def test_only_the_counts_asked_for_are_stopped_at(net, batch):
    stopped = {
        name: changed.state_dict()["features.3.weight"].clone() for name, changed in randomised(net, batch)
    }
    found = [
        (name, changed.features[3].weight.clone()) for name, changed in randomised(net, batch, 0, {1, 4})
    ]
    assert [name for name, _ in found] == ["classifier.2", "features.1"]
    assert all(torch.equal(weight, stopped[name]) for name, weight in found)


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, nn.Identity], ids=["norms", "no norms"])
def test_values_keep_their_size_however_deep_a_random_network_is(norm):
    """Else they vanish, and it is rounding, or XGrad-CAM's ε, that decides what a random map looks like."""
    torch.manual_seed(0)
    layers = [(nn.Conv2d(64, 64, 3, padding=1), norm(64), nn.ReLU()) for _ in range(30)]
    deep = nn.Sequential(nn.Conv2d(3, 64, 3), *(module for block in layers for module in block)).eval()
    inputs = torch.randn(2, 3, 16, 16)
    *_, (_, changed) = randomised(deep, inputs)
    with torch.no_grad():
        size = changed(inputs).square().mean().sqrt().item()
    assert 0.05 < size < 20


def by_counting(first, second):
    """Spearman's correlation by its definition: of the ranks, of which ties share the mean."""

    def ranks(values):
        return [
            sum(other < value for other in values) + (sum(other == value for other in values) - 1) / 2
            for value in values
        ]

    a, b = (
        torch.tensor(ranks(heatmap.flatten().tolist()), dtype=torch.float64) for heatmap in (first, second)
    )
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / ((a * a).sum() * (b * b).sum()).sqrt())


@pytest.mark.parametrize("levels", [3, 50, 10_000])
def test_rank_correlation_is_spearmans(levels):
    generator = torch.Generator().manual_seed(levels)
    first, second = (torch.randint(levels, (9, 11), generator=generator).double() for _ in range(2))
    second = second + first / 2
    found = rank_correlation(first, second)
    assert 0.2 < found < 0.7
    assert found == pytest.approx(by_counting(first, second))
    assert rank_correlation(first, first**3) == pytest.approx(1)
    assert rank_correlation(first, -first) == pytest.approx(-1)


@pytest.mark.filterwarnings("error")
def test_the_rank_correlation_with_a_flat_heatmap_is_0():
    heatmap = torch.rand(5, 6, generator=torch.Generator().manual_seed(0))
    for flat in (torch.zeros(5, 6), torch.full((5, 6), 0.3)):
        assert rank_correlation(heatmap, flat) == 0
        assert rank_correlation(flat, heatmap) == 0
