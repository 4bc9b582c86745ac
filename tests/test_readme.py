"""What the README says is so; its commands run in `.ci/run`."""

import re
from pathlib import Path

import pytest

from xgradcam.cli.xgrad_cam import main

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_the_output_of_the_main_job_is_what_it_prints(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    photograph = str(ROOT / "examples" / "cat-and-coffee.jpg")
    assert main(["--image-path", photograph, "--target-index", "967", "--model", "efficientnet-lite0"]) == 0
    assert capsys.readouterr().out == blocks("text")[0]


def test_the_python_code_runs_and_gives_the_shapes_in_its_comments():
    names = {}
    (code,) = blocks("python")
    exec(code, names)
    shapes = re.findall(r"^(explanation\..*?)  # \((.*?)\)", code, re.MULTILINE)
    assert len(shapes) == 2
    for expression, shape in shapes:
        assert tuple(eval(expression, names).shape) == tuple(map(int, shape.split(", ")))
    assert len(names["explanation"].notes) == 4


def test_links_and_pictures_exist():
    targets = re.findall(r"\]\((?!https?://)([^)#]+)\)", README)
    assert len(targets) >= 5
    for target in targets:
        assert (ROOT / target).exists(), target


def test_options_are_those_of_the_command(capsys):
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["--help"])
    offered = set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out)) - {"--help", "--version"}
    table = README[README.index("| option |") : README.index("`python -m xgradcam`")]
    assert set(re.findall(r"--[a-z][a-z-]+", table)) == offered
