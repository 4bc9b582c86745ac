"""Tries of a shard."""

import json
from pathlib import Path

import pytest

from xgradcam.errors import XGradCamError
from xgradcam.runs.sources import Source
from xgradcam.runs.tries import DEATHS, Tries

pytestmark = pytest.mark.usefixtures("own_folder")
SOURCES = [Source(f"{index}.jpg", str(index)) for index in range(5)]


@pytest.mark.parametrize(
    ("tries", "units"),
    [
        ([], [("shard", 5, False)]),
        (["shard"], [("shard", 5, False)]),
        (["shard"] * 2, [("batch 0", 2, False), ("batch 2", 2, False), ("batch 4", 1, False)]),
        (
            ["shard", "shard", "batch 2"],
            [
                ("batch 0", 2, False),
                ("photograph 2", 1, False),
                ("photograph 3", 1, False),
                ("batch 4", 1, False),
            ],
        ),
        (
            ["shard", "shard", "batch 4", "photograph 4"],
            [("batch 0", 2, False), ("batch 2", 2, False), ("photograph 4", 1, True)],
        ),
    ],
)
def test_after_two_deaths_a_shard_is_done_in_batches_and_a_fatal_one_one_by_one(tries, units):
    path = Path("tries")
    path.write_text("".join(json.dumps({"begun": name}) + "\n" for name in tries) + '{"beg')
    assert DEATHS == 2
    found = [(name, len(unit), fatal) for name, unit, fatal in Tries(path).units(SOURCES, 2)]
    assert found == units


def test_what_ends_by_an_error_or_an_interrupt_is_no_death():
    path = Path("tries")
    for error in (KeyboardInterrupt, XGradCamError, KeyError):
        tries = Tries(path)
        with pytest.raises(error), tries.of("shard"):
            raise error
    with tries.of("shard"):
        pass
    assert [name for name, _, _ in Tries(path).units(SOURCES, 2)] == ["shard"]
    begun = path.read_text().count("begun")
    assert begun == 4
