"""`python -m xgradcam.evaluation` measures which map to trust; `--help` says how."""

import sys

# The one import from cli/, which lies above: a command has to start somewhere.
from xgradcam.cli.evaluate import main

sys.exit(main())
