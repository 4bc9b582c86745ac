import os
import time

import pytest

from xgradcam.errors import XGradCamError
from xgradcam.models.label_files import read_names

CAT_DOG = ("cat", "dog")
ELEVEN = tuple("abcdefghijk")
TENCH = ("n01440764 tench, Tinca tinca", "n01443537 goldfish")


def written(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("name", "content", "names"),
    [
        # Ranges, and decimal numbers with a comma.
        ("a.txt", "0-2\n4-6\n8-12", ("0-2", "4-6", "8-12")),
        ("a.txt", "0-2\n1-3\n2-4", ("0-2", "1-3", "2-4")),
        ("a.txt", "0-9 years\n10-19 years", ("0-9 years", "10-19 years")),
        ("a.txt", "0,5 mm\n1,0 mm\n2,5 mm", ("0,5 mm", "1,0 mm", "2,5 mm")),
        ("a.txt", "1,000 euros\n2,000 euros", ("1,000 euros", "2,000 euros")),
        ("a.csv", "0,5 mm\n1,7 mm", ("5 mm", "7 mm")),
        ("a.txt", "0-0\n1-1", ("0", "1")),
        ("a.txt", "0,1st\n1,2nd", ("1st", "2nd")),
        # A name a line.
        ("a.txt", "cat\ndog", CAT_DOG),
        ("a.txt", "cat\n\n dog \nbird", (*CAT_DOG, "bird")),
        ("a.names", "\ufeffcat\r\ndog\r\n", CAT_DOG),
        ("a", "cat\rdog\r", CAT_DOG),
        ("a.txt", "cat\u2028lynx\ndog\x0cbig", ("cat lynx", "dog big")),
        ("a.txt", b"\xff\xfe" + "cat\r\ndög".encode("utf-16-le"), ("cat", "dög")),
        ("a.txt", b"\xfe\xff" + "cat\ndog".encode("utf-16-be"), CAT_DOG),
        ("a.txt", "tench, Tinca tinca\ngoldfish", ("tench, Tinca tinca", "goldfish")),
        ("a.txt", "\n".join(TENCH), TENCH),
        ("a.txt", "n01440764\ttench, Tinca tinca\nn01443537\tgoldfish", TENCH),
        ("a.txt", "n01440764,'tench, Tinca tinca'\nn01443537,goldfish", TENCH),
        ("a.txt", "n01440764\nn01443537", ("n01440764", "n01443537")),
        ("a.txt", "crane\ncrane", ("crane", "crane")),
        ("a.txt", "0\n1\n2", ("0", "1", "2")),
        ("a.txt", "7 up\n3 musketeers", ("7 up", "3 musketeers")),
        ("a.txt", "1 cent\n2 cent\n5 cent", ("1 cent", "2 cent", "5 cent")),
        ("a.txt", "1 series\n2 series", ("1 series", "2 series")),
        ("a.txt", "X5\n1 series\n2 series", ("X5", "1 series", "2 series")),
        ("a.txt", "Audi A4 2012\nBMW M3 2010", ("Audi A4 2012", "BMW M3 2010")),
        ("a.txt", "cat\n0 x", ("cat", "0 x")),
        ("a.txt", "cat\n1 x\n0 x", ("cat", "1 x", "0 x")),
        ("a.txt", "cat\n0: x", ("cat", "0: x")),
        ("a.csv", "nummer,wort\n0,cat\n1,dog", CAT_DOG),
        ("a.txt", "noon\n10:30\n11:30", ("noon", "10:30", "11:30")),
        ("a.txt", "[background]\n<unk>\n#1\nC#", ("[background]", "<unk>", "#1", "C#")),
        ("a.txt", "class: cat\nclass: dog", ("class: cat", "class: dog")),
        # An index and a name a line.
        ("a.txt", "0 cat\n1 dog", CAT_DOG),
        ("a.txt", "1 dog\n0 cat", CAT_DOG),
        ("a.txt", "\n".join(sorted(f"{i} {name}" for i, name in enumerate(ELEVEN))), ELEVEN),
        ("a.txt", "0: cat\n1: dog", CAT_DOG),
        ("a.txt", "0\tcat\n1\tdog", CAT_DOG),
        ("a.txt", "0. cat\n1. dog", CAT_DOG),
        ("a.txt", "0=cat\n1=dog", CAT_DOG),
        ("a.txt", "0: 'cat'\n1: \"dog\"", CAT_DOG),
        ("a.txt", "names:\n  0: cat\n  1: dog", CAT_DOG),
        ("a.csv", "0,cat\n1,dog", CAT_DOG),
        ("a.csv", "1;dog\n0;cat", CAT_DOG),
        ("a.csv", "cat,0\ndog,1", CAT_DOG),
        ("a.tsv", "dog\t1\ncat\t0", CAT_DOG),
        ("a.csv", "index,name\n0,cat\n1,dog", CAT_DOG),
        ("a.csv", "name,index\ndog,1\ncat,0", CAT_DOG),
        ("a.csv", '"","name"\n"0","cat"\n"1","dog"', CAT_DOG),
        ("a.csv", 'id,name\n0,"tench, Tinca tinca"\n1,goldfish', ("tench, Tinca tinca", "goldfish")),
        ("a.csv", '"tench, Tinca tinca",0\ngoldfish,1', ("tench, Tinca tinca", "goldfish")),
        ("a.csv", 'id,wnid,name\n0,n01440764,"tench, Tinca tinca"\n1,n01443537,goldfish', TENCH),
        ("a.csv", "tench, Tinca tinca\ngoldfish", ("tench, Tinca tinca", "goldfish")),
        ("a.csv", 'name\n"cat"\n\n"dog"', ("name", *CAT_DOG)),
        # The index behind the name, in the middle, in brackets, behind a word, or as a float.
        ("a.txt", "/b/dog 1\n/a/cat 0", ("/a/cat", "/b/dog")),
        ("a.txt", "n01443537 2 goldfish\nn01440764 1 tench, Tinca tinca", TENCH),
        ("a.txt", "synset index name\nn01443537 1 goldfish\nn01440764 0 tench, Tinca tinca", TENCH),
        ("a.txt", "goldfish 1 n01443537\ntench, Tinca tinca 0 n01440764", TENCH),
        ("a.txt", "dog: 1\ncat: 0", CAT_DOG),
        ("a.txt", "dog=1\ncat=0", CAT_DOG),
        ("a.txt", "dog -> 1\ncat -> 0", CAT_DOG),
        ("a.txt", "1 -> dog\n0 => cat", CAT_DOG),
        ("a.txt", "dog 1\ncat 0", CAT_DOG),
        ("a.txt", "dog 2\ncat 1", CAT_DOG),
        ("a.txt", "dog (1)\ncat (0)", CAT_DOG),
        ("a.txt", "dog-1\ncat-0", CAT_DOG),
        ("a.txt", "1-dog\n0-cat", CAT_DOG),
        ("a.txt", "1 - dog\n0 - cat", CAT_DOG),
        ("a.txt", "[1] dog\n[0] cat", CAT_DOG),
        ("a.txt", "(1) dog\n(0) cat", CAT_DOG),
        ("a.txt", "1) dog\n2) cat", ("dog", "cat")),
        ("a.txt", "class 1: dog\nclass 0: cat", CAT_DOG),
        ("a.txt", "Class_1 dog\nClass_0 cat", CAT_DOG),
        ("a.csv", "1.0,dog\n0.0,cat", CAT_DOG),
        ("a.csv", "dog,1.0\ncat,0.0", CAT_DOG),
        ("a.csv", 'n01443537,1,goldfish\nn01440764,0,"tench, Tinca tinca"', TENCH),
        ("a.csv", 'goldfish,1,n01443537\n"tench, Tinca tinca",0,n01440764', TENCH),
        ("a.csv", '1,goldfish,n01443537\n0,"tench, Tinca tinca",n01440764', TENCH),
        ("a.csv", 'n01443537,goldfish,1\nn01440764,"tench, Tinca tinca",0', TENCH),
        ("a.txt", "index name\n1 dog\n0 cat", CAT_DOG),
        ("a.txt", "#id name\n1 dog\n0 cat", CAT_DOG),
        ("a.txt", "# id name\n1 dog\n2 cat", ("dog", "cat")),
        ("a.txt", "name index\ndog 1\ncat 0", CAT_DOG),
        ("a.csv", "index,name\n1,0\n0,1", ("1", "0")),
        ("a.csv", "name,index\n5,1\n3,0", ("3", "5")),
        ("a.csv", "name,count\ndog,1\ncat,0", ("dog", "cat")),
        ("a.csv", "name,count\ndog,120\ncat,90", ("dog", "cat")),
        ("a.csv", "count,name\n1,dog\n0,cat", ("dog", "cat")),
        (
            "a.txt",
            "134 crane\n" + "\n".join(f"{i} x{i}" for i in range(134)) + "\n135 crane",
            (*(f"x{i}" for i in range(134)), "crane", "crane"),
        ),
        # Numbers that belong to names.
        ("a.txt", "2 euro\n1 euro\ncat", ("2 euro", "1 euro", "cat")),
        ("a.txt", "cat\n2 euro\n1 euro", ("cat", "2 euro", "1 euro")),
        ("a.txt", "50 cent\n1 euro\n2 euro", ("50 cent", "1 euro", "2 euro")),
        ("a.txt", "Terminal 1\nTerminal 2", ("Terminal 1", "Terminal 2")),
        ("a.txt", "class 0\nclass 1\nclass 2", ("class 0", "class 1", "class 2")),
        ("a.txt", "agent 0\nagent 7", ("agent 0", "agent 7")),
        ("a.txt", "Terminal 2\nTerminal 5", ("Terminal 2", "Terminal 5")),
        ("a.txt", "16:9 wide\ncat", ("16:9 wide", "cat")),
        ("a.txt", "ratio 16:9\nratio 4:3", ("ratio 16:9", "ratio 4:3")),
        ("a.txt", "COVID-19\nSARS-2", ("COVID-19", "SARS-2")),
        ("a.txt", "0 errors\n1 error", ("errors", "error")),
        # Brackets and signs of names.
        ("a.txt", "grade: (A)\ngrade: (B)", ("grade: (A)", "grade: (B)")),
        ("a.txt", "(1,2)-diol\n(1) a, b", ("(1,2)-diol", "(1) a, b")),
        ("a.txt", "smile :(\nfrown :)", ("smile :(", "frown :)")),
        ("a.txt", "cat\n# of items\ndog", ("cat", "# of items", "dog")),
        ("a.txt", "- \ncat", ("-", "cat")),
        # JSON.
        ("a.json", '["cat", "dog"]', CAT_DOG),
        ("a.txt", '["cat", "dog"]', CAT_DOG),
        ("a.json", '\ufeff["cat", "dog"]', CAT_DOG),
        ("a.json", '{"0": "cat", "1": "dog"}', CAT_DOG),
        ("a.json", '{"1": "dog", "0": "cat"}', CAT_DOG),
        ("a.json", '{"cat": 0, "dog": 1}', CAT_DOG),
        ("a.json", '{"dog": "1", "cat": "0"}', CAT_DOG),
        ("a.json", '{"0": 0, "1": 1, "10": 2, "2": 3}', ("0", "1", "10", "2")),
        ("a.json", '{"0": "1", "1": "0"}', ("1", "0")),
        ("a.json", '{"0": ["n01440764", "tench, Tinca tinca"], "1": ["n01443537", "goldfish"]}', TENCH),
        ("a.json", '[["n01440764", "tench, Tinca tinca"], ["n01443537", "goldfish"]]', TENCH),
        ("config.json", '{"id2label": {"0": "cat", "1": "dog"}, "label2id": {"cat": 0}}', CAT_DOG),
        ("config.json", '{"num_classes": 2, "label_names": ["cat", "dog"]}', CAT_DOG),
        (
            "config.json",
            '{"label_names": ["n01440764", "n01443537"], "label_descriptions": '
            '{"n01440764": "tench, Tinca tinca", "n01443537": "goldfish"}}',
            TENCH,
        ),
        *(
            ("a.json", f'{{"{key}": ["cat", "dog"], "version": 2}}', CAT_DOG)
            for key in ("classes", "class_names", "names", "labels", "categories")
        ),
        ("a.json", '{"label2id": {"dog": 1, "cat": 0}}', CAT_DOG),
        ("a.json", '{"names": {"1": "dog", "0": "cat"}, "labels": 2}', CAT_DOG),
        ("a.json", '{"names": 0, "labels": 1}', ("names", "labels")),
        ("a.json", '[" cat ", "dog\\n"]', CAT_DOG),
    ],
)
def test_names_of_a_file(tmp_path, name, content, names):
    assert read_names(written(tmp_path, name, content)).names == names


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "name,id\ncat,3\ndog,7", r"line 1 \('name, id'\) is a header"),
        ("a.txt", "class id\ncat\ndog", r"line 1 \('class id'\) is a header"),
        ("a.txt", "1-5\n0-3", r"line 1 \('1-5'\) begins with its index, or is a range"),
        ("a.txt", "", "no names"),
        ("a.txt", " \n\n", "no names"),
        ("a.txt", "café\n".encode("latin-1"), "line 1 is not text in UTF-8"),
        ("a.txt", b"cat\ndog\n\xff\xd8", "line 3 is not text in UTF-8"),
        ("a.txt", b"\xff\xfe\xff", "line 1 is not text in UTF-8"),
        ("a.txt", "cat".encode("utf-16-le"), "line 1 is not text"),
        ("a.txt", "cat\n\0", "line 2 is not text"),
        ("a.txt", "cat\n" + "x" * 1001, "line 2 has 1001 characters"),
        ("a.txt", "x" * (2**24 + 1), "over 16 MiB"),
        ("a.txt", 'cat\n""', "line 2 has an empty name"),
        ("a.txt", "0: cat\n1: ''", "line 2 has an empty name"),
        ("a.txt", "# the classes\ncat\ndog", "line 1 is a comment"),
        ("a.txt", "cat\n// more\ndog", "line 2 is a comment"),
        ("a.txt", "<!DOCTYPE html>\n<html>", "a web page"),
        ("a.json", "\n<html><body>404", "a web page"),
        ("a.txt", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7\n", "git lfs pull"),
        # Source text.
        ("a.txt", "{0: 'tench',\n 1: 'goldfish'}", "line 1 is source text"),
        ("a.txt", "{'cat': 0,\n 'dog': 1}", "line 1 is source text"),
        ("a.txt", "{\n0: 'tench',\n1: 'goldfish'\n}", "line 1 is source text"),
        ("a.txt", "0: 'tench',\n1: 'goldfish',", "line 1 is source text"),
        ("a.txt", "['cat', 'dog']", "line 1 is source text"),
        ("a.txt", "names = ['cat', 'dog']", "line 1 is source text"),
        ("a.txt", "classes = (\n'cat',\n'dog')", "line 1 is source text"),
        ("a.txt", "'cat',\n'dog',", "line 1 is source text"),
        ("a.txt", "cat\n'dog',", "line 2 is source text"),
        ("a.txt", '"cat", "dog"', "line 1 is source text"),
        ("a.txt", '{"id": 0, "name": "cat"}\n{"id": 1, "name": "dog"}', "line 1 is source text"),
        ("a.yaml", "names: [cat, dog]", "line 1 is source text"),
        ("a.yaml", "names:\n- cat\n- dog", r"line 1 \('names:'\) is YAML"),
        # Numbers that are no indices.
        ("a.txt", "0: cat\n2: dog", "line 2: no name has the number 1"),
        ("a.txt", "0 cat\n1 dog\n3 bird", "line 3: no name has the number 2"),
        ("a.txt", "0 cat\n0 dog", "line 2 has the number 0 again"),
        ("a.txt", "10: cat\n20: dog", "line 1: no name has the number 0"),
        ("a.csv", "id,name\n0,cat\n5,dog", "line 3: no name has the number 1"),
        ("a.csv", "id,name\n3,cat\n3,dog", "line 3 has the number 3 again"),
        ("a.csv", "id,name,kind\n0,cat,pet\n1,dog,pet", "more than two columns"),
        # Lines with more than one reading.
        ("a.txt", "class 1\nclass 0", "line 1 .* its number may be the index, or a part of the name"),
        ("a.txt", "2 euro\n1 euro", "line 1 .* its number may be the index, or a part of the name"),
        ("a.csv", "1,0\n0,2\n2,1", "line 3 .* may begin or end with its index"),
        ("a.txt", "0 gate 2\n1 door 1\n2 lift 0", "line 3 .* may begin or end with its index"),
        ("a.csv", "pet,1,dog\npest,0,rat", "line 1 .* either column may be the name"),
        ("a.csv", "0,5,dog\n1,7,cat", "line 1 .* has two columns of numbers"),
        ("a.csv", "dog,12,1\ncat,7,0", "line 1 .* has two columns of numbers"),
        ("a.txt", "dog: 0\ncat: 2", "line 2: no name has the number 1"),
        ("a.txt", "/a/cat 0\n/b/dog 2", "line 2: no name has the number 1"),
        # Other kinds of text.
        ("a.ini", "[classes]\ncat\ndog", r"line 1 \('\[classes\]'\) is a section of an INI file"),
        ("a.ini", "[classes]\na = cat\nb = dog", "is a section of an INI file"),
        ("a.md", "| id | name |\n|---|---|\n| 0 | cat |", "is a row of a Markdown table"),
        ("a.yaml", "- cat\n- dog", "is an entry of a YAML list"),
        ("a.md", "* cat\n* dog", "is an entry of a Markdown list"),
        ("a.txt", "cat\n# one\n# two", "line 2 is a comment"),
        ("a.txt", "names: {\ncat\n}", "line 1 is source text"),
        ("a.txt", "(1, dog)\n(0, cat)", "line 1 is source text"),
        # JSON of something else.
        ("a.json", "{", r"line 1 is not JSON \(Expecting"),
        ("a.json", '["cat",\n"dog",]', "line 2 is not JSON"),
        ("a.json", "cat\ndog", "line 1 is not JSON"),
        ("a.json", "", "line 1 is not JSON"),
        ("a.json", "[" * 100_000, "nested too deep"),
        ("a.json", "1" * 5000, "a too long number"),
        ("a.json", "3", "the number 3, not a list of names"),
        ("a.json", "null", "the value None, not a list of names"),
        ("a.json", '"cat"', "the text 'cat', not a list of names"),
        ("a.json", "[]", "no names"),
        ("a.json", "{}", "no names"),
        ("a.json", "[0, 1]", "entry 0 is the number 0, not a name"),
        ("a.json", '["cat", null]', "entry 1 is the value None, not a name"),
        ("a.json", '["cat", true]', "entry 1 is the value True, not a name"),
        ("a.json", '["cat", ""]', "entry 1 is empty"),
        ("a.json", '["cat", {"name": "dog"}]', "entry 1 is an object, not a name"),
        ("a.json", '[["cat", "dog"]]', "entry 0 is a list, not a name"),
        ("a.json", '[[0, "cat"], [1, "dog"]]', "entry 0 is a list, not a name"),
        ("a.json", '{"0": {"name": "cat"}}', "the name of class 0 is an object"),
        ("a.json", '{"0": "cat", "0": "dog"}', "the key '0' is there twice"),
        ("a.json", '{"0": "cat", "00": "dog"}', "the index 0 is there twice"),
        ("a.json", '{"cat": 0, "dog": 0}', "the index 0 is there twice"),
        ("a.json", '{"0": "cat", "2": "dog"}', "2 names, but none for 1"),
        ("a.json", '{"cat": 0, "dog": 7}', "2 names, but none for 1"),
        ("a.json", '{"-1": "cat", "0": "dog"}', "an object with the key the text '-1'"),
        ("a.json", '{"names": ["cat", 3]}', "an object with the key the text 'names'"),
        ("a.json", '{"names": ["cat"], "labels": ["dog"]}', "lists under names, labels: keep the one with"),
        ("a.json", '{"names": {"a": {"b": 1}}}', "an object with the key the text 'names'"),
        ("a.json", '{"names": ' * 400 + "3" + "}" * 400, "an object with the key the text 'names'"),
        ("a.json", '{"categories": [{"id": 1, "name": "cat"}]}', "an object with the key"),
        ("a.json", '{"cat": 0.5, "dog": 1}', "an object with the key the text 'cat'"),
        ("a.json", '{"id2label": 3}', "the number 3, not a list of names"),
        ("a.json", '["' + "x" * 1001 + '"]', "entry 0 has 1001 characters"),
    ],
)
def test_what_is_no_list_of_names_is_refused_in_a_line_that_names_the_file(tmp_path, name, content, message):
    path = written(tmp_path, name, content)
    with pytest.raises(XGradCamError, match=message) as error:
        read_names(path)
    told = str(error.value)
    assert f"labels {path}: " in told
    assert "\n" not in told
    assert len(told) < 300 + len(str(path))


