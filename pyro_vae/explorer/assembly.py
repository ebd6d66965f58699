"""One HTML file from the files of ``page/``: modules joined in the order of their imports, style, skeleton, content."""

from __future__ import annotations

import html
import json
import re
from importlib.resources import files
from typing import Any

from pyro_vae.checks import say

__all__ = ["assembled", "script", "sources"]

_FIRST = "app.mjs"
_IMPORT = re.compile(r'^import\s*\{[^}]*\}\s*from\s*"\./([\w-]+\.mjs)";\n', re.MULTILINE)
_LEFT_OVER = re.compile(r"^(?:import|export)\b.*", re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async )?(?:function|const|class|let)\b)", re.MULTILINE)


def sources() -> dict[str, str]:
    """Return the modules of the page by file name, each after those that it imports."""
    folder = files("pyro_vae.explorer") / "page"
    found: dict[str, str] = {}
    path: list[str] = []

    def visit(name: str) -> None:
        if name in found:
            return
        path.append(name)
        text = (folder / name).read_text(encoding="utf-8")
        for needed in _IMPORT.findall(text):
            if needed in path:
                raise ImportError(say("imports without a circle", " -> ".join([*path, needed]), "a third file"))
            visit(needed)
        found[path.pop()] = text

    visit(_FIRST)
    return found


def script() -> str:
    """Return the page's program as one module: without imports and exports, names being unique over all files.

    Raises:
        ImportError: if a file imports or exports in another form than the two that are known here.
    """
    parts = {name: _EXPORT.sub("", _IMPORT.sub("", text)).strip() for name, text in sources().items()}
    for name, text in parts.items():
        left = _LEFT_OVER.search(text)
        if left is not None:
            raise ImportError(
                say('import { a } from "./b.mjs"; and export function', f"{left[0]!r} in {name}", "those")
            )
    return "\n".join(f"// {name}\n{text}\n" for name, text in parts.items())


def assembled(title: str, content: dict[str, Any], data: str) -> str:
    """Return the page.

    Args:
        title: of the page.
        content: what the model is, for JSON.
        data: weights and data, in base64.
    """
    folder = files("pyro_vae.explorer") / "page"
    skeleton = (folder / "skeleton.html").read_text(encoding="utf-8")
    pieces = {
        "title": html.escape(title),
        "style": (folder / "style.css").read_text(encoding="utf-8"),
        "script": script(),
        "content": json.dumps(content, allow_nan=False).replace("<", "\\u003c"),  # no word of the data ends a script
        "data": data,
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: pieces[match[1]], skeleton)
