"""Lesson 5: answers found another way than the exercises' own, and what learners get wrong."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_vae as pv
from pyro_vae.course import check
from pyro_vae.inference.mcmc.kernels.base import Metric, State
from pyro_vae.inference.mcmc.kernels.hmc import leapfrog


def by_the_package(z, r, gradient, step):
    state = State(z[None], torch.zeros(1), gradient(z)[None])

    def value_and_grad(u):
        return torch.zeros(1), gradient(u[0])[None]

    end, momentum = leapfrog(
        state, r[None], value_and_grad, step_size=torch.tensor([step]), num_steps=1, metric=Metric(torch.ones(1, 2))
    )
    return end.u[0], momentum[0]


def in_place(z, r, gradient, step):
    r += step / 2 * gradient(z)
    z += step * r
    r += step / 2 * gradient(z)
    return torch.stack([z, r])


def kicks(first, last):
    def answer(z, r, gradient, step):
        r = r + first * step * gradient(z)
        z = z + step * r
        return z, r + last * step * gradient(z)

    return answer


def explicit(z, r, gradient, step):
    kick = step / 2 * gradient(z)
    return z + step * (r + kick), r + kick + kick


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (by_the_package, ""),
        (in_place, ""),
        (kicks(1, 0), "begins and ends with half"),
        (kicks(1, 1), "Both kicks"),
        (kicks(0.5, 0), "second half"),
        (kicks(-0.5, -0.5), "wrong sign"),
        (explicit, "old place"),
        (lambda z, r, g, step: (z + step * r, r + step * g(z)), "Euler"),
        (lambda *a: (kicks(0.5, 0.5)(*a)[0], -kicks(0.5, 0.5)(*a)[1]), "r is turned round"),
        (lambda *a: kicks(0.5, 0.5)(*a)[::-1], "position comes first"),
        (lambda *a: kicks(0.5, 0.5)(*a)[0], "expected numbers of shape (2, 2)"),
    ],
)
def test_leapfrog(answer, sentence):
    result = check("5.1", answer)
    assert bool(result) == (not sentence)
    assert sentence in result.message


def by_the_textbook(chains):
    """Gelman & Rubin's: W, and S times the variance of the means."""
    m, S = chains.shape
    means = [sum(chain.tolist()) / S for chain in chains]
    grand = sum(means) / m
    B = S / (m - 1) * sum((mean - grand) ** 2 for mean in means)
    W = sum(sum((float(x) - mean) ** 2 for x in chain) / (S - 1) for chain, mean in zip(chains, means)) / m
    return math.sqrt(((S - 1) / S * W + B / S) / W)


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (by_the_textbook, ""),
        (lambda c: by_the_textbook(c) ** 2, "root"),
        (lambda c: by_the_textbook(c.T), "exchanged"),
        (lambda c: torch.sqrt(1 - 1 / c.shape[1] + c.shape[1] * c.mean(1).var() / c.var(1).mean()), "divide once more"),
        (lambda c: torch.sqrt(1 - 1 / c.shape[1] + c.mean(1).var() / c.var()), "all draws together"),
    ],
)
def test_rhat(answer, sentence):
    result = check("5.2", answer)
    assert bool(result) == (not sentence)
    assert sentence in result.message


def not_centred():
    v_raw = pyro.sample("v_raw", dist.Normal(torch.tensor(0.0), 1.0))
    x_raw = pyro.sample("x_raw", dist.Normal(torch.zeros(9), 1.0).to_event(1))
    v = pyro.deterministic("v", 3 * v_raw)
    pyro.deterministic("x", (v / 2).exp().unsqueeze(-1) * x_raw)
    pyro.factor("no_data", torch.zeros(()))


def centred():
    v = pyro.sample("v", dist.Normal(torch.tensor(0.0), 3.0))
    pyro.sample("x", dist.Normal(torch.zeros(9), (v / 2).exp().unsqueeze(-1)).to_event(1))
    pyro.factor("no_data", torch.zeros(()))


def test_of_the_funnel_itself_more_draws_are_not_asked_for():
    pyro.set_rng_seed(0)
    draws = pv.mcmc(centred, (), plate=None, num_samples=200, warmup_steps=100, compile=False)
    message = check("5.3", draws.samples["v"].squeeze(2)).message
    assert "more draws do not help" in message
    assert "take more" not in message
    assert 'draws.samples["v"], draws.samples["x"]' in check("5.3", draws).message


def test_few_draws_are_too_few_whatever_the_program():
    pyro.set_rng_seed(0)
    assert check("5.3", 3 * torch.randn(100)).message.endswith(
        "take more. From 200 on, a right sampler can be told from a wrong one."
    )


def test_the_funnel_by_its_own_sampler():
    assert check("5.3", 3 * torch.randn(4, 2000))


def test_the_funnel_without_centre():
    draws = pv.mcmc(not_centred, (), plate=None, num_samples=150, warmup_steps=100, num_chains=8, compile=False)
    result = check("5.3", draws.deterministic["v"].squeeze(2))
    assert result, result
    assert 'draws.deterministic["v"]' in check("5.3", draws).message
    assert "standardised" in check("5.3", draws.samples["v_raw"].squeeze(2)).message


def test_right_chains_that_are_slow_in_the_spread_pass():
    """NUTS's draws swing about the mean; their squares are worth a quarter of their number."""
    pyro.set_rng_seed(0)
    draws = pv.mcmc(not_centred, (), plate=None, kernel=pv.NUTS(), num_samples=250)
    result = check("5.3", draws.deterministic["v"].squeeze(2))
    assert result, result


def test_a_funnel_without_its_neck():
    v = 3 * torch.randn(8000)
    assert not check("5.3", v[v > -3])


def test_a_standard_deviation_taken_for_a_variance():
    assert "standard deviation in it" in check("5.3", 3**0.5 * torch.randn(4, 2000)).message
