"""Runs that are interrupted and go on with --resume."""

import json
import os
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from tests.cli.support import BUNDLED, OWN, load_own, process, tree
from tests.support import (
    EXAMPLES,
    noise,
)
from xgradcam.cli.xgrad_cam import main
from xgradcam.pictures.photograph import read_image
from xgradcam.runs import pipeline
from xgradcam.runs.journal import Journal
from xgradcam.runs.results import write_results

pytestmark = pytest.mark.usefixtures("own_models")


def records_of(page):
    text = Path(page).read_text(encoding="utf-8")
    return json.loads(
        re.search(r'<script type="application/json"[^>]*>(.*?)</script>', text, re.DOTALL).group(1)
    )


def test_a_page_of_the_run_also_after_it_went_on(photos, capsys):
    arguments = [
        "--image-path",
        photos,
        "--target-index",
        "285",
        "967",
        "--html",
        "--output-dir",
        "out",
        *BUNDLED,
    ]
    assert main(arguments) == 1
    assert capsys.readouterr().out.endswith("wrote out/index.html\n")
    first = records_of("out/index.html")
    assert [(record["image"], record["class_index"]) for record in first] == [
        (f"photos/{name}.jpg", target) for name in ("a", "b", "below/a") for target in (285, 967)
    ]
    for record in first:
        for file in record["files"].values():
            assert read_image(f"out/{file}").shape == (224, 224, 3)
        assert read_image(f"out/{record['photograph']}").shape == read_image(record["image"]).shape
    for name in ("out/b_photograph.jpg", "out/b_maps.js"):
        before = Path(name).read_bytes()
        Path(name).unlink()
        assert main([*arguments, "--resume"]) == 1
        assert records_of("out/index.html") == first
        assert Path(name).read_bytes() == before


def test_resume_does_what_is_left_and_ends_with_the_same_files(photos, capsys):
    arguments = ["--image-path", photos, "--target-index", "285", *BUNDLED]
    main([*arguments, "--output-dir", "whole"])
    main([*arguments, "--output-dir", "parts"])
    Path("parts/b_285_cam.jpg").unlink()
    with Path("parts/xgrad-cam.jsonl").open("a") as file:
        file.write('{"image": "photos/below/')
    os.utime("photos/below/a.jpg", ns=(1, 1))
    capsys.readouterr()
    assert main([*arguments, "--output-dir", "parts", "--resume"]) == 1
    out, err = capsys.readouterr()
    assert "photos/b.jpg" in out
    assert "photos/below/a.jpg" in out
    assert "photos/a.jpg" not in out
    assert err.splitlines()[-1] == "xgrad-cam: 2 photographs explained, 1 failed, 1 complete before; in parts"
    whole, parts = tree("whole"), tree("parts")
    assert whole.keys() == parts.keys()
    assert all(whole[name] == parts[name] for name in whole if name.endswith(".jpg"))


def test_resume_leaves_no_picture_of_a_class_that_a_changed_photograph_has_no_more(photos):
    arguments = ["--image-path", photos, "--panel", "--output-dir", "out", *BUNDLED]
    main(arguments)
    assert {name for name in tree("out") if name.startswith("a_")} == {
        f"a_285_{kind}.jpg" for kind in ("cam", "X_cam", "panel")
    }
    Path("out/a_285_mine.jpg").touch()
    before = tree("out")
    shutil.copy(EXAMPLES / "coffee.jpg", "photos/a.jpg")
    main([*arguments, "--resume"])
    after = tree("out")
    assert {name for name in after if name.startswith("a_285")} == {"a_285_mine.jpg"}
    assert {name[:5] for name in after.keys() - before.keys()} == {"a_967"}
    assert all(after[name] == before[name] for name in before if name.startswith("b"))


