"""Repetitions of a traced loop done at once: the values and derivatives are those of the loop."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_vae import Target
from pyro_vae.inference.compiled.batching import Batched
from pyro_vae.inference.compiled.widening import widened
from pyro_vae.inference.mcmc.by_nutpie import model as model_module
from tests import discrete_programs as programs

Y = torch.linspace(-1.0, 2.0, 20, dtype=torch.float64)


def scan(x):
    """A recursion with what is selected, split in two results, joined and the same in every step."""
    state, seen = x[0], []
    for t, y in enumerate(Y):
        value, _ = torch.stack([x * y, x.sin() + 1.0]).max(0)
        seen.append(value - state)
        state = 0.5 * state + x[t % 3 - 3]
    return torch.cat(seen).square().sum() + torch.stack(seen, -1).logsumexp(-1).sum() + state


def prefix(x):
    """Parts in another order than they were made in, and with a stride."""
    rows = [x * y for y in Y]
    return sum((a - b).square().sum() for a, b in zip(rows[::-1], rows[1:] + rows[:1], strict=True))


def shared(x):
    """Nothing but what is the same in every step."""
    return torch.stack([x.exp() for _ in Y]).sum() + torch.cat([x[None]] * 3).prod()


@pytest.mark.parametrize("function", [scan, prefix, shared])
def test_values_and_gradients_are_those_of_the_loop(function, float64):
    x = torch.tensor([0.3, -0.7, 1.1])
    graph = widened(lambda point: (function(point),), x)
    batched = Batched(graph.module, graph.constants)
    for point in (x, torch.tensor([-1.0, 2.0, 0.2])):
        torch.testing.assert_close(batched(point), function(point), rtol=1e-12, atol=1e-12)
        found, wanted = (torch.func.grad(f)(point) for f in (batched, function))
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("program", [programs.hidden_markov, programs.second_order], ids=lambda p: p.__name__)
def test_a_long_chain_has_the_same_density(program, float64):
    target = Target(program, torch.linspace(-2.0, 2.0, 12))
    u, other = target.sample_prior(2)
    graph = model_module._batched(target, u)
    for point in (u, other):
        for found, wanted in zip(graph(point), target.value_and_grad(point), strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def test_the_graph_hardly_grows_with_the_chain(float64):
    @pyro.infer.config_enumerate
    def chain(x):
        p = pyro.sample("p", dist.Beta(2.0, 2.0))
        state = torch.tensor(0)
        for t in pyro.markov(range(len(x))):
            state = pyro.sample(f"s_{t}", dist.Bernoulli(torch.where(state == 1, p, 0.5))).long()
            pyro.sample(f"x_{t}", dist.Normal(state * 1.0, 1.0), obs=x[t])

    def nodes(T):
        target = Target(chain, torch.linspace(-1.0, 1.0, T))
        return len(model_module._batched(target, target.origin).module.graph.nodes)

    short, long = nodes(12), nodes(24)
    assert long < 1.35 * short
