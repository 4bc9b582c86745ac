"""The measurement of the interpreter's lock."""

import runpy
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into another process by /proc")
def test_the_small_form_finds_the_lock_held_and_free(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    script = runpy.run_path(str(SCRIPTS / "measure_lock.py"))
    assert script["main"](["--quick"]) == 0
    rows = [line.strip("|").split("|") for line in capsys.readouterr().out.splitlines() if "(" in line]
    found = {title.strip(): float(numbers.split()[0]) for title, numbers in rows}
    assert [*found] == [*script["KINDS"].values(), "all", "the processor's time of all"]
    *each, whole, processor = found.values()
    assert min(each) > 0
    assert whole == pytest.approx(sum(each), abs=0.02)
    # Decoding and encoding leave the lock to others.
    assert whole < 0.8 * processor
