"""Many photographs and classes by one command."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import xgradcam
from tests.pictures.test_photograph import damaged
from tests.support import EXAMPLES, MEASURED_COMMAND
from xgradcam import explain, heatmap
from xgradcam.cli.xgrad_cam import main
from xgradcam.models import folding
from xgradcam.pictures.photograph import read_image
from xgradcam.runs import pipeline, preparation
from xgradcam.runs.journal import Journal
from xgradcam.runs.results import write_results
from xgradcam.runs.sources import Source, state_of

ROOT = Path(__file__).resolve().parents[2]
BUNDLED = ("--model", "efficientnet-lite0")
TINY = """
import torch
from torch import nn

class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.head = nn.Linear(8 * 16 * 16, 4)

    def forward(self, images):
        return self.head(self.features(images).flatten(1))
"""
OWN = ("--model", "tiny.py:Tiny", "--input-size", "32")


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "tiny", raising=False)
    Path("tiny.py").write_text(TINY)


@pytest.fixture
def photos():
    """Three photographs, one of them in a folder of its own, and a file that is none."""
    Path("photos", "below").mkdir(parents=True)
    shutil.copy(EXAMPLES / "cat.jpg", "photos/a.jpg")
    shutil.copy(EXAMPLES / "coffee.jpg", "photos/b.jpg")
    shutil.copy(EXAMPLES / "cat-and-coffee.jpg", "photos/below/a.jpg")
    Path("photos/broken.jpg").write_text("no picture")
    return "photos"


def noise(folder, count, side=40):
    Path(folder).mkdir()
    random = np.random.default_rng(0)
    for index in range(count):
        pixels = random.integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"{folder}/{index:04}.png")


def tree(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file()
    }


def process(*arguments, **options):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", "xgradcam", *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **options,
    )  # fmt: skip


def test_a_folder_keeps_its_structure_and_one_bad_photograph_does_not_stop_it(photos, capsys):
    assert (
        main(["--image-path", photos, "--target-index", "285", "967", "--output-dir", "out", *BUNDLED]) == 1
    )
    out, err = capsys.readouterr()
    stems = ("a", "b", "below/a")
    pictures = [
        f"{stem}_{target}_{kind}"
        for stem in stems
        for target in (285, 967)
        for kind in ("cam.jpg", "X_cam.jpg")
    ]
    assert sorted(tree("out")) == sorted([*pictures, "xgrad-cam.jsonl"])
    assert out.count("class 285") == out.count("class 967") == 3
    assert "xgrad-cam: error: not an image: photos/broken.jpg" in err
    assert err.splitlines()[-1] == "xgrad-cam: 3 photographs explained, 1 failed; in out"
    assert err.count("the two maps coincide here") == 1
    assert "6 of 6 explanations: the two maps" in err


def test_each_picture_is_that_of_the_photograph_alone(photos):
    main(["--image-path", photos, "--target-index", "967", "--output-dir", "out", *BUNDLED])
    for path, name in (("photos/b.jpg", "b"), ("photos/below/a.jpg", "below/a")):
        main(["--image-path", path, "--target-index", "967", "--output-dir", "alone", *BUNDLED])
        for kind in ("cam.jpg", "X_cam.jpg"):
            together, alone = (
                read_image(file).astype(int) for file in (f"out/{name}_967_{kind}", f"alone/{kind}")
            )
            assert np.abs(together - alone).max() <= 8
            assert np.mean(np.abs(together - alone) > 2) < 1e-3


def test_batches_give_the_maps_of_one_at_a_time_in_every_order():
    noise("photos", 7)
    paths = sorted(map(str, Path("photos").iterdir()))
    runs = {}
    for size, order in ((1, paths), (3, paths), (8, paths[::-1])):
        folder = f"out-{size}"
        arguments = [
            "--image-path",
            *order,
            "--save-maps",
            "--batch-size",
            str(size),
            "--output-dir",
            folder,
            *OWN,
        ]
        assert main([*arguments, "--target-index", "2"]) == 0
        runs[size] = {
            name: dict(np.load(f"{folder}/{name}")) for name in tree(folder) if name.endswith(".npz")
        }
    assert len(runs[1]) == 7
    for size in (3, 8):
        for name, arrays in runs[1].items():
            for key, array in arrays.items():
                np.testing.assert_allclose(runs[size][name][key], array, atol=1e-5)


def test_saved_maps_are_signed_and_unscaled(both):
    main(["--image-path", str(both), "--target-index", "285", "--save-maps", *BUNDLED])
    classifier = xgradcam.load_classifier("efficientnet-lite0")
    expected = xgradcam.explain(classifier.module, classifier.inputs(read_image(both)), "bn2", 285)
    with np.load("maps.npz") as saved:
        np.testing.assert_allclose(saved["xgrad-cam"], expected.maps["xgrad-cam"][0], atol=1e-5)
        np.testing.assert_allclose(saved["scores"], expected.logits[0], atol=1e-5)
        assert saved["xgrad-cam"].min() < 0
        assert saved["class_index"] == 285


def test_json_is_one_object_a_line_and_all_text_is_on_stderr(photos, capsys):
    assert (
        main(["--image-path", photos, "--target-index", "top2", "--json", "--output-dir", "out", *BUNDLED])
        == 1
    )
    out, err = capsys.readouterr()
    records = [json.loads(line) for line in out.splitlines()]
    assert [(record["image"], record["rank"]) for record in records] == [
        ("photos/a.jpg", 1), ("photos/a.jpg", 2), ("photos/b.jpg", 1), ("photos/b.jpg", 2),
        ("photos/below/a.jpg", 1), ("photos/below/a.jpg", 2),
    ]  # fmt: skip
    first = records[0]
    assert (first["class_index"], first["class_name"]) == (285, "n02124075 Egyptian cat")
    assert (first["model"], first["layer"]) == ("efficientnet-lite0", "bn2")
    assert first["files"] == {"grad-cam": "a_285_cam.jpg", "xgrad-cam": "a_285_X_cam.jpg"}
    assert all(Path("out", file).is_file() for record in records for file in record["files"].values())
    assert first["score"] == pytest.approx(10.7539, abs=1e-3)
    assert first["probability"] == pytest.approx(0.809, abs=1e-3)
    # The bias term of Eq. 5 here is 0.0247.
    assert first["conservation_error"]["xgrad-cam"] == pytest.approx(0.0247 / 10.7539, rel=0.01)
    assert first["notes"][0].startswith("the two maps coincide")
    assert "Using CPU for computation" in err


def test_classes_by_name_by_rank_and_by_index_each_once(both, capsys):
    arguments = ["--image-path", str(both), "--output-dir", "out", *BUNDLED]
    assert main([*arguments, "--target-index", "espresso", "top1", "967", "Egyptian cat"]) == 0
    assert sorted({name.split("_")[1] for name in tree("out") if name.endswith(".jpg")}) == [
        "282",
        "285",
        "967",
    ]
    assert main([*arguments, "--target-index", "crane"]) == 2
    assert "'crane' may be class 134" in capsys.readouterr().err
    assert main([*arguments, "--target-index", "no such animal"]) == 2
    assert "no class is named 'no such animal'" in capsys.readouterr().err


def test_photographs_of_one_name_never_overwrite_each_other():
    for folder, value in (("p", 10), ("q", 200)):
        Path(folder).mkdir()
        Image.new("RGB", (40, 40), (value, 0, 0)).save(f"{folder}/x.png")
        Image.new("RGB", (40, 40), (0, value, 0)).save(f"{folder}/x.bmp")
    assert main(["--image-path", "p", "q", "--target-index", "1", "--output-dir", "out", *OWN]) == 0
    assert len([name for name in tree("out") if name.endswith("_cam.jpg")]) == 8


def test_nothing_is_written_over_a_photograph(capsys):
    shutil.copy(EXAMPLES / "cat.jpg", "cam.jpg")
    before = Path("cam.jpg").read_bytes()
    assert main(["--image-path", "cam.jpg", *BUNDLED]) == 2
    assert "cam.jpg would be written over the photograph" in capsys.readouterr().err
    assert Path("cam.jpg").read_bytes() == before
    assert sorted(tree(".")) == ["cam.jpg", "tiny.py"]


def test_a_run_that_cannot_start_leaves_no_folder(both):
    assert main(["--image-path", str(both), "--output-dir", "new", "--model", "vgg61"]) == 2
    assert not Path("new").exists()


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
        for file in (record["photograph"], *record["files"].values()):
            assert read_image(f"out/{file}").shape == (224, 224, 3)
    Path("out/b_photograph.jpg").unlink()
    assert main([*arguments, "--resume"]) == 1
    assert records_of("out/index.html") == first
    assert Path("out/b_photograph.jpg").exists()


def records_of(page):
    text = Path(page).read_text(encoding="utf-8")
    return json.loads(
        re.search(r'<script type="application/json"[^>]*>(.*?)</script>', text, re.DOTALL).group(1)
    )


def test_arguments_from_a_file(both, capsys):
    Path("settings.txt").write_text(
        f'--image-path "{both}"\n--model efficientnet-lite0 --target-index espresso\n'
    )
    assert main(["@settings.txt"]) == 0
    assert "n07920052 espresso" in capsys.readouterr().out


def test_quiet_says_nothing_but_errors(photos, capsys):
    assert main(["--image-path", photos, "--quiet", "--output-dir", "out", *BUNDLED]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.split(": ")[1] for line in err.splitlines()] == [
        "error",
        "3 photographs explained, 1 failed; in out",
    ]


def test_verbose_has_the_notes_of_each(photos, capsys):
    assert main(["--image-path", photos, "--verbose", "--output-dir", "out", *BUNDLED]) == 1
    assert capsys.readouterr().err.count("the two maps coincide here") == 3


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


def test_what_another_photograph_is_said_to_have_stays(photos):
    sources = [Source("photos/a.jpg", Path("a")), Source("photos/b.jpg", Path("cat"))]
    record = {"files": {"grad-cam": "cat_1.jpg"}}
    for name in ("a_1.jpg", "cat_1.jpg"):
        Path(name).touch()
    lines = [
        {},
        {"image": "photos/a.jpg", "stem": "cat", **state_of("photos/a.jpg"), "records": [record]},
        {"image": "photos/b.jpg", "stem": "cat", "bytes": 0, "modified": 0, "records": [record]},
        {
            "image": "photos/a.jpg", "stem": "a", **state_of("photos/a.jpg"),
            "records": [{"files": {"grad-cam": "a_1.jpg"}}],
        },
    ]  # fmt: skip
    Path("xgrad-cam.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with Journal(Path(), {}, sources, resume=True) as journal:
        assert journal.done.keys() == {"photos/a.jpg"}
    assert Path("cat_1.jpg").exists()
    assert [
        line["image"] for line in map(json.loads, Path("xgrad-cam.jsonl").read_text().splitlines()[1:])
    ] == [
        "photos/b.jpg",
        "photos/a.jpg",
    ]


def test_resume_takes_photographs_that_have_been_added(photos, capsys):
    arguments = ["--target-index", "285", "--output-dir", "out", *BUNDLED]
    main(["--image-path", "photos/a.jpg", "photos/b.jpg", *arguments])
    capsys.readouterr()
    assert main(["--image-path", "photos/a.jpg", "examples.jpg", *arguments, "--resume"]) == 2
    assert "it had another photographs" in capsys.readouterr().err
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
    assert "it had another classes" in capsys.readouterr().err


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


@pytest.mark.slow
def test_an_interrupt_ends_soon_with_a_summary():
    noise("photos", 200, side=400)
    running = process("--image-path", "photos", "--target-index", "1", *OWN, "--output-dir", "out")
    for _ in range(20):
        running.stdout.readline()
    started = time.monotonic()
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=30)
    assert time.monotonic() - started < 3
    assert running.returncode == 130
    assert "Traceback" not in err
    last = err.splitlines()[-1]
    assert last.startswith("xgrad-cam: interrupted: ")
    assert "not begun or not finished (--resume goes on)" in last
    assert not [name for name in tree("out") if name.endswith(".part")]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak memory is read from /proc")
def test_memory_does_not_grow_with_the_number_of_photographs():
    noise("one", 1, side=300)
    peaks = {}
    for count in (50, 1000):
        Path(f"photos-{count}").mkdir()
        for index in range(count):
            shutil.copy("one/0000.png", f"photos-{count}/{index}.png")
        run = subprocess.run(
            [sys.executable, "-c", MEASURED_COMMAND, "--image-path", f"photos-{count}", "--quiet", *OWN,
             "--target-index", "1", "--output-dir", f"out-{count}"],
            capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        peaks[count] = int(run.stdout.splitlines()[-1])
        assert len(tree(f"out-{count}")) == 2 * count + 1
    assert peaks[1000] < 1.05 * peaks[50]


def measured(*arguments):
    """The command as a process of its own: what it came to, and its peak memory in bytes."""
    run = subprocess.run(
        [sys.executable, "-c", MEASURED_COMMAND, *arguments, *OWN, "--target-index", "1"],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    return run, int(run.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak memory is read from /proc")
def test_memory_does_not_grow_with_the_number_of_large_photographs():
    peaks = {}
    for count in (2, 6):
        Path(f"photos-{count}").mkdir()
        for index in range(count):
            Image.open(EXAMPLES / "cat.jpg").resize((6000, 4000)).save(f"photos-{count}/{index:04}.jpg")
        run, peaks[count] = measured(
            "--image-path", f"photos-{count}", "--full-resolution", "--quiet", "--output-dir", f"out-{count}"
        )
        assert run.returncode == 0
        with Image.open(f"out-{count}/0000_1_X_cam.jpg") as picture:
            assert picture.size == (6000, 4000)
    # One such photograph is 72 MB; the four more would be 288 MB.
    assert peaks[6] < peaks[2] + 2 * 72e6, peaks


def test_a_large_photograph_that_changes_meanwhile_is_a_problem_and_no_wrong_picture(monkeypatch, capsys):
    noise("photos", 3)
    monkeypatch.setattr("xgradcam.runs.pipeline.LARGE", 40 * 40 - 1)
    explain = torch.nn.Linear.forward

    def meanwhile(self, inputs):
        Image.new("RGB", (64, 48)).save("photos/0001.png")
        return explain(self, inputs)

    arguments = ["--image-path", "photos", "--target-index", "1", "--full-resolution", *OWN]
    assert main([*arguments, "--output-dir", "before"]) == 0
    monkeypatch.setattr(torch.nn.Linear, "forward", meanwhile)
    assert main([*arguments, "--output-dir", "out"]) == 1
    assert "photos/0001.png changed while it was being explained" in capsys.readouterr().err
    assert sorted(tree("out")) == sorted(name for name in tree("before") if not name.startswith("0001"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak memory is read from /proc")
def test_a_folder_of_2000_damaged_files_gives_pictures_and_lines():
    Path("damaged").mkdir()
    for name, content in damaged():
        Path("damaged", name).write_bytes(content)
    run, peak = measured("--image-path", "damaged", "--output-dir", "out", "--colormap", "viridis")
    assert run.returncode == 1
    assert "Traceback" not in run.stderr
    told = run.stderr.splitlines()
    failed = {re.search(r"\d{4}\.\w+", line)[0] for line in told if "error: " in line}
    explained = {name for name, _ in damaged()} - failed
    assert f"{len(explained)} photographs explained, {len(failed)} failed" in told[-1]
    assert len(list(Path("out").glob("*_X_cam.jpg"))) == len(explained) > 100
    assert peak < 2e9


INFINITE = """
import torch
from tiny import Tiny

