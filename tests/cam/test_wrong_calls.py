"""Wrong arguments of the Python functions: each is an error of one line that says what to give instead."""

from collections import namedtuple
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from tests.cam.support import network
from tests.support import assert_same_state, state_of
from xgradcam import (
    METHODS,
    Contrast,
    RegionMean,
    Similarity,
    XGradCamError,
    default_layer,
    explain,
    explain_classes,
    explain_score,
    fuse,
    heatmap,
    list_layers,
    load_classifier,
    overlay_heatmap,
    to_input,
    verify,
)
from xgradcam.cam.explanation import Explanation
from xgradcam.cam.guided import gradient_picture
from xgradcam.scores.targets import top_classes

CLASSES = network()
PLANES = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 4, 1)).double().eval()
INPUTS = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
MASK = torch.ones(8, 8, dtype=torch.bool)
SIGNS = torch.tensor([1.0, -1.0] * 4, dtype=torch.float64)
PHOTOGRAPH = np.full((4, 4, 3), 128, np.uint8)
GREY = np.zeros((4, 4), np.float32)


class Returning(nn.Module):
    """The network, with something else made of its scores."""

    def __init__(self, change, inner=CLASSES):
        super().__init__()
        self.inner, self.change = inner, change

    def forward(self, inputs):
        return self.change(self.inner(inputs))


class Slots:
    """The scores in a slot and in a property, and a property that fails."""

    __slots__ = ("logits",)

    def __init__(self, logits):
        self.logits = logits

    @property
    def half(self):
        return self.logits / 2

    @property
    def fails(self):
        raise RuntimeError("not here")


def by(change, inner=CLASSES, **arguments):
    return lambda: explain(Returning(change, inner), INPUTS, "inner.0", **arguments)


def with_targets(targets):
    return lambda: explain(CLASSES, INPUTS, "0", targets)


def with_methods(methods):
    return lambda: explain(CLASSES, INPUTS, "0", methods=methods)


def with_output(output, change=lambda scores: {"logits": scores, "other": scores}):
    return lambda: explain(Returning(change), INPUTS, "inner.0", output=output)


def scored(score, model=CLASSES, layer="0", methods=("grad-cam",)):
    return lambda: explain_score(model, INPUTS, layer, score, methods)


def of_region(*arguments):
    return scored(lambda planes: RegionMean(*arguments)(planes), PLANES, "1")


def overlaid(photograph=PHOTOGRAPH, heat=GREY, *arguments):
    return lambda: overlay_heatmap(photograph, heat, *arguments)


def raising(error):
    def score(_logits):
        raise error

    return score


def without_gradient(scores):
    with torch.no_grad():
        return scores * 1


