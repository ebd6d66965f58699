"""Slides from the lessons' own notebooks: ``python docs/slides.py [LESSON ...]`` writes them to ``build/slides/``.

One HTML file a lesson, which opens offline and prints to PDF: headings, equations, lists, figures with their captions,
short code without its assertions; prose becomes notes (key ``n``). nbconvert's slides need reveal.js, MathJax, jQuery
and RequireJS from a network; equations are MathML here, and slides are sections that snap.

A heading begins a slide, and each figure, and each short piece of code, has one of its own. A cell's metadata says
otherwise, in Jupyter's own words: ``slideshow.slide_type`` is "skip" (nothing of it), "notes" (all of it is notes),
or "fragment" (all of it is shown, prose and long code, too).
"""

from __future__ import annotations

import ast
import html
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.token import Token
from mdit_py_plugins.dollarmath import dollarmath_plugin

sys.path.insert(0, str(Path(__file__).parent))

from site_parts.mathml import mathml

ROOT = Path(__file__).parent.parent
PAGE = Path(__file__).parent / "site_parts" / "slides"
SHORT = 16  # lines of code that a slide can hold
SHOWN_WHOLE = ("Exercises", "What to take home")


@dataclass
class Slide:
    """A heading, what is shown below it, and the notes."""

    title: str
    level: int
    body: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    figure: str = ""  # of an image whose caption has not come yet

    def html(self, number: int, count: int) -> str:
        """Return the slide as a section."""
        notes = f'<aside class="notes" aria-label="notes">{"".join(self.notes)}</aside>' if self.notes else ""
        heading = f"<h{self.level}>{self.title}</h{self.level}>"
        place = f'<div class="number">{number} / {count}</div>'
        return f'<section id="{number}">{heading}<div class="body">{"".join(self.body)}</div>{notes}{place}</section>'


class Deck:
    """The slides of a notebook, cell by cell."""

    def __init__(self, notebook: dict[str, Any]) -> None:
        self.markdown = MarkdownIt("commonmark").enable("table").use(dollarmath_plugin, renderer=_equation)
        self.slides: list[Slide] = []
        for cell in notebook["cells"]:
            kind = cell["metadata"].get("slideshow", {}).get("slide_type", "")
            if kind != "skip":
                self._text(cell, kind) if cell["cell_type"] == "markdown" else self._code(cell, kind)
        for slide in self.slides:
            if not slide.body and slide.notes:  # a heading alone says too little
                slide.body.append(slide.notes.pop(0))

    def _text(self, cell: dict[str, Any], kind: str) -> None:
        for block in _blocks(self.markdown.parse("".join(cell["source"]))):
            _lead_to_slides(block)
            first, shown = block[0], self.markdown.renderer.render(block, self.markdown.options, {})
            if first.type == "heading_open":
                title = self.markdown.renderer.renderInline(block[1].children or [], self.markdown.options, {})
                self.slides.append(Slide(title, 1 if first.tag == "h1" else 2))
            elif kind == "notes":
                self.slides[-1].notes.append(shown)
            elif _is_caption(block) and self.slides[-1].figure:
                self._caption(block, shown)
            elif first.type != "paragraph_open" or kind == "fragment" or self._speaks_for_itself(block):
                before = "".join(self.slides[-1].body[-1:])
                if shown.startswith("<p><strong>Exercise") or before.startswith(("<figure", "<pre")):
                    self._room()
                self.slides[-1].body.append(shown)
            else:
                self.slides[-1].notes.append(shown)

    def _code(self, cell: dict[str, Any], kind: str) -> None:
        source = _without_assertions("".join(cell["source"]))
        hidden = "hide-input" in cell["metadata"].get("tags", [])
        asked = "pv.course.check(" in source  # the learner's own: it belongs to the question above it
        if kind == "notes":
            self.slides[-1].notes.append(_pre(source))
        elif kind == "fragment" or (not hidden and len(source.splitlines()) <= SHORT):
            if not asked:
                self._room()
            self.slides[-1].body.append(_pre(source))
            printed = "".join("".join(o["text"]) for o in cell["outputs"] if o["output_type"] == "stream")
            if printed.strip() and not asked:
                self.slides[-1].body.append(_pre(printed.strip(), "output"))
        for kind_of_image, data in _images(cell["outputs"]):
            self._room()
            slide = self.slides[-1]
            slide.figure = f'<img src="data:{kind_of_image};base64,{data}" alt="{html.escape(slide.title)}">'
            slide.body.append(f"<figure>{slide.figure}</figure>")

    def _room(self) -> None:
        """Begin another slide of the same title, unless the present one is empty."""
        if self.slides[-1].body:
            self.slides.append(Slide(self.slides[-1].title, 2))

    def _caption(self, block: list[Token], shown: str) -> None:
        slide = self.slides[-1]
        words = "".join(child.content for child in block[1].children or [])
        image = slide.figure.rsplit('alt="', 1)[0] + f'alt="{html.escape(words)}">'
        caption = shown.removeprefix("<p>").strip().removesuffix("</p>")
        slide.body[-1] = f"<figure>{image}<figcaption>{caption}</figcaption></figure>"
        slide.figure = ""

    def _speaks_for_itself(self, block: list[Token]) -> bool:
        """Whether a paragraph is shown: it begins with bold words, or the section is shown whole."""
        children = [child for child in block[1].children or [] if child.content or child.type != "text"]
        if self.slides[-1].title in SHOWN_WHOLE:
            return children[0].type != "em_open" and not children[0].content.startswith("Next:")
        return children[0].type == "strong_open"

    def html(self, title: str) -> str:
        """Return the page."""
        css, script = ((PAGE / name).read_text(encoding="utf-8") for name in ("slides.css", "slides.js"))
        sections = "\n".join(slide.html(number, len(self.slides)) for number, slide in enumerate(self.slides, 1))
        head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>'
        return (
            f'<!doctype html>\n<html lang="en"><head>{head}<style>\n{css}</style></head>\n<body><main>\n{sections}\n'
            f"</main><script>\n{script}</script></body></html>\n"
        )


