"""The evaluation, from a clone: python scripts/evaluate.py FOLDER ..."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from xgradcam.cli.evaluate import main

sys.exit(main())
