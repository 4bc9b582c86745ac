"""`python -m xgradcam` is `xgrad-cam`."""

import sys

from xgradcam.cli.xgrad_cam import main

sys.exit(main())
