"""The page's own files, and a run that writes nothing else."""

import base64
import json
import os
import re
from pathlib import Path

import pytest

from tests.cli.support import OWN
from tests.support import noise
from xgradcam.cli.options import xgrad_cam_parser
from xgradcam.cli.page_options import require_page
from xgradcam.cli.xgrad_cam import main
from xgradcam.pictures.paint import colours_of

pytestmark = pytest.mark.usefixtures("own_models")

RUN = ["--image-path", "photos", "--target-index", "1", "2", *OWN, "--output-dir", "out"]
ALONE = [*RUN, "--html", "--no-pictures"]
LINES = Path("out/xgrad-cam.jsonl")


@pytest.fixture(autouse=True)
def photographs(own_folder):
    noise("photos", 3)


def test_without_pictures_a_photograph_has_two_files(capsys):
    assert main(ALONE) == 0
    files = [f"{number:04}_{ending}" for number in range(3) for ending in ("maps.js", "photograph.jpg")]
    assert sorted(os.listdir("out")) == [*files, "index.html", "xgrad-cam.jsonl"]
    *_, record = json.loads(LINES.read_text().splitlines()[-1])["records"]
    assert record["files"] == {}
    assert record["page_maps"] == "0002_maps.js"


def test_of_one_photograph_the_line_names_its_file(capsys):
    for name in ("0000", "0002"):
        Path(f"photos/{name}.png").unlink()
    assert main(ALONE) == 0
    assert "wrote out/0001_maps.js\n" in capsys.readouterr().out


def test_pictures_that_are_asked_for_stay(capsys):
    assert main([*ALONE, "--panel", "--save-maps"]) == 0
    endings = {name.partition("_")[2] for name in os.listdir("out") if name.startswith("0000")}
    parts = {f"{target}_{kind}" for target in (1, 2) for kind in ("panel.jpg", "maps.npz")}
    assert endings == {"maps.js", "photograph.jpg", *parts}


def test_the_maps_are_those_of_a_run_with_pictures(capsys):
    assert main(ALONE) == 0
    alone = Path("out/0001_maps.js").read_bytes()
    assert main([*RUN, "--html"]) == 0
    assert Path("out/0001_maps.js").read_bytes() == alone
    assert Path("out/0001_1_cam.jpg").is_file()


def test_a_run_goes_on_as_it_began(capsys):
    assert main(ALONE) == 0
    page, written = Path("out/index.html").read_bytes(), Path("out/0001_maps.js").stat().st_mtime_ns
    Path("out/0002_maps.js").unlink()
    assert main([*ALONE, "--resume"]) == 0
    assert Path("out/index.html").read_bytes() == page
    assert Path("out/0001_maps.js").stat().st_mtime_ns == written
    assert Path("out/0002_maps.js").is_file()
    assert main([*RUN, "--html", "--resume"]) == 2
    assert "it had other settings for html" in capsys.readouterr().err


def test_a_run_of_an_earlier_version_goes_on_with_its_pictures(capsys):
    """Its records name no maps, which the page does not need then."""
    assert main([*RUN, "--html"]) == 0
    first, *lines = map(json.loads, LINES.read_text().splitlines())
    for line in lines:
        for record in line["records"]:
            for key in ("page_maps", "methods", "disagreement"):
                record.pop(key, None)
    LINES.write_text("".join(json.dumps(line) + "\n" for line in (first, *lines)))
    written = Path("out/0001_maps.js").stat().st_mtime_ns
    assert main([*RUN, "--html", "--resume"]) == 0
    assert Path("out/0001_maps.js").stat().st_mtime_ns == written
    assert "3 complete before" in capsys.readouterr().err


def test_files_that_a_run_no_longer_has_are_removed(capsys):
    assert main(ALONE) == 0
    Path("photos/0002.png").rename("photos/other.png")
    Path("out/0002_photograph.jpg").unlink()
    noise("more", 1)
    assert main([*ALONE, "--resume"]) == 0
    assert Path("out/other_maps.js").is_file()


def test_no_pictures_is_for_the_page(capsys):
    assert main([*RUN, "--no-pictures"]) == 2
    assert capsys.readouterr().err == (
        "xgrad-cam: error: --no-pictures writes only the files of a page: give --html, too\n"
    )
    assert not Path("out").exists()


@pytest.mark.parametrize("more", [["--format", "pdf"], ["--color-bar"]])
def test_no_pictures_refuses_what_only_pictures_have(more, capsys):
    assert main([*ALONE, *more]) == 2
    assert capsys.readouterr().err.startswith(f"xgrad-cam: error: {more[0]} is about pictures, and --no-pic")
    assert not Path("out").exists()


LOOKS = {
    (): ("inferno", 60, False, None),
    ("--colormap", "jet"): ("jet", 60, False, None),
    ("--colormap", "ocean", "--alpha", "0.25"): ("ocean", 25, False, None),
    ("--signed",): ("inferno", 60, True, None),
    ("--signed", "--colormap", "twilight", "--alpha", "0.9"): ("twilight", 60, True, "twilight"),
}


@pytest.mark.parametrize(("more", "look"), LOOKS.items())
@pytest.mark.parametrize("pictures", [True, False])
def test_the_page_begins_in_what_the_run_was_told(more, look, pictures):
    assert main([*(RUN if pictures else ALONE), "--html", *more, "--quiet"]) == 0
    page = Path("out/index.html").read_text()
    found = json.loads(re.search(r'id="look-at-first">(.*?)</script>', page)[1])
    assert tuple(found.values()) == look
    colours = json.loads(re.search(r'id="colours">(.*?)</script>', page)[1])
    assert base64.b64decode(colours[look[0]]) == colours_of(look[0]).tobytes()


def test_no_pictures_takes_looks_for_panels_and_for_the_report():
    arguments = xgrad_cam_parser().parse_args([*ALONE, "--signed", "--panel", "--format", "svg"])
    require_page(arguments)
    require_page(xgrad_cam_parser().parse_args([*ALONE, "--colormap", "bone", "--report"]))
