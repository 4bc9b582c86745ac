import time
from pathlib import PurePosixPath

import pytest

from xgradcam import imagenet_labels
from xgradcam.evaluation.boxes import Annotation, Box
from xgradcam.evaluation.matching import is_named, match

LABELS = ("cat", "n02110185 Siberian husky, sled dog", "crane", "crane", "3", "7")
SHAPE = (40, 80)


def annotated(name, *boxes, size=None):
    return Annotation(PurePosixPath(name), boxes or (Box("", 0, 0, 8, 4),), size)


@pytest.mark.parametrize(
    ("annotations", "photographs", "found"),
    [
        # By the whole name, wherever the photograph is.
        (["cat.jpg"], ["photos/cat.jpg"], {"photos/cat.jpg": 0}),
        (["cat.jpg"], ["cat.jpg"], {"cat.jpg": 0}),
        (["cat.jpg", "dog.jpg"], ["p/dog.jpg", "p/cat.jpg"], {"p/dog.jpg": 1, "p/cat.jpg": 0}),
        # By the path, where the annotation knows some of it.
        (["a/cat.jpg"], ["p/a/cat.jpg"], {"p/a/cat.jpg": 0}),
        (["p/a/cat.jpg"], ["p/a/cat.jpg"], {"p/a/cat.jpg": 0}),
        (["a/cat.jpg", "b/cat.jpg"], ["p/b/cat.jpg", "p/a/cat.jpg"], {"p/b/cat.jpg": 1, "p/a/cat.jpg": 0}),
        (["b/a/cat.jpg", "a/cat.jpg"], ["b/a/cat.jpg", "c/a/cat.jpg"], {"b/a/cat.jpg": 0, "c/a/cat.jpg": 1}),
        (["cat.jpg", "a/cat.jpg"], ["p/a/cat.jpg"], {"p/a/cat.jpg": 1}),
        # By the stem.
        (["cat.jpg"], ["p/cat.png"], {"p/cat.png": 0}),
        (["a/cat.jpg"], ["a/cat.webp"], {"a/cat.webp": 0}),
        (["cat.jpg", "cat.png"], ["p/cat.png", "p/cat.jpg"], {"p/cat.png": 1, "p/cat.jpg": 0}),
        (["cat.jpg"], ["p/cat.jpg", "p/cat.png"], {"p/cat.jpg": 0}),
        (["cat.v2.jpg"], ["p/cat.jpg", "p/cat.v2.png"], {"p/cat.v2.png": 0}),
        # Folders of annotations and pictures say nothing.
        (["Annotations/cat.jpg"], ["JPEGImages/cat.jpg"], {"JPEGImages/cat.jpg": 0}),
        (["a/annotations/cat.jpg"], ["a/images/cat.jpg"], {"a/images/cat.jpg": 0}),
        (["xmls/a/cat.jpg"], ["images/a/cat.jpg", "images/b/cat.jpg"], {"images/a/cat.jpg": 0}),
        (["images/cat.jpg"], ["photos/cat.jpg"], {"photos/cat.jpg": 0}),
        # Boxes of another photograph are not taken.
        (["b/cat.jpg"], ["p/a/cat.jpg"], {}),
        (["b/cat.jpg"], ["b/a/cat.jpg"], {}),
        (["a/cat.jpg"], ["xa/cat.jpg"], {}),
        (["b/cat.jpg"], ["a/cat.jpg", "b/cat.jpg"], {"b/cat.jpg": 0}),
        (["cat.jpg"], ["a/cat.jpg", "b/cat.jpg"], {}),
        (["cat.jpg"], ["a/cat.png", "b/cat.webp"], {}),
        (["a/cat.jpg"], ["x/a/cat.jpg", "y/a/cat.jpg"], {}),
        (["cat.jpg", "cat.jpg"], ["p/cat.jpg"], {}),
        (["cat.jpg", "cat.webp"], ["p/cat.png"], {}),
        (["cat.jpg"], ["p/cats.jpg", "p/bobcat.jpg", "p/Cat.jpg"], {}),
        ([], ["p/cat.jpg"], {}),
        (["cat.jpg"], [], {}),
    ],
)
def test_an_annotation_belongs_to_one_photograph(annotations, photographs, found, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    annotations = [annotated(name) for name in annotations]
    matches = match(annotations, photographs)
    assert set(matches.found) == set(found)
    assert all(matches.found[path] is annotations[index] for path, index in found.items())


def test_ten_thousand_namesakes_take_no_time():
    names = [f"class{index}/0001.jpg" for index in range(10_000)]
    began = time.monotonic()
    matches = match(map(annotated, names), [f"photos/{name}" for name in names])
    assert time.monotonic() - began < 5
    assert len(matches.found) == 10_000
    assert matches.found["photos/class77/0001.jpg"].name == PurePosixPath("class77/0001.jpg")


@pytest.mark.parametrize(
    ("label", "target", "named"),
    [
        ("cat", 0, True),
        ("Cat", 0, True),
        ("cats", 0, False),
        ("c", 0, False),
        ("siberian_husky", 1, True),
        ("sled dog", 1, True),
        ("n02110185", 1, True),
        ("dog", 1, False),
        ("husky", 1, False),
        ("crane", 2, True),
        ("crane", 3, True),
        ("crane", 0, False),
        ("0", 0, True),
        ("1", 0, False),
        ("01", 1, True),
        ("3", 4, True),  # a name before an index
        ("3", 3, False),
        ("2", 2, True),
    ],
)
def test_the_label_of_a_box_names_a_class_wholly(label, target, named):
    assert is_named(LABELS, target, label) == named


def test_without_names_of_classes_only_an_index_names_one():
    assert is_named(None, 2, "2")
    assert not is_named(None, 2, "cat")
    assert is_named(imagenet_labels(), 281, "n02123045")


@pytest.mark.parametrize(
    ("boxes", "size", "expected", "said"),
    [
        ([Box("cat", 0, 0, 8, 4)], None, [Box("cat", 0, 0, 8, 4)], ""),
        ([Box("", 0, 0, 8, 4)], None, [Box("", 0, 0, 8, 4)], ""),
        ([Box("dog", 0, 0, 8, 4), Box("cat", 1, 1, 2, 2)], None, [Box("cat", 1, 1, 2, 2)], ""),
        ([Box("", 0, 0, 8, 4), Box("cat", 1, 1, 2, 2)], None, [Box("cat", 1, 1, 2, 2)], ""),
        ([Box("0", 0, 0, 8, 4)], None, [Box("0", 0, 0, 8, 4)], ""),
        (
            [Box("dog", 0, 0, 8, 4), Box("cow", 0, 0, 8, 4)],
            None,
            [],
            "with boxes of other classes only (cow, dog)",
        ),
        ([Box("", 0, 0, 8, 4), Box("dog", 1, 1, 2, 2)], None, [], "with boxes of other classes only"),
        ([Box("cat", 0, 0, 0, 4)], None, [], "with boxes outside of the picture or without an area"),
        ([Box("cat", 90, 0, 99, 4)], None, [], "with boxes outside of the picture or without an area"),
        ([Box("cat", 90, 0, 99, 4), Box("cat", 1, 1, 2, 2)], None, [Box("cat", 1, 1, 2, 2)], ""),
        ([Box("cat", 0, 0, 8, 4)], (80, 40), [Box("cat", 0, 0, 8, 4)], ""),
        ([Box("cat", 2, 2, 8, 4)], (160, 80), [Box("cat", 1, 1, 4, 2)], "1 scaled to the photograph's size"),
        ([Box("cat", 1, 1, 4, 2)], (40, 20), [Box("cat", 2, 2, 8, 4)], "1 scaled to the photograph's size"),
        ([Box("cat", 0, 0, 8, 4)], (40, 80), [], "with boxes for another shape of picture"),  # turned
        ([Box("cat", 0, 0, 8, 4)], (80, 60), [], "with boxes for another shape of picture"),
        ([], None, [], ""),
    ],
)
def test_the_boxes_of_the_class_in_pixels_of_the_photograph(boxes, size, expected, said):
    annotation = Annotation(PurePosixPath("a.jpg"), tuple(boxes), size)
    matches = match([annotation], ["a.jpg"])
    assert matches.boxes_of("a.jpg", 0, LABELS, SHAPE) == expected
    summary = matches.summary(3)
    assert summary.startswith(f"boxes: {int(bool(expected))} of 3 photographs have boxes of their class")
    assert said in summary
    assert summary.count(";") == bool(said)


def test_a_model_without_names_of_classes_has_boxes_by_index_only():
    matches = match(
        [annotated("a.jpg", Box("cat", 0, 0, 8, 4)), annotated("b.jpg", Box("2", 0, 0, 8, 4))],
        ["a.jpg", "b.jpg"],
    )
    assert matches.boxes_of("a.jpg", 2, None, SHAPE) == []
    assert matches.boxes_of("b.jpg", 2, None, SHAPE) == [Box("2", 0, 0, 8, 4)]
    assert (
        "1 with boxes of other classes only (cat): the model's have no names (--labels)" in matches.summary(2)
    )


def test_a_scaled_pictures_sides_are_rounded():
    matches = match([annotated("a.jpg", Box("cat", 0, 0, 500, 375), size=(500, 375))], ["a.jpg"])
    (box,) = matches.boxes_of("a.jpg", 0, LABELS, (224, 299))
    assert (box.right, box.bottom) == pytest.approx((299, 224))


def test_the_summary_counts_each_reason():
    annotations = [
        annotated("good.jpg", Box("cat", 0, 0, 8, 4)),
        annotated("a/other.jpg", Box("dog", 0, 0, 8, 4)),
        annotated("x/away.jpg"),
        annotated("twice.jpg"),
        annotated("twice.jpg"),
        annotated("one.jpg"),
    ]
    photographs = [
        "p/good.jpg",
        "a/other.jpg",
        "y/away.jpg",
        "p/twice.jpg",
        "p/one.jpg",
        "q/one.jpg",
        "p/none.jpg",
    ]
    matches = match(annotations, photographs)
    for photograph in photographs:
        matches.boxes_of(photograph, 0, LABELS, SHAPE)
    assert matches.summary(7).split("; ") == [
        "boxes: 1 of 7 photographs have boxes of their class",
        "2 with a name that others share, such as p/one.jpg",
        "1 with annotations of its name in other folders only, such as y/away.jpg",
        "1 with several annotations of its name, such as p/twice.jpg",
        "1 with boxes of other classes only (dog), such as a/other.jpg",
    ]
    matches.crop_away("p/good.jpg")
    assert matches.summary(7).startswith("boxes: 0 of 7 photographs have boxes of their class; ")
    assert "1 with boxes outside of the crop, such as p/good.jpg" in matches.summary(7)
