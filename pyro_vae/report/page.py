"""One HTML file that opens offline: headings, words, figures and tables, readable on a phone and in print."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pyro_vae.runs.folder import write_whole

__all__ = ["Section", "as_png", "write_report"]


@dataclass(frozen=True)
class Section:
    """One part of a report.

    Attributes:
        heading: its title.
        text: paragraphs of plain text, separated by blank lines; shown above the figure and the table.
        figure: a matplotlib figure, or None.
        table: a pandas DataFrame, or None.
        code: shown as it is, in a fixed-width font, or empty.
        links: names and the files beside the page that they lead to.
        sentences: whether the table holds sentences, which are broken into lines.
    """

    heading: str
    text: str = ""
    figure: Any = None
    table: Any = None
    code: str = ""
    links: Mapping[str, str] = field(default_factory=dict)
    sentences: bool = False

    @cached_property
    def png(self) -> bytes:
        """The figure as the bytes of a ``.png`` file, drawn once for the page and for a file of its own."""
        return as_png(self.figure)


def write_report(path: str | Path, title: str, sections: Sequence[Section]) -> Path:
    """Write a report and return its path.

    Args:
        path: the HTML file; its folder is made.
        title: of the page.
        sections: from top to bottom.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    body = "\n".join(_section(section) for section in sections)
    page = _PAGE.format(title=html.escape(title), style=_STYLE, body=body)
    write_whole(path, page.encode())
    return path


def _section(section: Section) -> str:
    parts = [f"<h2>{html.escape(section.heading)}</h2>"]
    parts += [f"<p>{html.escape(text.strip())}</p>" for text in section.text.split("\n\n") if text.strip()]
    if section.figure is not None:
        parts.append(_figure(section))
    if section.table is not None:
        table = section.table.to_html(float_format=_number, na_rep="–", border=0)
        parts.append(f'<div class="wide{" sentences" if section.sentences else ""}">{table}</div>')
    if section.links:
        entries = (
            f'<li><a href="{html.escape(to, quote=True)}">{html.escape(name)}</a></li>'
            for name, to in section.links.items()
        )
        parts.append(f"<ul>{''.join(entries)}</ul>")
    if section.code:
        parts.append(f'<div class="wide"><pre>{html.escape(section.code)}</pre></div>')
    return f"<section>\n{chr(10).join(parts)}\n</section>"


def as_png(figure: Any) -> bytes:
    """Return a matplotlib figure as the bytes of a ``.png`` file."""
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=150)
    return out.getvalue()


def _figure(section: Section) -> str:
    data = base64.b64encode(section.png).decode()
    image = f'<img alt="{html.escape(section.heading, quote=True)}" src="data:image/png;base64,{data}">'
    return f'<div class="wide panels">{image}</div>' if section.figure.get_figwidth() > _PANELS else image


def _number(value: float) -> str:
    """Three decimals, none of a large or whole number, three digits of one that these would not show."""
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == round(value) and abs(value) < 1e6:
        return f"{value + 0.0:,.0f}"  # of -0.0 too
    if not 5e-4 <= abs(value) < 1e6:
        return f"{value:.3g}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3f}"


_PANELS = 9.0  # inches: wider figures have several panels, which a phone scrolls rather than shrinks


_STYLE = """
:root { color-scheme: light; }
body { font: 17px/1.55 Georgia, 'Times New Roman', serif; color: #222; background: #fff; max-width: 60rem;
  margin: 0 auto; padding: 1rem; }
p { max-width: 46rem; }
h1 { font-size: 1.7rem; line-height: 1.2; } h2 { font-size: 1.2rem; margin: 2.2rem 0 0.4rem; }
img { max-width: min(100%, 38rem); height: auto; display: block; margin: 0.8rem auto; }
.panels img { max-width: 100%; min-width: 44rem; }
.wide { overflow-x: auto; background-repeat: no-repeat; background-image: linear-gradient(90deg, #fff 40%, #fff0),
  linear-gradient(270deg, #fff 40%, #fff0), linear-gradient(90deg, #0003, #0000), linear-gradient(270deg, #0003, #0000);
  background-size: 2rem 100%, 2rem 100%, 0.6rem 100%, 0.6rem 100%; background-position: left, right, left, right;
  background-attachment: local, local, scroll, scroll; }
table { border-collapse: collapse; font: 14px/1.4 system-ui, sans-serif; margin: 0.8rem 0; }
th, td { padding: 0.25rem 0.55rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap; }
th:first-child, tbody th { text-align: left; }
.sentences td { white-space: normal; text-align: left; vertical-align: top; min-width: 6rem; }
ul { columns: 14rem; padding-left: 1.2rem; }
pre { font: 13px/1.4 ui-monospace, monospace; background: #f6f6f4; padding: 0.7rem;
  white-space: pre-wrap; overflow-wrap: anywhere; }
@media (max-width: 30rem) { body { font-size: 16px; padding: 0.8rem; } table { font-size: 12.5px; }
  th, td { padding: 0.2rem 0.4rem; } pre { font-size: 11.5px; } }
@media print { body { max-width: none; padding: 0; font-size: 10.5pt; } h2 { break-after: avoid; }
  img, table, pre { break-inside: avoid; }
  p:has(+ .wide), p:has(+ img) { break-after: avoid; } img { max-width: 30rem; } .panels img { min-width: 0; }
  .wide { overflow: visible; } }
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""
