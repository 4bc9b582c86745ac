"""One run by the workers of Ray: --workers."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from torch import nn

from tests.cli.support import ROOT, process, tree
from tests.cli.support import SHARED_RUN as RUN
from tests.support import noise
from xgradcam import explain_dataset
from xgradcam.cli.workers import _release
from xgradcam.cli.xgrad_cam import main

SLOW = ["--model", "slow.py:Slow", "--input-size", "32", "--image-path", "photos", "--output-dir", "out"]
# Waits at each forward; kills its process where a photograph is white.
SLOW_CODE = """
import os, time
import torch
from tiny import Tiny

class Slow(Tiny):
    def forward(self, images):
        time.sleep(0.1)
        if (images.flatten(1).amin(1) > 2).any():
            os.kill(os.getpid(), 9)
        return super().forward(images)
"""
PARTS = Path("out/.xgrad-cam.shards")


def workers_at(folder):
    """The ids of the workers of Ray's that work in this folder."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            name = (place / "cmdline").read_bytes()
            if name.startswith(b"ray::Doing") and os.path.samefile(place / "cwd", folder):
                found.append(int(place.name))
        except OSError:
            continue
    return found


def wait_for(condition, seconds=60):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def parts():
    return sorted(path.name for path in PARTS.glob("*.part"))


def left_over(folder="out"):
    """Files that are there during a run only."""
    return [
        name for name in tree(folder) if name.endswith((".part", ".lock", ".names", ".planning", ".tries"))
    ]


def images_in_journal():
    lines = Path("out/xgrad-cam.jsonl").read_text().splitlines()[1:]
    return [json.loads(line)["image"] for line in lines]


@pytest.fixture(scope="module")
def engine():
    """Ray, started once for the tests of this module."""
    ray = pytest.importorskip("ray")
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    environment = {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(ROOT)}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        ray.init(
            address="local", num_cpus=2, object_store_memory=100_000_000, include_dashboard=False,
            log_to_driver=False, logging_level="ERROR",
        )  # fmt: skip
        for number, handler in before.items():
            signal.signal(number, handler)
        yield ray
        ray.shutdown()


@pytest.fixture
def slow(own_models):
    Path("slow.py").write_text(SLOW_CODE)


def test_one_worker_or_two_leave_the_files_and_the_journal_of_a_single_process(engine, whole, capsys):
    for count in "12":
        assert main([*RUN, "--workers", count]) == 1
        assert tree("out") == whole
        out, err = capsys.readouterr()
        assert f"shards of 3{'2' if count == '1' else ''}" in out or f"{count} workers" in out
        assert ("1 worker\n" in out) == (count == "1")
        assert err.splitlines() == [
            "xgrad-cam: error: not an image: photos/0077.png: it is text",
            "xgrad-cam: 127 photographs explained, 1 failed; in out",
        ]
        shutil.rmtree("out")
    # A second launch with --resume finds all done but what failed.
    assert main([*RUN, "--workers", "2", "--json", "--shard-size", "40"]) == 1
    first = sorted(capsys.readouterr().out.splitlines())
    assert main([*RUN, "--workers", "2", "--json", "--resume"]) == 1
    out, err = capsys.readouterr()
    assert sorted(out.splitlines()) == first
    assert len(first) == 127
    assert "0 photographs explained, 1 failed, 127 complete before; in out" in err
    assert tree("out") == whole


def test_workers_know_the_true_classes_and_the_report_is_the_same(engine, own_models, capsys):
    noise("photos", 24)
    Path("labels.csv").write_text("".join(f"{index:04}.png,{index % 4}\n" for index in range(24)))
    run = [*RUN, "--truth", "labels.csv", "--report", "--batch-size", "4"]
    assert main(run) == 0
    whole, (alone,) = (
        tree("out"),
        [line for line in capsys.readouterr().err.splitlines() if "correct" in line],
    )
    shutil.rmtree("out")
    assert main([*run, "--workers", "2"]) == 0
    assert tree("out") == whole
    assert alone in capsys.readouterr().err.splitlines()


