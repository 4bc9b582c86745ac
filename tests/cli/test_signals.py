"""Signals that stop a command."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from tests.cli.support import OWN, process, tree
from tests.support import noise
from xgradcam.cli.signals import Stopped, exit_code_of, stoppable
from xgradcam.cli.xgrad_cam import main

pytestmark = pytest.mark.usefixtures("own_models")
RUN = ["--image-path", "photos", "--target-index", "1", "--batch-size", "1", "--output-dir", "out", *OWN]
NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.mark.usefixtures("usual_handlers")
@pytest.mark.parametrize("number", NUMBERS)
def test_a_run_that_is_stopped_has_a_last_line_and_goes_on_later(number, monkeypatch, capsys):
    noise("photos", 4)
    assert main([*RUN[:-6], "--output-dir", "whole", *OWN]) == 0
    before = [signal.getsignal(other) for other in NUMBERS]
    forward, calls = torch.nn.Linear.forward, []

    def stopped(self, inputs):
        calls.append(len(inputs))
        if len(calls) == 5:
            signal.raise_signal(number)
        return forward(self, inputs)

    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.Linear, "forward", stopped)
        assert main(RUN) == 128 + number
    assert [signal.getsignal(other) for other in NUMBERS] == before
    err = capsys.readouterr().err
    assert "xgrad-cam: interrupted: " in err.splitlines()[-1]
    assert "(--resume goes on)" in err
    assert "Traceback" not in err
    assert not [name for name in tree("out") if name.endswith((".part", ".lock"))]
    assert main([*RUN, "--resume"]) == 0
    after, whole = tree("out"), tree("whole")
    assert {name: after[name] for name in after if name.endswith(".jpg")} == {
        name: whole[name] for name in whole if name.endswith(".jpg")
    }
    assert after.keys() == whole.keys()


def test_signals_that_are_ignored_or_handled_are_left_alone():
    told = []
    before = (
        signal.signal(signal.SIGHUP, signal.SIG_IGN),
        signal.signal(signal.SIGTERM, lambda *_: told.append(1)),
    )
    try:
        with stoppable("test", False):
            signal.raise_signal(signal.SIGHUP)
            signal.raise_signal(signal.SIGTERM)
        assert told == [1]
    finally:
        signal.signal(signal.SIGHUP, before[0])
        signal.signal(signal.SIGTERM, before[1])


def test_the_first_signal_stops_and_others_than_an_interrupt_are_passed_over_then():
    with stoppable("test", False):
        with pytest.raises(Stopped) as stopped:
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGHUP)
    assert exit_code_of(stopped.value) == 143
    assert exit_code_of(KeyboardInterrupt()) == 130


def test_in_another_thread_signals_are_as_they_were():
    before = signal.getsignal(signal.SIGTERM)
    same = []

    def work():
        with stoppable("test", False):
            same.append(signal.getsignal(signal.SIGTERM) is before)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert same == [True]


TWICE = """
import signal, sys, time
import torch
from xgradcam.cli.signals import stoppable
with stoppable("test", True):
    try:
        print("ready", flush=True)
        {work}
    finally:
        time.sleep(60)
"""


@pytest.mark.parametrize("work", ["time.sleep(60)", "torch.empty(60_000_000).normal_().sort()"])
def test_a_second_interrupt_ends_the_process_at_once_also_in_a_long_call(work):
    running = subprocess.Popen(
        [sys.executable, "-c", TWICE.format(work=work)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    running.stdout.readline()
    time.sleep(0.3)
    started = time.monotonic()
    for _ in range(2):
        running.send_signal(signal.SIGINT)
        time.sleep(0.2)
    _, err = running.communicate(timeout=30)
    assert time.monotonic() - started < 2
    assert running.returncode == 130
    assert err == "test: interrupted\n"


@pytest.mark.slow
def test_signals_while_the_process_ends_change_nothing():
    noise("photos", 30)
    running = process(*RUN)
    for _ in range(5):
        running.stdout.readline()
    running.send_signal(signal.SIGTERM)
    while running.poll() is None:
        running.send_signal(signal.SIGTERM)
        time.sleep(0.01)
    assert running.communicate()[1].splitlines()[-1].startswith("xgrad-cam: interrupted: ")
    assert running.returncode == 143


@pytest.mark.slow
def test_after_a_kill_the_next_run_clears_up():
    noise("photos", 30)
    arguments = [*RUN, "--save-maps", "--panel"]
    for more in ([], ["--resume"]):
        running = process(*arguments, *more)
        for _ in range(4):
            running.stdout.readline()
        running.kill()
        running.communicate()
        assert Path("out/.xgrad-cam.lock").exists()
        assert Path("out/.xgrad-cam.names").exists()
    Path("out/.xgradcam-0123456789abcdef-3.part").touch()
    assert main([*arguments, "--resume"]) == 0
    assert not [name for name in os.listdir("out") if name.startswith(".")]
    assert len(tree("out")) == 30 * 4 + 1
