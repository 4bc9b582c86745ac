"""Arguments from files: encodings, backslashes, quotes, files in files, and names that begin with @ or -."""

from pathlib import Path

import pytest

from xgradcam.cli import argument_files
from xgradcam.cli.argument_files import expanded
from xgradcam.cli.options import proof_verify_parser, xgrad_cam_parser
from xgradcam.errors import XGradCamError

ARGUMENTS = ["--image-path", "Katze 猫.jpg", "--quiet"]
TEXT = "--image-path 'Katze 猫.jpg'\r\n\r\n# all of them\r\n--quiet # no text\r\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_every_encoding_with_a_mark_is_read(encoding):
    mark = b"\xff\xfe" if encoding == "utf-16-le" else b""
    Path("a.txt").write_bytes(mark + TEXT.encode(encoding))
    assert expanded(["@a.txt", "--json"]) == ([*ARGUMENTS, "--json"], ["a.txt"])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (r"--image-path C:\photos\new\2.jpg", ["--image-path", r"C:\photos\new\2.jpg"]),
        (r'"C:\my photos\a.jpg"', [r"C:\my photos\a.jpg"]),
        (r"'C:\my photos\a.jpg'", [r"C:\my photos\a.jpg"]),
        (r"\\server\share\a.jpg", [r"\\server\share\a.jpg"]),
        (r"..\a.jpg .\b.jpg", [r"..\a.jpg", r".\b.jpg"]),
        ("C:\\photos\\", ["C:\\photos\\"]),
        (r"my\ cat.jpg \#1.jpg it\'s.jpg", ["my cat.jpg", "#1.jpg", "it's.jpg"]),
        (r"a\\b \[1\].jpg", [r"a\b", "[1].jpg"]),
        (r'"say \"miau\".jpg"', ['say "miau".jpg']),
        (r"C:\photos\-a.jpg C:\photos\(1).jpg", [r"C:\photos\-a.jpg", r"C:\photos\(1).jpg"]),
        (r"C:\photos\[1].jpg C:\photos\#1.jpg", [r"C:\photos\[1].jpg", r"C:\photos\#1.jpg"]),
        (r"photos\@2x.jpg \@2x.jpg \-a.jpg", [r"photos\@2x.jpg", r"\@2x.jpg", r"\-a.jpg"]),
        (r"photos\[1].jpg photos\(1).jpg \(1).jpg", [r"photos\[1].jpg", r"photos\(1).jpg", r"\(1).jpg"]),
        (r"C:\(a)\[b]\{c}\$d\~e\%f%\+g\=h", [r"C:\(a)\[b]\{c}\$d\~e\%f%\+g\=h"]),
        (r"C:\my\ photos\(1).jpg", [r"C:\my photos\(1).jpg"]),
        (r"\\server\$share\(1).jpg", [r"\\server\$share\(1).jpg"]),
        (r"cat\ \(1\).jpg Tom\ \&\ Jerry.jpg", ["cat (1).jpg", "Tom & Jerry.jpg"]),
        (r"C:\ä\ö C:\猫\(1)", [r"C:\ä\ö", r"C:\猫\(1)"]),
        (r"'C:\(1)\[2].jpg' --x='\(1).jpg'", [r"C:\(1)\[2].jpg", r"--x=\(1).jpg"]),
        ("--image-path a.jpg \\", ["--image-path", "a.jpg"]),
        ("a#1.jpg # 'a' and \"b#c\"", ["a#1.jpg"]),
        ("# don't", []),
        ("''", [""]),
    ],
)  # fmt: skip
def test_words_are_those_of_a_shell_and_paths_keep_their_backslashes(line, words):
    Path("a.txt").write_text(line + "\n")
    assert expanded(["@a.txt"])[0] == words


def test_files_name_other_files_but_not_themselves(monkeypatch):
    Path("a.txt").write_text("--json\n@b.txt\n@b.txt\n")
    Path("b.txt").write_text("--quiet")
    assert expanded(["@a.txt"]) == (["--json", "--quiet", "--quiet"], ["a.txt", "b.txt", "b.txt"])
    Path("b.txt").write_text("@./a.txt")
    with pytest.raises(XGradCamError, match=r"the argument file \./a\.txt names itself"):
        expanded(["@a.txt"])
    for index in range(30):
        Path(f"{index}.txt").write_text(f"@{index + 1}.txt\n@{index + 1}.txt\n")
    Path("30.txt").touch()
    with pytest.raises(XGradCamError, match="over 1000 argument files"):
        expanded(["@0.txt"])
    monkeypatch.setattr(argument_files, "MOST_FILES", 2)
    Path("b.txt").write_text("--quiet")
    with pytest.raises(XGradCamError, match="over 2 argument files"):
        expanded(["@a.txt"])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"--model 'vgg16", r"in the argument file 'a\.txt', line 1: no closing quotation: --model 'vgg16"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", "is not text in UTF-8 or UTF-16"),
        (b"a\x00b", "holds a NUL character"),
        (None, r"'a\.txt': No such file or directory; a photograph called @a\.txt is written \./@a\.txt"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(content, said):
    if content is not None:
        Path("a.txt").write_bytes(content)
    with pytest.raises(XGradCamError, match=said):
        expanded(["@a.txt"])


def said_of(parser, arguments, capsys):
    with pytest.raises(SystemExit, match=r"^2$"):
        parser.parse_args(arguments)
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize("parser", [xgrad_cam_parser, proof_verify_parser])
def test_a_photograph_that_begins_like_a_file_or_an_option_gets_advice(parser, capsys):
    for there in (False, True):
        assert "a photograph called @2x.jpg is written ./@2x.jpg" in said_of(
            parser(), ["--image-path", "@2x.jpg"], capsys
        )
        assert "for the file -x.jpg write ./-x.jpg" in said_of(parser(), ["--image-path", "-x.jpg"], capsys)
        assert "write ./-h.jpg" in said_of(parser(), ["--image-path", "-h.jpg"], capsys)
        if not there:
            Path("@2x.jpg").write_bytes(b"\xff\xd8\xff")
            Path("2x.jpg").write_bytes(b"\xff\xd8\xff")
            Path("-x.jpg").touch()
    assert "./" not in said_of(parser(), ["--image-path", "a.jpg", "--colour"], capsys)
    assert parser().parse_args(["--image-path=@2x.jpg"]).argument_files == []
    assert "NUL" in said_of(parser(), ["--image-path", "a\0.jpg"], capsys)
