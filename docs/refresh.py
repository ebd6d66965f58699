"""Put the demo's table and figure, as it really made them, into the README.

Run by ``make docs`` with the demo's output folder.
"""

import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def main(demo: Path) -> None:
    """Copy the figures and replace the table between the README's markers."""
    for figure in ("posteriors.png", "latent-space.png"):
        shutil.copy(demo / figure, ROOT / "docs" / "figures" / figure)
    table = (demo / "table.txt").read_text(encoding="utf-8").strip()
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    block = f"<!-- demo -->\n```text\n{table}\n```\n<!-- /demo -->"
    readme.write_text(
        re.sub(r"<!-- demo -->.*<!-- /demo -->", lambda _: block, text, flags=re.DOTALL), encoding="utf-8"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
