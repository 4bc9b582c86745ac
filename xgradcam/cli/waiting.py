"""Idle threads of PyTorch give their core away while photographs are read and written."""

import os
import sys
from collections.abc import Sequence
from glob import has_magic

from xgradcam.runs.cores import usable_cores

# The setting of OpenMP, which PyTorch reads when it is imported.
SETTING, SLEEP = "OMP_WAIT_POLICY", "passive"
# With more cores there are enough for threads that spin, and to wake many takes longer than to wait for them.
FEW_CORES = 4
# Endings of files that hold or name many photographs; `xgradcam.runs.inputs` has them, too.
HOLDING = (".tar", ".parquet", ".pq", ".txt", ".lst", ".list")


def sleep_when_idle(places: Sequence[str]) -> None:
    """Have PyTorch's threads sleep while they wait for work, if there may be several photographs at `places`.

    By default they spin, which keeps a core from the threads that read and write: on two cores that costs a
    fifth of the rate. Without effect where the user has set it, and after PyTorch's import.
    """
    several = len(places) > 1 or any(
        has_magic(place) or os.path.isdir(place) or place.lower().endswith(HOLDING) for place in places
    )
    if several and 1 < usable_cores() <= FEW_CORES and "torch" not in sys.modules:
        os.environ.setdefault(SETTING, SLEEP)
