"""The script that checks a GPU, in the small form that runs on a CPU."""

import json
import runpy
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return runpy.run_path(str(SCRIPTS / "check_gpu.py"))


def test_the_small_form_runs_on_a_cpu(tmp_path):
    command = [sys.executable, SCRIPTS / "check_gpu.py", "--device", "cpu", "--json", tmp_path / "found.json"]
    result = subprocess.run(
        [*command, "--part", "graphs", "awkward", "waits", "folder", "memory"], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert [row["largest difference"] for row in found["Awkward models"]] == [0.0] * 9
    (row,) = found["Explainer and explain: largest difference of the maps over the largest number"]
    assert [*row.values()] == ["efficientnet-lite0, 2", 0.0, True, "-"]
    assert "| efficientnet-lite0, 2 | 0 | True | - |" in result.stdout
    rows = next(rows for title, rows in found.items() if title.startswith("A folder by the command"))
    assert [(row["network"], row["processes"], row["photographs"]) for row in rows] == [
        ("efficientnet-lite0", 1, 16),
        ("efficientnet-lite0", 2, 16),
    ]
    assert all(row["a second"] > 0 for row in rows)


def test_a_part_that_fails_is_named_and_one_that_comes_too_late_is_left_out(script, capsys):
    def broken(_report):
        raise ZeroDivisionError("by nothing")

    report = script["Report"](None, "cpu", time.monotonic() + 60)
    assert not report.part(broken)
    assert "ZeroDivisionError: by nothing" in capsys.readouterr().out
    assert "ZeroDivisionError" in report.found["broken failed"]
    report.until = 0
    assert report.part(broken)
    assert "broken: left out, the time is over" in capsys.readouterr().out


def test_a_table_has_the_columns_of_all_rows(script, capsys):
    report = script["Report"](None, "cpu", 0)
    report.table("Numbers", [{"name": "a", "one": 0.12345}, {"name": "b", "two": 3}])
    assert capsys.readouterr().out == (
        "\nNumbers\n\n| name | one | two |\n|---|---|---|\n| a | 0.123 | - |\n| b | - | 3 |\n"
    )
