"""Equations as MathML: nothing to load, and a screen reader reads them."""

import re
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util.math import get_node_equation_number, wrap_displaymath
from sphinx.writers.html5 import HTML5Translator

_THIN = '<mspace width="0.17em"></mspace>'


def mathml(latex: str, display: str = "inline") -> str:
    """The equation, with a thin space between the name of a function and what it is applied to."""
    applied = r"(<mi>(?:log|exp|tanh|det)</mi>)(?=<mi|<mn|<msub|<msup|<mover|<mfrac|<msqrt)"
    return re.sub(applied, rf"\1{_THIN}", convert(latex, display=display))


def _inline(self: HTML5Translator, node: nodes.math) -> None:
    self.body.append(mathml(node.astext()))
    raise nodes.SkipNode


def _block(self: HTML5Translator, node: nodes.math_block) -> None:
    self.body.append(self.starttag(node, "div", CLASS="math-block", TABINDEX="0"))
    if node.get("number"):
        self.body.append(f'<span class="eqno">({get_node_equation_number(self, node)})</span>')
    for equation in node.astext().split("\n\n"):
        if equation.strip():
            lines = wrap_displaymath(equation, None, False).strip()
            self.body.append(mathml(_without_markers(lines), "block"))
    self.body.append("</div>\n")
    raise nodes.SkipNode


def _without_markers(latex: str) -> str:
    """The equation without what Sphinx wraps around it for LaTeX."""
    for marker in (r"\begin{equation*}", r"\end{equation*}", r"\begin{split}", r"\end{split}"):
        latex = latex.replace(marker, "")
    return r"\begin{aligned}" + latex + r"\end{aligned}" if r"\\" in latex and r"\begin" not in latex else latex


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the renderer."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
