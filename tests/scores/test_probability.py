"""How scores become probabilities: heads of many kinds, each with its probabilities worked out by hand."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.support import TinyNet
from xgradcam import ClassExplanation, XGradCamError, explain, explain_classes
from xgradcam.cli.model_options import PROBABILITIES
from xgradcam.evaluation.measures import Question, measure
from xgradcam.scores.probability import PROBABILITY_RULES, probability_rule


class Head(nn.Module):
    """TinyNet's first classes, or all five, and something made of them."""

    def __init__(self, change, classes=5, seed=0):
        super().__init__()
        self.net, self.change, self.classes = TinyNet(seed).eval(), change, classes

    def forward(self, inputs):
        return self.change(self.logits(inputs))

    def logits(self, inputs):
        return self.net(inputs)[:, : self.classes]


class Squash(torch.autograd.Function):
    @staticmethod
    def forward(context, values):
        context.save_for_backward(values.sigmoid())
        return values.sigmoid()

    @staticmethod
    def backward(context, gradient):
        (shares,) = context.saved_tensors
        return gradient * shares * (1 - shares)


def shares(logits):
    """The softmax, by its definition."""
    powers = torch.exp(logits - logits.amax(dim=1, keepdim=True))
    return powers / powers.sum(dim=1, keepdim=True)


def each(logits):
    """The sigmoid, by its definition."""
    return 1 / (1 + torch.exp(-logits))


def of_two(logits):
    positive = each(logits[:, :1])
    return torch.cat([1 - positive, positive], dim=1)


def experts(logits, kind):
    """What two experts say of three classes."""
    return torch.stack([kind(logits[:, :3]), kind(logits[:, 2:] * 3)], dim=1)


def gate(logits):
    return logits[:, :2].softmax(dim=1)


def mixed(kind):
    """The shares of the gate, as scalars, times what each expert says."""

    def by_hand(logits):
        share = each(logits[:, :1] - logits[:, 1:2])
        return share * kind(logits[:, :3]) + (1 - share) * kind(logits[:, 2:] * 3)

    return by_hand


# Confusions of five classes: each row sums to 1.
CONFUSIONS = torch.full((5, 5), 0.05, dtype=torch.float64) + 0.75 * torch.eye(5, dtype=torch.float64)

