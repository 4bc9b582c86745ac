from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from torchvision.models import VGG16_Weights

from xgradcam import Classifier, XGradCamError, load_classifier
from xgradcam.models.names import Names, names_of
from xgradcam.models.naming import with_names


def five(net):
    """A classifier of five classes."""
    return Classifier("tiny", net, (8, 8), (0.5,) * 3, (0.25,) * 3, None)


def named(*names, **other):
    places = tuple(f"line {number}" for number in range(1, len(names) + 1))
    return Names("labels a.txt", names, places, **other)


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["cat", "dog"], ("cat", "dog")),
        (("cat", "dog"), ("cat", "dog")),
        (np.array(["cat", "dog"]), ("cat", "dog")),
        ({"cat": 1, "dog": 2}.keys(), ("cat", "dog")),
        ((name for name in ("cat", "dog")), ("cat", "dog")),
        ({0: "cat", 1: "dog"}, ("cat", "dog")),
        ({1: "dog", 0: "cat"}, ("cat", "dog")),
        ({"1": "dog", "0": "cat"}, ("cat", "dog")),
        ({"dog": 1, "cat": 0}, ("cat", "dog")),
        ({0: ("n01440764", "tench")}, ("n01440764 tench",)),
        ({"id2label": {0: "cat", 1: "dog"}}, ("cat", "dog")),
        (VGG16_Weights.DEFAULT.meta["categories"], tuple(VGG16_Weights.DEFAULT.meta["categories"])),
    ],
)
def test_names_of_a_value(labels, names):
    assert names_of(labels).names == names


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("cat", "the labels: the text 'cat', not a list of names"),
        (b"cat", "the labels: a bytes, not a list"),
        (3, "the labels: the number 3, not a list"),
        ({"cat", "dog"}, "the labels: a set, not a list"),
        ([], "the labels: no names"),
        ({}, "the labels: no names"),
        ([["cat"], ["dog"]], "entry 0 is a list, not a name"),
        ([0, 1], "entry 0 is the number 0"),
        (["cat", " "], "entry 1 is empty"),
        ({0: "cat", 2: "dog"}, "2 names, but none for 1"),
        ({True: "cat", False: "dog"}, "an object with the key the value True"),
        ({0: 0.5}, "the name of class 0 is the number 0.5"),
    ],
)
def test_a_value_without_names_is_refused(labels, message):
    with pytest.raises(XGradCamError, match=message):
        names_of(labels)


@pytest.mark.parametrize(
    ("names", "other", "problem"),
    [
        (
            ("name", *"abcde"),
            {},
            "6 names for the 5 classes of tiny: line 1 ('name') may be a header: delete it",
        ),
        (("index,name", *"abcde"), {}, "line 1 ('index,name') may be a header"),
        (("Label:", *"abcde"), {}, "line 1 ('Label:') may be a header"),
        (("background", *"abcde"), {}, "line 1 ('background') may be a background class that the model has"),
        (("__background__", *"abcde"), {}, "may be a background class"),
        (("Unlabeled", *"abcde"), {}, "may be a background class"),
        (
            tuple("abcdef"),
            {},
            "6 names for the 5 classes of tiny; they begin with line 1 ('a') and end with l",
        ),
        (
            tuple("abcdef"),
            {"first": 1},
            "6 names for the 5 classes of tiny, numbered from 1: number them from",
        ),
        (tuple("abcd"), {"first": 1}, "4 names for the 5 classes of tiny, numbered from 1"),
        (
            ("class_name", *"abc"),
            {},
            "4 names for the 5 classes of tiny: line 1 ('class_name') may be a head",
        ),
        (tuple("abcd"), {"blank": (3,)}, "4 names for the 5 classes of tiny, and line 3 is blank: delete it"),
    ],
)
def test_names_that_may_be_shifted_are_refused(net, names, other, problem):
    with pytest.raises(XGradCamError) as error:
        with_names(five(net), named(*names, **other), pytest.fail)
    assert str(error.value).startswith("labels a.txt: ")
    assert problem in str(error.value)


