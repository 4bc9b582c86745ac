"""Many photographs and classes by one command."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.cli.support import BUNDLED, OWN, ROOT, maps_in, process, tree
from tests.support import EXAMPLES, MEASURED_COMMAND, damaged, noise
from xgradcam.cli.xgrad_cam import main
from xgradcam.models import folding
from xgradcam.pictures.photograph import read_image
from xgradcam.runs import pipeline, preparation
from xgradcam.runs.results import write_results

pytestmark = pytest.mark.usefixtures("own_models")


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


def test_photographs_of_one_name_never_overwrite_each_other():
    for folder, value in (("p", 10), ("q", 200)):
        Path(folder).mkdir()
        Image.new("RGB", (40, 40), (value, 0, 0)).save(f"{folder}/x.png")
        Image.new("RGB", (40, 40), (0, value, 0)).save(f"{folder}/x.bmp")
    assert main(["--image-path", "p", "q", "--target-index", "1", "--output-dir", "out", *OWN]) == 0
    pictures = {name: content for name, content in tree("out").items() if name.endswith("X_cam.jpg")}
    assert len([name for name in tree("out") if name.endswith("_cam.jpg")]) == 8
    assert len(set(pictures.values())) == len(pictures) == 4


def test_nothing_is_written_over_a_photograph(capsys):
    shutil.copy(EXAMPLES / "cat.jpg", "cam.jpg")
    before = Path("cam.jpg").read_bytes()
    assert main(["--image-path", "cam.jpg", *BUNDLED]) == 2
    assert "cam.jpg would be written over the photograph" in capsys.readouterr().err
    assert Path("cam.jpg").read_bytes() == before
    assert sorted(tree(".")) == ["cam.jpg", "pooled.py", "tiny.py"]


def test_a_run_that_cannot_start_leaves_no_folder(both):
    assert main(["--image-path", str(both), "--output-dir", "new", "--model", "vgg61"]) == 2
    assert not Path("new").exists()


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
    Image.open(EXAMPLES / "cat.jpg").resize((6000, 4000)).save("large.jpg")
    for count in (2, 6):
        Path(f"photos-{count}").mkdir()
        for index in range(count):
            shutil.copy("large.jpg", f"photos-{count}/{index:04}.jpg")
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
    assert "photos/0000.png: the model's scores are not finite" in capsys.readouterr().err
    assert not tree("one")


def test_the_forward_of_a_batch_that_is_too_large_is_halved(monkeypatch):
    noise("photos", 5)
    forward, sizes = torch.nn.Linear.forward, []

    def tight(self, inputs):
        sizes.append(len(inputs))
        if len(inputs) > 2:
            raise torch.OutOfMemoryError("the batch does not fit")
        return forward(self, inputs)

    arguments = ["--image-path", "photos", "--target-index", "1", "--batch-size", "5", "--save-maps", *OWN]
    assert main([*arguments, "--output-dir", "whole"]) == 0
    monkeypatch.setattr(torch.nn.Linear, "forward", tight)
    assert main([*arguments, "--output-dir", "parts"]) == 0
    assert max(sizes) == 5
    assert {1, 2} <= set(sizes)
    assert tree("parts").keys() == tree("whole").keys()
    parts, whole = maps_in("parts"), maps_in("whole")
    assert len(whole) == 5
    for name, arrays in whole.items():
        for key, array in arrays.items():
            np.testing.assert_allclose(parts[name][key], array, rtol=0, atol=1e-5)


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
    monkeypatch.setattr("xgradcam.runs.pipeline.threads", lambda: 1)
    assert main(["--image-path", "photos", "--batch-size", "1", "--output-dir", "out", *OWN]) == 2
    assert "out/xgrad-cam.jsonl has gone during the run" in capsys.readouterr().err


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_leaves_no_part_of_a_file():
    noise("photos", 3)
    full = "import resource, signal, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)); "
    full += "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); from xgradcam.cli.xgrad_cam import main; "
    full += "sys.exit(main(sys.argv[1:]))"
    run = subprocess.run(
        # -B: Python would leave the beginning of its compiled files, and cannot read them later.
        [sys.executable, "-B", "-c", full, "--image-path", "photos", "--full-resolution", "--panel",
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


def test_names_as_long_as_the_file_system_allows():
    noise("photos", 1)
    for end in "ab":
        shutil.copy("photos/0000.png", f"photos/{'m' * 248}{end}.png")
    assert main(["--image-path", "photos", "--target-index", "1", "--output-dir", "out", *OWN]) == 0
    assert len([name for name in tree("out") if name.endswith("_cam.jpg")]) == 6


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
