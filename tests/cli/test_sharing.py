"""One run by several processes: --shard, by K/N and by the variables of torchrun and Slurm."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch

from tests.cli.support import OWN, process, tree
from tests.cli.support import SHARED_RUN as RUN
from tests.support import noise
from xgradcam.cli.ranks import Rank
from xgradcam.cli.sharing import own_device
from xgradcam.cli.xgrad_cam import main

pytestmark = pytest.mark.usefixtures("own_models")
LAUNCHERS = {
    "shares": [(["--shard", f"{index}/2"], {}) for index in (1, 2)],
    "torchrun": [(["--shard", "env"], {"RANK": str(index), "WORLD_SIZE": "2"}) for index in (0, 1)],
    "slurm": [(["--shard", "env"], {"SLURM_PROCID": str(index), "SLURM_NTASKS": "3"}) for index in (2, 0, 1)],
    "array": [
        (
            ["--shard", "env", "--shard-size", "16"],
            {"SLURM_ARRAY_TASK_ID": str(index), "SLURM_ARRAY_TASK_COUNT": "2", "SLURM_ARRAY_TASK_MIN": "1"},
        )
        for index in (1, 2)
    ],
    "more processes than shards": [
        (["--shard", f"{index}/9", "--shard-size", "64"], {}) for index in (1, 2, 9)
    ],
}


def code_of(arguments):
    """The exit code of the command, also where its arguments are wrong."""
    try:
        return main(arguments)
    except SystemExit as end:
        return end.code


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_the_files_and_the_journal_are_byte_for_byte_those_of_a_single_process(
    launcher, whole, monkeypatch, capsys
):
    codes = []
    for options, variables in LAUNCHERS[launcher]:
        with monkeypatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            codes.append(main([*RUN, *options]))
    out, err = capsys.readouterr()
    assert sorted(codes) == [0] * (len(codes) - 1) + [1]
    assert tree("out") == whole
    assert err.count("not an image: photos/0077.png") == 1
    assert out.count("wrote out/index.html") == 1
    shards = 2 if launcher == "more processes than shards" else 8
    assert "all shards are done: wrote out/xgrad-cam.jsonl" in out
    assert f"of {shards}; who does the last of them merges all" in out
    assert ("nothing to do: of 2 shards" in out) == (shards == 2)
    assert "Traceback" not in err


def test_several_processes_at_the_same_time(whole):
    running = [process(*RUN, "--quiet", "--shard", f"{index}/2") for index in (1, 2)]
    said = [one.communicate(timeout=80) for one in running]
    assert sorted(one.returncode for one in running) == [0, 1], said
    assert tree("out") == whole


def test_a_process_that_is_killed_is_started_again(whole, capsys):
    killed = process(*RUN, "--quiet", "--shard", "2/2", "--shard-size", "64", "--batch-size", "1")
    shard = Path("out/.xgrad-cam.shards/000001.journal")
    until = time.monotonic() + 60
    while not (shard.exists() and shard.read_bytes().count(b"\n") > 3) and time.monotonic() < until:
        time.sleep(0.01)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert shard.exists()
    options = ["--shard-size", "64", "--batch-size", "1"]
    assert main([*RUN, *options, "--shard", "1/2"]) == 0
    capsys.readouterr()
    assert main([*RUN, *options, "--shard", "2/2", "--resume"]) == 1
    assert "complete before; in out" in capsys.readouterr().err
    files = tree("out")
    assert files.keys() == whole.keys()
    journal = [json.loads(line)["image"] for line in files["xgrad-cam.jsonl"].splitlines()[1:]]
    assert journal == [f"photos/{index:04}.png" for index in range(128) if index != 77]


@pytest.mark.usefixtures("usual_handlers")
def test_an_interrupt_ends_cleanly_and_the_next_one_goes_on(whole, monkeypatch, capsys):
    forward, calls = torch.nn.Linear.forward, []

    def stopped(self, inputs):
        calls.append(len(inputs))
        if len(calls) == 6:
            signal.raise_signal(signal.SIGINT)
        return forward(self, inputs)

    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.Linear, "forward", stopped)
        assert main([*RUN, "--shard", "1/1"]) == 130
    err = capsys.readouterr().err.splitlines()[-1]
    assert err.startswith("xgrad-cam: interrupted: ")
    assert "(--resume goes on)" in err
    assert not [name for name in tree("out") if name.endswith((".lock", ".planning"))]
    for options in (["--resume"], ["--resume", "--shard", "1/1"]):
        assert main([*RUN, *options]) == 1
    assert tree("out") == whole


def test_json_has_all_photographs_also_those_that_were_done_before(capsys):
    noise("photos", 8)
    arguments = [*RUN, "--json", "--batch-size", "2", "--shard-size", "2"]
    assert main([*arguments, "--shard", "1/2"]) == 0
    first = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["image"] for line in first] == [
        f"photos/000{index}.png" for index in (0, 1, 4, 5)
    ]
    assert main([*arguments, "--shard", "1/2"]) == 0
    assert capsys.readouterr().out.splitlines() == first


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--shard", "env"], "--shard env finds no variables of a launcher: RANK and WORLD_SIZE"),
        (["--shard", "3/2"], "'3/2' is no K/N with K from 1 to N"),
        (["--shard", "0/2"], "'0/2' is no K/N"),
        (["--shard", "1/2", "--workers", "2"], "give one of them"),
        (["--shard", "1/2", "--shard-size", "0"], "0 is less than 1"),
        (["--workers", "0"], "0 is less than 1"),
        (["--workers", "2", "--gpus-per-worker", "1.5"], "give 0, a part of 1, or a whole number"),
    ],
)
def test_what_makes_no_sense_is_one_line(options, words, capsys, monkeypatch):
    for name in ("RANK", "SLURM_PROCID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    noise("photos", 1)
    assert code_of([*RUN, *options]) == 2
    err = capsys.readouterr().err
    assert words in err
    assert len(err.splitlines()) == 1


def test_other_options_of_another_process_are_refused_by_name(capsys):
    noise("photos", 16)
    main([*RUN, "--shard", "1/2"])
    capsys.readouterr()
    for options, name in (
        (["--panel"], "panel"),
        (["--shard-size", "80"], "shard_size"),
        (["--batch-size", "4"], "batch_size"),
        (["--method", "grad-cam", "--resume"], "methods"),
    ):
        assert main([*RUN, "--shard", "2/2", *options]) == 2
        assert f"other settings for {name}" in capsys.readouterr().err


def test_a_single_photograph_is_done_by_the_first_process(capsys):
    noise("photos", 1)
    arguments = ["--image-path", "photos/0000.png", "--output-dir", "out", *OWN]
    assert main([*arguments, "--shard", "2/2"]) == 0
    assert not Path("out").exists()
    assert "nothing to do" in capsys.readouterr().out
    assert main([*arguments, "--shard", "1/2"]) == 0
    assert sorted(os.listdir("out")) == ["X_cam.jpg", "cam.jpg"]


@pytest.mark.parametrize(
    ("device", "rank", "own"),
    [
        ("cpu", Rank(3, 4, 1), "cpu"),
        ("cuda", None, "cuda"),
        ("cuda", Rank(3, 4), "cuda"),
        ("cuda", Rank(3, 4, 1), "cuda:1"),
        ("cuda", Rank(3, 4, 3), "cuda:1"),
        ("cuda:0", Rank(3, 4, 1), "cuda:0"),
    ],
)
def test_each_process_of_a_machine_takes_a_gpu_of_its_own(device, rank, own, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert str(own_device(torch.device(device), rank)) == own
