"""The cores that a process may use: those it is bound to, and the time that its control groups allow."""

import os
from types import SimpleNamespace

import pytest

from xgradcam.runs import cores

V2, V1 = "0::/box/inner\n", "5:memory:/other\n4:cpu,cpuacct:/box/inner\n0::/\n"


@pytest.fixture
def limited(tmp_path, monkeypatch):
    """Set the count of the machine's cores, the process's groups, and the groups' files."""

    def limit(count, own, files):
        monkeypatch.setattr(cores, "_cores", lambda: count)
        monkeypatch.setattr(cores, "GROUPS", tmp_path / "groups")
        monkeypatch.setattr(cores, "OWN_GROUPS", tmp_path / "own")
        if own is not None:
            (tmp_path / "own").write_text(own)
        for name, text in files.items():
            path = tmp_path / "groups" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    return limit


@pytest.mark.parametrize(
    ("own", "files", "usable"),
    [
        (None, {"cpu.max": "100000 100000\n"}, 16),
        (V2, {}, 16),
        (V2, {"box/inner/cpu.max": "max 100000\n"}, 16),
        (V2, {"box/inner/cpu.max": "400000 100000\n"}, 4),
        (V2, {"box/inner/cpu.max": "250000 100000\n"}, 3),
        (V2, {"box/inner/cpu.max": "10000 100000\n"}, 1),
        (V2, {"box/inner/cpu.max": "9900000 100000\n"}, 16),
        (V2, {"box/inner/cpu.max": "max 100000\n", "box/cpu.max": "200000 100000\n"}, 2),
        (V2, {"cpu.max": "300000 100000\n"}, 3),
        (V2, {"unified/box/inner/cpu.max": "300000 100000\n"}, 3),
        (V2, {"box/inner/cpu.max": "nonsense"}, 16),
        ("0::/../../elsewhere\n", {"cpu.max": "200000 100000\n"}, 2),
        (V1, {"cpu/box/inner/cpu.cfs_quota_us": "-1\n", "cpu/box/inner/cpu.cfs_period_us": "100000\n"}, 16),
        (V1, {"cpu/box/inner/cpu.cfs_quota_us": "50000\n", "cpu/box/inner/cpu.cfs_period_us": "10000\n"}, 5),
        (V1, {"cpu,cpuacct/cpu.cfs_quota_us": "200000\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"}, 2),
        (V1, {"cpu/box/inner/cpu.cfs_quota_us": "200000\n"}, 16),
        (V1, {"cpu/other/cpu.cfs_quota_us": "100000\n", "cpu/other/cpu.cfs_period_us": "100000\n"}, 16),
    ],
)
def test_the_least_of_the_cores_and_the_groups_limits_counts(limited, own, files, usable):
    limited(16, own, files)
    assert cores.usable_cores() == usable


def test_only_cores_that_the_process_is_bound_to_count(monkeypatch):
    monkeypatch.setattr(cores, "os", SimpleNamespace(process_cpu_count=lambda: 3))
    assert cores._cores() == 3
    monkeypatch.setattr(cores, "os", SimpleNamespace(sched_getaffinity=lambda _process: {1, 5, 6, 7}))
    assert cores._cores() == 4
    monkeypatch.setattr(cores, "os", SimpleNamespace(cpu_count=lambda: None))
    assert cores._cores() == 1


def test_this_process_may_use_some_cores_and_no_more_than_there_are():
    assert 1 <= cores.usable_cores() <= os.cpu_count()
