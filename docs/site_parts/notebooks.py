"""Notebooks to run: a copy of each on the site, buttons where the repository's place is known, and lessons' slides."""

import re
import shutil
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx


def _page(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    path = Path(app.srcdir, f"{page}.ipynb")
    if path.exists():
        context["notebook"] = f"{page}.ipynb"
    if re.fullmatch(r"tutorials/\d\d_\w+", page):
        context["slides"] = f"slides/{path.stem}.html"


def _alternatives(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Give each figure of a notebook words: the caption in italics below it, or else the sentence above it."""
    if not Path(app.srcdir, f"{page}.ipynb").exists():
        return
    parts = [node for node in doctree.findall() if isinstance(node, nodes.paragraph | nodes.image)]
    for place, image in enumerate(parts):
        if isinstance(image, nodes.image) and not image.get("alt"):
            below = next((part for part in parts[place + 1 :] if isinstance(part, nodes.paragraph)), None)
            above = next((part for part in parts[place::-1] if isinstance(part, nodes.paragraph)), None)
            is_caption = below is not None and len(below) == 1 and isinstance(below[0], nodes.emphasis)
            words = below if is_caption else above
            image["alt"] = words.astext() if words is not None else doctree.settings.title or page


def _copied(app: Sphinx, error: Exception | None) -> None:
    for path in Path(app.srcdir, "tutorials").rglob("*.ipynb"):
        target = Path(app.outdir, path.relative_to(app.srcdir))
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    from slides import lessons, write

    for path in lessons():
        write(path, Path(app.outdir, "slides"))


def setup(app: Sphinx) -> dict[str, Any]:
    """Give each notebook's page its file and its slides, and put both on the site."""
    app.connect("html-page-context", _page)
    app.connect("doctree-resolved", _alternatives)
    app.connect("build-finished", _copied)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