def test_files_that_cannot_be_opened(tmp_path):
    with pytest.raises(XGradCamError, match=r"cannot read labels .*none\.txt: No such file"):
        read_names(tmp_path / "none.txt")
    with pytest.raises(XGradCamError, match=r"cannot read labels .*: Is a directory"):
        read_names(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_named_pipe_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "a.txt")
    with pytest.raises(XGradCamError, match=r"cannot read labels .*a\.txt: not a regular file"):
        read_names(tmp_path / "a.txt")


def test_many_keys_and_long_lines_take_no_time(tmp_path):
    keys = ", ".join(f'"{index}": 0' for index in range(200_000))
    lines = "\n".join(["a" + " " * 990 + "b"] * 2000)
    began = time.monotonic()
    with pytest.raises(XGradCamError, match="the key '5' is there twice"):
        read_names(written(tmp_path, "a.json", f'{{{keys}, "5": 1}}'))
    assert len(read_names(written(tmp_path, "a.txt", lines)).names) == 2000
    assert time.monotonic() - began < 5


def test_places_of_names_are_kept_for_messages(tmp_path):
    found = read_names(written(tmp_path, "a.txt", "\ncat\n\ndog\n\n"))
    assert (found.places, found.blank, found.first) == (("line 2", "line 4"), (3,), 0)
    found = read_names(written(tmp_path, "a.csv", "id,name\n2,dog\n1,cat"))
    assert (found.names, found.places, found.first) == (CAT_DOG, ("line 3", "line 2"), 1)
    assert read_names(written(tmp_path, "a.json", '["cat"]')).places == ("entry 0",)
