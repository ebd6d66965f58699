"""The page in a real browser: the same numbers, no error, every width, and a link that brings everything back."""

import json

import numpy as np
import pytest
import torch

import pyro_vae as pv
from tests.explorer.test_numbers import CLOSE, bound_by_sums

WIDTHS = {375: "dark", 768: "light", 1280: "dark"}  # the scheme changes colours, the width places


def test_the_numbers_in_the_page_are_pythons(open_page, digits):
    model, guide, x, _ = digits
    tab = open_page("#x=3")
    truth = pv.quadrature(model, x[3:4], tolerance=1e-6)
    posterior = tab.js("(({logEvidence, mean, covariance}) => ({logEvidence, mean, covariance}))(explorer.posterior)")
    assert posterior["logEvidence"] == pytest.approx(float(truth.log_evidence), abs=CLOSE)
    np.testing.assert_allclose(posterior["mean"], truth.mean[0], atol=CLOSE)
    np.testing.assert_allclose(posterior["covariance"], truth.covariance_matrix[0], atol=CLOSE)
    q = guide.posterior(x[3:4])
    gaussian = torch.distributions.MultivariateNormal(q.mean[0], scale_tril=torch.diag(q.stddev[0]))
    elbo, kl = bound_by_sums(model, x[3], gaussian)
    tab.wait("explorer.figures.bound.found.refined")
    found = tab.js("explorer.figures.bound.found")
    assert found["elbo"] == pytest.approx(elbo, abs=CLOSE)
    assert found["kl"] == pytest.approx(kl, abs=CLOSE)
    shown = {name: tab.number("bound", name) for name in ("elbo", "kl", "evidence")}
    expected = {"elbo": elbo, "kl": kl, "evidence": float(truth.log_evidence)}
    assert shown == pytest.approx(expected, abs=6e-4)  # three decimals
    decoded = tab.js("explorer.model.decode([0.4, -0.7]).map((column) => column.mean)")
    p = model.decode(torch.tensor([[0.4, -0.7]], dtype=torch.float64))
    np.testing.assert_allclose(decoded, p.mean[0], atol=CLOSE)


@pytest.mark.parametrize(("width", "scheme"), WIDTHS.items())
def test_it_fits_every_width_in_light_and_dark(open_page, width, scheme):
    tab = open_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    assert tab.js("document.documentElement.scrollWidth") <= width
    assert tab.js("document.documentElement.classList.contains('dark')") == (scheme == "dark")
    paper, ink = (tab.js(f"getComputedStyle(document.body).{name}") for name in ("backgroundColor", "color"))
    assert contrast(paper, ink) > 7
    small = tab.js(
        """[...document.querySelectorAll('button, select, .segments label')]
        .filter((place) => place.offsetParent && !place.closest('.strip')).map((place) => place.getBoundingClientRect())
        .filter(({height, width}) => height < 32 || width < 32).length"""
    )
    assert small == 0


