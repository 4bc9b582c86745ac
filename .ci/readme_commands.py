"""Print the commands of a Markdown file: its ```sh blocks, which the checks run in their order.

python .ci/readme_commands.py README.md | bash -eux
"""

import re
import sys
from pathlib import Path

blocks = re.findall(
    r"^```sh\n(.*?)^```$", Path(sys.argv[1]).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
)
if not blocks:
    sys.exit(f"no ```sh block in {sys.argv[1]}")
print("\n".join(blocks))