# A head, what its probabilities are as a function of the logits, and how its note begins.
ENDS, LIKE = (
    "probabilities explained: the model ends in a ",
    "probabilities explained: the outputs look like ",
)
HEADS = {
    "logits": (lambda z: z, shares, ""),
    "temperature": (lambda z: z / 4, lambda z: shares(z / 4), ""),
    "clamped logits": (lambda z: z.clamp(-0.5, 9), lambda z: shares(z.clamp(-0.5, 9)), ""),
    "rectified logits": (lambda z: z.relu() + 0.1, lambda z: shares(z.clamp(min=0) + 0.1), ""),
    "softmax": (lambda z: z.softmax(1), shares, f"{ENDS}softmax"),
    "softmax module": (nn.Softmax(dim=1), shares, f"{ENDS}softmax"),
    "softmax of a view": (lambda z: z[:, :, None, None].softmax(1).flatten(1), shares, f"{ENDS}softmax"),
    "softmax in half": (lambda z: z.half().softmax(1), lambda z: shares(z.half().double()), f"{ENDS}softmax"),
    "softmax in bfloat": (lambda z: z.bfloat16().softmax(1), lambda z: shares(z.bfloat16().double()),
                          f"{ENDS}softmax"),
    "softmax, two left": (lambda z: z.softmax(1)[:, :2], lambda z: shares(z)[:, :2], f"{ENDS}softmax"),
    "softmax, clamped": (lambda z: z.softmax(1).clamp(1e-6, 1), shares, f"{LIKE}probabilities"),
    "softmax by hand": (shares, shares, f"{LIKE}probabilities"),
    "saturated softmax": (lambda z: (200 * z).softmax(1), lambda z: shares(200 * z), f"{ENDS}softmax"),
    "mean of two": (lambda z: (z.softmax(1) + (2 * z).softmax(1)) / 2,
                    lambda z: (shares(z) + shares(2 * z)) / 2, f"{LIKE}probabilities"),
    "log-softmax": (lambda z: z.log_softmax(1), shares, f"{ENDS}log-softmax, undone by exp"),
    "log-softmax by hand": (lambda z: shares(z).log(), shares,
                            f"{LIKE}logarithms of probabilities, undone by exp"),
    "exp of log-softmax": (lambda z: z.log_softmax(1).exp(), shares, f"{LIKE}probabilities"),
    "sigmoid": (torch.sigmoid, each, f"{ENDS}sigmoid"),
    "sigmoid in place": (lambda z: z.clone().sigmoid_(), each, f"{ENDS}sigmoid"),
    "sigmoid by hand": (each, each, f"{LIKE}probabilities"),
    "sigmoid of tanh": (lambda z: (1 + (z / 2).tanh()) / 2, each, f"{LIKE}probabilities"),
    "sigmoid of one's own": (Squash.apply, each, f"{LIKE}probabilities"),
    "hard sigmoid": (functional.hardsigmoid, lambda z: (z / 6 + 0.5).clamp(0, 1), f"{ENDS}hardsigmoid"),
    "hard sigmoid by hand": (lambda z: functional.relu6(z + 3) / 6,
                             lambda z: (z / 6 + 0.5).clamp(0, 1), f"{LIKE}probabilities"),
    "log-sigmoid": (functional.logsigmoid, each, f"{ENDS}log-sigmoid, undone by exp"),
    "log of sigmoid": (lambda z: z.sigmoid().log(), each,
                       f"{LIKE}logarithms of probabilities, undone by exp"),
    "log of clamped sigmoid": (lambda z: (z.sigmoid() + 1e-9).clamp(1e-6, 1).log(), each,
                               f"{LIKE}logarithms of probabilities, undone by exp"),
    "log of the other's": (lambda z: (1 - z.sigmoid()).log(), lambda z: 1 - each(z),
                           f"{LIKE}logarithms of probabilities, undone by exp"),
    "log of softmax, two left": (lambda z: z.softmax(1).log()[:, :2], lambda z: shares(z)[:, :2],
                                 f"{LIKE}logarithms of probabilities, undone by exp"),
    "experts": (lambda z: torch.einsum("be,bec->bc", gate(z), experts(z, shares)), mixed(shares),
                f"{LIKE}probabilities"),
    "experts by matmul": (lambda z: (gate(z)[:, None] @ experts(z, lambda y: y.softmax(1)))[:, 0],
                          mixed(shares), f"{LIKE}probabilities"),
    "experts of sigmoids": (lambda z: torch.einsum("be,bec->bc", gate(z), experts(z, torch.sigmoid)),
                            mixed(each), f"{LIKE}probabilities"),
    "log of experts": (lambda z: torch.einsum("be,bec->bc", gate(z), experts(z, shares)).log(),
                       mixed(shares), f"{LIKE}logarithms of probabilities, undone by exp"),
    "experts of logits": (lambda z: torch.einsum("be,bec->bc", gate(z), experts(z, lambda y: y)),
                          lambda z: shares(mixed(lambda y: y)(z)), ""),
    "confused": (lambda z: z.softmax(1) @ CONFUSIONS, lambda z: shares(z) @ CONFUSIONS,
                 f"{LIKE}probabilities"),
    "weights without a bias": (lambda z: z.sigmoid() @ nn.Parameter(CONFUSIONS),
                               lambda z: shares(each(z) @ CONFUSIONS), ""),
    "similarities": (lambda z: functional.normalize(z.exp(), dim=1) @ functional.normalize(CONFUSIONS),
                     lambda z: shares(functional.normalize(z.exp(), dim=1)
                                      @ functional.normalize(CONFUSIONS)), ""),
    "one probability as two": (of_two, of_two, f"{LIKE}probabilities"),
}  # fmt: skip


