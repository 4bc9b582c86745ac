"""True classes of photographs in tars and tables, from the labels beside them."""

import io
import json
import tarfile
from decimal import Decimal
from pathlib import Path

import pytest

from tests.support import noise
from xgradcam import XGradCamError
from xgradcam.runs.held_truth import by_labels, is_held
from xgradcam.runs.inputs import Expansion
from xgradcam.runs.sources import find_photographs

LABELS = ("ant", "n02123045 tabby, tabby cat", "crane", "big dog")


@pytest.fixture(autouse=True)
def photos(own_folder):
    noise("photos", 4)


def tar(members, name="a.tar"):
    """A tar of these members: a photograph by its number, or bytes."""
    with tarfile.open(name, "w") as made:
        for member, content in members:
            if isinstance(content, int):
                content = Path(f"photos/{content:04}.png").read_bytes()
            info = tarfile.TarInfo(member)
            info.size = len(content)
            made.addfile(info, io.BytesIO(content))
    return name


def sample(key, number, **more):
    """The members of a sample; an underscore in an ending stands for a dot."""
    return [(f"{key}.png", number), *((f"{key}.{end.replace('_', '.')}", of) for end, of in more.items())]


def table(column, name="t.parquet", names=None, groups=2, of="label"):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    images = [Path(f"photos/{number:04}.png").read_bytes() for number in range(len(column))]
    made = pa.table({"image": pa.array(images, pa.binary()), of: column})
    if names is not None:
        feature = {of: {"names": names, "_type": "ClassLabel"}}
        made = made.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": feature}})})
    parquet.write_table(made, name, row_group_size=groups)
    return name


def classes(name, *places, labels=LABELS, count=4, column=None):
    """The classes in the order of the photographs, and what is said."""
    said = []
    expand = Expansion(column, lambda _kind: None, False)
    sources = find_photographs(list(places), Path("out"), expand=expand)
    return [one.truth for one in by_labels(name, sources, labels, count, said.append)], said


CONTENTS = [
    ("cls", b"0\n", 0), ("cls", b" 3 ", 3), ("cls", b"002", 2), ("txt", b"crane", 2), ("txt", b"TABBY", 1),
    ("txt", b"n02123045\r\n", 1), ("txt", b"\xef\xbb\xbfbig_dog", 3), ("json", b"2", 2), ("json", b"2.0", 2),
    ("json", b'"ant"', 0), ("json", b'{"label": 3, "split": "x"}', 3), ("json", b'{"Class_Name": "ant"}', 0),
    ("json:wnid", b'{"wnid": "n02123045", "label": 7}', 1), ("label.txt", b"1", 1), (".CLS", b"1", 1),
    ("meta.json:y", b'{"y": 1}', 1),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "expected"), CONTENTS)
@pytest.mark.parametrize("before", [False, True])
def test_a_label_of_a_tar_states_the_class_of_its_sample(name, content, expected, before):
    ending = name.partition(":")[0].lower().lstrip(".")
    members = [("x/0.png", 0), (f"x/0.{ending}", content), ("x/1.png", 1), ("x/0.other", b"5")]
    tar(reversed(members) if before else members)
    truth, said = classes(name, "a.tar")
    assert sorted(truth, key=str) == [expected, None]
    assert said == [f"1 photograph without a label {name!r}, such as a.tar/x/1.png"]


def test_labels_are_of_the_photograph_of_the_same_key_in_any_tar():
    tar([*sample("a/0", 0, cls=b"1"), *sample("b/0", 1, cls=b"2"), *sample("0", 2, cls=b"3")], "a.tar")
    tar([("b/0.cls", b"0"), ("z.cls", b"77"), ("b/0.png", 3)], "b.tar")
    assert classes("cls", "a.tar", "b.tar") == ([1, 2, 3, 0], [])


