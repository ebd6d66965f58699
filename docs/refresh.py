"""Put what was measured, as it really is, into the documentation.

``python docs/refresh.py DEMO``, run by ``make docs`` with the demo's output folder: its table and figures, and the
output of the README's ten lines. ``python docs/refresh.py explore DEMO``: pictures of the demo's page, by Chromium.
``python docs/refresh.py atlas FOLDER``, with the folder of ``pyro-vae atlas``: its map, its tables and what it says of
claims.
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
    import torch

    from pyro_vae import plots
    from pyro_vae.atlas import claims, read
    from pyro_vae.runs.folder import versions

    found = read(folder)
    plots.atlas_map(found).savefig(ROOT / "docs" / "figures" / "atlas.png", dpi=110)
    page = ROOT / "docs" / "atlas.md"
    text = page.read_text(encoding="utf-8")
    installed = ", ".join(f"{name} {version}" for name, version in versions().items())
    about = f"{len(found.cells)} cells, {torch.get_num_threads()} threads; {installed}"
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


def _filled(text: str, marker: str, content: str) -> str:
    lines = "\n".join(line.rstrip() for line in content.strip("\n").splitlines())
    block = f"<!-- {marker} -->\n```text\n{lines}\n```\n<!-- /{marker} -->"
    return re.sub(f"<!-- {marker} -->.*<!-- /{marker} -->", lambda _: block, text, flags=re.DOTALL)


if __name__ == "__main__":
    named = {"atlas": atlas, "explore": explore}
    if sys.argv[1] in named:
        named[sys.argv[1]](Path(sys.argv[2]))
    else:
        main(Path(sys.argv[1]))
