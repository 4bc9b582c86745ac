"""This process's share of a run, by what its launcher says: torchrun or Slurm."""

from collections.abc import Mapping
from dataclasses import dataclass

from xgradcam.errors import XGradCamError, shown

# Variables of a process's number, and of how many there are, in the launchers' order of precedence.
TORCHRUN, SLURM = ("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS")
ARRAY = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT")
FIRST, LAST, STEP = "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_MAX", "SLURM_ARRAY_TASK_STEP"
LOCAL = ("LOCAL_RANK", "SLURM_LOCALID")
LOCAL_COUNT = "LOCAL_WORLD_SIZE"


@dataclass(frozen=True)
class Rank:
    """A process of several: its number, counted from 0, and how many there are.

    local: its number on its machine, None where that is not known; beside: processes on its machine.
    """

    index: int
    count: int
    local: int | None = None
    beside: int = 1


def rank_in(variables: Mapping[str, str]) -> Rank:
    """The rank that the environment gives; XGradCamError where there is none, or none that is certain.

    The tasks of an array may each have several processes.
    """
    within = next((names for names in (TORCHRUN, SLURM) if names[0] in variables), None)
    if within is None and ARRAY[0] not in variables:
        raise XGradCamError(
            f"--shard env finds no variables of a launcher: {' and '.join(TORCHRUN)} (torchrun), "
            f"{' and '.join(ARRAY)} (sbatch --array) or {' and '.join(SLURM)} (srun); start it by one, or "
            "give --shard K/N"
        )
    index, count = _pair(variables, *within) if within else (0, 1)
    if ARRAY[0] in variables:
        task, tasks = _task(variables)
        index, count = task * count + index, tasks * count
    local = next((_number(variables, name) for name in LOCAL if name in variables), None)
    beside = _number(variables, LOCAL_COUNT) if LOCAL_COUNT in variables else 1
    return Rank(index, count, local, max(1, beside))


def _task(variables: Mapping[str, str]) -> tuple[int, int]:
    """The number of an array's task, counted from 0, and how many there are."""
    number, count = _number(variables, ARRAY[0]), _number(variables, ARRAY[1])
    first = _number(variables, FIRST) if FIRST in variables else 0
    step = max(1, _number(variables, STEP)) if STEP in variables else 1
    last = _number(variables, LAST) if LAST in variables else first + step * (count - 1)
    index = (number - first) // step
    if (last - first) // step + 1 != count or (number - first) % step or not 0 <= index < count:
        raise XGradCamError(
            f"task {number} of the array is none of {count} without gaps from {first} (by {FIRST}, which is "
            "0 if not set): give the array as 0-N, or --shard K/N"
        )
    return index, count


def _pair(variables: Mapping[str, str], name: str, of: str) -> tuple[int, int]:
    index, count = _number(variables, name), _number(variables, of)
    if index >= count:
        raise XGradCamError(f"{name} is {index} and {of} {count}: numbers begin with 0")
    return index, count


def _number(variables: Mapping[str, str], name: str) -> int:
    text = variables.get(name)
    if text is None:
        raise XGradCamError(f"--shard env: {name} is not set; start it by one launcher, or give --shard K/N")
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise XGradCamError(f"--shard env: {name} is {shown(text)}, which is no number: give --shard K/N")
    return int(text)
