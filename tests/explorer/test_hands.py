"""What a hand does in the page: drag, draw, pick, stretch, let chains run; by mouse, by finger and by keys."""

import json

import numpy as np
import pytest
import torch

import pyro_vae as pv
from tests.explorer.test_numbers import CLOSE


def test_a_dragged_point_is_decoded_at_once_and_so_is_one_moved_by_keys(open_page):
    tab = open_page("#z=0,0")
    image = "document.querySelector('#decoder .decoded canvas').toDataURL()"
    before = tab.js(image)
    box = tab.page.locator("#decoder .plane").bounding_box()
    middle = [box["x"] + box["width"] / 2, box["y"] + box["height"] / 2]
    tab.page.mouse.move(*middle)
    tab.page.mouse.down()
    tab.page.mouse.move(middle[0] + box["width"] / 4, middle[1] - box["height"] / 4, steps=4)
    tab.page.mouse.up()
    z = tab.js("explorer.state.z")
    half = tab.js("explorer.wholeView.half")
    np.testing.assert_allclose(z, [half / 2, half / 2], atol=0.05)
    dragged = tab.js(image)
    assert dragged != before
    tab.page.locator("#decoder .plane").press("ArrowLeft")
    moved = tab.js("explorer.state.z")
    assert moved[0] < z[0]
    assert moved[1] == z[1]
    assert tab.js(image) != dragged
    assert f"{moved[0]:.2f}" in tab.page.inner_text("#decoder .readout")


def test_a_finger_drags_the_point_on_a_phone(open_page):
    tab = open_page("#z=0,0", viewport={"width": 375, "height": 800}, has_touch=True, is_mobile=True)
    box = tab.page.locator("#decoder .plane").bounding_box()
    tab.page.touchscreen.tap(box["x"] + 0.75 * box["width"], box["y"] + 0.25 * box["height"])
    half = tab.js("explorer.wholeView.half")
    np.testing.assert_allclose(tab.js("explorer.state.z"), [half / 2, half / 2], atol=0.1)


def test_the_slider_fades_from_prior_over_likelihood_to_posterior(open_page):
    tab = open_page("#x=2")
    seen = []
    for step in (0, 1, 2):
        tab.page.locator("#bayes input").fill(str(step))
        seen.append(tab.js("document.querySelector('#bayes .plane').toDataURL()"))
        assert tab.page.get_attribute("#bayes input", "aria-valuetext") == ["prior", "likelihood", "posterior"][step]
    assert len(set(seen)) == 3


def test_a_drawn_digit_gets_its_exact_posterior_and_the_encoders_q(open_page, digits):
    model, guide, _, _ = digits
    tab = open_page("#x=0")
    pad = tab.page.locator("#datum .pad canvas")
    box = pad.bounding_box()
    tab.page.mouse.move(box["x"] + box["width"] * 0.55, box["y"] + box["height"] * 0.1)
    tab.page.mouse.down()
    tab.page.mouse.move(box["x"] + box["width"] * 0.55, box["y"] + box["height"] * 0.9, steps=12)
    tab.page.mouse.up()
    tab.ready()
    x = torch.tensor([tab.js("Array.from(explorer.x)")], dtype=torch.float64)
    assert x.reshape(8, 8)[:, 4].sum() >= 7
    assert set(x.unique().tolist()) == {0.0, 1.0}
    truth = pv.quadrature(model, x, tolerance=1e-6)
    assert tab.js("explorer.posterior.logEvidence") == pytest.approx(float(truth.log_evidence), abs=CLOSE)
    q = guide.posterior(x)
    assert tab.js("explorer.guideQ")[0][1:3] == pytest.approx(q.mean[0].tolist(), abs=CLOSE)
    before = x.sum()
    pad.focus()
    for key in ("ArrowLeft", "ArrowLeft", " "):
        pad.press(key)
    tab.ready()
    assert sum(tab.js("Array.from(explorer.x)")) == before + 1
    pixels = "Array.from(explorer.state.drawn, (value) => Math.round(15 * value).toString(16)).join('')"
    tab.wait(f"location.hash.includes('drawn=' + {pixels})")
    again = open_page(tab.js("location.hash"))
    assert again.js("explorer.x") == tab.js("explorer.x")
    tab.page.click("#datum .clear")
    tab.ready()
    assert sum(tab.js("Array.from(explorer.x)")) == 0


def test_a_datum_is_picked_by_mouse_by_keys_and_from_the_plane(open_page):
    tab = open_page("#x=0")
    tab.page.click("#datum .strip button:nth-child(6)")
    tab.ready()
    assert tab.js("explorer.state.x") == 5
    tab.page.keyboard.press("ArrowRight")
    tab.ready()
    assert tab.js("explorer.state.x") == 6
    assert tab.page.get_attribute("#datum .strip button:nth-child(7)", "aria-checked") == "true"
    assert "datum 7 of 30" in tab.page.inner_text("#datum .readout")


