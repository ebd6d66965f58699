"""The six steps that a tutorial writes out in plain torch are one step of Pyro's SVI, and of ``fit``."""

import copy
import json
from pathlib import Path

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO

import pyro_vae as pv

NOTEBOOK = Path(__file__).parents[2] / "tutorials" / "09_vae.ipynb"
MARK = "# --- the six steps ---"
N, D, L, LR = 32, 5, 2, 0.01
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(scope="module")
def six_steps():
    sources = ["".join(cell["source"]) for cell in json.loads(NOTEBOOK.read_text("utf-8"))["cells"]]
    cells = [source for source in sources if source.startswith(MARK)]
    if len(cells) != 1:
        pytest.fail(f"expected one cell that starts with {MARK!r}; got {len(cells)}")
    names = {}
    exec(compile(cells[0], str(NOTEBOOK), "exec"), names)
    return names["six_steps"]


@pytest.fixture
def networks():
    return pv.networks.mlp(D, 16, 2 * L), pv.networks.mlp(L, 16, 2 * D)


def parts(networks):
    """The same untrained networks, once as a model and a guide."""
    encoder, decoder = copy.deepcopy(networks)
    return pv.Model(pv.priors.StandardNormal(L), pv.likelihoods.Gaussian(decoder)), pv.guides.DiagonalGaussian(encoder)


def textbook(six_steps, networks, optimiser, data, rows, epsilon):
    encoder, decoder = networks
    parameters = [*encoder.parameters(), *decoder.parameters()]
    loss = six_steps(data, rows, epsilon, encoder, decoder, optimiser(parameters, lr=LR))
    return loss, parameters


def learnt(model, guide):
    return [*guide.network.parameters(), *model.likelihood.network.parameters()]


def same(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, **CLOSE)


@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_it_is_one_step_of_pyros_svi(six_steps, networks, name):
    data = torch.randn(100, D)
    rows = torch.randperm(100)[:N]
    model, guide = parts(networks)
    before = [p.detach().clone() for p in learnt(model, guide)]

    # Pyro sums over data, the textbook averages: scaling both programs by 1/N makes the two losses one
    mean_model, mean_guide = poutine.scale(model, 1 / N), poutine.scale(guide, 1 / N)
    pyro.set_rng_seed(3)
    loss = SVI(mean_model, mean_guide, getattr(pyro.optim, name)({"lr": LR}), Trace_ELBO()).step(data[rows])

    pyro.set_rng_seed(3)
    expected, parameters = textbook(
        six_steps, networks, getattr(torch.optim, name), data, rows, torch.randn(N, L)
    )  # fmt: skip

    assert loss == pytest.approx(expected, rel=1e-5)
    same(learnt(model, guide), parameters)
    assert all((new - old).abs().max() > 1e-4 for new, old in zip(learnt(model, guide), before, strict=True))


def test_its_gradient_is_that_of_trace_elbo(six_steps, networks):
    data = torch.randn(N, D)
    model, guide = parts(networks)
    pyro.set_rng_seed(3)
    loss = Trace_ELBO().loss_and_grads(model, guide, data)

    pyro.set_rng_seed(3)
    expected, parameters = textbook(six_steps, networks, torch.optim.SGD, data, slice(None), torch.randn(N, L))

    assert loss / N == pytest.approx(expected, rel=1e-5)
    same([p.grad / N for p in learnt(model, guide)], [p.grad for p in parameters])


def test_it_is_one_step_of_fit(six_steps, networks):
    data = torch.randn(N, D)
    model, guide = parts(networks)
    history = pv.fit(model, guide, data, epochs=1, batch_size=N, lr=LR, validation=None, seed=3, progress=False)

    pyro.set_rng_seed(3)
    rows = torch.arange(N)  # one batch of all data keeps its order
    expected, parameters = textbook(six_steps, networks, torch.optim.Adam, data, rows, torch.randn(N, L))

    assert -history.train_elbo[0] == pytest.approx(expected, rel=1e-5)
    same(learnt(model, guide), parameters)


def test_its_loss_is_minus_the_elbo(six_steps, networks):
    """At a fixed draw the loss is log q(z|x) - log p(x, z), here by torch's own distributions."""
    encoder, decoder = networks
    x, epsilon = torch.randn(N, D), torch.randn(N, L)
    with torch.no_grad():
        mu, raw = encoder(x).chunk(2, -1)
        q = torch.distributions.Normal(mu, torch.nn.functional.softplus(raw) + 1e-6)
        z = q.mean + q.stddev * epsilon
        x_mu, x_raw = decoder(z).chunk(2, -1)
        p = torch.distributions.Normal(x_mu, torch.nn.functional.softplus(x_raw) + 1e-3)
        prior = torch.distributions.Normal(0.0, 1.0)
        elbo = p.log_prob(x).sum(-1) + prior.log_prob(z).sum(-1) - q.log_prob(z).sum(-1)
    loss, _ = textbook(six_steps, networks, torch.optim.SGD, x, slice(None), epsilon)
    assert loss == pytest.approx(-elbo.mean().item(), rel=1e-5)
