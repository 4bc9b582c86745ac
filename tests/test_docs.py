"""README.md and docs/ say what is so. Their commands run in `.ci/run`."""

import importlib
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import xgradcam
from xgradcam.cli import evaluate, proof_verify, xgrad_cam

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
PICTURES = ROOT / "docs" / "pictures"
MODULE = re.compile(r"`xgradcam\.((?:[a-z_0-9]+\.)*[A-Za-z_0-9]+)`")
FILE = re.compile(r"`(?:python )?((?:tests|scripts|examples|xgradcam|docs|\.ci)/[^\s`*]+?)(?: [^`]*)?`")
COMMANDS = "xgrad-cam|proof-verify|python -m xgradcam.evaluation"
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")


@pytest.fixture(scope="module")
def tools():
    """Names of the script that makes the docs; the sdist leaves out what it needs."""
    if not (ROOT / ".ci").exists():
        pytest.skip("the tools of the repository are not in the sdist")
    return runpy.run_path(str(ROOT / "scripts" / "make_docs.py"))


def text_of(page):
    return page.read_text(encoding="utf-8")


def prose_of(page):
    """The page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", text_of(page), flags=re.MULTILINE | re.DOTALL)


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", text_of(page), re.MULTILINE | re.DOTALL)


def test_generated_parts_and_the_output_that_is_shown_are_current():
    if not (ROOT / ".ci").exists():
        pytest.skip("the tools of the repository are not in the sdist")
    done = subprocess.run(
        [sys.executable, "scripts/make_docs.py", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_output_that_is_out_of_date_is_replaced(tools, tmp_path):
    page = tmp_path / "page.md"
    lines = ["```python", "print(6 * 7)", "```", "", "Then:", "", "```text", "{}", "```", "", "End.", ""]
    stale, current = ("\n".join(lines).format(number) for number in (41, 42))
    for before in (stale, current):
        page.write_text(before, encoding="utf-8")
        assert tools["with_outputs"](page) == current


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("score is 10.753897", "score is 10.753898", True),
        ("score is 10.753897", "score is 10.754897", False),
        ("|residual| 4.116e-06 <= tolerance 1.075e-04,", "|residual| 2.1e-06 <= tolerance 1.1e-04,", True),
        ("verdict: Eq. 5 holds", "verdict: Eq. 5 does not hold", False),
        ("rank 2 of 1000", "rank 3 of 1000", False),
    ],
)
def test_shown_output_may_differ_by_rounding_only(tools, one, other, same):
    plain = tools["without_last_bits"]
    assert (plain(one) == plain(other)) is same


def test_blocks_are_run_shown_or_quoted(tools):
    found = [block for page in PAGES for block in tools["TOOL"]["blocks_of"](page)]
    assert len(found) > 20
    languages = {block.language for block in found if not included(block.text)}
    assert languages == {"sh", "python", "text", "bibtex"}


def test_commands_that_need_a_package_are_run_where_it_is_installed(tools, tmp_path):
    page = tmp_path / "page.md"
    for package, printed in (("torch", "ran\n"), ("nowhere", "skipped: nowhere is not installed\n")):
        page.write_text(f"Text.\n\n<!-- needs {package} -->\n```sh\necho ran\n```\n", encoding="utf-8")
        (block,) = tools["TOOL"]["blocks_of"](page)
        done = subprocess.run(
            ["bash", "-euo", "pipefail"], input=block.commands(), capture_output=True, text=True
        )
        assert (done.returncode, done.stdout) == (0, printed)
    # Nothing else is skipped.
    assert {block.needs for page in PAGES for block in tools["TOOL"]["blocks_of"](page)} == {
        "",
        "ultralytics",
    }


def test_quoted_files_are_run():
    """A file that a page includes is run by a command of that page."""
    quoted = [(page, name) for page in PAGES for block in blocks(page, "[^\n]*") for name in included(block)]
    assert quoted
    for page, name in quoted:
        assert (ROOT / name).is_file()
        assert f"python {name}\n" in "".join(blocks(page, "sh")), name


def included(block):
    return re.findall(r'^--8<-- "(.*)"$', block, re.MULTILINE)


def test_readme_is_short_and_has_the_two_commands():
    assert len(README.read_bytes()) <= 8192
    first, second = blocks(README, "sh")
    assert first.startswith("pip install . && xgrad-cam examples/")
    # The same pictures on any machine, with or without a network.
    assert "--model efficientnet-lite0" in first
    assert second == "pip install '.[test]' && pytest\n"


def test_the_pictures_of_the_first_command_differ(tmp_path):
    command = blocks(README, "sh")[0].replace("\\\n", " ").partition("xgrad-cam ")[2].split()
    assert xgrad_cam.main([str(ROOT / command[0]), *command[1:], "--output-dir", str(tmp_path)]) == 0
    one, other = (xgradcam.read_image(tmp_path / name) for name in ("X_cam.jpg", "complete-cam.jpg"))
    distance = abs(one.astype(float) - other.astype(float)).mean()
    # Of 255; two JPEGs of nearly the same map would differ by less than 1.
    assert distance > 10


def test_the_python_code_of_the_readme_gives_the_shapes_in_its_comments(tmp_path, monkeypatch):
    names = {}
    code, figure = blocks(README, "python")
    exec(code, names)
    (tmp_path / "examples").symlink_to(README.parent / "examples")
    monkeypatch.chdir(tmp_path)
    exec(figure, {})
    assert (tmp_path / "espresso.pdf").read_bytes().startswith(b"%PDF")
    shapes = re.findall(r"^(explanation\..*?)  # \((.*?)\)", code, re.MULTILINE)
    assert len(shapes) == 3
    for expression, shape in shapes:
        assert tuple(eval(expression, names).shape) == tuple(map(int, shape.split(", ")))
    assert len(names["explanation"].notes) == 4


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_exist(page):
    targets = re.findall(r"\]\((?!https?://)([^)#]+)[^)]*\)", prose_of(page))
    for target in targets:
        assert (page.parent / target).exists(), target
    assert "![](" not in text_of(page)  # a picture is described for those who cannot see it


def test_pictures_are_used_and_small():
    used = {name for page in PAGES for name in re.findall(r"pictures/([\w-]+\.\w+)", text_of(page))}
    assert used == {path.name for path in PICTURES.iterdir()}
    assert max(path.stat().st_size for path in PICTURES.iterdir()) < 500_000


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_of_modules_and_files_exist(page):
    for name in MODULE.findall(text_of(page)):
        if not hasattr(xgradcam, name):
            importlib.import_module(f"xgradcam.{name}")
    for name in FILE.findall(text_of(page)):
        assert (ROOT / name).exists(), name


def test_names_that_do_not_exist_would_be_found():
    assert MODULE.findall("`xgradcam.evaluation.metrics` and `xgradcam.verify`") == [
        "evaluation.metrics",
        "verify",
    ]
    found = FILE.findall("`python scripts/verify_networks.py`, `tests/test_golden.py`, `examples/a.py --b`")
    assert found == ["scripts/verify_networks.py", "tests/test_golden.py", "examples/a.py"]


def options_of(main, capsys):
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["--help"])
    return set(OPTION.findall(capsys.readouterr().out))


def test_options_are_those_of_the_commands(capsys):
    sections = re.split(r"^## ", text_of(ROOT / "docs" / "options.md"), flags=re.MULTILINE)[1:]
    offered = set()
    for section, main in zip(sections, (xgrad_cam.main, proof_verify.main, evaluate.main), strict=True):
        options = options_of(main, capsys)
        entries = re.findall(r"^- (`-.*?`):", section, re.MULTILINE)
        assert {name for entry in entries for name in OPTION.findall(entry)} == options
        offered |= options
    for page in PAGES:
        # Those of other programs stand behind the program's name.
        named = re.findall(r"`(--[a-z][a-z-]+)[^`]*`", prose_of(page))
        lines = "\n".join(blocks(page, "sh")).replace("\\\n", " ")
        commands = re.findall(rf"^(?:{COMMANDS}) .*", lines, re.MULTILINE)
        assert {*named, *OPTION.findall("\n".join(commands))} <= offered, page


def test_methods_are_those_of_the_table():
    page = text_of(ROOT / "docs" / "methods.md")
    rows = re.findall(r"^\| `([^`]+)` \| .+ \| ([^|]+) \|$", page, re.MULTILINE)
    assert rows == [(name, method.source) for name, method in xgradcam.METHODS.items()]


def test_the_api_page_has_each_public_name_once():
    names = re.findall(r"^::: xgradcam\.(\w+)$", text_of(ROOT / "docs" / "api.md"), re.MULTILINE)
    assert sorted(names) == sorted(xgradcam.__all__)


def test_every_page_is_in_the_navigation():
    navigation = text_of(ROOT / "mkdocs.yml").partition("\nnav:\n")[2]
    assert sorted(re.findall(r"[\w-]+\.md", navigation)) == sorted(page.name for page in PAGES[1:])
