"""Put what was measured, as it really is, into the documentation.

``python docs/refresh.py DEMO``, run by ``make docs`` with the demo's output folder: its table and figures, and the
output of the README's ten lines. ``python docs/refresh.py explore DEMO``: pictures of the demo's page, by Chromium.
``python docs/refresh.py atlas FOLDER``, with the folder of ``pyro-vae atlas``: its map, its tables and what it says of
claims. ``python docs/refresh.py notebooks [FILE ...]`` runs notebooks (all of ``tutorials/`` if none is named) and
stores them with their output, and with a digest of the code that made it. ``python docs/refresh.py guides [FILE ...]``
runs the blocks of Python and shell of ``docs/guides`` in an empty folder, one after the other, and puts what they print
into the block of text that follows.
"""

import contextlib
import hashlib
import io
import itertools
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

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


def explore(demo: Path) -> None:
    """Open the demo's page in a headless Chromium that is on PATH, and take pictures of two of its figures."""
    from playwright.sync_api import sync_playwright

    browser = next(path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name)))
    settings = "#z=0.9,-0.6&x=17&q=hand&m=-0.55,0.35&s=0.3,0.45&kernel=hmc&step=0.12&draws=60&seed=3"
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = opened.new_page(viewport={"width": 1160, "height": 900}, color_scheme="light")
        page.goto(f"{(demo / 'explore.html').resolve().as_uri()}{settings}")
        page.wait_for_function("window.explorer && explorer.ready && explorer.figures.bound.best")
        page.wait_for_function("explorer.figures.bound.found.refined")
        for name in ("bound", "chains"):
            box = page.locator(f"section[aria-labelledby=h-{name}]").bounding_box() or {}
            clip = box | {"x": 0, "width": 1160, "y": box["y"] + 8}
            page.screenshot(path=ROOT / "docs" / "figures" / f"explore-{name}.png", clip=clip, full_page=True)
        opened.close()


def atlas(folder: Path) -> None:
    """Write the atlas' map, and its tables between the markers of its page."""
    from pyro_vae import plots
    from pyro_vae.atlas import claims, read
    from pyro_vae.runs.folder import versions

    found = read(folder)
    plots.atlas_map(found).savefig(ROOT / "docs" / "figures" / "atlas.png", dpi=110)
    page = ROOT / "docs" / "atlas.md"
    text = page.read_text(encoding="utf-8")
    installed = ", ".join(f"{name} {version}" for name, version in versions().items())
    about = f"{len(found.cells)} cells; {installed}"
    tables = {
        "machine": about,
        "verdicts": found.verdicts().to_string(float_format=lambda share: f"{share:.2f}"),
        "claims": "\n".join(f"{claim}:\n    {said}." for claim, said in claims(found)),
        "means": found.table("mean_error").round(2).to_string(na_rep="-"),
        "ratios": found.table("std_ratio").round(2).to_string(na_rep="-"),
        "evaluations": found.table("num_gradients").to_string(na_rep="-", float_format=lambda n: f"{n:.0f}"),
        "seconds": found.table("seconds").round(1).to_string(na_rep="-"),
    }
    for marker, content in tables.items():
        text = _filled(text, marker, content)
    page.write_text(text, encoding="utf-8")


def digest(notebook: dict[str, Any]) -> str:
    """Return what says whether a notebook's stored output is that of its code: a hash of its code cells."""
    code = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return hashlib.sha256("\n\0\n".join(code).encode()).hexdigest()


def notebooks(paths: list[Path]) -> None:
    """Run notebooks from top to bottom and store them with what they show."""
    import nbformat
    from nbclient import NotebookClient

    for path in paths or sorted((ROOT / "tutorials").rglob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        NotebookClient(
            notebook, timeout=600, record_timing=False, resources={"metadata": {"path": path.parent}}
        ).execute()
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs = [output for output in cell.outputs if _shows(output)]
        notebook.metadata = {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
            "digest": digest(notebook),
        }
        nbformat.write(notebook, path)
        print(f"{path.name}: {path.stat().st_size / 1024:.0f} KiB")


def _shows(output: dict[str, Any]) -> bool:
    """Whether a reader sees anything: warnings of libraries are left out, and prints of nothing."""
    return output.get("name") != "stderr" and bool(output.get("text", "something").strip())


class Blocks:
    """The fenced blocks of a page, and what a block prints when they run one after the other."""

    _FENCE = re.compile(r"```(python|sh|text)\n(.*?)```", flags=re.DOTALL)

    def __init__(self, page: Path) -> None:
        self.page, self.text = page, page.read_text(encoding="utf-8")
        self.found = [(match[1], match[2]) for match in self._FENCE.finditer(self.text)]

    def python(self) -> str:
        """All Python of the page."""
        return "\n".join(code for language, code in self.found if language == "python")

    def run(self) -> None:
        """Run what has a block of text after it, and the Python before that, and write the page with the output."""
        names: dict[str, Any] = {"__name__": "__main__"}
        outputs = []
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            for (language, code), (after, _) in itertools.pairwise([*self.found, ("", "")]):
                if language == "python":
                    printed = io.StringIO()
                    with contextlib.redirect_stdout(printed):
                        exec(code, names)
                    said = printed.getvalue()
                elif language == "sh" and after == "text":
                    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
                    environment = {**os.environ, "PATH": path, "COLUMNS": "110", "TERM": "dumb"}
                    command = ["bash", "-o", "pipefail", "-c", code]
                    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
                if language == "text":
                    outputs.append("\n".join(line.rstrip() for line in said.strip("\n").splitlines()))
        rest = iter(outputs)
        text = self._FENCE.sub(lambda m: f"```text\n{next(rest)}\n```" if m[1] == "text" else m[0], self.text)
        self.page.write_text(text, encoding="utf-8")


def guides(paths: list[Path]) -> None:
    """Run the guides' blocks and write what they print below them."""
    for path in paths or sorted((ROOT / "docs" / "guides").glob("*.md")):
        Blocks(path).run()
        print(path.name)


def _filled(text: str, marker: str, content: str) -> str:
    lines = "\n".join(line.rstrip() for line in content.strip("\n").splitlines())
    block = f"<!-- {marker} -->\n```text\n{lines}\n```\n<!-- /{marker} -->"
    return re.sub(f"<!-- {marker} -->.*<!-- /{marker} -->", lambda _: block, text, flags=re.DOTALL)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["atlas", folder]:
            atlas(Path(folder))
        case ["explore", folder]:
            explore(Path(folder))
        case ["notebooks", *files]:
            notebooks([Path(file).resolve() for file in files])
        case ["guides", *files]:
            guides([Path(file).resolve() for file in files])
        case [folder]:
            main(Path(folder))
        case _:
            raise SystemExit(__doc__)
