"""The site: built offline without a warning, every link inside it leads somewhere, no public name is forgotten."""

import fcntl
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import pyro_vae as pv

pytest.importorskip("sphinx", reason="the site needs the extra 'site'")
ROOT = Path(__file__).parents[2]
FETCHES = {"script": "src", "img": "src", "source": "src", "video": "src", "iframe": "src", "link": "href"}


class Page(HTMLParser):
    """Where a page leads, what it fetches, and the places in it that can be led to."""

    def __init__(self, path):
        super().__init__()
        self.links, self.fetched, self.places = [], [], set()
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.places |= {found[name] for name in ("id", "name") if found.get(name)}
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])
        if found.get(FETCHES.get(tag)) and found.get("rel") not in {"canonical", "next", "prev", "search", "index"}:
            self.fetched.append(found[FETCHES[tag]])


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The site, built once for all workers."""
    shared = tmp_path_factory.getbasetemp()
    folder = (shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared) / "site"
    with open(f"{folder}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            command = [
                sys.executable,
                "-m",
                "sphinx",
                "-q",
                "-W",
                "--keep-going",
                "-c",
                "docs",
                "-d",
                f"{folder}.trees",
            ]
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            done = subprocess.run(
                [*command, ".", folder], check=False, cwd=ROOT, capture_output=True, text=True, env=environment
            )
            assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="session")
def pages(site):
    return {path: Page(path) for path in site.rglob("*.html")}


def test_every_link_inside_leads_somewhere(site, pages):
    lost = []
    for path, page in pages.items():
        for link in [*page.links, *page.fetched]:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            known = target.exists() and (
                not parts.fragment or target not in pages or unquote(parts.fragment) in pages[target].places
            )
            if not known:
                lost.append(f"{path.relative_to(site)}: {link}")
    assert not lost, "\n".join(lost)


def test_a_latent_point_can_be_moved_from_the_home(site, pages):
    assert "../explore.html" in pages[site / "docs" / "index.html"].links
    assert "ELBO" in (site / "explore.html").read_text("utf-8")


def test_nothing_is_fetched_from_elsewhere(site, pages):
    outside = {
        f"{path.relative_to(site)}: {link}"
        for path, page in pages.items()
        for link in page.fetched
        if urlsplit(link).netloc
    }
    assert not outside, "\n".join(sorted(outside))


def test_every_public_name_is_in_the_reference(pages):
    places = set().union(*(page.places for path, page in pages.items() if path.parent.name == "reference"))
    names = set()
    for name in pv.__all__:
        value = getattr(pv, name)
        names |= {f"{name}.{inner}" for inner in value.__all__} if hasattr(value, "__file__") else {name}
    assert {f"pyro_vae.{name}" for name in names} <= places


def test_a_reader_finds_a_lesson_with_its_figure_and_its_notebook(site, pages):
    lessons = [path for path in pages if path.parent == site / "tutorials" and path.name[0].isdigit()]
    assert len(lessons) == len(list((ROOT / "tutorials").glob("[0-9]*.ipynb"))) > 0
    for path in lessons:
        assert any(link.endswith(".png") for link in pages[path].fetched), f"{path.name} shows no figure"
        assert f"{path.stem}.ipynb" in pages[path].links


@pytest.mark.parametrize("page", ["docs/index", "docs/reference/exact", "docs/guides/swap"])
def test_a_screen_reader_finds_its_way(site, browser, page):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe judges pages for screen readers")
    context = browser.new_context(viewport={"width": 375, "height": 800})
    tab = context.new_page()
    tab.goto((site / f"{page}.html").as_uri())
    serious, background = [], {}
    for scheme, rules in (("light", {}), ("dark", {"runOnly": ["color-contrast"]})):  # the rest is the same page
        tab.emulate_media(color_scheme=scheme)
        background[scheme] = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        found = axe.Axe().run(tab, options={"resultTypes": ["violations"], **rules})
        serious += [
            f"{scheme}: {v['id']}: {v['help']}"
            for v in found.response["violations"]
            if v["impact"] in {"serious", "critical"}
        ]
    wide = tab.evaluate("document.documentElement.scrollWidth")
    context.close()
    assert background["light"] != background["dark"]
    assert not serious, "\n".join(serious)
    assert wide <= 375


def test_every_figure_of_a_lesson_has_words(site):
    for path in (site / "tutorials").glob("[0-9]*.html"):
        figures = re.findall(r'<img [^>]*src="\.\./_images/[^>]*>', path.read_text("utf-8"))
        words = [re.search(r'alt="([^"]*)"', figure) for figure in figures]
        assert figures
        assert all(found and len(found[1].split()) > 3 for found in words), f"{path.name}: {figures}"
