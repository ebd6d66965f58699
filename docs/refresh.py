"""Put the demo's table and figure, and the output of the README's ten lines, as they really are into the README.

Run by ``make docs`` with the demo's output folder.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def main(demo: Path) -> None:
    """Copy the figures and replace what stands between the README's markers."""
    for figure in ("posteriors.png", "latent-space.png"):
        shutil.copy(demo / figure, ROOT / "docs" / "figures" / figure)
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    code = re.search(r"## Ten lines\n\n```python\n(.*?)```", text, flags=re.DOTALL)
    if code is None:
        raise SystemExit("README.md has no block of Python under 'Ten lines'")
    ten = subprocess.run([sys.executable, "-c", code[1]], capture_output=True, text=True, check=True).stdout
    text = _filled(text, "demo", (demo / "table.txt").read_text(encoding="utf-8"))
    readme.write_text(_filled(text, "ten-lines", ten), encoding="utf-8")


def _filled(text: str, marker: str, content: str) -> str:
    lines = "\n".join(line.rstrip() for line in content.strip().splitlines())
    block = f"<!-- {marker} -->\n```text\n{lines}\n```\n<!-- /{marker} -->"
    return re.sub(f"<!-- {marker} -->.*<!-- /{marker} -->", lambda _: block, text, flags=re.DOTALL)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
