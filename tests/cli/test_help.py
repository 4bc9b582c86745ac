"""The two pages of help."""

import re

import pytest

from xgradcam.cli.evaluate import evaluation_parser
from xgradcam.cli.help_pages import WIDEST
from xgradcam.cli.options import proof_verify_parser, xgrad_cam_parser

PARSERS = [xgrad_cam_parser, proof_verify_parser, evaluation_parser]
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
# Lines and columns of the screens that the short page is for.
LINES, COLUMNS = 36, 80


def page(parser, option, monkeypatch, capsys, columns=COLUMNS):
    monkeypatch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit, match=r"^0$"):
        parser().parse_args([option])
    return capsys.readouterr().out


@pytest.mark.parametrize("parser", PARSERS[:2])
def test_the_short_page_is_one_screen_that_begins_with_examples(parser, monkeypatch, capsys):
    lines = page(parser, "-h", monkeypatch, capsys).splitlines()
    assert len(lines) <= LINES
    assert max(map(len, lines)) <= COLUMNS
    prog = parser().prog
    example = next(number for number, line in enumerate(lines) if line.startswith(f"  {prog} photo.jpg "))
    assert example < lines.index("options:")
    named = set(OPTION.findall("\n".join(lines)))
    assert {"--target", "--model", "--target-layer", "--help", "--list-models"} <= named
    assert named <= set(parser()._option_string_actions)


@pytest.mark.parametrize("parser", PARSERS)
def test_the_long_page_has_every_option_once(parser, monkeypatch, capsys):
    text = page(parser, "--help", monkeypatch, capsys)
    entries = [line for line in text.splitlines() if re.match(r"  -", line)]
    named = [
        name for line in entries for name in re.findall(r"(?<![\w-])--?[a-z][a-z-]*", line.split("   ")[0])
    ]
    assert sorted(named) == sorted(parser()._option_string_actions)


@pytest.mark.parametrize("parser", PARSERS)
def test_options_come_in_the_order_of_use_behind_the_examples(parser, monkeypatch, capsys):
    text = page(parser, "--help", monkeypatch, capsys)
    groups = re.findall(r"^(\w[^\n]*):$", text, re.MULTILINE)
    assert groups[1] == "model" or groups[2] == "model"
    assert groups[-2:] == ["device", "to look up"]
    assert text.index(f"\n  {parser().prog} ") < text.index(f"\n{groups[-1]}:")


@pytest.mark.parametrize("parser", PARSERS)
@pytest.mark.parametrize("option", ["-h", "--help"])
@pytest.mark.parametrize("columns", [50, 80, 300])
def test_a_page_is_as_wide_as_the_terminal_and_as_can_be_read(parser, option, columns, monkeypatch, capsys):
    text = page(parser, option, monkeypatch, capsys, columns)
    examples = re.compile(rf"  {re.escape(parser().prog)} |usage: ")
    widths = [len(line) for line in text.splitlines() if not examples.match(line)]
    assert max(widths) <= min(columns, WIDEST)
    # And it uses the width.
    assert option == "-h" or max(widths) > min(columns, WIDEST) - 12


@pytest.mark.parametrize("parser", PARSERS[:2])
def test_a_narrow_terminal_shows_examples_above_what_they_do(parser, monkeypatch, capsys):
    narrow, wide = (page(parser, "-h", monkeypatch, capsys, columns) for columns in (50, 80))
    prog = parser().prog
    example = f"  {prog} photo.jpg"
    assert re.search(f"^{example}\n      \\S", narrow, re.MULTILINE)
    assert re.search(f"^{example} +\\S", wide, re.MULTILINE)
    assert max(map(len, narrow.splitlines())) <= 50
    # The lines are filled anew, and nothing is lost.
    assert narrow.split() == wide.split()


def test_without_a_terminal_a_page_has_80_columns(monkeypatch, capsys):
    monkeypatch.delenv("COLUMNS", raising=False)
    with pytest.raises(SystemExit, match=r"^0$"):
        xgrad_cam_parser().parse_args(["--help"])
    assert 70 < max(map(len, capsys.readouterr().out.splitlines())) <= 82