@pytest.mark.parametrize(
    ("names", "other"),
    [
        (tuple("abcde"), {}),
        (("name", *"bcde"), {}),  # as many as classes: a class of that name
        (("background", *"bcde"), {}),
        (tuple("abcde"), {"first": 1}),
        (tuple("abcde"), {"blank": (2, 4)}),
        (("crane", "crane", "a", "b", "c"), {}),
    ],
)
def test_as_many_names_as_classes_are_taken(net, names, other):
    assert with_names(five(net), named(*names, **other), pytest.fail).labels == names


@pytest.mark.parametrize(("names", "other"), [("abc", {}), ("a", {}), ("abc", {"blank": (2, 4, 6)})])
def test_fewer_names_than_classes_are_said(net, names, other):
    said = []
    assert with_names(five(net), named(*names, **other), said.append).labels == tuple(names)
    left = "the others are called by their index"
    assert said == [f"labels a.txt: {len(names)} names for the 5 classes of tiny: {left}"]


def test_a_background_that_is_a_class_of_few_names_is_taken(net):
    assert with_names(five(net), named("background", "cat"), lambda _: None).labels == ("background", "cat")


def test_one_output_has_one_name(net):
    net.classifier[-1] = type(net.classifier[-1])(16, 1).double()
    with pytest.raises(XGradCamError, match="2 names for the 1 classes of tiny"):
        with_names(five(net), ["no", "yes"], pytest.fail)


def test_classes_that_cannot_be_counted_are_not_compared(net):
    net.forward = lambda inputs: {"logits": inputs}
    assert five(net).class_count() is None
    assert with_names(five(net), ["a"] * 7, pytest.fail).labels == ("a",) * 7


def test_counting_the_classes_leaves_the_model_as_it_was(net):
    net.train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    assert five(net).class_count() == 5
    assert net.training
    assert all(tensor.equal(before[name]) for name, tensor in net.state_dict().items())


def test_labels_in_python_are_checked_too():
    said = []
    names = [f"name {index}" for index in range(4)]
    options = {"num_classes": 4, "size": 64}
    classifier = load_classifier("resnet18", "none", said.append, labels=names, **options)
    assert (list(classifier.labels), said) == (names, [])
    load_classifier("resnet18", "none", said.append, labels=names[:3], **options)
    assert said == ["the labels: 3 names for the 4 classes of resnet18: the others are called by their index"]
    with pytest.raises(XGradCamError, match="the labels: 5 names for the 4 classes of resnet18"):
        load_classifier("resnet18", "none", labels=[*names, "more"], **options)
    with pytest.raises(XGradCamError, match="the text 'cats', not a list of names"):
        load_classifier("resnet18", "none", labels="cats", **options)


WORDS = {"n01440764": "tench, Tinca tinca"}


@pytest.mark.parametrize(
    ("config", "pretrained_cfg", "labels"),
    [
        (SimpleNamespace(id2label=dict(enumerate("abcde"))), None, tuple("abcde")),
        (None, {"label_names": list("abcde")}, tuple("abcde")),
        (
            None,
            {"label_names": ["n01440764", *"bcde"], "label_descriptions": WORDS},
            ("n01440764 tench, Tinca tinca", *"bcde"),
        ),
        (SimpleNamespace(id2label={index: f"LABEL_{index}" for index in range(5)}), None, None),
        (SimpleNamespace(id2label=dict(enumerate("abcdef"))), None, None),
        (SimpleNamespace(id2label=dict(enumerate("abc"))), None, None),
        (SimpleNamespace(id2label={"a": "b"}), None, None),
        (SimpleNamespace(id2label=["a"] * 5), None, None),
        ({"id2label": 3}, {"label_names": None, "num_classes": 5}, None),
        (3, 3, None),
    ],
)
def test_names_that_a_model_carries(net, config, pretrained_cfg, labels):
    net.config, net.pretrained_cfg = config, pretrained_cfg
    assert with_names(five(net), None, pytest.fail).labels == labels
    assert with_names(five(net), list("vwxyz"), pytest.fail).labels == tuple("vwxyz")


def test_without_names_of_its_own_a_model_has_those_that_it_comes_with(net):
    classifier = replace(five(net), labels=list("abcde"))
    assert with_names(classifier, None, pytest.fail) is classifier