def test_a_record_that_was_changed_is_made_anew_and_deletes_nothing_outside_of_the_folder(photos, capsys):
    arguments = ["--image-path", "photos/a.jpg", "photos/b.jpg", "--output-dir", "out", *BUNDLED]
    main(arguments)
    precious = Path("precious.jpg")
    precious.touch()
    lines = Path("out/xgrad-cam.jsonl").read_text().splitlines()
    changed = json.loads(lines[1])
    changed["records"][0]["files"]["grad-cam"] = "../precious.jpg"
    complete = json.loads(lines[1])
    capsys.readouterr()
    for line in (
        changed,
        changed | {"bytes": 0},
        *(
            {**complete, "records": records}
            for records in (3, [3], [{}], [{"files": 3}], [{"files": {"a": 3}}])
        ),
        {**complete, "image": ["photographs"]},
        {**complete, "image": 3},
        {key: value for key, value in complete.items() if key != "records"},
        {},
    ):
        Path("out/xgrad-cam.jsonl").write_text("\n".join([lines[0], json.dumps(line), lines[2]]) + "\n")
        assert main([*arguments, "--resume"]) == 0
        assert "1 photograph explained, 0 failed, 1 complete before" in capsys.readouterr().err
        assert precious.exists()
        assert [json.loads(line)["image"] for line in written()] == ["photos/b.jpg", "photos/a.jpg"]


def written():
    """The lines of the record but its first."""
    return Path("out/xgrad-cam.jsonl").read_text().splitlines()[1:]


def test_a_photograph_that_is_added_never_overwrites_one_that_is_there(photos):
    """With it the other photograph's pictures get another name."""
    arguments = ["--target-index", "285", "--output-dir", "out", *BUNDLED]
    main(["--image-path", "photos/b.jpg", "photos/a.jpg", *arguments])
    added = ["photos/b.jpg", "photos/a.jpg", "photos/below/a.jpg"]
    assert main(["--image-path", *added, *arguments, "--resume"]) == 0
    assert main(["--image-path", *added, *arguments, "--output-dir", "whole"]) == 0
    pictures = [{n: c for n, c in tree(folder).items() if n.endswith(".jpg")} for folder in ("out", "whole")]
    assert pictures[0] == pictures[1]
    assert len(written()) == 3


def test_what_is_stale_goes_also_after_the_next_run_was_interrupted(photos, monkeypatch):
    arguments = ["--image-path", "photos/b.jpg", "photos/a.jpg", "--output-dir", "out", "--batch-size", "1"]
    main([*arguments, *BUNDLED])
    stale = {f"{name}_{kind}.jpg" for name in ("a_285", "b_967") for kind in ("cam", "X_cam")}
    assert stale < tree("out").keys()
    shutil.copy(EXAMPLES / "cat.jpg", "photos/b.jpg")
    shutil.copy(EXAMPLES / "coffee.jpg", "photos/a.jpg")
    write, calls = write_results, []

    def interrupted(self, source, *rest):
        calls.append(source)
        if source.path == "photos/a.jpg":
            raise KeyboardInterrupt
        return write(self, source, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "write_results", interrupted)
        assert main([*arguments, *BUNDLED, "--resume"]) == 130
    assert len(calls) == 2
    assert stale & tree("out").keys() == {"a_285_cam.jpg", "a_285_X_cam.jpg"}
    assert main([*arguments, *BUNDLED, "--resume"]) == 0
    assert not stale & tree("out").keys()
    assert len(written()) == 2


@pytest.mark.parametrize("replaced", [1, 2])
def test_what_is_stale_goes_also_after_the_next_run_was_killed(photos, monkeypatch, replaced):
    arguments = ["--image-path", "photos/b.jpg", "photos/a.jpg", "--output-dir", "out", "--batch-size", "1"]
    main([*arguments, *BUNDLED])
    shutil.copy(EXAMPLES / "cat.jpg", "photos/b.jpg")
    shutil.copy(EXAMPLES / "coffee.jpg", "photos/a.jpg")
    add = Journal.add

    def killed(self, source, *rest):
        add(self, source, *rest)
        if len(self._added) == replaced:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "add", killed)
        patch.setattr(Journal, "__exit__", lambda *_: None)
        assert main([*arguments, *BUNDLED, "--resume"]) == 130
    assert "b_967_cam.jpg" in tree("out")
    assert main([*arguments, *BUNDLED, "--resume"]) == 0
    assert {name for name in tree("out") if name.endswith(".jpg")} == {
        f"{name}_{kind}.jpg" for name in ("a_967", "b_285") for kind in ("cam", "X_cam")
    }
    assert len(written()) == 2


