"""Notebooks to run: a copy of each on the site, and buttons where the repository's place is known."""

import shutil
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx


def _page(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    path = Path(app.srcdir, f"{page}.ipynb")
    if path.exists():
        context["notebook"] = f"{page}.ipynb"


def _copied(app: Sphinx, error: Exception | None) -> None:
    for path in Path(app.srcdir, "tutorials").rglob("*.ipynb"):
        target = Path(app.outdir, path.relative_to(app.srcdir))
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)


def setup(app: Sphinx) -> dict[str, Any]:
    """Give each notebook's page its file, and put the files on the site."""
    app.connect("html-page-context", _page)
    app.connect("build-finished", _copied)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