GIVE_INDEX = "give a class index, or one for each sample"
NAMES = "grad-cam, xgrad-cam"
OTHERS = "at least one other class than 2, in a tuple such as (3,)"
NUMBER_EACH = "a number for each sample, a tensor (3,) of floats, such as output[:, 0]"
WRONG = {
    # What the model returns.
    "argmax": (
        by(lambda s: s.argmax(1)),
        "such as the classes that argmax gives, have no gradient: return the scores",
    ),
    "argmax, kept axis": (by(lambda s: s.argmax(1, keepdim=True)), "return the scores"),
    "one-hot": (by(lambda s: nn.functional.one_hot(s.argmax(1), 4)), "return the scores"),
    "thresholded": (by(lambda s: s > 0), "return the scores"),
    "complex": (by(torch.fft.fft), "complex numbers have no order: return real scores"),
    "argmax in a dictionary": (by(lambda s: {"class": s.argmax(1)}, output="class"), "return the scores"),
    "argmax of a segmentation": (by(lambda s: s.argmax(1), PLANES), "return the scores"),
    "detached": (by(torch.Tensor.detach), "the model loses the gradient, by detach()"),
    "data": (by(lambda s: s.data), ".data"),
    "from NumPy": (by(lambda s: torch.from_numpy(s.detach().numpy())), "NumPy"),
    "from numbers": (by(lambda s: torch.tensor(s.tolist())), "item()"),
    "without gradient": (by(without_gradient), "no_grad()"),
    "an array": (by(lambda s: s.detach().numpy()), "returns a ndarray, not class scores (N, classes)"),
    "lists": (by(torch.Tensor.tolist), "returns a list, not class scores (N, classes)"),
    "nothing": (by(lambda s: None), "returns a NoneType, not class scores (N, classes)"),
    "a segmentation": (by(lambda s: s, PLANES), "explain_score explains RegionMean(class, region)"),
    "planes of one place": (by(lambda s: s[:, :, None, None]), "return the .flatten(1) of it"),
    "a volume of one place": (by(lambda s: s[:, :, None, None, None]), "return the .flatten(1) of it"),
    "one axis": (by(lambda s: s[:, 0]), "or (N, 1) for one score a sample; explain_score takes (N,)"),
    "a number": (by(torch.Tensor.sum), "not class scores (N, classes)"),
    "three axes": (by(lambda s: s[:, None]), "explain_score explains any number computed from it"),
    "no class": (by(lambda s: s[:, :0]), "not class scores (N, classes)"),
    "a dictionary": (by(lambda s: {"out": s, "aux": s}), "with --output: out, aux (in Python: output=)"),
    "a tuple": (by(lambda s: (s, s)), "--output: 0, 1"),
    "an object": (by(lambda s: SimpleNamespace(logits=s)), "--output: logits"),
    "an object of slots": (by(Slots), "--output: half, logits"),
    "nested": (by(lambda s: {"head": {"logits": s}, "x": 1}), "--output: head.logits (in Python: output=)"),
    "nested tuples": (by(lambda s: [(1, s), Slots(s)]), "--output: 0.1, 1.half, 1.logits"),
    "many outputs": (by(lambda s: {f"output number {n}" * 9: s for n in range(99)}), "and 93 more"),
    # Where the scores are.
    "no such output": (with_output("score"), "with logits, other"),
    "a negative output": (with_output(-3, lambda s: (s, s)), "with 0, 1"),
    "an output beyond": (with_output(2, lambda s: (s, s)), "with 0, 1"),
    "an output of a named tuple": (with_output("c", lambda s: namedtuple("Two", "a b")(s, s)), "with a, b"),
    "an output of a tensor": (with_output("logits", lambda s: s), "nothing by name"),
    "a list of outputs": (with_output(["logits"]), "with logits, other"),
    "a long output": (with_output("x" * 999), "with logits, other"),
    "a module as output": (with_output(CLASSES), "with logits, other"),
    "no such path": (with_output("a.c", lambda s: {"a": {"b": s}}), "no output 'c': the model returns"),
    "a method as output": (with_output("count", lambda s: (s, s)), "with 0, 1"),
    "an output of all": (with_output("logits", lambda s: {"logits": s[0]}), "return (N, classes)"),
    # Targets.
    "target beyond": (with_targets(4), "classes are 0 to 3"),
    "target of one output": (by(lambda s: s[:, :1], targets=1), "only output is 0, the positive class"),
    "target beyond all": (with_targets(10**5000), GIVE_INDEX),
    "target below": (with_targets(-1), "classes are 0 to 3"),
    "target a bool": (with_targets(True), GIVE_INDEX),
    "target a float": (with_targets(1.0), GIVE_INDEX),
    "target a word": (with_targets("cat"), GIVE_INDEX),
    "target a long word": (with_targets("cat" * 999), GIVE_INDEX),
    "targets floats": (with_targets([0.0, 1.0, 2.0]), GIVE_INDEX),
    "targets bools": (with_targets([True, False, True]), GIVE_INDEX),
    "targets with None": (with_targets([0, None, 1]), GIVE_INDEX),
    "targets words": (with_targets(["a", "b", "c"]), GIVE_INDEX),
    "targets of two axes": (with_targets(torch.zeros(3, 1, dtype=torch.long)), GIVE_INDEX),
    "targets ragged": (with_targets([[0], [1, 2], [3]]), GIVE_INDEX),
    "targets too few": (with_targets([0, 1]), "give one for each, or one for all"),
    "targets too many": (with_targets(list(range(9999))), "give one for each, or one for all"),
    "targets a dictionary": (with_targets({0: 1}), GIVE_INDEX),
    "targets a module": (with_targets(CLASSES), GIVE_INDEX),
    "targets NumPy floats": (with_targets(np.zeros(3)), GIVE_INDEX),
    "targets objects": (with_targets(np.array([None, 1, 2])), GIVE_INDEX),
    "target of the proof": (lambda: verify(CLASSES, INPUTS, "0", 1.5), GIVE_INDEX),
    "classes no list": (
        lambda: explain_classes(CLASSES, INPUTS, "0", 3),
        "give a list of targets, such as [0, 4]",
    ),
    "classes None": (lambda: explain_classes(CLASSES, INPUTS, "0", None), "give a list of targets"),
    "classes a word": (lambda: explain_classes(CLASSES, INPUTS, "0", "cat"), "give a list of targets"),
    "top 0": (lambda: explain_classes(CLASSES, INPUTS, "0", top_classes(0)), "give an integer, 1 or more"),
    "top 1.5": (
        lambda: explain_classes(CLASSES, INPUTS, "0", top_classes(1.5)),
        "give an integer, 1 or more",
    ),
    # Methods, layer, probability.
    "method misspelt": (with_methods("gradcam"), "did you mean 'grad-cam'"),
    "methods None": (with_methods(None), "give names, such as ['xgrad-cam', 'layer-cam']"),
    "methods a number": (with_methods(3), "give names"),
    "methods a function": (with_methods(default_layer), "the function default_layer: give names"),
    "methods a model": (with_methods(CLASSES), "a Sequential: give names"),
    "methods a class": (with_methods(nn.Module), "give names"),
    "method a function": (with_methods([default_layer]), NAMES),
    "method a model": (with_methods([CLASSES]), NAMES),
    "method a Method": (with_methods([METHODS["cam"]]), NAMES),
    "method a list": (with_methods([["grad-cam"]]), NAMES),
    "method None": (with_methods(["grad-cam", None]), NAMES),
    "method long": (with_methods(["x" * 9999]), NAMES),
    "layer a function": (
        lambda: explain(CLASSES, INPUTS, default_layer),
        "such as default_layer(list_layers(model, inputs)) returns",
    ),
    "default layer of a model": (lambda: default_layer(CLASSES), "as list_layers(model, inputs) gives them"),
    "layer None": (lambda: explain(CLASSES, INPUTS, None), "give a module of the model, or its name"),
    "layer a number": (lambda: explain(CLASSES, INPUTS, 3), "give a module of the model, or its name"),
    "layers": (lambda: explain(CLASSES, INPUTS, ["0", CLASSES]), "give a module of the model, or its name"),
    "layer long": (lambda: explain(CLASSES, INPUTS, "0." * 999), "model.named_modules()"),
    "layer elsewhere": (lambda: explain(CLASSES, INPUTS, nn.ReLU()), "not a module of this Sequential"),
    "probability": (
        lambda: explain(CLASSES, INPUTS, "0", probability="relu"),
        "give softmax, sigmoid, exp, none",
    ),
    "probability a function": (
        lambda: explain(CLASSES, INPUTS, "0", probability=torch.sigmoid),
        "give softmax",
    ),
    # Scores.
    "score a class": (scored(3), "give a function of the model's output; explain takes a class"),
    "score None": (scored(None), "give a function of the model's output"),
    "score a word": (scored("cat" * 999), "give a function of the model's output"),
    "score a float": (scored(lambda s: 3.0), NUMBER_EACH),
    "score a list": (scored(lambda s: [1.0, 2.0, 3.0]), NUMBER_EACH),
    "score without return": (scored(lambda s: None), NUMBER_EACH),
    "score an array": (scored(lambda s: s[:, 0].detach().numpy()), NUMBER_EACH),
    "score of one axis more": (scored(lambda s: s[:, :1]), NUMBER_EACH),
    "score of all": (scored(lambda s: s), NUMBER_EACH),
    "score of the batch": (scored(lambda s: s.sum()), NUMBER_EACH),
    "score of too few": (scored(lambda s: s[:2, 0]), NUMBER_EACH),
    "score integers": (scored(lambda s: s.argmax(1)), NUMBER_EACH),
    "score detached": (scored(lambda s: s[:, 0].detach()), "the score loses the gradient, by detach()"),
    "score fails": (scored(raising(KeyError("logits"))), "KeyError: 'logits'"),
    "score fails at length": (scored(raising(ValueError("no\nsuch" * 99 + "x" * 999))), "ValueError: no"),
    "score fails in torch": (scored(lambda s: s[:, 99]), "IndexError: index 99 is out of bounds"),
    "score ends": (scored(raising(SystemExit(1))), "SystemExit: 1"),
    "score type": (scored(RegionMean), "missing 1 required positional argument: 'region'"),
    "score type of one field": (scored(Similarity), NUMBER_EACH),
    # Contrasts.
    "contrast beyond": (scored(Contrast(4, (0,))), "classes are 0 to 3"),
    "contrast below": (scored(Contrast(-1, (0,))), "classes are 0 to 3"),
    "contrast float": (scored(Contrast(1.0, (0,))), "the class is 1.0: give its index"),
    "contrast bool": (scored(Contrast(True, (0,))), "give its index"),
    "contrast fraction": (scored(Contrast(2.5, (0,))), "give its index"),
    "contrast word": (scored(Contrast("cat", (0,))), "give its index"),
    "contrast list": (scored(Contrast([1, 2, 0], (3,))), "give its index"),
    "others a number": (scored(Contrast(2, 3)), OTHERS),
    "others empty": (scored(Contrast(2, ())), OTHERS),
    "others None": (scored(Contrast(2, None)), OTHERS),
    "others with target": (scored(Contrast(2, (0, 2))), OTHERS),
    "others beyond": (scored(Contrast(2, (0, 9))), "no class 9"),
    "others below": (scored(Contrast(2, (-3,))), "no class -3"),
    "others words": (scored(Contrast(2, ("dog",))), "the class is 'dog': give its index"),
    "others a word": (scored(Contrast(2, "01")), "the class is '0': give its index"),
    "others floats": (scored(Contrast(2, (0.5,))), "give its index"),
    "share NaN": (scored(Contrast(2, (0,), float("nan"))), "give a number, such as 1.0"),
    "share infinite": (scored(Contrast(2, (0,), float("inf"))), "give a number, such as 1.0"),
    "share a word": (scored(Contrast(2, (0,), "half")), "give a number, such as 1.0"),
    "share None": (scored(Contrast(2, (0,), None)), "give a number, such as 1.0"),
    "contrast of planes": (scored(Contrast(2, (0,)), PLANES, "1"), "RegionMean"),
    # Regions.
    "region of scores": (scored(RegionMean(0, MASK)), "needs an output (N, classes, H, W), not shape (3, 4)"),
    "region of a dictionary": (
        scored(RegionMean(0, MASK), Returning(lambda s: {"out": s}, PLANES), "inner.1"), "with --output: out",
    ),
    "region of classes": (
        scored(RegionMean(0, MASK), Returning(lambda s: s.argmax(1, True), PLANES), "inner.1"),
        "return the scores",
    ),
    "region's class beyond": (of_region(4, MASK), "classes are 0 to 3"),
    "region's class a word": (of_region("cat", MASK), "the class is 'cat': give its index"),
    "region's class a fraction": (of_region(2.5, MASK), "give its index"),
    "region a word": (of_region(0, "left"), "give a tensor or an array of finite numbers"),
    "region None": (of_region(0, None), "give a tensor or an array of finite numbers"),
    "region ragged": (of_region(0, [[1], [1, 0]]), "give a tensor or an array of finite numbers"),
    "region NaN": (of_region(0, MASK.float() / 0), "give a tensor or an array of finite numbers"),
    "region empty": (of_region(0, ~MASK), "the region is empty: no pixel of it is True"),
    "region of one empty": (of_region(0, torch.stack([MASK, ~MASK, MASK])), "no pixel of it is True"),
    "region that cancels": (of_region(0, SIGNS.expand(8, 8)), "the region's weights cancel"),
    "region that nearly cancels": (
        of_region(0, (SIGNS + 1e-9).expand(8, 8)), "weights cancel",
    ),
    "region of another size": (
        of_region(0, MASK[:4]),
        "(4, 8), the model's output (3, 4, 8, 8): give (H, W)",
    ),
    "region of too few": (of_region(0, MASK.expand(2, 8, 8)), "(8, 8), or (N, H, W)"),
    "region of three channels": (of_region(0, MASK.expand(3, 3, 8, 8)), "(8, 8), or (N, H, W)"),
    "region a row": (of_region(0, MASK[0]), "(8, 8), or (N, H, W)"),
    "region a number": (of_region(0, torch.tensor(1)), "(8, 8), or (N, H, W)"),
    # Embeddings.
    "embedding of another size": (
        scored(Similarity(torch.ones(5))),
        "needs an output (N, 5) for the embedding (5,)",
    ),
    "embeddings of too few": (
        scored(Similarity(torch.ones(2, 4))),
        "for the embedding (2, 4), not shape (3, 4)",
    ),
    "embedding zero": (scored(Similarity(torch.zeros(4))), "give (D,) or (N, D), not all of it 0"),
    "an embedding zero": (
        scored(Similarity(torch.eye(4)[:3] * torch.tensor([[1], [0], [1]]))),
        "not all of it 0",
    ),
    "embedding NaN": (scored(Similarity(torch.full((4,), torch.nan))), "an array of finite numbers"),
    "embedding a number": (scored(Similarity(torch.tensor(1.0))), "give (D,) or (N, D)"),
    "embedding of three axes": (scored(Similarity(torch.ones(1, 3, 4))), "give (D,) or (N, D)"),
    "embedding a word": (scored(Similarity("cat")), "give a tensor or an array of finite numbers"),
    "embedding None": (scored(Similarity(None)), "give a tensor or an array of finite numbers"),
    "similarity of planes": (scored(Similarity(torch.ones(4)), PLANES, "1"), "needs an output (N, 4)"),
    # Heatmaps and pictures.
    "heatmap of an array": (
        lambda: heatmap(np.zeros((1, 4, 4)), (8, 8)),
        "give a tensor of floats, (N, h, w)",
    ),
    "heatmap of one map": (lambda: heatmap(torch.zeros(4, 4), (8, 8)), "give a tensor of floats, (N, h, w)"),
    "heatmap of integers": (lambda: heatmap(torch.zeros(1, 4, 4).int(), (8, 8)), "give a tensor of floats"),
    "heatmap of nothing": (lambda: heatmap(torch.zeros(1, 0, 4), (8, 8)), "give a tensor of floats"),
    "heatmap of no method": (
        lambda: Explanation({"cam": torch.zeros(1, 4, 4)}, torch.zeros(1), ((),)).heatmap(["cam"], (8, 8)),
        "there are: cam",
    ),
    "fuse nothing": (lambda: fuse([]), "give tensors (N, H, W) of one size"),
    "fuse None": (lambda: fuse(None), "give tensors (N, H, W) of one size"),
    "fuse arrays": (lambda: fuse([GREY, GREY]), "give tensors (N, H, W) of one size"),
    "fuse two sizes": (
        lambda: fuse([torch.zeros(1, 4, 4), torch.zeros(1, 4, 5)]),
        "give tensors (N, H, W) of one size",
    ),
    "above 1": (overlaid(heat=GREY + 1.01), "xgradcam.heatmap scales a map"),
    "below 0": (overlaid(heat=GREY - 0.1), "is in [0, 1], and this one goes from -0.1 to -0.1"),
    "levels": (overlaid(heat=np.full((4, 4), 255, np.uint8)), "are to be divided by 255"),
    "heatmap NaN": (overlaid(heat=GREY + np.nan), "is in [0, 1]"),
    "heatmap infinite": (overlaid(heat=GREY + np.inf), "is in [0, 1]"),
    "heatmap of a batch": (overlaid(heat=GREY[None]), "of a batch take one, as in heatmap[0]"),
    "heatmap empty": (overlaid(heat=GREY[:0]), "a heatmap is (H, W)"),
    "heatmap None": (overlaid(heat=None), "a heatmap is (H, W)"),
    "heatmap a word": (overlaid(heat="hot"), "give (H, W) numbers in [0, 1]"),
    "heatmap of another size": (overlaid(heat=GREY[:2]), "give both the same size"),
    "photograph floats": (
        overlaid(PHOTOGRAPH / 255),
        "uint8 in RGB from 0 to 255, not a ndarray float64 (4, 4, 3)",
    ),
    "photograph grey": (overlaid(PHOTOGRAPH[..., 0]), "give a colour image"),
    "photograph a tensor": (overlaid(torch.from_numpy(PHOTOGRAPH)), "numpy.asarray makes an array of it"),
    "photograph a list": (overlaid(PHOTOGRAPH.tolist()), "numpy.asarray makes an array of it"),
    "photograph None": (overlaid(None), "a photograph is (H, W, 3) uint8"),
    "size a number": (lambda: to_input(PHOTOGRAPH, 224, (0,), (1,)), "give (H, W), two positive integers"),
    "size zero": (lambda: to_input(PHOTOGRAPH, (0, 8), (0,), (1,)), "give (H, W), two positive integers"),
    "mean of two": (lambda: to_input(PHOTOGRAPH, (8, 8), (0, 0), (1,)), "give three numbers"),
    "mean a word": (lambda: to_input(PHOTOGRAPH, (8, 8), "half", (1,)), "give three numbers"),
    "deviation None": (lambda: to_input(PHOTOGRAPH, (8, 8), (0,), None), "give three numbers"),
    "deviation NaN": (lambda: to_input(PHOTOGRAPH, (8, 8), (0,), (1, 1, np.nan)), "give three numbers"),
    "input of floats": (lambda: to_input(PHOTOGRAPH / 255, (8, 8), (0,), (1,)), "multiply floats by 255"),
    "a picture of an array": (lambda: gradient_picture(PHOTOGRAPH), "give one sample's, (3, H, W)"),
    "a weights dictionary": (
        lambda: load_classifier("resnet18", weights=CLASSES.state_dict()),
        "the weights are a OrderedDict: give a file",
    ),
    "colours a number": (overlaid(PHOTOGRAPH, GREY, 2), "known: autumn"),
    "colours None": (overlaid(PHOTOGRAPH, GREY, None), "known: autumn"),
    "colours a list": (overlaid(PHOTOGRAPH, GREY, ["jet"]), "known: autumn"),
    "alpha a word": (
        overlaid(PHOTOGRAPH, GREY, "jet", "0.5"),
        "is not between 0 (photograph) and 1 (colours)",
    ),
    "alpha NaN": (overlaid(PHOTOGRAPH, GREY, "jet", np.nan), "is not between 0 (photograph) and 1 (colours)"),
}  # fmt: skip