def test_what_is_stale_stays_where_it_is_a_photograph_of_the_run(photos, monkeypatch):
    arguments = ["--target-index", "top1", "--output-dir", ".", *BUNDLED]
    main(["--image-path", "photos/a.jpg", *arguments])
    shutil.copy(EXAMPLES / "coffee.jpg", "photos/a.jpg")
    again = ["--image-path", "photos/a.jpg", "a_285_cam.jpg", *arguments, "--resume"]
    assert main(again) == 0
    assert Path("a_285_cam.jpg").exists()
    assert not Path("a_285_X_cam.jpg").exists()


def test_resume_takes_photographs_that_have_been_added(photos, capsys):
    arguments = ["--target-index", "285", "--output-dir", "out", *BUNDLED]
    main(["--image-path", "photos/a.jpg", "photos/b.jpg", *arguments])
    capsys.readouterr()
    assert main(["--image-path", "photos/a.jpg", "examples.jpg", *arguments, "--resume"]) == 2
    assert "it had other settings for photographs" in capsys.readouterr().err
    added = ["photos/below/a.jpg", "photos/a.jpg", "photos/b.jpg"]
    assert main(["--image-path", *added, *arguments, "--resume"]) == 0
    out, err = capsys.readouterr()
    # The two of one name are told apart from now on.
    assert out.count("class 285") == 2
    assert "2 photographs explained, 0 failed, 1 complete before" in err
    assert len(list(Path("out").rglob("*X_cam.jpg"))) == 3


def test_resume_does_not_mix_runs_of_different_options(photos, capsys):
    arguments = ["--image-path", photos, "--output-dir", "out", *BUNDLED]
    main([*arguments, "--target-index", "285"])
    assert main([*arguments, "--target-index", "967", "--resume"]) == 2
    assert "it had other settings for classes" in capsys.readouterr().err


def test_a_resumed_run_has_the_batches_that_were_chosen_for_it(monkeypatch):
    noise("photos", 10)
    arguments = ["--image-path", "photos", "--target-index", "1", *OWN]
    assert main([*arguments, "--output-dir", "usual"]) == 0
    assert "batch_size" not in first_line("usual")
    sizes = []
    forward = torch.nn.Linear.forward
    monkeypatch.setattr(
        torch.nn.Linear, "forward", lambda self, given: sizes.append(len(given)) or forward(self, given)
    )
    # As on a GPU, which has less free memory when the run goes on.
    for chosen, resume in ((7, []), (5, ["--batch-size", "auto", "--resume"])):
        monkeypatch.setattr("xgradcam.runs.batches.batch_size_for", lambda _run, chosen=chosen: chosen)
        sizes.clear()
        assert main([*arguments, "--output-dir", "out", *resume]) == 0
        assert first_line("out")["batch_size"] == 7
        assert [size for size in sizes if size > 1][-2:] == [7, 3]
        Path("out/0003_1_cam.jpg").unlink()
        Path("out/0008_1_cam.jpg").unlink()


def first_line(folder):
    """The settings in the record of a run."""
    with Path(folder, "xgrad-cam.jsonl").open() as file:
        return json.loads(next(file))


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_with_the_same_files():
    noise("photos", 120, side=400)
    arguments = ("--image-path", "photos", "--target-index", "1", "--batch-size", "2", *OWN)
    assert main([*arguments, "--output-dir", "whole"]) == 0
    running = process(*arguments, "--output-dir", "parts")
    for _ in range(20):
        running.stdout.readline()
    running.kill()
    running.communicate()
    done = len([name for name in tree("parts") if name.endswith("_cam.jpg")])
    assert 0 < done < 240
    for name, content in tree("parts").items():
        if name.endswith("_cam.jpg") and "/." not in f"/{name}":
            assert content == Path("whole", name).read_bytes()
    assert main([*arguments, "--output-dir", "parts", "--resume"]) == 0
    whole, parts = tree("whole"), tree("parts")
    assert {name: parts[name] for name in whole if name.endswith(".jpg")} == {
        name: content for name, content in whole.items() if name.endswith(".jpg")
    }