class Infinite(Tiny):
    def forward(self, images):
        return super().forward(images) / (images.amax(dim=(1, 2, 3)) < 1)[:, None]
"""


def test_a_photograph_of_infinite_scores_does_not_stop_the_others(capsys, monkeypatch):
    monkeypatch.delitem(sys.modules, "infinite", raising=False)
    Path("infinite.py").write_text(INFINITE)
    noise("photos", 5)
    Image.new("RGB", (40, 40), "grey").save("photos/0002.png")
    Image.new("RGB", (40, 40), "black").save("photos/0004.png")
    options = ["--model", "infinite.py:Infinite", "--input-size", "32", "--target-index", "1"]
    assert main(["--image-path", "photos", *options, "--output-dir", "out"]) == 1
    lines = capsys.readouterr().err.splitlines()
    failed = [line for line in lines if "error" in line]
    assert [line.split(": ")[2] for line in failed] == [f"photos/000{index}.png" for index in (0, 1, 3)]
    assert all("the model's scores are not finite" in line for line in failed)
    assert lines[-1] == "xgrad-cam: 2 photographs explained, 3 failed; in out"
    assert {name[:4] for name in tree("out") if name.endswith("X_cam.jpg")} == {"0002", "0004"}
    assert main(["--image-path", "photos/0000.png", *options, "--output-dir", "one"]) == 2


def test_the_forward_of_a_batch_that_is_too_large_is_halved(monkeypatch):
    noise("photos", 5)
    forward, sizes = torch.nn.Linear.forward, []

    def tight(self, inputs):
        sizes.append(len(inputs))
        if len(inputs) > 2:
            raise torch.OutOfMemoryError("the batch does not fit")
        return forward(self, inputs)

    arguments = ["--image-path", "photos", "--target-index", "1", "--batch-size", "5", *OWN]
    assert main([*arguments, "--output-dir", "whole"]) == 0
    monkeypatch.setattr(torch.nn.Linear, "forward", tight)
    assert main([*arguments, "--output-dir", "parts"]) == 0
    assert max(sizes) == 5
    assert {1, 2} <= set(sizes)
    assert tree("parts").keys() == tree("whole").keys()


def test_full_resolution_crop_panel_and_colours(both, capsys):
    arguments = ["--image-path", str(both), "--target-index", "967", *BUNDLED]
    assert main([*arguments, "--output-dir", "plain"]) == 0
    assert main([*arguments, "--full-resolution", "--panel", "--output-dir", "full"]) == 0
    assert capsys.readouterr().out.endswith("wrote full/cam.jpg, full/X_cam.jpg and full/panel.jpg\n")
    assert main([*arguments, "--colormap", "viridis", "--alpha", "0.4", "--output-dir", "colours"]) == 0
    assert main([*arguments, "--crop", "--full-resolution", "--output-dir", "crop"]) == 0
    plain, full, colours, crop = (
        read_image(f"{folder}/X_cam.jpg").astype(float) for folder in ("plain", "full", "colours", "crop")
    )
    photograph = read_image(both)
    assert plain.shape == colours.shape == (224, 224, 3)
    assert full.shape == crop.shape == photograph.shape
    assert read_image("full/panel.jpg").shape[1] > 3 * photograph.shape[1]
    assert np.abs(plain - colours).mean() > 10
    # The corner is outside of the crop: dimmed, and without a map.
    corner = np.s_[:20, :20]
    assert crop[corner].mean() == pytest.approx(0.35 * photograph[corner].mean(), rel=0.1)
    assert full[corner].mean() != pytest.approx(crop[corner].mean(), rel=0.3)


def test_wrong_pictures_are_refused_before_a_model_is_loaded(both, capsys):
    arguments = ["--image-path", str(both), "--model", "vgg61"]
    for wrong, message in (
        (["--colormap", "virids"], "no colour map 'virids'; did you mean 'viridis'"),
        (["--alpha", "2"], "alpha 2 is not between 0"),
        (["--batch-size", "0"], "the batch size is 0: take 1 or more"),
    ):
        assert main([*arguments, *wrong]) == 2
        assert message in capsys.readouterr().err
    assert main(["--image-path", str(both), "--crop", *OWN]) == 2
    assert "has no known resize before a centre crop" in capsys.readouterr().err


def test_an_own_model_with_labels_and_scores_in_a_dictionary(both, capsys):
    Path("wrapped.py").write_text(
        "from torch import nn\nfrom tiny import Tiny\n\n"
        "class Wrapped(Tiny):\n    def forward(self, images):\n"
        "        return {'logits': super().forward(images)}\n"
    )
    Path("labels.txt").write_text("north\neast\nsouth\nwest\n")
    torch.save({"state_dict": load_own().state_dict()}, "checkpoint.pth")
    arguments = [
        "--image-path", str(both), "--model", "wrapped.py:Wrapped", "--weights", "checkpoint.pth",
        "--input-size", "32",
        "--labels", "labels.txt", "--mean", "0", "0", "0", "--std", "1", "1", "1", "--target-index", "west",
    ]  # fmt: skip
    assert main(arguments) == 2
    assert "choose one of its tensors with --output: logits" in capsys.readouterr().err
    assert main([*arguments, "--output", "logits"]) == 0
    assert "class of interest:  west" in capsys.readouterr().out
    for wrong, message in (
        (["--input-size", "0"], "the input size is 0: give height and width"),
        (["--std", "1", "0", "1"], "the std has a value that is not above 0"),
        (["--num-classes", "0"], "the number of classes is 0"),
        (["--labels", "no-labels.txt"], "cannot read labels no-labels.txt"),
    ):
        assert main([*arguments, "--output", "logits", *wrong]) == 2
        assert message in capsys.readouterr().err


def load_own():
    return xgradcam.load_classifier("tiny.py:Tiny", size=(32, 32)).module


def test_a_folder_that_vanishes_in_the_middle_is_noticed(capsys, monkeypatch):
    noise("photos", 6)
    written = write_results

    def vanishing(self, source, *rest):
        records = written(self, source, *rest)
        if source.path.endswith("0003.png"):
            while not Path("out/xgrad-cam.jsonl").exists():
                time.sleep(0.01)
            shutil.rmtree("out")
        return records

    monkeypatch.setattr(pipeline, "write_results", vanishing)
    # With two writers the other one may meet the missing folder first, and say so in its own words.
    monkeypatch.setattr("xgradcam.runs.pipeline.WRITERS", 1)
    assert main(["--image-path", "photos", "--batch-size", "1", "--output-dir", "out", *OWN]) == 2
    assert "out/xgrad-cam.jsonl has gone during the run" in capsys.readouterr().err


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_leaves_no_part_of_a_file():
    noise("photos", 3)
    full = "import resource, signal, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)); "
    full += "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); from xgradcam.cli.xgrad_cam import main; "
    full += "sys.exit(main(sys.argv[1:]))"
    run = subprocess.run(
        [sys.executable, "-c", full, "--image-path", "photos", "--full-resolution", "--panel",
         "--output-dir", "out", *OWN],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert run.returncode == 2
    assert "Traceback" not in run.stderr
    assert run.stderr.splitlines()[-1].startswith("xgrad-cam: error: cannot write out/")
    assert run.stderr.splitlines()[-1].endswith("File too large; --resume goes on later")
    assert not [name for name in tree("out") if name.endswith((".jpg", ".part"))]


def test_a_file_that_may_not_be_written_to_is_replaced_and_a_folder_of_its_name_is_named(both, capsys):
    Path("out").mkdir()
    Path("out/cam.jpg").write_text("old")
    Path("out/cam.jpg").chmod(0o444)
    Path("out/X_cam.jpg").mkdir()
    assert main(["--image-path", str(both), "--output-dir", "out", *BUNDLED]) == 2
    assert "cannot write out/X_cam.jpg: a folder has that name" in capsys.readouterr().err
    assert Path("out/cam.jpg").read_text() == "old"
    Path("out/X_cam.jpg").rmdir()
    assert main(["--image-path", str(both), "--output-dir", "out", *BUNDLED]) == 0
    assert read_image("out/cam.jpg").shape == (224, 224, 3)


def test_resume_does_not_take_anothers_pictures_or_an_older_models(capsys):
    for folder, value in (("p", 10), ("q", 200)):
        noise(folder, 1)
        Image.new("RGB", (40, 40), (value, 0, 0)).save(f"{folder}/x.png")
    torch.save(load_own().state_dict(), "own.pth")
    arguments = ["--target-index", "0", "1", "--weights", "own.pth", "--output-dir", "out", *OWN]
    assert main(["--image-path", "p/x.png", *arguments]) == 0
    assert main(["--image-path", "q/x.png", *arguments, "--resume"]) == 2
    assert "it had another photographs" in capsys.readouterr().err
    torch.save(load_own().state_dict() | {"more": torch.zeros(3)}, "own.pth")
    assert main(["--image-path", "p/x.png", *arguments, "--resume"]) == 2


def test_a_run_that_fails_at_once_leaves_the_earlier_record(photos):
    arguments = ["--image-path", photos, "--output-dir", "out", *BUNDLED]
    main([*arguments, "--target-index", "285"])
    before = Path("out/xgrad-cam.jsonl").read_bytes()
    assert main([*arguments, "--target-index", "1000"]) == 2
    assert Path("out/xgrad-cam.jsonl").read_bytes() == before


def test_names_as_long_as_the_file_system_allows():
    noise("photos", 1)
    for end in "ab":
        shutil.copy("photos/0000.png", f"photos/{'m' * 248}{end}.png")
    assert main(["--image-path", "photos", "--target-index", "1", "--output-dir", "out", *OWN]) == 0
    assert len([name for name in tree("out") if name.endswith("_cam.jpg")]) == 6


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


def test_a_label_that_begins_with_top_is_a_class(both, capsys):
    Path("labels.txt").write_text("topaz\neast\nsouth\nwest\n")
    assert main(["--image-path", str(both), "--labels", "labels.txt", "--target-index", "topaz", *OWN]) == 0
    assert "class of interest:  topaz" in capsys.readouterr().out
    assert Path("cam.jpg").exists()


@pytest.mark.parametrize("content", [b"--model 'vgg16", b"\xff\xfe", b"@settings.txt"])
def test_a_file_of_arguments_that_cannot_be_read_is_one_line(content, capsys):
    Path("settings.txt").write_bytes(content)
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["@settings.txt"])
    err = capsys.readouterr().err
    assert err.startswith("xgrad-cam: error: ")
    assert err.count("\n") == 1


def test_an_argument_that_cannot_be_printed_is_quoted_in_one_line(capsys):
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["\udcff\n.png"])
    said = "unrecognized arguments: \\udcff\\n.png (xgrad-cam --help shows the options)"
    assert capsys.readouterr().err == f"xgrad-cam: error: {said}\n"


def maps_in(folder):
    return {path.name: dict(np.load(path)) for path in sorted(Path(folder).rglob("*.npz"))}


def test_many_photographs_are_explained_by_a_network_with_folded_norms_to_the_same_maps(monkeypatch):
    folded = []
    fold = folding.fold_batch_norms
    monkeypatch.setattr(preparation, "fold_batch_norms", lambda *given: folded.append(fold(*given)))
    Path("photos").mkdir()
    with Image.open(EXAMPLES / "cat-and-coffee.jpg") as example:
        for index in range(8):
            example.crop((20 * index, 0, 400 + 20 * index, 400)).save(f"photos/{index}.png")
    shared = ["--save-maps", "--target-index", "285", "--target-layer", "blocks.6.0.bn2", *BUNDLED]
    main(["--image-path", "photos", "--output-dir", "many", *shared])
    assert folded == [49]
    main(["--image-path", *(f"photos/{index}.png" for index in range(7)), "--output-dir", "few", *shared])
    assert folded == [49]
    many, few = maps_in("many"), maps_in("few")
    assert len(few) == 7
    for name, expected in few.items():
        for method in ("grad-cam", "xgrad-cam"):
            size = np.abs(expected[method]).max()
            np.testing.assert_allclose(many[name][method], expected[method], rtol=0, atol=1e-5 * size)


def test_bf16_gives_nearly_the_same_heatmaps_in_float32():
    photograph = (
        "--image-path",
        str(EXAMPLES / "cat-and-coffee.jpg"),
        "--save-maps",
        "--target-index",
        "285",
    )
    main([*photograph, "--output-dir", "exact", *BUNDLED])
    main([*photograph, "--output-dir", "coarse", "--precision", "bf16", *BUNDLED])
    (exact,), (coarse,) = (maps_in(folder).values() for folder in ("exact", "coarse"))
    assert coarse["scores"].dtype == coarse["xgrad-cam"].dtype == np.float32
    assert np.abs(coarse["scores"] - exact["scores"]).max() < 0.2
    for method in ("grad-cam", "xgrad-cam"):
        found, expected = (
            heatmap(torch.from_numpy(each[method])[None], (224, 224)) for each in (coarse, exact)
        )
        difference = (found - expected).abs().max()
        assert 0 < difference < 0.1


def test_what_bf16_rounds_away_is_refused_or_left_out(both, capsys):
    start = ["--image-path", str(both), "--output-dir", "out", *OWN, "--precision", "bf16"]
    for asked in (["--axioms"], ["--method", "ablation-cam"], ["--method", "all", "--axioms"]):
        assert main([*start, *asked]) == 2
        assert "leave out --precision bf16" in capsys.readouterr().err
    assert not Path("out").exists()
    assert main([*start, "--method", "all"]) == 0
    assert "left out: ablation-cam" in capsys.readouterr().err
    assert not Path("out/ablation-cam.jpg").exists()
    assert Path("out/score-cam.jpg").exists()


def test_cam_in_bf16(both):
    coffee = [
        "--image-path",
        str(EXAMPLES / "coffee.jpg"),
        *BUNDLED,
        "--method",
        "cam",
        "grad-cam",
        "--save-maps",
    ]
    assert main([*coffee, "--precision", "bf16"]) == 0
    with np.load("maps.npz") as maps:
        np.testing.assert_allclose(maps["cam"] / 49, maps["grad-cam"], rtol=0.02, atol=1e-3)


def test_explanations_are_brought_to_where_they_are_written():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    explanation = explain(model, torch.rand(2, 3, 8, 8), "0")
    ((moved,),) = pipeline._on_cpu([[explanation]])
    assert torch.equal(moved.maps["grad-cam"], explanation.maps["grad-cam"])
    assert torch.equal(moved.logits, explanation.logits)
    assert moved.notes == explanation.notes
    batch = torch.rand(2, 3, 8, 8)
    assert torch.equal(pipeline._on_device(batch, torch.device("cpu")), batch)
    assert explanation.to("meta").logits.is_meta


def test_a_gpu_is_given_a_batch_from_pinned_memory_without_waiting():
    steps = []
    batch = SimpleNamespace(
        pin_memory=lambda: steps.append("pinned") or batch,
        to=lambda device, non_blocking=False: steps.append((device, non_blocking)) or batch,
    )
    for device in (torch.device("cuda", 0), torch.device("mps")):
        assert pipeline._on_device(batch, device) is batch
    assert steps == ["pinned", (torch.device("cuda", 0), True), (torch.device("mps"), False)]