@pytest.mark.parametrize(("call", "remedy"), WRONG.values(), ids=WRONG)
def test_a_wrong_call_is_a_line_with_the_remedy_and_leaves_the_models_alone(call, remedy):
    before = [state_of(model) for model in (CLASSES, PLANES)]
    with pytest.raises(XGradCamError) as caught:
        call()
    message = str(caught.value)
    assert remedy in message
    assert "\n" not in message
    assert len(message) < 300
    for model, state in zip((CLASSES, PLANES), before, strict=True):
        assert_same_state(state_of(model), state)


def test_a_score_may_need_the_whole_batch():
    def score(logits):
        if len(logits) != 3:
            raise ValueError("three samples, please")
        return logits[:, 0]

    found = explain_score(CLASSES, INPUTS, "0", score, ["score-cam"]).maps["score-cam"]
    expected = explain(CLASSES, INPUTS, "0", 0, ["score-cam"]).maps["score-cam"]
    torch.testing.assert_close(found, expected)


def test_methods_may_come_from_a_generator():
    found = explain(CLASSES, INPUTS, "0", methods=(name for name in ("grad-cam", "layer-cam")))
    assert list(found.maps) == ["grad-cam", "layer-cam"]


@pytest.mark.parametrize("others", [[0, 3], {0, 3}, torch.tensor([0, 3]), np.array([0, 3]), range(0, 4, 3)])
def test_other_classes_may_be_in_any_collection(others):
    logits = CLASSES(INPUTS)
    expected = logits[:, 2] - 0.5 * (logits[:, 0] + logits[:, 3]) / 2
    for target in (2, np.int64(2), torch.tensor(2)):
        torch.testing.assert_close(Contrast(target, others, np.float32(0.5))(logits), expected)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float16, torch.float64, torch.int64])
