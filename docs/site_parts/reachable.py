"""What is wider than the page is reached by keyboard, too: code and tables that scroll take the focus."""

from typing import Any

from sphinx.application import Sphinx


def _focusable(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    if "body" in context:
        body = context["body"].replace("<pre>", '<pre tabindex="0">')
        context["body"] = body.replace('<div class="table-wrapper', '<div tabindex="0" class="table-wrapper')


def setup(app: Sphinx) -> dict[str, Any]:
    """Change each page as it is written."""
    app.connect("html-page-context", _focusable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