@pytest.mark.parametrize(("head", "expected", "note"), HEADS.values(), ids=HEADS)
def test_the_probability_of_a_head_is_the_one_worked_out_by_hand(batch, head, expected, note):
    model = Head(head)
    want = expected(model.logits(batch)).detach()
    assert want.gt(0).any()
    for target in range(want.shape[1]):
        found = explain(model, batch, "net.features.4", target)
        # Heads in half precision round to its digits.
        loose = {"rtol": 2e-2, "atol": 1e-3} if found.logits.dtype == torch.float32 else {}
        torch.testing.assert_close(found.probability.double(), want[:, target].double(), **loose)
        lines = [[line for line in of_sample if "probabilit" in line] for of_sample in found.notes]
        assert lines == [lines[0]] * 3
        assert len(lines[0]) == bool(note)
        assert all(line.startswith(note) for line in lines[0])
        assert all("better explain the logits" in line and "output= (--output)" in line for line in lines[0])
        assert all(
            ("say so by probability= (--probability)" in line) == line.startswith(LIKE) for line in lines[0]
        )


def test_one_logit_speaks_for_the_positive_class(batch):
    model = Head(lambda z: z, classes=1)
    found = explain(model, batch, "net.features.4")
    torch.testing.assert_close(found.probability, each(model.logits(batch))[:, 0].detach())
    assert ((found.probability > 0.01) & (found.probability < 0.99)).all()
    said = "one output: the probability is its sigmoid, that of the positive class"
    assert all(said in lines for lines in found.notes)
    ended = explain(Head(torch.sigmoid, classes=1), batch, "net.features.4")
    torch.testing.assert_close(ended.probability, found.probability)
    assert all(f"{ENDS}sigmoid" in lines[-1] for lines in ended.notes)


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_a_linear_layer_behind_probabilities_gives_logits(batch, trained, bias):
    layer = nn.Linear(5, 3, bias=bias).double().requires_grad_(trained)
    model = nn.Sequential(Head(lambda z: z.softmax(1)), layer)
    found = explain(model, batch, "0.net.features.4", 1)
    torch.testing.assert_close(found.probability, shares(model(batch))[:, 1].detach())
    assert not any("probabilit" in line for lines in found.notes for line in lines)


def test_the_softmax_of_one_output_is_refused(batch):
    with pytest.raises(XGradCamError, match="softmax of a single output is always 1: take probability="):
        explain(Head(lambda z: z, classes=1), batch, "net.features.4", probability="softmax")