def test_resume_does_not_take_anothers_pictures_or_an_older_models(capsys):
    for folder, value in (("p", 10), ("q", 200)):
        noise(folder, 1)
        Image.new("RGB", (40, 40), (value, 0, 0)).save(f"{folder}/x.png")
    torch.save(load_own().state_dict(), "own.pth")
    arguments = ["--target-index", "0", "1", "--weights", "own.pth", "--output-dir", "out", *OWN]
    assert main(["--image-path", "p/x.png", *arguments]) == 0
    assert main(["--image-path", "q/x.png", *arguments, "--resume"]) == 2
    assert "it had other settings for photographs" in capsys.readouterr().err
    torch.save({name: 2 * value for name, value in load_own().state_dict().items()}, "own.pth")
    assert main(["--image-path", "p/x.png", *arguments, "--resume"]) == 2
    assert "it had other settings for files" in capsys.readouterr().err


def test_a_run_that_fails_at_once_leaves_the_earlier_record(photos):
    arguments = ["--image-path", photos, "--output-dir", "out", *BUNDLED]
    main([*arguments, "--target-index", "285"])
    before = Path("out/xgrad-cam.jsonl").read_bytes()
    assert main([*arguments, "--target-index", "1000"]) == 2
    assert Path("out/xgrad-cam.jsonl").read_bytes() == before


def test_stdin_is_never_complete(monkeypatch):
    noise("photos", 2)
    arguments = ["--image-path", "-", "--target-index", "0", "1", "--output-dir", "out", *OWN]
    pictures = []
    for name, more in (("0000", []), ("0001", ["--resume"])):
        with open(f"photos/{name}.png", "rb") as file:
            monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=file))
            assert main([*arguments, *more]) == 0
        pictures.append(Path("out/stdin_1_X_cam.jpg").read_bytes())
    assert pictures[0] != pictures[1]


FIGURES = ("--color-bar",)
GOES_ON = [
    ((), ("--format", "jpg", "--output-format", "files", "--precision", "float32", "--target", "-1")),
    (FIGURES, (*FIGURES, "--dpi", "150")),
    ((*FIGURES, "--dpi", "150"), FIGURES),
]
STOPS = [
    ((), ("--signed",), "signed"),
    (("--signed",), (), "signed"),
    ((), ("--panel",), "panel"),
    ((), FIGURES, "color_bar"),
    (FIGURES, (*FIGURES, "--dpi", "151"), "dpi"),
    ((), ("--colormap", "bone"), "colormap"),
    ((), ("--alpha", "0"), "alpha"),
    (("--html",), ("--html", "--no-pictures"), "html (--no-pictures)"),
    ((), ("--report",), "save_maps (--report needs it)"),
    ((), ("--labels", "names.txt"), "files (--labels)"),
    ((), ("--target", "1"), "classes (--target)"),
    ((), ("--target-layer", "features.0"), "layers (--target-layer)"),
    ((), ("--range", "0", "255"), "value_range (--range)"),
]


@pytest.mark.parametrize(("before", "now"), GOES_ON)
def test_a_value_that_equals_the_usual_one_is_the_same_as_none(before, now, capsys):
    noise("photos", 2)
    run = ["photos", "--output-dir", "out", *OWN]
    assert main([*run, *before]) == 0
    written = tree("out")
    assert main([*run, *now, "--resume"]) == 0
    assert "2 complete before" in capsys.readouterr().err
    assert tree("out").keys() == written.keys()


@pytest.mark.parametrize(("before", "now", "named"), STOPS)
def test_only_the_setting_that_was_changed_is_named(before, now, named, capsys):
    if "--report" in now:
        pytest.importorskip("sklearn")
    noise("photos", 2)
    Path("names.txt").write_text("a\nb\nc\nd\n")
    run = ["photos", "--output-dir", "out", *OWN]
    assert main([*run, *before, "--quiet"]) == 0
    assert main([*run, *now, "--resume", "--quiet"]) == 2
    assert f"it had other settings for {named}; give the same options" in capsys.readouterr().err