def test_q_by_hand_and_gradient_ascent_solve_the_task_of_kl(open_page):
    tab = open_page("#x=1")
    tab.wait("explorer.figures.bound.best !== null")
    best = tab.js("(({m, s, kl}) => ({m, s, kl}))(explorer.figures.bound.best)")
    task = tab.page.locator("[data-task=kl]")
    assert "done" not in task.get_attribute("class")
    plane = tab.page.locator("#bound .plane")
    for _ in range(6):
        plane.press("ArrowUp")
    assert tab.js("explorer.state.q") == "hand"
    assert "above the smallest" in task.inner_text()
    far = tab.number("bound", "kl")
    m, s = tab.js("explorer.state.m"), tab.js("explorer.state.s")
    plane.press("Shift+ArrowRight")
    assert tab.js("explorer.state.s")[0] > s[0]
    tab.js(f"Object.assign(explorer.state, {{m: {json.dumps(best['m'])}, s: {json.dumps(best['s'])}}})")
    plane.press("ArrowUp")
    plane.press("ArrowDown")
    tab.wait("document.querySelector('[data-task=kl]').classList.contains('done')")
    tab.js(f"Object.assign(explorer.state, {{m: {json.dumps(m)}, s: {json.dumps(s)}}})")
    tab.page.click("#bound .ascend")
    tab.wait("document.querySelector('#bound .ascend').getAttribute('aria-pressed') === 'false'")
    tab.wait("explorer.figures.bound.found.refined")
    assert tab.number("bound", "kl") < far
    assert tab.number("bound", "kl") == pytest.approx(best["kl"], abs=2e-3)
    total = tab.number("bound", "elbo") + tab.number("bound", "kl")
    assert total == pytest.approx(tab.number("bound", "evidence"), abs=1.6e-3)


def test_q_is_dragged_and_stretched_by_its_handles(open_page):
    tab = open_page("#x=1&q=hand&m=0.1,0.2&s=0.4,0.4")
    tab.page.locator("#bound .plane").scroll_into_view_if_needed()
    box = tab.page.locator("#bound .plane").bounding_box()
    at = """(z) => {
      const width = document.querySelector('#bound .plane').getBoundingClientRect().width;
      const {centre, half} = explorer.closeView();
      const k = width / (2 * half);
      return [(z[0] - centre[0] + half) * k, (centre[1] + half - z[1]) * k];
    }"""

    def drag(start, end):
        (x0, y0), (x1, y1) = (tab.page.evaluate(at, place) for place in (start, end))
        tab.page.mouse.move(box["x"] + x0, box["y"] + y0)
        tab.page.mouse.down()
        tab.page.mouse.move(box["x"] + x1, box["y"] + y1, steps=3)
        tab.page.mouse.up()

    view = tab.js("explorer.closeView()")
    middle = view["centre"]
    drag([0.1, 0.2], middle)
    np.testing.assert_allclose(tab.js("explorer.state.m"), middle, atol=0.02)
    reach = (2 * np.log(2)) ** 0.5
    drag([middle[0] + 0.4 * reach, middle[1]], [middle[0] + 0.25 * reach, middle[1]])
    np.testing.assert_allclose(tab.js("explorer.state.s"), [0.25, 0.4], atol=0.02)


def test_chains_run_pause_and_solve_both_tasks(open_page):
    tab = open_page("#x=3&kernel=hmc&chains=4&seed=1")
    tab.page.click("#chains .one")
    assert tab.number("chains", "draws") == 1
    tab.page.click("#chains .run")
    tab.wait("explorer.figures.chains.draws > 5")
    tab.page.click("#chains .run")
    stopped = tab.number("chains", "draws")
    tab.page.wait_for_timeout(150)
    assert tab.number("chains", "draws") == stopped
    assert "exact" in tab.page.inner_text("#chains > .readout")
    low, high = -2.3, 0.7  # log10 of a step that accepts too much, and too little: halve between
    for _ in range(12):
        step = (low + high) / 2
        tab.page.locator("#chains .step input").fill(f"{step:.2f}")
        walk = "for (let t = 0; t < 400; t++) chains.chains.advance(); chains.draw();"
        tab.js(f"(({{figures: {{chains}}}}) => {{{walk}}})(explorer)")
        accepted = tab.number("chains", "accept")
        if abs(accepted - 80) <= 3:
            break
        low, high = (step, high) if accepted > 80 else (low, step)
    assert "done" in tab.page.get_attribute("[data-task=accept]", "class")
    assert "done" in tab.page.get_attribute("[data-task=rhat]", "class")
    found = tab.js("explorer.figures.chains.diagnose()")
    assert found["rhat"] < 1.01
    assert max(found["errors"]) < 4 / np.sqrt(found["ess"])