def test_of_several_photographs_of_a_sample_each_has_its_label():
    tar([("0.rgb.png", 0), ("0.mask.png", 1), ("0.cls", b"2")])
    assert classes("cls", "a.tar", column="png") == ([2, 2], [])
    assert classes("cls", "a.tar", column="rgb.png") == ([2], [])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cls", b"4", r"the label of a.tar/0.png: '4' names no class: this model's classes are 0 to 3"),
        ("cls", b"-1", r"the label of a.tar/0.png: '-1' names no class"),
        ("cls", b"tabbi", r"'tabbi' names no class by its index, id or whole name"),
        ("cls", b" \n", r"the label a.tar/0.cls is empty"),
        ("cls", b"\xff\xfe\x00", r"a.tar/0.cls is no text in UTF-8"),
        ("cls", b"1" * (2**20 + 1), r"a.tar/0.cls has over a megabyte"),
        ("json", b"{", r"the label a.tar/0.json is no JSON"),
        ("json", b"[" * 100_000, r"the label a.tar/0.json is no JSON"),
        ("json", b"[1]", r"the label of a.tar/0.json is \[1\]: it must be a class's index, id or name"),
        ("json", b"true", r"the label of a.tar/0.json is True"),
        ("json", b"1.5", r"the label of a.tar/0.json is 1.5"),
        ("json", b"NaN", r"the label of a.tar/0.json is nan"),
        ("json", b'{"x": 1}', r"no class that is certain among 'x': name it, as --truth json:KEY"),
        ("json", b'{"label": 1, "class": 2}', r"no class that is certain among 'label', 'class'"),
        ("json:y", b'{"x": 1}', r"has no 'y' among 'x'"),
        ("json:y", b"1", r"is no object with a key 'y'"),
        ("clss", b"1", r"--truth clss: no file, label or column is called so"),
    ],
)
def test_a_label_of_no_class_is_refused(name, content, message):
    ending = "cls" if name == "clss" else name.partition(":")[0]
    tar(sample("0", 0, **{ending: content}))
    with pytest.raises(XGradCamError, match=message) as caught:
        classes(name, "a.tar")
    assert "\n" not in str(caught.value)


def test_labels_that_are_there_are_named():
    tar(sample("0", 0, cls=b"1", txt=b"2", label_json=b"3"))
    with pytest.raises(XGradCamError, match=r"; there are cls, txt, label.json; did you mean 'cls'\?$"):
        classes("clss", "a.tar")


def test_labels_that_contradict_one_another_are_refused():
    tar([("0.png", 0), ("0.cls", b"1"), ("0.cls", b"1\n")])
    assert classes("cls", "a.tar")[0] == [1]
    tar([("0.png", 0), ("0.cls", b"1"), ("./0.CLS", b"2")])
    with pytest.raises(XGradCamError, match=r"a.tar: 0.cls and another 0.CLS say '1' and '2': keep one"):
        classes("cls", "a.tar")


@pytest.mark.parametrize("groups", [1, 3, 9])
@pytest.mark.parametrize(
    ("column", "expected"),
    [
        ([3, 0, 2, 1], [3, 0, 2, 1]),
        ([3.0, None, 2.0, float("nan")], [3, None, 2, None]),
        (["ant", "big dog", None, "n02123045"], [0, 3, None, 1]),
        (["1", "0", "02", "3"], [1, 0, 2, 3]),
        ([Decimal(2), Decimal("3.00"), None, Decimal(0)], [2, 3, None, 0]),
    ],
)
def test_a_column_of_a_table_states_the_classes(column, expected, groups):
    truth, said = classes("label", table(column, groups=groups))
    assert truth == expected
    assert len(said) == (None in expected)
    pa = pytest.importorskip("pyarrow")
    if isinstance(column[0], str):
        for stored in (pa.array(column).dictionary_encode(), pa.array(column, pa.string_view())):
            assert classes("label", table(stored))[0] == expected


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ([0, 4], r"the label of t.parquet#1: '4' names no class: this model's classes are 0 to 3"),
        ([0, -1], r"'-1' names no class"),
        ([0.5, 1.0], r"the label of t.parquet#0 is 0.5"),
        (["ant", "aunt"], r"'aunt' names no class"),
        ([[1], [2]], r"the column label of t.parquet is of list<"),
        ([True, False], r"the column label of t.parquet is of bool: a class is a number or a text"),
        ([None, None], r"--truth label: no photograph has a class there"),
    ],
)
def test_a_column_of_no_classes_is_refused(column, message):
    with pytest.raises(XGradCamError, match=message):
        classes("label", table(column))
    with pytest.raises(
        XGradCamError, match=r"--truth lable: .*there are image, label; did you mean 'label'\?"
    ):
        classes("lable", "t.parquet")


