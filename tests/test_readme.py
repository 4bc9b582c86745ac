"""What the README says is so; its commands run in `.ci/run`."""

import re
from pathlib import Path

import pytest

from xgradcam.cli import proof_verify, xgrad_cam

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(
    ("block", "command", "arguments"),
    [
        (0, xgrad_cam.main, ["cat-and-coffee.jpg", "--target-index", "967"]),
        (1, proof_verify.main, ["cat.jpg", "--target-index", "285"]),
        (2, proof_verify.main, ["cat.jpg", "--target-index", "285", "--target-layer", "blocks.5.[0-3]"]),
    ],
)
def test_the_output_that_is_shown_is_what_is_printed(
    block, command, arguments, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    photograph = str(ROOT / "examples" / arguments[0])
    assert command(["--image-path", photograph, *arguments[1:], "--model", "efficientnet-lite0"]) == 0
    printed = without_last_bits(capsys.readouterr().out)
    assert printed == without_last_bits(blocks("text")[block])


def without_last_bits(text):
    """Residuals are rounding, which differs between machines: their digits are left out."""
    text = re.sub(
        r"(class_score-gradients\*feature-bias_term= |residual\| |tolerance )[-0-9.e]+", r"\1", text
    )
    text = re.sub(r"-?\d\.\de-\d\d(?=  holds)|(?<=tolerance ), at [\w.]+", "", text)
    return re.sub(r"(\d+\.\d{4})\d\d\b", r"\1", re.sub(r" +", " ", text))


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
        xgrad_cam.main(["--help"])
    offered = set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out)) - {"--help", "--version"}
    table = README[README.index("| option |") : README.index("`python -m xgradcam` is")]
    assert set(re.findall(r"--[a-z][a-z-]+", table)) == offered
