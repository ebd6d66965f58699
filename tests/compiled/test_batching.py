"""Repetitions of a traced loop done at once: the values and derivatives are those of the loop."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_vae import Target
from pyro_vae.inference.compiled.batching import Batched
from pyro_vae.inference.compiled.widening import _fold

Y = torch.linspace(-1.0, 2.0, 12, dtype=torch.float64)


def batched(function, x):
    """As ``widened`` traces it, with tensors in place of fake ones, which takes a tenth of the time."""
    with torch.no_grad():
        module = make_fx(lambda point: (function(point),))(x)
    return Batched(module, _fold(module))


def scan(x):
    """A recursion with what is selected, split in two results, joined and the same in every step."""
    state, seen = x[0], []
    for t, y in enumerate(Y):
        value, _ = torch.stack([x * y, x.sin() + 1.0]).max(0)
        seen.append(value - state)
        state = 0.5 * state + x[t % 3 - 3]
    return torch.cat(seen).square().sum() + torch.stack(seen, -1).logsumexp(-1).sum() + state


def permuted(x):
    """Parts in another order than they were made in, and with a stride."""
    rows = [x * y for y in Y]
    return sum((a - b).square().sum() for a, b in zip(rows[::-1], rows[1::2] + rows[::2], strict=True))


def shared(x):
    """Nothing but what is the same in every step."""
    return torch.stack([x.exp() for _ in Y]).sum() + torch.cat([x[None]] * 3).prod()


@pytest.mark.parametrize("function", [scan, permuted, shared])
def test_values_and_gradients_are_those_of_the_loop(function, float64):
    x = torch.tensor([0.3, -0.7, 1.1])
    at_once = batched(function, x)
    for point in (x, torch.tensor([-1.0, 2.0, 0.2])):
        torch.testing.assert_close(at_once(point), function(point), rtol=1e-12, atol=1e-12)
        found, wanted = (torch.func.grad(f)(point) for f in (at_once, function))
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


@pyro.infer.config_enumerate
def chain(x):
    with pyro.plate("states", 2):
        rows = pyro.sample("rows", dist.Dirichlet(torch.ones(2)))
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    state = torch.tensor(0)
    for t in pyro.markov(range(len(x))):
        state = pyro.sample(f"state_{t}", dist.Categorical(rows[state]))
        pyro.sample(f"x_{t}", dist.Normal(loc[state], 1.0), obs=x[t])


def test_a_long_chain_has_the_same_density_in_a_graph_that_hardly_grows(float64):
    operations = []
    for T in (10, 20):
        target = Target(chain, torch.linspace(-2.0, 2.0, T))
        u, other = target.sample_prior(2)
        log_joint = batched(target.log_joint, u)
        operations.append(len(log_joint._steps))
        for point in (u, other):
            torch.testing.assert_close(log_joint(point), target.log_joint(point), rtol=1e-10, atol=1e-10)
            grad = torch.func.grad(lambda v, f=log_joint: f(v).sum())(point)
            torch.testing.assert_close(grad, target.value_and_grad(point)[1], rtol=1e-9, atol=1e-9)
    assert operations[1] < 1.4 * operations[0]
