"""Names with WordNet ids, in an order that may not be that of the model's outputs."""

import json
import random
from types import SimpleNamespace

import pytest
from torch import nn

from xgradcam import Classifier, XGradCamError, imagenet_labels
from xgradcam.models.classifier import LoadedWeights
from xgradcam.models.label_files import read_names
from xgradcam.models.naming import with_names

LABELS = imagenet_labels()
# The devkit numbers the classes from 1 in an order of its own.
DEVKIT = random.Random(0).sample(LABELS, len(LABELS))
PAIRS = [(label[:9], label[10:].split(",")[0].replace(" ", "_")) for label in DEVKIT]
SORTED = tuple(f"{identity} {name}" for identity, name in sorted(PAIRS))
AS_WRITTEN = tuple(f"{identity} {name}" for identity, name in PAIRS)
FROM_1 = {
    "map_clsloc.txt": "".join(f"{i} {n} {name}\n" for n, (i, name) in enumerate(PAIRS, 1)),
    "index first.txt": "".join(f"{n} {i} {name}\n" for n, (i, name) in enumerate(PAIRS, 1)),
    "id last.txt": "".join(f"{n} {name} {i}\n" for n, (i, name) in enumerate(PAIRS, 1)),
    "index last.txt": "".join(f"{i} {name} {n}\n" for n, (i, name) in enumerate(PAIRS, 1)),
    "meta.csv": "ILSVRC2012_ID,WNID,words\n"
    + "".join(f"{n},{i},{name}\n" for n, (i, name) in enumerate(PAIRS, 1)),
    "meta.tsv": "".join(f"{n}\t{i}\t{name}\n" for n, (i, name) in enumerate(PAIRS, 1)),
    "index.json": json.dumps({str(n): pair for n, pair in enumerate(PAIRS, 1)}),
    "fields.txt": "".join(f"id: {n} name: {i} {name}\n" for n, (i, name) in enumerate(PAIRS, 1)),
    "map.pbtxt": "".join(
        f"item {{ id: {n} name: '{i} {name}' }}\n"
        for n, (i, name) in enumerate(((i, name.replace("'", "")) for i, name in PAIRS), 1)
    ),
}
IN_LINES = {
    "synsets.txt": "".join(f"{i}\n" for i, _ in PAIRS),
    "words.txt": "".join(f"{i} {name}\n" for i, name in PAIRS),
    "names.csv": "".join(f"{i},{name}\n" for i, name in PAIRS),
    "list.json": json.dumps(PAIRS),
}
FROM_0 = {
    "index.txt": "".join(f"{n} {i} {name}\n" for n, (i, name) in enumerate(PAIRS)),
    "class_to_idx.json": json.dumps({i: n for n, (i, _) in enumerate(PAIRS)}),
    "index.json": json.dumps({str(n): pair for n, pair in enumerate(PAIRS)}),
}


def classifier(labels, weights=None, count=1000, **carried):
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, count)).eval()
    for name, value in carried.items():
        setattr(net, name, value)
    return Classifier("tiny", net, (8, 8), (0.5,) * 3, (0.25,) * 3, labels, weights=weights)


def named(tmp_path, name, content, model):
    """The labels that a file gives a classifier, and the lines that were said."""
    (tmp_path / name).write_text(content, encoding="utf-8")
    said = []
    return with_names(model, read_names(tmp_path / name), said.append).labels, said


def words_of(labels):
    return [label.replace("'", "").split(" ", 1) for label in labels]


def ids_of(labels):
    return [label[:9] for label in labels]


@pytest.mark.parametrize(
    "carried", [{}, {"config": SimpleNamespace(id2label=dict(enumerate(x[10:] for x in LABELS)))}]
)
@pytest.mark.parametrize(("name", "content"), [*FROM_1.items(), *IN_LINES.items(), *FROM_0.items()])
def test_the_ids_decide_where_the_order_of_the_model_is_known(tmp_path, name, content, carried):
    labels, (said,) = named(tmp_path, name, content, classifier(None if carried else LABELS, **carried))
    assert ids_of(labels) == ids_of(LABELS)
    if " " in labels[0]:
        assert words_of(labels) == words_of(SORTED)
    assert said.endswith(
        "not in the order of the classes of tiny: taken in that of their WordNet ids, which are the same"
    )


@pytest.mark.parametrize("model", [classifier(None), classifier(LABELS, LoadedWeights("", ()))])
@pytest.mark.parametrize(("name", "content"), FROM_1.items())
def test_a_numbering_as_of_the_devkit_is_refused_where_the_order_is_not_known(tmp_path, name, content, model):
    with pytest.raises(XGradCamError) as error:
        named(tmp_path, name, content, model)
    assert "numbered from 1 in an order that is not that of the WordNet ids, as in ImageNet's devkit" in str(
        error.value
    )
    assert "number them from 0 if" in str(error.value)
    assert len(str(error.value)) < 600


