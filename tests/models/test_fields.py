import time

import pytest

from xgradcam.errors import XGradCamError
from xgradcam.models.label_files import read_names

CAT_DOG = ("cat", "dog")


def read(tmp_path, content, name="labels.txt"):
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    return read_names(path)


@pytest.mark.parametrize(
    "content",
    [
        "id: 0 name: cat\nid: 1 name: dog",
        "id: 1 name: dog\nid: 0 name: cat",
        "id: 0, name: cat\nid: 1, name: dog",
        "id: 0, name: 'cat'\nid: 1, name: 'dog'",
        "id=0 name=cat\nid=1 name=dog",
        "index: 0 label: cat\nindex: 1 label: dog",
        "idx: 0; class_name: cat\nidx: 1; class_name: dog",
        "class_id: 0\tclass_name: cat\nclass_id: 1\tclass_name: dog",
        "class: 0 name: cat\nclass: 1 name: dog",
        "label: 0, category: cat\nlabel: 1, category: dog",
        "name: cat id: 0\nname: dog id: 1",
        "name: dog, id: 1\nname: cat, id: 0",
        "ID: 0 Name: cat\nID: 1 Name: dog",
        "- id: 0\n  name: cat\n- id: 1\n  name: dog",
        "id: 0\nname: cat\n\nid: 1\nname: dog",
        "name: cat,\nid: 0,\nname: dog,\nid: 1,",
        "id: 1 name: cat\nid: 2 name: dog",
        "item { id: 0 name: 'cat' }\nitem { id: 1 name: 'dog' }",
        "item { id: 2 name: 'dog' } item { id: 1 name: 'cat' }",
        'item {\n  id: 1\n  name: "cat"\n}\n\nitem {\n  id: 2\n  name: "dog"\n}\n',
        "item {\r\n  name: 'cat'\r\n  id: 0\r\n}\r\nitem {\r\n  name: 'dog'\r\n  id: 1\r\n}\r\n",
        "# animals\nitem {\n  id: 1  # one\n  name: 'cat'\n}\n# and\nitem { id: 2, name: 'dog', }\n",
        "item { name: 'a' id: 1 display_name: 'cat' } item { name: 'b' id: 2 display_name: 'dog' }",
        "item: { id: 0; name: 'cat' },\nitem: { id: 1; name: 'dog' }",
    ],
)
def test_an_index_and_a_name_in_fields(tmp_path, content):
    names = read(tmp_path, content)
    assert names.names == CAT_DOG
    assert names.first == (0 if "0" in content else 1)
    assert names.numbered


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ("item { id: 0 name: 'a {small} cat' }", "a {small} cat"),
        ('item { id: 0 name: "cat # 1" }', "cat # 1"),
        (r"item { id: 0 name: 'Grevy\'s zebra' }", "Grevy's zebra"),
        ("id: 0 name: kit fox, Vulpes macrotis", "kit fox, Vulpes macrotis"),
        ("id: 0 name: n02119789 kit fox", "n02119789 kit fox"),
        ("id: 0 name: cat 9", "cat 9"),
        ("name: 7 up id: 0", "7 up"),
    ],
)
def test_names_in_fields_are_whole(tmp_path, content, name):
    assert read(tmp_path, content).names == (name,)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id: 0 name: cat\nid: 2 name: dog", "line 2: no name has the number 1"),
        ("id: 0 name: cat\nid: 0 name: dog", "line 2 has the number 0 again"),
        ("id: 2 name: cat\nid: 3 name: dog", "line 1: no name has the number 0"),
        ("item { id: 1 name: 'cat' }\nitem { id: 3 name: 'dog' }", "line 1: no name has the number 0"),
        ("item { id: 1 name: 'cat' }\nitem { id: 1 name: 'dog' }", "line 2 has the number 1 again"),
        ("item { id: 1 }", "line 1: an item of a label map without id and name alone: write one index"),
        ("item { name: 'cat' }", "line 1: an item of a label map without id and name"),
        ("item { id: x name: 'cat' }", "line 1: an item of a label map"),
        ("item { id: 1 name: '' }", "line 1: an item of a label map"),
        ("item { id: 1 id: 2 name: 'cat' }", "line 1: an item of a label map"),
        ("item { id: 1 name: kit fox }", "line 1: an item of a label map"),
        ("item { id: 1 name: 'cat' }\ncat\nitem { id: 2 name: 'dog' }", "line 3: an item of a label map"),
        ("item { id: 1 name: 'cat' }\ndog", "line 2 and what follows are no items of a label map"),
        ("item { id: 1 name: 'cat' keypoints { id: 1 } }", "line 1 and what follows are no items"),
        ("item {\n id: 1\n name: 'cat'", "line 1 and what follows are no items of a label map"),
    ],
)
def test_fields_that_are_not_clear_are_refused(tmp_path, content, message):
    with pytest.raises(XGradCamError) as error:
        read(tmp_path, content)
    assert message in str(error.value)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ("class: cat\nclass: dog", ("class: cat", "class: dog")),
        ("item\nentry", ("item", "entry")),
        ("name: cat\nname: dog", ("name: cat", "name: dog")),
    ],
)
def test_other_lines_are_names_as_before(tmp_path, content, names):
    assert read(tmp_path, content).names == names


def test_long_label_maps_take_no_time(tmp_path):
    many = "".join(f"item {{ id: {number} name: 'x{number}' }}\n" for number in range(20_000))
    begin = time.monotonic()
    assert len(read(tmp_path, many).names) == 20_000
    for odd in ("item {" * 100_000, "item { a: '" * 50_000, "item { id: 1 name: " + "x" * 1_000_000):
        with pytest.raises(XGradCamError):
            read(tmp_path, odd)
    assert time.monotonic() - begin < 5