@pytest.mark.parametrize("form", ["webdataset", "parquet"])
def test_packed_results_are_those_of_a_single_process(engine, slow, form, capsys):
    from PIL import Image

    noise("photos", 24)
    Path("photos/0003.png").write_text("no picture")
    options = ["--batch-size", "2", "--shard-size", "8", "--output-format", form]
    assert main([*SLOW, *options, "--quiet"]) == 1
    whole = tree("out")
    shutil.rmtree("out")
    for count in "12":
        assert main([*SLOW, *options, "--workers", count, "--quiet"]) == 1
        assert tree("out") == whole
        shutil.rmtree("out")
    if form == "parquet":
        return
    # One that kills its process is named alone.
    Image.new("RGB", (40, 40), "white").save("photos/0003.png")
    capsys.readouterr()
    assert main([*SLOW, *options, "--workers", "1"]) == 1
    err = capsys.readouterr().err
    assert "photos/0003.png: its process was killed or crashed" in err
    assert "23 photographs explained, 1 failed" in err
    # Its companion was explained alone; all else is the same.
    after = tree("out")
    assert after.keys() == whole.keys()
    assert all(after[name] == whole[name] for name in after if name.endswith(("1.tar", "2.tar")))
    assert left_over() == []


def test_archives_and_tables_are_read_by_workers(engine, whole, capsys):
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow as pa

    names = sorted(os.listdir("photos"))
    with tarfile.open("half.tar", "w") as made:
        for name in names[:64]:
            made.add(f"photos/{name}", name)
    rows = [{"image": {"bytes": Path("photos", name).read_bytes(), "path": name}} for name in names[64:]]
    parquet.write_table(pa.Table.from_pylist(rows), "half.parquet", row_group_size=20)
    options = [*RUN[2:], "--workers", "2", "--quiet"]
    assert main(["half.tar", "half.parquet", *options]) == 1
    assert "not an image: half.parquet#13: it is text" in capsys.readouterr().err
    files = tree("out")
    made = {name: content for name, content in files.items() if name.endswith((".jpg", ".npz"))}
    assert made == {name: content for name, content in whole.items() if name.endswith((".jpg", ".npz"))}
    assert images_in_journal()[62:66] == [
        "half.tar/0062.png", "half.tar/0063.png", "half.parquet#0", "half.parquet#1",
    ]  # fmt: skip


