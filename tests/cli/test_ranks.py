"""A process's share of a run, by the variables of its launcher."""

import pytest

from xgradcam.cli.ranks import Rank, rank_in
from xgradcam.errors import XGradCamError

ARRAY = {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "5"}
ALONE = {"SLURM_PROCID": "0", "SLURM_NTASKS": "1", "SLURM_LOCALID": "0"}


@pytest.mark.parametrize(
    ("variables", "rank"),
    [
        ({"RANK": "0", "WORLD_SIZE": "1"}, Rank(0, 1)),
        ({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}, Rank(3, 8, 1, 2)),
        ({"SLURM_PROCID": "2", "SLURM_NTASKS": "3"}, Rank(2, 3)),
        ({**ALONE, "SLURM_PROCID": "9", "SLURM_NTASKS": "10", "SLURM_LOCALID": "4"}, Rank(9, 10, 4)),
        (ARRAY, Rank(2, 4)),
        ({"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "4"}, Rank(3, 4)),
        ({**ARRAY, **ALONE}, Rank(2, 4, 0)),
        ({**ARRAY, "SLURM_PROCID": "1", "SLURM_NTASKS": "3"}, Rank(7, 12)),
        ({**ARRAY, "RANK": "1", "WORLD_SIZE": "2", **ALONE}, Rank(5, 8, 0)),
        ({**ARRAY, "SLURM_ARRAY_TASK_MAX": "8", "SLURM_ARRAY_TASK_STEP": "1"}, Rank(2, 4)),
        (
            {**ARRAY, "SLURM_ARRAY_TASK_ID": "9", "SLURM_ARRAY_TASK_MAX": "11", "SLURM_ARRAY_TASK_STEP": "2"},
            Rank(2, 4),
        ),
        # torchrun started by srun: its own number counts.
        ({"RANK": "5", "WORLD_SIZE": "8", "SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, Rank(5, 8)),
    ],
)
def test_the_share_is_what_the_launcher_says(variables, rank):
    assert rank_in(variables) == rank


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_tasks_of_an_array_with_several_processes_have_all_shares_once(count):
    ranks = [
        rank_in(
            {
                "SLURM_ARRAY_TASK_ID": str(task),
                "SLURM_ARRAY_TASK_COUNT": "3",
                "SLURM_ARRAY_TASK_MIN": "0",
                "SLURM_PROCID": str(process),
                "SLURM_NTASKS": str(count),
            }
        )
        for task in range(3)
        for process in range(count)
    ]
    assert [rank.index for rank in ranks] == list(range(3 * count))
    assert {rank.count for rank in ranks} == {3 * count}


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({}, r"RANK and WORLD_SIZE .*SLURM_ARRAY_TASK_ID and .*COUNT .*SLURM_PROCID and SLURM_NTASKS"),
        ({"WORLD_SIZE": "2"}, "finds no variables"),
        ({"RANK": "1"}, "WORLD_SIZE is not set"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK is 2 and WORLD_SIZE 2"),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, "RANK is '-1', which is no number"),
        ({"RANK": "", "WORLD_SIZE": "2"}, "no number"),
        ({"RANK": "²", "WORLD_SIZE": "2"}, "no number"),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "1(x2)"}, "SLURM_NTASKS is '1.x2.'"),
        ({"SLURM_ARRAY_TASK_ID": "1"}, "SLURM_ARRAY_TASK_COUNT is not set"),
        ({**ARRAY, "SLURM_ARRAY_TASK_MAX": "20"}, "none of 4 without gaps from 5"),
        ({"SLURM_ARRAY_TASK_ID": "4", "SLURM_ARRAY_TASK_COUNT": "4"}, "from 0 .by SLURM_ARRAY_TASK_MIN"),
        ({**ARRAY, "SLURM_ARRAY_TASK_STEP": "4"}, "without gaps"),
    ],
)
def test_a_share_that_is_not_certain_is_refused(variables, words):
    with pytest.raises(XGradCamError, match=words):
        rank_in(variables)