def contrast(one, other):
    """The ratio of WCAG of two colours, each as the browser writes it."""

    def luminance(colour):
        channels = [float(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_colour_of_text_has_the_contrast_that_readers_need(open_page, scheme):
    """WCAG 2, level AA: 4.5 to 1."""
    tab = open_page(color_scheme=scheme)
    colours = tab.js(
        """[...document.querySelectorAll(
          'p, b, h1, h2, h3, dt, dd, figcaption, label, legend, button, .stops span, .mark')]
        .filter((place) => place.offsetParent && place.textContent.trim()).map((place) => {
          let behind = place;
          const see = (one) => getComputedStyle(one).backgroundColor;
          while (behind && see(behind) === 'rgba(0, 0, 0, 0)') behind = behind.parentElement;
          return [place.className || place.tagName, getComputedStyle(place).color, see(behind)];
        })"""
    )
    assert len(colours) > 40
    assert [name for name, ink, paper in colours if contrast(ink, paper) < 4.5] == []


def test_a_link_brings_everything_back_the_chains_to_the_bit(open_page):
    words = "#z=0.5,-1.25&x=4&bayes=0.7&q=hand&m=0.3,0.4&s=0.5,0.6"
    words += "&kernel=hmc&step=0.2&chains=2&seed=7&draws=60&theme=dark"
    first, second = open_page(words), open_page(words)
    walked = "JSON.stringify(explorer.figures.chains.chains.states.map((chain) => chain.draws))"
    chains = json.loads(first.js(walked))
    assert [len(draws) for draws in chains] == [60, 60]
    assert first.js(walked) == second.js(walked)
    assert first.js("explorer.state.z") == [0.5, -1.25]
    assert first.page.input_value("#bayes input") == "0.7"
    assert first.page.is_checked("input[value=hand]")
    assert first.js("document.documentElement.classList.contains('dark')")
    first.page.locator("#decoder .plane").press("ArrowUp")
    first.wait("location.hash.includes('z=0.5,-1.') && !location.hash.includes('z=0.5,-1.25')")
    third = open_page(first.js("location.hash"))
    assert third.js("explorer.state.z") == pytest.approx(first.js("explorer.state.z"), abs=1e-5)
    assert third.js(walked) == first.js(walked)


def test_a_link_that_makes_no_sense_opens_the_page_as_at_first(open_page):
    tab = open_page("#z=a,b&x=999&bayes=NaN&q=other&m=1&s=0,0&kernel=walk&step=-1&chains=99&seed=x&drawn=zz")
    state = tab.js("explorer.state")
    assert (state["z"], state["x"], state["bayes"], state["q"]) == ([0, 0], 29, 2, "guide")
    assert (state["kernel"], state["chains"], state["seed"], state["drawn"]) == ("mh", 8, 1, None)


def test_laplaces_q_is_shown_with_its_numbers(open_page, digits):
    model, _, x, _ = digits
    tab = open_page("#x=2")
    tab.page.check("input[value=laplace]", force=True)
    tab.wait("explorer.figures.bound.found.refined")
    laplace = pv.laplace(model, x[2:3])
    q = torch.distributions.MultivariateNormal(laplace.mean[0], laplace.covariance_matrix[0])
    elbo, kl = bound_by_sums(model, x[2], q)
    assert tab.number("bound", "elbo") == pytest.approx(elbo, abs=6e-4)
    assert tab.number("bound", "kl") == pytest.approx(kl, abs=6e-4)


def test_a_table_shows_names_units_and_words(open_page, tmp_path):
    likelihoods = pv.likelihoods
    trunk = pv.networks.mlp(2, 8)
    head = lambda out: torch.nn.Sequential(trunk, torch.nn.SiLU(), torch.nn.Linear(8, out))  # noqa: E731
    model = pv.Model(
        pv.priors.StandardNormal(2),
        likelihoods.Mixed([likelihoods.Gaussian(head(2)), likelihoods.Categorical(head(3), num_categories=3)]),
    )
    schema = pv.datasets.kinds.Schema(
        kind="mixed", columns=("city", "height"), kinds=("categories", "real"), order=(1, 0), loc=(0.0, 170.0),
        scale=(1.0, 10.0), likelihoods=("Categorical", "Gaussian"), num_categories=(3, 0),
        words={"city": ("Bonn", "Oslo", "Rome")}, shape=(2,), missing=False, levels=((), ()),
    )  # fmt: skip
    x = model.requires_grad_(False).sample(4)["x"]
    guide = pv.guides.DiagonalGaussian(pv.networks.mlp(2, 4))
    tab = open_page("#z=0.3,0.6", path=pv.explore(model, guide, x, path=tmp_path / "table.html", schema=schema))
    rows = tab.page.locator("#decoder .columns th").all_inner_texts()
    assert rows == ["city", "height"]
    p = model.decode(torch.tensor([[0.3, 0.6]]))
    mean, sd = (float(value[0, 0]) for value in (p.parts[0].mean, p.parts[0].stddev))
    city, height = tab.page.locator("#decoder .columns tr:not(.track) td").all_inner_texts()
    shown = [float(part) for part in height.replace("−", "-").split(" ± ")]
    assert shown == pytest.approx([170 + 10 * mean, 10 * sd], abs=0.06)
    shares = p.parts[1].base_dist.probs[0, 0]
    assert city == f"{('Bonn', 'Oslo', 'Rome')[int(shares.argmax())]} {100 * float(shares.max()):.0f} %"
    truth = pv.quadrature(model, x[:1])
    shown = tab.number("bayes", "evidence")
    assert shown == pytest.approx(float(truth.log_evidence) - np.log(10), abs=2e-3)  # a density of heights
    assert "height" in tab.page.inner_text("#datum .readout")


def test_every_control_has_a_name_and_every_picture_words(open_page):
    tab = open_page()
    nameless = tab.js(
        """[...document.querySelectorAll('button, input, select, canvas')].filter((place) => place.offsetParent)
        .filter((place) => !(place.getAttribute('aria-label') || place.getAttribute('aria-hidden')
          || place.labels?.[0]?.textContent.trim() || place.textContent.trim())).map((place) => place.outerHTML)"""
    )
    assert nameless == []
    assert tab.js("document.documentElement.lang") == "en"
    sections = (
        "[...document.querySelectorAll('[aria-labelledby]')].map((place) => place.getAttribute('aria-labelledby'))"
    )
    assert all(tab.js(f"Boolean(document.getElementById('{name}'))") for name in tab.js(sections))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_to_complain_of(open_page, scheme):
    from axe_playwright_python.sync_playwright import Axe

    tab = open_page(color_scheme=scheme)
    found = Axe().run(tab.page).response["violations"]
    assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found] == []