def test_a_table_that_names_its_classes_is_taken_at_its_word():
    """Its numbers are an order of its own."""
    table([0, 1, 2, 1], names=["big dog", "ant", "n02123045"])
    assert classes("label", "t.parquet") == ([3, 0, 1, 0], [])
    with pytest.raises(XGradCamError, match=r"has 3 classes, and the model 4 without names: give .*--labels"):
        classes("label", "t.parquet", labels=None)
    truth, said = classes("label", "t.parquet", labels=None, count=3)
    assert truth == [0, 1, 2, 1]
    assert said == [
        "classes are taken by their numbers: the model has no names that the table's could be compared to"
    ]
    with pytest.raises(XGradCamError, match=r"the label of t.parquet#0: 'big dog' names no class"):
        classes("label", "t.parquet", labels=("a", "b", "c", "d"))
    truth, said = classes("label", "t.parquet", labels=("a", "b", "c"), count=3)
    assert truth == [0, 1, 2, 1]
    assert said == ["classes are taken by their numbers: the model has no class 'big dog', as the table has"]
    with pytest.raises(XGradCamError, match=r"the label of t.parquet#1 is 5, and t.parquet has 2 classes"):
        classes("label", table([0, 5], names=["ant", "crane"]))


@pytest.mark.parametrize("names", [["crane", "ant", "auto"], ["1", "0", "auto"], ["CRANE", "bus", "auto"]])
def test_classes_that_the_model_has_in_another_order_are_not_taken_by_number(names):
    """Of one name that it has not, another order would be overlooked."""
    message = f"t.parquet calls class 0 {names[0]!r}, which is the model's class 1, and .* no class '"
    with pytest.raises(XGradCamError, match=message):
        classes("label", table([2, 0, 1], names=names), labels=("ant", "crane", "car"), count=3)
    ours = (names[1], names[0], "auto")
    assert classes("label", "t.parquet", labels=ours, count=3) == ([2, 1, 0], [])


def test_classes_of_other_names_in_the_models_order_are_taken_by_number():
    """Two of the model's classes are cranes, as in ImageNet."""
    labels = ("crane", "ant", "crane", "dog")
    truth, said = classes(
        "label", table([3, 2, 1, 0], names=["crane", "ant", "crane2", "hound"]), labels=labels
    )
    assert truth == [3, 2, 1, 0]
    assert said == ["classes are taken by their numbers: the model has no class 'hound', as the table has"]


def test_numbers_of_named_classes_may_be_floats_or_below_zero():
    """pandas makes floats of numbers with gaps; Hugging Face's data sets have -1 where a label is missing."""
    names = ["big dog", "ant"]
    assert classes("label", table([1.0, None, 0.0, 1.0], names=names))[0] == [0, None, 3, 0]
    truth, said = classes("label", table([1, -1, 0], names=names))
    assert truth == [0, None, 3]
    assert said == ["1 photograph without a label 'label', such as t.parquet#1"]
    with pytest.raises(XGradCamError, match=r"--truth label: no photograph has a class there"):
        classes("label", table([-1, -1], names=names))


@pytest.mark.parametrize("other", [b'{"photographs": 1}', b"{", b"\xff", b"", b" " * (2**20 + 1), b"null"])
@pytest.mark.parametrize("before", [False, True])
def test_members_of_the_same_ending_beside_the_samples_are_no_labels(other, before):
    members = [*sample("x/0", 0, json=b'{"label": 2}'), ("info.json", other), ("x/info.json", other)]
    tar(reversed(members) if before else members)
    assert classes("json", "a.tar") == ([2], [])


def test_of_several_places_some_may_have_no_labels():
    tar([*sample("0", 0, cls=b"1"), *sample("1", 1, json=b"null"), *sample("2", 2, json=b'{"label": null}')])
    table([1, 2])
    truth, said = classes("cls", "t.parquet", "a.tar")
    assert truth == [None, None, 1, None, None]
    assert said == ["4 photographs without a label 'cls', such as t.parquet#0"]
    with pytest.raises(XGradCamError, match=r"--truth json: no photograph has a class there"):
        classes("json", "t.parquet", "a.tar")
    with pytest.raises(XGradCamError, match=r"called so; there are image, label, cls, json; did you mean"):
        classes("lable", "t.parquet", "a.tar")


def test_photographs_without_a_container_have_no_label():
    tar(sample("0", 0, cls=b"1"))
    truth, said = classes("cls", "a.tar", "photos")
    assert truth == [1, None, None, None, None]
    assert said == ["4 photographs without a label 'cls', such as photos/0000.png"]
    expand = Expansion(None, lambda _kind: None, False)
    held = [is_held(one) for one in find_photographs(["a.tar", "photos"], Path("out"), expand=expand)]
    assert held == [True, False, False, False, False]
