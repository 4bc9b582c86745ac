"""True classes of photographs, from their folders and from tables."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.runs.support import touch
from xgradcam import XGradCamError, imagenet_labels
from xgradcam.runs.sources import find_photographs
from xgradcam.runs.truth import by_folder, by_table, read_table

pytestmark = pytest.mark.usefixtures("own_folder")
LABELS = ("ant", "n02123045 tabby, tabby cat", "crane", "crane", "big dog")


def truth_in(sources):
    return {source.path: source.truth for source in sources}


def read(text, name="labels.csv", encoding="utf-8"):
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_bytes(text.encode(encoding))
    return read_table(Path(name))


def classes_by(text, places=("photos",), labels=LABELS, name="labels.csv", encoding="utf-8"):
    """Photograph -> class by a table of this text; and the lines that are said."""
    said = []
    sources = find_photographs(list(places), Path("out"))
    found = by_table(read(text, name, encoding), sources, places, labels, len(labels), said.append)
    return truth_in(found), said


def test_the_folder_of_a_photograph_names_its_class():
    touch(
        "photos/1/a.jpg",
        "photos/000/b.jpg",
        "photos/n02123045/c.jpg",
        "photos/Big_Dog/d.jpg",
        "photos/tabby cat/e.jpg",
    )
    found = by_folder(find_photographs(["photos"], Path("out")), LABELS, len(LABELS))
    assert truth_in(found) == {
        "photos/1/a.jpg": 1, "photos/000/b.jpg": 0, "photos/n02123045/c.jpg": 1, "photos/Big_Dog/d.jpg": 4,
        "photos/tabby cat/e.jpg": 1,
    }  # fmt: skip


def test_a_photograph_in_the_folder_at_hand_has_its_name(monkeypatch):
    touch("ant/a.jpg")
    monkeypatch.chdir("ant")
    assert truth_in(by_folder(find_photographs(["a.jpg"], Path("out")), LABELS, 5)) == {"a.jpg": 0}


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        (
            "dog",
            r"the folder 'dog' names no class by its index, id or whole name; did you mean 4 \(big dog\)\?",
        ),
        (
            "tabi",
            "names no class by its index, id or whole name: no class is named 'tabi'; did you mean 'tabby'",
        ),
        ("5", "the folder '5' names no class: this model's classes are 0 to 4"),
        ("crane", r"the folder 'crane' may be class 2 \(crane\), 3 \(crane\): call it by the index"),
    ],
)
def test_a_folder_that_names_no_class_is_refused_with_the_nearest(folder, message):
    touch(f"photos/{folder}/a.jpg", "photos/ant/a.jpg")
    with pytest.raises(XGradCamError, match=message):
        by_folder(find_photographs(["photos"], Path("out")), LABELS, len(LABELS))


def test_all_folders_that_name_no_class_are_told():
    touch("photos/dog/a.jpg", "photos/ant/a.jpg", "photos/x/a.jpg")
    with pytest.raises(XGradCamError, match=r"'dog' names no class .*; so too 'x'$"):
        by_folder(find_photographs(["photos"], Path("out")), LABELS, len(LABELS))


def test_names_of_two_classes_of_imagenet_are_refused_with_both():
    for name in ("crane", "maillot"):
        touch(f"photos/{name}/a.jpg")
        with pytest.raises(
            XGradCamError, match=rf"the folder '{name}' may be class \d+ .*, \d+ .*: call it by the index"
        ):
            by_folder(find_photographs([f"photos/{name}"], Path("out")), imagenet_labels(), 1000)


def test_a_photograph_on_stdin_has_no_folder():
    with pytest.raises(XGradCamError, match="on stdin has no folder"):
        by_folder(find_photographs(["-"], Path("out")), LABELS, 5)


TABLES = {
    "header": "file,class\na.jpg,1\nb/c.jpg,4\n",
    "other names": "Image Path,Ground-Truth\na.jpg,tabby\nb/c.jpg,big dog\n",
    "columns turned": "label,filename\nn02123045,a.jpg\n4,b/c.jpg\n",
    "more columns": "id,path,split,target\n7,a.jpg,val,01\n8,b/c.jpg,val,004\n",
    "no header": "a.jpg,1\nb/c.jpg,4\n",
    "no header, turned": "1,a.jpg\n4,b/c.jpg\n",
    "one name of two": "file,species\na.jpg,tabby\nb/c.jpg,Big Dog\n",
    "semicolons": "file;class\na.jpg;tabby, tabby cat\nb/c.jpg;4\n",
    "tabs": "file\tclass\na.jpg\ttabby, tabby cat\nb/c.jpg\tbig dog\n",
    "bars": "file|class\na.jpg|1\nb/c.jpg|4",
    "quotes": 'file,class\n"a.jpg","tabby, tabby cat"\n"b/c.jpg","4"\n',
    "spaces and blank lines": "\nfile, class\r\n\r\n a.jpg , 1\r\nb/c.jpg, 4\r\n\n",
    "the class again": "file,class\na.jpg,1\nb/c.jpg,4\na.jpg,tabby\n",
    "Windows": "file,class\na.jpg,1\nb\\c.jpg,4\n",
    "from the folder at hand": "file,class\nphotos/a.jpg,1\n./photos/b/c.jpg,4\n",
    "ids of files": "image_id,label\na,1\nc,4\n",
    "a list": "a.jpg 1\nb/c.jpg   04\n",
    "a list of ids": "photos/a.jpg\tn02123045\nphotos/b/c.jpg\t4\n",
}


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_table_says_the_classes(table, encoding):
    touch("photos/a.jpg", "photos/b/c.jpg")
    found, said = classes_by(TABLES[table], encoding=encoding)
    assert found == {"photos/a.jpg": 1, "photos/b/c.jpg": 4}
    assert said == []


def test_paths_begin_at_the_table_first(tmp_path):
    touch("data/a.jpg", "photos/a.jpg")
    found, said = classes_by(
        "file,class\na.jpg,1\n../photos/a.jpg,0\n", ["photos", "data"], name="data/labels.csv"
    )
    assert found == {"data/a.jpg": 1, "photos/a.jpg": 0}
    found, said = classes_by(f"file,class\n{tmp_path}/photos/a.jpg,1\n", ["photos"], name="data/labels.csv")
    assert found == {"photos/a.jpg": 1}
    assert said == []


def test_a_path_in_two_folders_is_not_guessed():
    touch("x/a.jpg", "y/a.jpg")
    with pytest.raises(XGradCamError, match=r"line 2 \(a.jpg\) may be of x/a.jpg, y/a.jpg: give paths"):
        classes_by("file,class\na.jpg,1\n", ["x", "y"])


def test_an_only_name_is_enough_and_is_said_where_folders_differ():
    touch("photos/below/a.jpg", "photos/below/b.jpg")
    found, said = classes_by("file,class\na.jpg,1\n/data/train/b.jpg,0\n")
    assert found == {"photos/below/a.jpg": 1, "photos/below/b.jpg": 0}
    assert said == ["1 line of labels.csv found by the file's name alone, such as line 3 (/data/train/b.jpg)"]


def test_accents_are_the_same_however_they_are_written():
    touch("photos/e\u0301te\u0301/a.jpg", "photos/\u00e9t\u00e9 2/a.jpg")
    found, said = classes_by("file,class\n\u00e9t\u00e9/a.jpg,1\ne\u0301te\u0301 2/a.jpg,0\n")
    assert found == {"photos/e\u0301te\u0301/a.jpg": 1, "photos/\u00e9t\u00e9 2/a.jpg": 0}
    assert said == []


def test_a_name_of_several_is_not_enough():
    touch("photos/x/a.jpg", "photos/y/a.jpg", "photos/b.jpg")
    found, said = classes_by("file,class\na.jpg,1\nb.jpg,0\nx/a.jpg,4\nz/b.jpg,1\nw/b.jpg,1\n")
    assert found == {"photos/x/a.jpg": 4, "photos/y/a.jpg": None, "photos/b.jpg": 0}
    assert said == [
        "3 lines of labels.csv of no photograph here, such as line 2 (a.jpg)",
        "1 photograph without a line in labels.csv, such as photos/y/a.jpg",
    ]


def test_what_is_left_over_is_counted():
    touch("photos/a.jpg", "photos/b.jpg", "photos/c.jpg")
    found, said = classes_by("a.jpg,ant\nx.jpg,ant\ny.jpg,no class\n")
    assert found == {"photos/a.jpg": 0, "photos/b.jpg": None, "photos/c.jpg": None}
    assert said == [
        "2 lines of labels.csv of no photograph here, such as line 2 (x.jpg)",
        "2 photographs without a line in labels.csv, such as photos/b.jpg",
    ]


PROBLEMS = {
    "": "labels.csv is empty: begin with a line such as file,class",
    "a.jpg\nb.jpg\n": "labels.csv: line 1 has one column: give the photograph and its class",
    "file,class\n": "labels.csv holds a header alone",
    "file,class\na.jpg,1,2\n": "line 1 has 2 columns, and line 2 has 3: quote cells that hold commas",
    "file,class\n,1\n": "labels.csv: line 2 has no file: add it",
    "file,class\na.jpg,\n": "labels.csv: line 2 has no class: add it",
    "file,class,label\na.jpg,1,ant\n": "the columns class, label may all be the class: keep one of them",
    "file,path,class\na.jpg,a.jpg,1\n": "the columns file, path may all be the photograph",
    "x,y,z\na.jpg,1,2\n": r"which of its columns \(x, y, z\) is the class\? begin with a line such as",
    "file,class\na.jpg,1\na.jpg,ant\n": "labels.csv: lines 2 and 3 say '1' and 'ant' of a.jpg: delete one",
    "file,class\na.jpg,dog\n": r"labels.csv, line 2: 'dog' names no class by .*; did you mean 4 \(big dog\)",
    "file,class\na.jpg,5\n": "labels.csv, line 2: '5' names no class: this model's classes are 0 to 4",
    "file,class\na.jpg,-1\n": "labels.csv, line 2: '-1' names no class",
    "file,class\na.jpg,crane\n": r"line 2: 'crane' may be class 2 \(crane\), 3 \(crane\): call it by",
    "file,class\nb.jpg,1\n": "no line of a photograph of this run: its lines are of b.jpg, the",
    "file,class\na.jpg,\0\n": "line 2 is not text: begin with a line such as file,class",
}


@pytest.mark.parametrize("text", PROBLEMS)
def test_what_is_wrong_with_a_table_is_said_in_a_line(text):
    touch("photos/a.jpg")
    with pytest.raises(XGradCamError, match=PROBLEMS[text]) as error:
        classes_by(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "message"), [("none.csv", "No such file"), (".", "Is a directory")])
def test_a_table_that_cannot_be_read_is_named(name, message):
    with pytest.raises(XGradCamError, match=f"cannot read the classes {name}: {message}"):
        read_table(Path(name))


NAMES = st.text(st.sampled_from("ab ,;\"'é"), min_size=1, max_size=4).filter(
    lambda text: text.strip() == text
)


@settings(max_examples=60, deadline=None)
@given(rows=st.dictionaries(NAMES, st.integers(0, 4), min_size=1, max_size=5), mark=st.sampled_from(",;\t|"))
def test_a_table_that_is_written_as_csv_is_read_as_it_was(rows, mark, tmp_path_factory):
    import csv

    path = tmp_path_factory.mktemp("table") / "labels.csv"
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter=mark).writerows(
            [["file", "class"], *((f"{name}.jpg", one) for name, one in rows.items())]
        )
    assert [(row.file, row.stated) for row in read_table(path).rows] == [
        (f"{name}.jpg", str(one)) for name, one in rows.items()
    ]
