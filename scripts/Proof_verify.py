"""The original command line, from a clone: python scripts/Proof_verify.py --image-path IMG ..."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from xgradcam.cli.proof_verify import main

sys.exit(main())
