"""The plan of a run in shards."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.runs.support import run_of
from xgradcam.errors import XGradCamError
from xgradcam.runs.shards import FOLDER, PLAN, plan_in, plan_of, require_files, shard_size
from xgradcam.runs.sources import Source


def sources_of(*names):
    return [Source(f"{name}.jpg", name) for name in names]


def plan(net, names="abcdefg", size=4, folded=0, **settings):
    run = run_of(net, sources=sources_of(*names), explaining={"batch_size": 2})
    return plan_of(replace(run, settings=settings), folded, size)


@given(
    st.integers(1, 10**6), st.integers(1, 64), st.integers(1, 100), st.one_of(st.none(), st.integers(1, 9999))
)
def test_shards_are_whole_batches_and_hold_each_photograph_once(photographs, batch, processes, asked):
    size = shard_size(photographs, batch, processes, asked)
    assert size % batch == 0
    assert size - batch < (asked or 512) <= max(size, 512)
    count = -(-photographs // size)
    assert (count - 1) * size < photographs <= count * size
    if asked is None and photographs >= 4 * batch * processes:
        assert count >= 2 * processes


def test_the_photographs_come_in_the_commands_order(net):
    sources = sources_of(*"abcdefg")
    found = plan(net)
    assert found.count == 2
    assert [*found.of(0, sources), *found.of(1, sources)] == sources
    assert [found.shard_of(position) for position in range(7)] == [0, 0, 0, 0, 1, 1, 1]
    with pytest.raises(XGradCamError, match="the shard size is 0: take 1 or more"):
        shard_size(5, 8, 1, 0)


def test_a_plan_is_read_as_it_was_written(net, tmp_path):
    assert plan_in(tmp_path) is None
    (tmp_path / FOLDER).mkdir()
    assert plan_in(tmp_path) is None
    written = plan(net, mean=(0.1, 0.30000000000000004), classes=["é", None])
    written.write(tmp_path)
    assert plan_in(tmp_path) == written
    assert json.dumps(plan_in(tmp_path).settings) == json.dumps(
        {"mean": [0.1, 0.30000000000000004], "classes": ["é", None]}
    )


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"settings": {}}', "null", "\0"])
def test_a_damaged_plan_is_one_line(net, tmp_path, text):
    plan(net).write(tmp_path) if (tmp_path / FOLDER).mkdir() else None
    (tmp_path / FOLDER / PLAN).write_text(text)
    with pytest.raises(XGradCamError, match=r"cannot read .*plan.json: .*delete its folder to begin anew"):
        plan_in(tmp_path)


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"layers": ["x"]}, r"layers \(--target-layer\): give"),
        ({"precision": "bf16", "layers": ["a"]}, "precision: give"),
        ({"layers": ["a"], "size": 6}, "shard_size: give"),
        ({"layers": ["a"], "names": "abcdef"}, r"photographs \(7 then, 6 now, or other ones\): give"),
        ({"layers": ["a"], "names": "abcdeg"}, "photographs"),
        ({"layers": ["a"], "names": "gfedcba"}, "photographs"),
        ({"layers": ["b"], "size": 2}, r"layers \(--target-layer\), shard_size: give"),
    ],
)
def test_another_plan_is_refused_by_the_names_of_the_options(net, other, named):
    first = plan(net, layers=["a"])
    first.require_same(plan(net, layers=["a"]), Path("out"))
    with pytest.raises(XGradCamError, match=f"a run in out is not finished, .* other settings for {named}"):
        first.require_same(plan(net, **other), Path("out"))


def test_what_one_process_alone_can_read_is_refused():
    require_files(sources_of("a"))
    with pytest.raises(XGradCamError, match="- reads a photograph from stdin"):
        require_files([*sources_of("a"), Source("-", "stdin")])
