"""The original command line, from a clone: python scripts/XGrad-CAM.py --image-path IMG ..."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from xgradcam.cli.xgrad_cam import main

sys.exit(main())
