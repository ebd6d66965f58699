"""Rows whose latents act on each other's data are one posterior; those that do not stay N."""

import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.ops.indexing import Vindex

import pyro_vae as pv
from pyro_vae.inference.target.independence import rows_are_tied
from tests.table_of_parts import LIKELIHOODS

N, NOISE = 6, 0.5
COUPLED = {  # by name: the matrix of z that the data see, and the program's own way to say it
    "walk": (torch.tril(torch.ones(N, N)), lambda z: z.cumsum(-1)),
    "centred": (torch.eye(N) - 1 / N, lambda z: z - z.mean(-1, keepdim=True)),
    "neighbours": (torch.eye(N) + torch.eye(N).roll(1, 0), lambda z: z + z[torch.arange(N) - 1]),
    "one pair": (torch.eye(N) + torch.eye(N)[:, [4]] @ torch.eye(N)[[1]], lambda z: z + z[1] * torch.eye(N)[4]),
}


def program(seen):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(seen(z), NOISE), obs=x)

    return model


@pytest.mark.parametrize("name", COUPLED)
def test_rows_that_are_tied_are_one_posterior(name, float64):
    matrix, seen = COUPLED[name]
    matrix, x = matrix.double(), torch.linspace(-1.0, 2.0, N)
    model = program(seen if name != "one pair" else lambda z: z @ matrix.T)
    with pytest.warns(UserWarning, match="plate 'data' act on data of other rows"):
        found = pv.analytic(model, x)
    covariance = torch.linalg.inv(torch.eye(N) + matrix.T @ matrix / NOISE**2)
    mean = covariance @ matrix.T @ x / NOISE**2
    torch.testing.assert_close(found.mean.flatten(), mean)
    torch.testing.assert_close(found.covariance_matrix.squeeze(0), covariance)
    exact = dist.MultivariateNormal(torch.zeros(N), matrix @ matrix.T + NOISE**2 * torch.eye(N)).log_prob(x)
    torch.testing.assert_close(found.log_evidence.sum(), exact)
    with pytest.warns(UserWarning, match="other rows"):
        normal = pv.laplace(model, x)
    torch.testing.assert_close(normal.loc.flatten(), mean, rtol=1e-5, atol=1e-5)


def test_pyros_own_chains_see_the_whole_too():
    model = program(COUPLED["walk"][1])
    with pytest.warns(UserWarning, match="other rows"):
        draws = pv.pyro_mcmc(model, torch.zeros(N), num_samples=5, warmup_steps=5, num_chains=1, jit_compile=False)
    assert draws.num_data == 1


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_rows_that_are_not_tied_stay_apart(name):
    torch.manual_seed(0)
    model = pv.Model(pv.priors.StandardNormal(2), LIKELIHOODS[name][0](2, 4))
    x = model.sample(7)[model.observed]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        target = pv.Target(model, x)
    assert target.per_datum
    assert target.num_data == 7


def test_what_has_no_derivative_or_no_number_is_not_called_tied():
    u = torch.randn(5, 2)
    assert not rows_are_tied(lambda v: v.detach().sum(-1), u)
    assert not rows_are_tied(lambda v: (v - v).log().sum(-1), u)
    assert rows_are_tied(lambda v: v.flip(0).square().sum(-1), u)


@pytest.mark.parametrize("plate", ["data", None])
def test_discrete_rows_that_are_tied_are_refused(plate):
    """Pyro's own enumeration takes the plate's word, and sums wrongly."""

    def walk(x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(c.cumsum(-1), NOISE), obs=x)

    with pytest.raises(
        ValueError, match=r"discrete sites \['c'\], whose rows act on 'x' in other rows; try pyro\.markov"
    ):
        pv.Target(walk, torch.zeros(4), plate=plate)


def test_discrete_rows_of_nested_plates_are_not_called_tied():
    def model(x):
        weights = pyro.sample("weights", dist.Dirichlet(torch.ones(3)))
        with pyro.plate("columns", 2, dim=-2):
            loc = pyro.sample("loc", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            with pyro.plate("data", x.shape[-1], dim=-1):
                c = pyro.sample("c", dist.Categorical(weights), infer={"enumerate": "parallel"})
                pyro.sample("x", dist.Normal(Vindex(loc)[..., c], 1.0), obs=x)

    assert pv.Target(model, torch.randn(2, 5)).discrete.keys() == {"c"}


def test_dropout_ties_no_rows_and_the_looks_do_not_grow_with_the_length_of_a_chain():
    """Looked at in evaluation mode, and once a plate, however many sites it holds."""
    runs = []

    class Sequences(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.dropout = torch.nn.Dropout(0.5)

        def forward(self, x):
            runs.append(self.training)
            with pyro.plate("sequences", len(x)):
                c = torch.zeros(len(x), dtype=torch.long)
                for t in pyro.markov(range(x.shape[1])):
                    c = pyro.sample(f"c{t}", dist.Bernoulli(0.2 + 0.5 * c), infer={"enumerate": "parallel"}).long()
                    pyro.sample(f"x{t}", dist.Normal(self.dropout(c.float() + 1), 1.0), obs=x[:, t])

    model = Sequences()
    pv.Target(model, torch.randn(6, 3), plate=None)
    few = len(runs)
    pv.Target(model, torch.randn(6, 30), plate=None)
    assert len(runs) == 2 * few
    assert not any(runs)