@pytest.mark.parametrize(("name", "content"), IN_LINES.items())
def test_lines_in_another_order_are_taken_with_a_line_where_it_is_not_known(tmp_path, name, content):
    labels, (said,) = named(tmp_path, name, content, classifier(None))
    assert ids_of(labels) == ids_of(AS_WRITTEN)
    assert (
        "taken in the order of its lines, which is not that of the WordNet ids: sort the lines by id if"
        in said
    )


@pytest.mark.parametrize(("name", "content"), FROM_0.items())
def test_indices_from_0_are_taken_at_their_word_where_the_order_is_not_known(tmp_path, name, content):
    labels, said = named(tmp_path, name, content, classifier(None))
    assert ids_of(labels) == ids_of(AS_WRITTEN)
    assert said == []


@pytest.mark.parametrize("own", [LABELS, None])
@pytest.mark.parametrize(
    "content",
    [
        "\n".join(LABELS),
        "\n".join(f"{label[:9]} {number} {label[10:]}" for number, label in enumerate(LABELS, 1)),
        "\n".join(f"{label[:9]} {number} {label[10:]}" for number, label in enumerate(LABELS)),
        "\n".join(label[:9] for label in LABELS),
        "\n".join(label[10:] for label in LABELS),
        "\n".join(f"class number {number}" for number in range(1000)),
    ],
)
def test_names_in_the_order_of_the_model_are_taken_without_a_word(tmp_path, content, own):
    labels, said = named(tmp_path, "a.txt", content, classifier(own))
    assert len(labels) == 1000
    assert said == []


@pytest.mark.parametrize("number", [False, True])
def test_a_hundred_classes_in_an_order_of_their_own_are_said(tmp_path, number):
    lines = [f"{n} {i} {name}" if number else f"{i} {name}" for n, (i, name) in enumerate(PAIRS[:100], 1)]
    labels, (said,) = named(tmp_path, "a.txt", "\n".join(lines), classifier(None, count=100))
    assert ids_of(labels) == [i for i, _ in PAIRS[:100]]
    by, too = ("numbers", " and leave out the numbers") if number else ("lines", "")
    assert (
        f"in the order of its {by}, which is not that of the WordNet ids: sort the lines by id{too} if"
        in said
    )
    labels, said = named(
        tmp_path,
        "a.txt",
        "\n".join(sorted(f"{i} {name}" for i, name in PAIRS[:100])),
        classifier(None, count=100),
    )
    assert said == []


def test_ids_of_other_classes_than_those_in_their_places_are_refused(tmp_path):
    few = "\n".join(sorted(AS_WRITTEN[:100]))
    with pytest.raises(
        XGradCamError,
        match=r"line 1 gives class 0 the WordNet id n\d+, that of class \d+ of tiny: give all 1000",
    ):
        named(tmp_path, "a.txt", few, classifier(LABELS))
    labels, (said,) = named(tmp_path, "a.txt", "\n".join(LABELS[:100]), classifier(LABELS))
    assert labels == LABELS[:100]
    assert "100 names for the 1000 classes" in said
    one_other = [*(f"{i} {name}" for i, name in PAIRS[:-1]), "n99999999 other"]
    with pytest.raises(XGradCamError, match="gives class 0 the WordNet id"):
        named(tmp_path, "a.txt", "\n".join(one_other), classifier(LABELS))


@pytest.mark.parametrize(
    "word", [lambda label: label[10:], lambda label: label[10:].split(",")[0].replace(" ", "_").upper()]
)
def test_the_models_own_names_in_other_places_are_refused(tmp_path, word):
    """As in lists of short names in the devkit's order, which have no ids."""
    content = "\n".join(map(word, DEVKIT))
    with pytest.raises(
        XGradCamError, match=r"is for class \d+, but class \d+ of tiny is called that, and most others"
    ):
        named(tmp_path, "a.txt", content, classifier(LABELS))
    labels, said = named(tmp_path, "a.txt", content, classifier(None))
    assert len(labels) == 1000
    assert said == []


def test_a_list_in_python_is_ordered_too():
    said = []
    assert with_names(classifier(LABELS), DEVKIT, said.append).labels == LABELS
    assert len(said) == 1


def test_ids_with_a_background_are_no_ids_of_all_classes(tmp_path):
    labels, said = named(tmp_path, "a.txt", "\n".join(["background", *LABELS]), classifier(None, count=1001))
    assert labels == ("background", *LABELS)
    assert said == []
