"""The options of runs on many processes and machines."""

import argparse
import re

ENGINES = ("ray",)
ENVIRONMENT = "env"
# `xgradcam.runs.packs` has them too, but importing it takes a moment.
FILES, WEBDATASET, PARQUET = FORMATS = ("files", "webdataset", "parquet")
SHARE = re.compile(r"(\d{1,9})/(\d{1,9})")


def add_scale_arguments(group: argparse._ActionsContainer) -> None:
    """Add the options to the group of many photographs."""
    group.add_argument(
        "--workers", metavar="INT", type=_positive,
        help="processes that share the photographs, on this machine or on a cluster, started by --engine",
    )  # fmt: skip
    group.add_argument(
        "--engine", choices=ENGINES, default=ENGINES[0],
        help="what starts the workers: ray (default; pip install 'xgradcam[ray]')",
    )  # fmt: skip
    group.add_argument(
        "--ray-address", metavar="ADDRESS",
        help="a Ray cluster to work on: auto for the one that this machine belongs to, or HOST:PORT; "
        "default: this machine alone",
    )  # fmt: skip
    group.add_argument(
        "--gpus-per-worker", metavar="NUMBER", type=_share,
        help="GPUs that a worker takes, 0.5 for two workers on each; default: 1 with --use-cuda or --device "
        "cuda, else 0",
    )  # fmt: skip
    group.add_argument(
        "--shard", metavar="K/N|env", type=_shard,
        help="do the K-th of N shares of the photographs in this process, and merge all when the last is "
        f"done; {ENVIRONMENT} takes K and N from torchrun or Slurm",
    )  # fmt: skip
    group.add_argument(
        "--shard-size", metavar="INT", type=_positive,
        help="photographs in a shard, the part that a process does at a time, in whole batches; default: "
        "512, or less if there are few",
    )  # fmt: skip


def add_format_argument(group: argparse._ActionsContainer) -> None:
    """Add the option of the files that results are in."""
    group.add_argument(
        "--output-format", choices=FORMATS,
        help="where results go: files, a file each; webdataset, the same files in a tar of each shard of "
        "512 photographs (--shard-size); parquet, a table of each shard, with the maps as numbers and no "
        "pictures (pip install 'xgradcam[parquet]'). Default: files, and webdataset for more than 100,000 "
        "photographs",
    )  # fmt: skip


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number


def _share(text: str) -> float:
    number = float(text)
    # Ray gives several GPUs whole only.
    if not number >= 0 or (number > 1 and number != int(number)):
        raise argparse.ArgumentTypeError(f"{text}: give 0, a part of 1, or a whole number")
    return number


def _shard(text: str) -> tuple[int, int] | str:
    """The share that the text means, counted from 0, and how many there are; or `env`."""
    if text == ENVIRONMENT:
        return text
    found = SHARE.fullmatch(text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is no K/N with K from 1 to N, as 3/50, nor {ENVIRONMENT}")
    return int(found[1]) - 1, int(found[2])