def test_a_region_may_be_a_mask_of_any_type_and_with_a_channel(dtype):
    planes = PLANES(INPUTS)
    masks = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(1)) > 0.5
    expected = torch.stack([plane[2][mask].mean() for plane, mask in zip(planes, masks, strict=True)])
    given = masks.to(dtype)
    for region in (given, given[:, None], given.numpy(), given[:, None].tolist()):
        torch.testing.assert_close(RegionMean(2, region)(planes), expected)
    found = explain_score(PLANES, INPUTS, "1", RegionMean(2, given[:, None]), ["ablation-cam"])
    for n, mask in enumerate(masks):
        alone = explain_score(
            PLANES, INPUTS[n : n + 1], "1", RegionMean(2, mask[None, None]), ["ablation-cam"]
        )
        torch.testing.assert_close(found.maps["ablation-cam"][n : n + 1], alone.maps["ablation-cam"])


def test_levels_of_255_and_large_regions_do_not_overflow_half_precision():
    planes = torch.full((1, 1, 300, 300), 0.5, dtype=torch.float16)
    region = torch.full((300, 300), 255, dtype=torch.uint8)
    assert RegionMean(0, region)(planes).tolist() == [0.5]


def test_an_embedding_may_be_an_array_or_a_list():
    goal = [1.0, -2.0, 0.0, 3.0]
    expected = nn.functional.cosine_similarity(CLASSES(INPUTS), torch.tensor(goal, dtype=torch.float64))
    for given in (goal, np.array(goal)[::-1][::-1], np.array(goal, np.float32), torch.tensor([goal])):
        torch.testing.assert_close(Similarity(given)(CLASSES(INPUTS)), expected)


def test_the_layer_that_is_advised_for_a_function_is_one():
    with pytest.raises(XGradCamError, match=r"such as (.*) returns$") as error:
        explain(CLASSES, INPUTS, default_layer)
    advice = str(error.value).partition("such as ")[2].removesuffix(" returns")
    names = {
        "default_layer": default_layer, "list_layers": list_layers, "model": CLASSES, "inputs": INPUTS,
    }  # fmt: skip
    assert explain(CLASSES, INPUTS, eval(advice, names), 1).maps["grad-cam"].shape[0] == len(INPUTS)


def test_weights_of_both_signs_have_a_mean_where_they_do_not_cancel():
    weights = (SIGNS + 0.5).expand(8, 8)
    planes = PLANES(INPUTS)
    expected = (planes[:, 1] * weights).sum(dim=(1, 2)) / weights.sum()
    torch.testing.assert_close(RegionMean(1, weights)(planes), expected)