def _equation(latex: str, options: dict[str, Any]) -> str:
    if options["display_mode"]:
        return f'<div class="equation">{mathml(latex.strip(), "block")}</div>'
    return mathml(latex)


def _blocks(tokens: list[Token]) -> Iterator[list[Token]]:
    """The tokens of each block of the top level."""
    block: list[Token] = []
    for token in tokens:
        block.append(token)
        if token.level == 0 and token.nesting <= 0:
            yield block
            block = []


def _lead_to_slides(block: list[Token]) -> None:
    """Let links to lessons lead to their slides, and those to other files of the repository nowhere."""
    for token in (child for parent in block for child in parent.children or [] if child.type == "link_open"):
        target = str(token.attrs["href"])
        lesson = re.fullmatch(r"(\d\d_\w+)\.ipynb", target)
        if lesson:
            token.attrs["href"] = f"{lesson[1]}.html"
        elif not target.startswith("https:"):
            del token.attrs["href"]


def _without_assertions(source: str) -> str:
    """Return the code of a cell without its outermost assertions, however many lines they take."""
    lines = source.strip().splitlines()
    readable = "\n".join("pass" if line.startswith(("%", "!")) else line for line in lines)
    for statement in reversed(ast.parse(readable).body):
        if isinstance(statement, ast.Assert) and statement.end_lineno is not None:
            del lines[statement.lineno - 1 : statement.end_lineno]
    return "\n".join(lines).strip()


def _is_caption(block: list[Token]) -> bool:
    """Whether a paragraph is in italics from its first word to its last."""
    inside = [child for child in block[1].children or [] if child.type != "text" or child.content] if block[1:] else []
    marks = [child.type for child in inside if child.type in {"em_open", "em_close"} and child.level == 0]
    ends = len(inside) > 1 and inside[0].type == "em_open" and inside[-1].type == "em_close"
    return block[0].type == "paragraph_open" and ends and marks.count("em_open") == 1


def _images(outputs: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    for output in outputs:
        for kind, data in output.get("data", {}).items():
            if kind in {"image/png", "image/gif", "image/jpeg"}:
                yield kind, "".join(data).replace("\n", "")


def _pre(text: str, name: str = "code") -> str:
    return f'<pre class="{name}" tabindex="0"><code>{html.escape(text)}</code></pre>'


def write(path: Path, folder: Path) -> Path:
    """Write the slides of one notebook."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    title = "".join(notebook["cells"][0]["source"]).splitlines()[0].lstrip("# ")
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{path.stem}.html"
    target.write_text(Deck(notebook).html(html.escape(title)), encoding="utf-8")
    return target


def lessons() -> list[Path]:
    """Return the lessons' notebooks."""
    return sorted((ROOT / "tutorials").glob("[0-9][0-9]_*.ipynb"))


def main(chosen: list[str]) -> None:
    """Write the slides of some lessons, by their numbers, or of all."""
    paths = lessons()
    asked = {lesson.zfill(2) for lesson in chosen}
    found = [path for path in paths if not asked or path.name[:2] in asked]
    if asked - {path.name[:2] for path in found}:
        raise SystemExit(f"expected lessons of {[path.name[:2] for path in paths]}; got {sorted(asked)}")
    for path in found:
        print(write(path, ROOT / "build" / "slides").relative_to(ROOT))


if __name__ == "__main__":
    main(sys.argv[1:])