def test_scores_that_happen_to_be_in_0_to_1_are_logits(batch):
    """Nothing behind the last linear layer keeps them there, so chance did."""
    for change in (lambda z: z, lambda z: z.relu(), lambda z: 0.5 * z + 0.1, lambda z: z.mean(dim=2)):
        layer = nn.Linear(4, 2).double()
        with torch.no_grad():
            layer.weight.copy_(torch.tensor([[0.1, 0.2, 0.0, 0.0], [0.3, 0.1, 0.1, 0.0]]))
            layer.bias.fill_(0.2)
        values = torch.rand(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        scores = layer(values)
        scores = change(
            scores[..., None].expand(3, 2, 5) if change(torch.zeros(1, 1, 1)).ndim == 2 else scores
        )
        assert ((scores > 0) & (scores < 1)).all()
        assert probability_rule(scores) == ("softmax", "")


def test_without_a_graph_the_values_alone_tell():
    logits = torch.tensor([[2.0, -1.0, 0.5], [0.3, 0.1, 0.0]])
    assert probability_rule(logits) == ("softmax", "")
    assert probability_rule(shares(logits))[0] == "none"
    assert probability_rule(logits.log_softmax(1))[0] == "exp"
    assert probability_rule(each(logits))[0] == "none"
    assert probability_rule(logits[:, :1])[0] == "sigmoid"
    assert probability_rule(torch.full((2, 3), torch.nan)) == ("softmax", "")


@pytest.mark.parametrize("wrap", [lambda p: {"probs": p, "x": 1}, lambda p: (1, p), lambda p: [p]])
def test_an_output_in_a_structure_is_looked_into_as_well(batch, wrap):
    plain = Head(lambda z: z.softmax(1))
    output = {dict: "probs", tuple: 1, list: 0}[type(wrap(0))]
    found = explain(Head(lambda z: wrap(z.softmax(1))), batch, "net.features.4", output=output)
    assert torch.equal(found.probability, explain(plain, batch, "net.features.4").probability)
    both = Head(lambda z: {"logits": z, "probs": z.softmax(1)})
    logits = explain(both, batch, "net.features.4", output="logits")
    torch.testing.assert_close(logits.probability, found.probability)
    assert not any("probabilit" in line for lines in logits.notes for line in lines)


def test_one_may_say_how(batch):
    model = Head(lambda z: z)
    logits = model.logits(batch).detach()
    by_rule = {"softmax": shares(logits), "sigmoid": each(logits), "exp": logits.exp(), "none": logits}
    assert set(by_rule) == set(PROBABILITY_RULES) == set(PROBABILITIES)
    plain = explain(model, batch, "net.features.4", 1)
    for rule, expected in by_rule.items():
        found = explain(model, batch, "net.features.4", 1, probability=rule)
        torch.testing.assert_close(found.probability, expected[:, 1])
        assert torch.equal(found.maps["xgrad-cam"], plain.maps["xgrad-cam"])
        assert found.sample(1).to("cpu").probability_rule == rule
        torch.testing.assert_close(found.sample(1).probability, expected[1:2, 1])
        ended = explain(Head(torch.sigmoid), batch, "net.features.4", 1, probability=rule)
        assert not any("probabilit" in line for lines in ended.notes for line in lines)


def test_the_maps_of_a_head_do_not_depend_on_the_rule(batch):
    for change in (lambda z: z.softmax(1), torch.sigmoid):
        first, second = explain_classes(Head(change), batch, "net.features.4", [0, 3])
        logits = Head(lambda z: z)
        score = change(logits.logits(batch)).detach()
        torch.testing.assert_close(first.score, score[:, 0])
        torch.testing.assert_close(second.logits, score)


@pytest.mark.parametrize(
    ("change", "expected"), [(lambda z: z, shares), (lambda z: z.softmax(1), shares), (torch.sigmoid, each)]
)
def test_the_evaluation_measures_the_same_probability(batch, change, expected):
    model = Head(change)
    found = measure(Question(model, batch[:1], 2, steps=1, removed=(0.5,)), "net.features.4", ["grad-cam"])
    whole = expected(model.logits(batch[:1]))[0, 2].item()
    assert found["grad-cam"]["curves"]["deletion"][0] == pytest.approx(whole)
    chosen = Question(model, batch[:1], 2, steps=1, removed=(0.5,), probability="none")
    found = measure(chosen, "net.features.4", ["grad-cam"])
    assert found["grad-cam"]["curves"]["deletion"][0] == pytest.approx(model(batch[:1])[0, 2].item())


def test_an_explanation_made_by_hand_takes_the_rule_that_its_values_tell():
    logits, target = torch.tensor([[2.0, -1.0], [0.5, 3.0]]), torch.tensor([0, 0])
    for values, expected in (
        (logits, shares(logits)),
        (logits[:, :1], each(logits[:, :1])),
        (shares(logits), shares(logits)),
    ):
        explanation = ClassExplanation({}, values[:, 0], ((), ()), values, target)
        torch.testing.assert_close(explanation.probability, expected[:, 0])
