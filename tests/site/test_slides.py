"""Slides from the lessons: offline, one idea each, and nothing of the lesson's skeleton lost."""

import json
import re
from pathlib import Path

import pytest

pytest.importorskip("latex2mathml", reason="slides need the extra 'site'")

from docs.refresh import Blocks
from docs.slides import Deck, lessons, main, write

ROOT = Path(__file__).parents[2]
each_lesson = pytest.mark.parametrize("path", lessons(), ids=lambda path: path.stem)


def notebook(*cells):
    names = ("cell_type", "source", "outputs", "metadata")
    return {"cells": [{"outputs": [], "metadata": {}} | dict(zip(names, cell)) for cell in cells]}


IMAGE = [{"output_type": "display_data", "data": {"image/png": "QUJD"}}]
PRINTED = [{"output_type": "stream", "name": "stdout", "text": ["1 < 2\n"]}]
TITLE = ("markdown", "# 1. A title\n\n**Goal.** To see.")


def test_a_heading_begins_a_slide_and_prose_becomes_a_note():
    deck = Deck(
        notebook(TITLE, ("markdown", "## One\n\nSome prose.\n\n$$a = b$$\n\n- an item"), ("markdown", "## Two"))
    )
    assert [slide.title for slide in deck.slides] == ["1. A title", "One", "Two"]
    one = deck.slides[1]
    assert "Some prose." in one.notes[0]
    assert "<math" in one.body[0]
    assert "an item" in one.body[1]


def test_a_figure_has_a_slide_of_its_own_and_its_caption_is_its_alternative_text():
    cells = [
        TITLE,
        ("markdown", "## One\n\n$$a$$"),
        ("code", "draw()", IMAGE, {"tags": ["hide-input"]}),
        ("markdown", "*What to see: $a$ rises.*\n\n$$b$$"),
    ]
    deck = Deck(notebook(*cells))
    assert [slide.title for slide in deck.slides] == ["1. A title", "One", "One", "One"]
    figure = deck.slides[2].body[0]
    assert 'src="data:image/png;base64,QUJD"' in figure
    assert 'alt="What to see: a rises."' in figure
    assert "<figcaption>" in figure
    assert "draw()" not in Deck(notebook(*cells)).html("")


def test_short_code_is_shown_without_its_assertions_and_long_code_is_not():
    long = "\n".join(f"line_{i} = {i}" for i in range(30))
    deck = Deck(
        notebook(
            TITLE,
            ("code", "%magic\na = 1\nassert a < 2\nassert (\n    a > 0\n), 'why'\nprint(a)", PRINTED),
            ("code", long),
        )
    )
    page = deck.html("A title")
    assert "print(a)" in page
    assert "assert" not in page.partition("<script>")[0]
    assert "why" not in page
    assert "1 &lt; 2" in page
    assert "line_3" not in page


@pytest.mark.parametrize(("kind", "place"), [("skip", None), ("notes", "notes"), ("fragment", "body")])
def test_metadata_decides(kind, place):
    metadata = {"slideshow": {"slide_type": kind}}
    deck = Deck(notebook(TITLE, ("markdown", "Much prose.", [], metadata)))
    for name in ("body", "notes"):
        assert any("Much prose." in shown for shown in getattr(deck.slides[0], name)) == (name == place)


def test_a_slide_is_never_empty():
    deck = Deck(notebook(TITLE, ("markdown", "## Words only\n\nThe first.\n\nThe second.")))
    assert "The first." in deck.slides[1].body[0]
    assert "The second." in deck.slides[1].notes[0]


def test_links_lead_to_slides_or_nowhere():
    text = "- [two](02_evidence.ipynb), [solutions](solutions/01_bayes.ipynb), [paper](https://example.org)"
    shown = Deck(notebook(TITLE, ("markdown", text))).slides[0].body[-1]
    assert re.findall(r'href="([^"]*)"', shown) == ["02_evidence.html", "https://example.org"]


@each_lesson
def test_a_lesson_makes_slides_that_need_nothing_else(path, tmp_path):
    page = write(path, tmp_path).read_text("utf-8")
    sections = re.findall(r"<section.*?</section>", page, flags=re.DOTALL)
    assert 8 <= len(sections) <= 40
    assert max(section.count("<figure>") for section in sections) == 1
    assert not re.search(r'(?:src|href)="(?:https?:)?//', page.replace('href="https', ""))
    images = [
        kind
        for cell in json.loads(path.read_text("utf-8"))["cells"]
        for output in cell.get("outputs", [])
        for kind in output.get("data", {})
        if kind.startswith("image/")
    ]
    assert page.count("<img ") == len(images) > 0
    assert "$" not in re.sub(r"<(?:script|style|pre|code).*?</(?:script|style|pre|code)>", "", page, flags=re.DOTALL)
    assert all(not re.search(r"<m[ion]>\\", section) for section in sections), "an equation was not understood"


@each_lesson
def test_every_slide_fits_a_projector_and_keys_move(path, tmp_path, browser):
    context = browser.new_context(viewport={"width": 1280, "height": 720}, reduced_motion="reduce")
    tab = context.new_page()
    said = []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("request", lambda request: said.append(request.url) if request.url.startswith("http") else None)
    tab.goto(write(path, tmp_path).as_uri())
    tab.wait_for_function("document.readyState == 'complete'")
    for scheme in ("light", "dark"):
        tab.emulate_media(color_scheme=scheme)
        assert tab.evaluate("matchMedia('(prefers-color-scheme: dark)').matches") is (scheme == "dark")
        script = "[...document.querySelectorAll('section')].filter(s => s.scrollHeight > innerHeight + 1)"
        assert tab.evaluate(f"{script}.map(s => s.id)") == []
        script = "[...document.querySelectorAll('.equation')].filter(e => e.scrollWidth > e.clientWidth + 1).length"
        assert tab.evaluate(script) == 0
        assert tab.evaluate("document.documentElement.scrollWidth") <= 1280
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("ArrowRight")
    assert tab.evaluate("location.hash") == "#3"
    tab.keyboard.press("n")
    assert tab.locator("body.with-notes").count() == 1
    context.close()
    assert said == []


def test_an_unknown_lesson_is_refused():
    with pytest.raises(SystemExit, match="expected lessons of"):
        main(["77"])


@each_lesson
def test_the_teachers_page_gives_the_lessons_own_minutes(path):
    table = (ROOT / "docs" / "teaching.md").read_text("utf-8")
    lesson = int(path.stem[:2])
    first = "".join(json.loads(path.read_text("utf-8"))["cells"][0]["source"])
    minutes = re.search(r"\*\*Time\.\*\* (\d+) minutes", first)
    row = re.search(rf"^\| (?:\[{lesson}\]\(\S+\)|{lesson}) \| [^|]+ \| (\d+) \|", table, flags=re.MULTILINE)
    assert minutes is not None, "the first cell gives the lesson's minutes"
    assert row is not None
    assert row[1] == minutes[1]


def test_the_teachers_page_prints_what_it_says(capsys):
    blocks = Blocks(ROOT / "docs" / "teaching.md")
    exec(blocks.python(), {})
    assert capsys.readouterr().out == next(text for language, text in blocks.found if language == "text")