def test_a_worker_that_is_killed_costs_no_photograph(engine, slow, capsys):
    noise("photos", 48)
    slow = [*SLOW, "--batch-size", "1"]
    main([*slow, "--quiet"])
    whole = tree("out")
    shutil.rmtree("out")
    killed = []

    def kill():
        # Both workers are at work then.
        wait_for(lambda: parts() and len(list(PARTS.glob("*.journal"))) == 2)
        killed.extend(workers_at(".")[:1])
        os.kill(killed[0], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    capsys.readouterr()
    assert main([*slow, "--workers", "2", "--shard-size", "8"]) == 0
    thread.join()
    err = capsys.readouterr().err
    assert len(killed) == 1
    assert err.count("a worker died while it did shard") == 1
    assert "48 photographs explained, 0 failed" in err
    assert tree("out") == whole
    assert left_over() == []
    wait_for(lambda: not workers_at("."))


def test_a_photograph_that_kills_its_process_is_named_alone(engine, slow, capsys):
    from PIL import Image

    noise("photos", 32)
    Path("photos/0013.png").write_text("no picture")
    main(SLOW)
    whole = tree("out")
    shutil.rmtree("out")
    Image.new("RGB", (40, 40), "white").save("photos/0013.png")
    capsys.readouterr()
    options = ["--workers", "1", "--shard-size", "16"]
    assert main([*SLOW, *options]) == 1
    err = capsys.readouterr().err
    errors = [line for line in err.splitlines() if "error:" in line]
    assert len(errors) == 1
    assert "photos/0013.png: its process was killed or crashed" in errors[0]
    assert "31 photographs explained, 1 failed" in err
    assert tree("out").keys() == whole.keys()
    assert images_in_journal() == [f"photos/{index:04}.png" for index in range(32) if index != 13]
    # Those of its batch were explained one by one.
    near = [f"{index:04}" for index in range(8, 16)]
    after = tree("out")
    assert all(after[name] == whole[name] for name in after if name[:4] not in near and name.endswith(".jpg"))


def test_a_command_that_is_killed_goes_on(engine, slow, capsys):
    noise("photos", 48)
    slow = [*SLOW, "--batch-size", "1"]
    main([*slow, "--quiet"])
    whole = tree("out")
    shutil.rmtree("out")
    options = ["--workers", "2", "--shard-size", "8"]
    killed = process(*slow, *options, "--quiet")
    wait_for(lambda: len(parts()) > 1 or killed.poll() is not None, 80)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert parts()
    capsys.readouterr()
    assert main([*slow, *options, "--method", "grad-cam", "--resume"]) == 2
    assert "it had other settings for methods" in capsys.readouterr().err
    assert main([*slow, *options, "--resume"]) == 0
    err = capsys.readouterr().err
    assert "complete before; in out" in err
    assert tree("out") == whole
    assert left_over() == []


def test_an_interrupt_ends_the_workers_cleanly(slow):
    pytest.importorskip("ray")
    noise("photos", 48)
    running = process(
        *SLOW, "--batch-size", "1", "--workers", "2", "--shard-size", "16", start_new_session=True
    )
    wait_for(lambda: list(PARTS.glob("*.journal")) or running.poll() is not None, 80)
    os.killpg(running.pid, signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 130, err
    assert "xgrad-cam: interrupted: " in err.splitlines()[-1]
    assert "(--resume goes on)" in err
    assert "Traceback" not in out + err
    assert not [
        name for name in tree("out") if name.startswith(".xgradcam-") or name.endswith((".lock", ".planning"))
    ]
    ended = [json.loads(line) for path in PARTS.glob("*.tries") for line in path.read_text().splitlines()]
    assert ended[1::2] == [{}] * (len(ended) // 2)
    wait_for(lambda: not workers_at("."))


def test_a_data_set_of_rays_in_any_order_has_the_maps_of_the_command(engine, own_models, monkeypatch):
    data = pytest.importorskip("ray.data")
    data.DataContext.get_current().enable_progress_bars = False
    noise("photos", 16)
    assert main([*RUN, "--quiet"]) == 0
    maps = {path.name[:4]: dict(np.load(path)) for path in Path("out").glob("*.npz")}
    paths = [f"photos/{index:04}.png" for index in reversed(range(16))]
    rows = [{"path": path, "bytes": Path(path).read_bytes()} for path in paths]
    model = str(Path("tiny.py:Tiny").absolute())
    found = explain_dataset(data.from_items(rows), workers=1, model=model, size=32).take_all()
    assert sorted(row["path"] for row in found) == sorted(paths)
    for row in found:
        one = maps[row["path"][7:11]]
        np.testing.assert_allclose(row["xgrad-cam"], one["xgrad-cam"], rtol=1e-5, atol=1e-7)
        assert (row["class_index"], row["problem"]) == (one["class_index"], "")


CLUSTER = """
import os, sys, threading, time
from pathlib import Path
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
from ray.cluster_utils import Cluster
from xgradcam.cli.xgrad_cam import main
memory = {"num_cpus": 1, "object_store_memory": 100_000_000}
cluster = Cluster(initialize_head=True, head_node_args={**memory, "include_dashboard": False})
second = cluster.add_node(**memory)
over = threading.Event()

def remove():
    while not list(Path("out/.xgrad-cam.shards").glob("*.part")):
        if over.wait(0.02):
            return
    cluster.remove_node(second, allow_graceful=False)
    print("removed", flush=True)

thread = threading.Thread(target=remove)
thread.start()
code = main([*sys.argv[1:], "--ray-address", cluster.address])
over.set()
thread.join()
cluster.shutdown()
sys.exit(code)
"""


def test_a_machine_that_leaves_the_cluster_costs_no_photograph(slow):
    pytest.importorskip("ray")
    noise("photos", 48)
    slow = [*SLOW, "--batch-size", "1"]
    main([*slow, "--quiet"])
    whole = tree("out")
    shutil.rmtree("out")
    command = [sys.executable, "-c", CLUSTER, *slow, "--workers", "2", "--shard-size", "8"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=90)
    assert done.returncode == 0, done.stderr
    assert "removed" in done.stdout
    assert "48 photographs explained, 0 failed" in done.stderr
    assert tree("out") == whole
    assert left_over() == []


def test_without_ray_a_line_says_how_to_install_it(own_models, capsys, monkeypatch):
    noise("photos", 2)
    monkeypatch.setattr("xgradcam.runs.ray_engine.find_spec", lambda _name: None)
    assert main([*RUN, "--workers", "2"]) == 2
    assert capsys.readouterr().err == (
        "xgrad-cam: error: Ray is not installed, which starts the workers: pip install 'xgradcam[ray]'\n"
    )


def test_neither_the_package_nor_a_run_without_workers_imports_ray(own_models):
    noise("photos", 16)
    code = (
        "import sys, xgradcam\nfrom xgradcam.cli.xgrad_cam import main\n"
        "assert main(sys.argv[1:]) == 0\nassert main([*sys.argv[1:], '--shard', '1/1']) == 0\n"
        "xgradcam.Explainer, xgradcam.explain_dataset\n"
        "print([name for name in sys.modules if name.partition('.')[0] in ('ray', 'pyarrow', 'pandas')])"
    )
    command = [sys.executable, "-c", code, *RUN, "--quiet"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--ray-address", "auto"], "--ray-address is about the processes of --workers"),
        (["--gpus-per-worker", "1"], "--gpus-per-worker is about the processes of --workers"),
        (["--workers", "2", "--device", "cuda:1"], "--device cuda:1 is one GPU"),
        (["--workers", "2", "--gpus-per-worker", "1"], "no CUDA device here"),
    ],
)
def test_what_makes_no_sense_is_one_line(own_models, options, words, capsys, monkeypatch):
    monkeypatch.setattr("xgradcam.runs.ray_engine.find_spec", lambda _name: "there")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    noise("photos", 2)
    assert main([*RUN, *options]) == 2
    err = capsys.readouterr().err
    assert words in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("is_movable", [True, False])
def test_the_command_holds_no_weights_while_the_workers_compute(monkeypatch, is_movable):
    net = nn.Linear(4, 4)
    if not is_movable:
        monkeypatch.setattr(nn.Linear, "to", property(lambda _: 1 / 0))
    device = SimpleNamespace(type="cpu")
    _release(SimpleNamespace(classifier=SimpleNamespace(module=net, device=lambda: device)))
    assert net.weight.is_meta == is_movable


def test_workers_do_anew_what_has_changed_in_shards_that_were_done(engine, own_models, capsys):
    noise("photos", 16)
    options = [*RUN, "--batch-size", "4", "--shard-size", "4"]
    assert main([*options, "--shard", "1/2", "--quiet"]) == 0
    assert len(parts()) == 2
    shutil.copy("photos/0015.png", "photos/0001.png")
    done = sorted(Path("out").glob("0000_*.npz"))[0]
    before = done.stat().st_mtime_ns
    assert main([*options, "--workers", "2", "--resume"]) == 0
    assert "9 photographs explained, 0 failed, 7 complete before" in capsys.readouterr().err
    assert done.stat().st_mtime_ns == before
    resumed = tree("out")
    shutil.rmtree("out")
    assert main([*RUN, "--batch-size", "4", "--quiet"]) == 0
    whole = tree("out")
    assert resumed.keys() == whole.keys()
    changed = [name for name in whole if name.startswith(("0001_", "0015_")) and name.endswith(".npz")]
    assert len(changed) == 2
    for name in changed:
        assert resumed[name] == whole[name]
