"""Discrete latent sites summed out of a program: sums over every assignment, and forward-backward, are the truth."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import config_enumerate

from pyro_vae import Target
from pyro_vae.inference.target import elimination
from tests import discrete_programs as programs
from tests.truth import STANDARD_ERRORS

EACH = pytest.mark.parametrize("program", programs.PROGRAMS, ids=lambda program: program.__name__)


def _joint(target, u):
    """Log joint of every assignment at each u ``(S, N, L)``, ``(S, A, N)``."""
    return torch.stack([programs.brute_force(target, point) for point in u])


@EACH
def test_the_density_is_the_sum_over_every_assignment(program, float64):
    target = Target(program, programs.X)
    u = target.sample_prior(3)
    expected = _joint(target, u).logsumexp(1)
    torch.testing.assert_close(target.log_joint(u), expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(target.log_joint(u[0]), expected[0], rtol=1e-10, atol=1e-10)
    prior, likelihood = target.log_parts(u)
    torch.testing.assert_close(prior + likelihood, expected, rtol=1e-10, atol=1e-10)


@EACH
def test_probabilities_of_values_are_those_of_the_assignments(program, float64):
    target = Target(program, programs.X)
    u = target.sample_prior(2)
    weights = _joint(target, u).softmax(1)  # (S, A, N)
    found = target.compute_marginals(u)
    assert set(found) == set(target.discrete)
    for name, site in target.discrete.items():
        values = torch.stack([assignment[name] for assignment in programs.assignments(target)])
        is_value = torch.stack([(values == v).reshape(len(values), *site.shape, -1).all(-1) for v in site.values], -1)
        expected = torch.einsum("sa...,a...k->s...k", _over(site, weights), is_value.double())
        torch.testing.assert_close(found[name], expected, rtol=1e-10, atol=1e-10)


def _over(site, weights):
    """Weights ``(S, A, N)`` as they multiply a site's batch."""
    if site.axis is not None:
        return weights
    return weights.squeeze(-1).reshape(*weights.shape[:2], *[1] * len(site.shape)).expand(-1, -1, *site.shape)


@EACH
def test_draws_are_as_frequent_as_the_assignments_are_probable(program, float64):
    target = Target(program, programs.X)
    S, u = 2000, target.sample_prior(1)
    drawn = target.infer_discrete(u.expand(S, -1, -1))
    every = programs.assignments(target)
    same = torch.ones(S, len(every), target.num_data, dtype=torch.bool)
    for name, site in target.discrete.items():
        values = torch.stack([assignment[name] for assignment in every])  # (A, *shape, *event)
        equal = (drawn[name].unsqueeze(1) == values).reshape(S, len(every), -1)
        if site.axis is not None:
            equal = equal.reshape(S, len(every), target.num_data, -1).all(-1)
        same &= equal if site.axis is not None else equal.all(-1, keepdim=True)
    p = _joint(target, u)[0].softmax(0)
    error = STANDARD_ERRORS * (p * (1 - p) / S).sqrt() + 1e-9
    assert bool(((same.double().mean(0) - p).abs() <= error + 3 / S).all())


@pytest.mark.parametrize("largest", [3**2, 3**3], ids=["from an end", "each second site at once"])
def test_a_long_chain_is_the_forward_backward_algorithm(largest, float64, monkeypatch):
    monkeypatch.setattr(elimination, "LARGEST", largest)  # of which no product of terms is larger
    T = 30
    x = torch.randn(T)
    target = Target(programs.hidden_markov, x)
    u = target.sample_prior(2)
    sites = target.constrain(u)
    log_joint, marginals = target.log_joint(u), target.compute_marginals(u)
    draws = target.infer_discrete(u[:1].expand(500, -1, -1))
    for s in range(2):
        A = sites["rows"][s]
        emission = dist.Normal(torch.tensor([-1.0, 0.0, 2.0]), sites["scale"][s]).log_prob(x[:, None]).exp()  # (T, K)
        forward, scale = [A[0] * emission[0]], []
        for t in range(1, T):
            scale.append(forward[-1].sum())
            forward.append(forward[-1] / scale[-1] @ A * emission[t])
        log_likelihood = sum(c.log() for c in scale) + forward[-1].sum().log()
        torch.testing.assert_close(target.log_likelihood(u[s]), log_likelihood.reshape(1), rtol=1e-10, atol=1e-10)
        backward = [torch.ones(3)]
        for t in reversed(range(1, T)):
            message = A @ (emission[t] * backward[0])
            backward.insert(0, message / message.sum())
        for t in range(T):
            p = forward[t] * backward[t]
            torch.testing.assert_close(marginals[f"state_{t}"][s], p / p.sum(), rtol=1e-10, atol=1e-10)
            if s == 0:
                share = torch.nn.functional.one_hot(draws[f"state_{t}"], 3).double().mean(0)
                error = STANDARD_ERRORS * (p / p.sum() * (1 - p / p.sum()) / 500).sqrt()
                assert bool(((share - p / p.sum()).abs() <= error + 2 / 500).all())
    assert log_joint.shape == (2, 1)


@EACH
def test_gradients_are_those_of_finite_differences(program, float64):
    target = Target(program, programs.X)
    if target.latent_dim:
        u = target.sample_prior(1)[0]
        assert torch.autograd.gradcheck(target.log_joint, u.requires_grad_(), eps=1e-6, atol=1e-6)


def test_a_state_of_probability_zero_leaves_the_gradient_finite(float64):
    @config_enumerate
    def program(x):
        p = pyro.sample("p", dist.Beta(2.0, 2.0))
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Bernoulli(p))
            c = pyro.sample("c", dist.Bernoulli(0.3 + 0.4 * a))
            pyro.factor("never", torch.where((a == 1) | (c == 1), -math.inf, 0.0))
            pyro.sample("x", dist.Normal(c, 1.0), obs=x)

    target = Target(program, programs.X)
    value, grad = target.value_and_grad(target.sample_prior(3))
    assert bool(value.isfinite().all())
    assert bool(grad.isfinite().all())
    torch.testing.assert_close(target.compute_marginals(target.origin)["c"][:, 0], torch.ones(3))


@pytest.mark.parametrize("program", [programs.per_datum, programs.chains_in_a_plate], ids=lambda p: p.__name__)
def test_data_have_posteriors_of_their_own(program, float64):
    target = Target(program, programs.X)
    assert target.per_datum
    assert target.num_data == 3
    u = target.sample_prior(2)
    some = target.rows([2, 0])
    torch.testing.assert_close(some.log_joint(u[:, [2, 0]]), target.log_joint(u)[:, [2, 0]])
    shared = u[:, :1]
    torch.testing.assert_close(target.log_joint(shared), target.log_joint(shared.expand_as(u)))
    one = Target(program, programs.X[:1])
    torch.testing.assert_close(one.log_joint(u[:, :1]), target.log_joint(u)[:, :1])
    assert one.infer_discrete(u[:, :1])[next(iter(one.discrete))].shape == (2, 1)


@EACH
def test_the_likelihood_by_site_adds_up(program, float64):
    target = Target(program, programs.X)
    u = target.sample_prior(2)
    found = target.log_likelihood_by_site(u)
    assert set(found) == set(target.observed)
    total = sum(v if target.per_datum else v.reshape(2, -1).sum(-1, keepdim=True) for v in found.values())
    torch.testing.assert_close(total, target.log_likelihood(u))


def test_observations_that_nothing_ties_together_are_apart(float64):
    u = torch.zeros(2, 1, 3)
    assert Target(programs.mixture, programs.X).log_likelihood_by_site(u)["x"].shape == (2, 3)
    assert Target(programs.changepoint, programs.X).log_likelihood_by_site(u[..., :2])["x"].shape == (2,)


def test_scale_multiplies_the_log_of_the_sum_as_in_pyro(float64):
    scaled = Target(poutine.scale(programs.mixture, scale=3.0), programs.X)
    plain = Target(programs.mixture, programs.X)
    u = plain.sample_prior(2)
    torch.testing.assert_close(scaled.log_likelihood(u), 3 * plain.log_likelihood(u))


# -- what is said ----------------------------------------------------------------------------------------------------


def _with(distribution):
    def program(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        k = pyro.sample("k", distribution, infer={"enumerate": "parallel"})
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z + k.double().mean(), 1.0), obs=x)

    return program


def _many(x, *, total):
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    ks = [pyro.sample(f"k_{i}", dist.Bernoulli(0.5), infer={"enumerate": "parallel"}) for i in range(30)]
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(z + total(ks), 1.0), obs=x)


def _sequence(x):
    z, k = pyro.sample("z", dist.Normal(0.0, 1.0)), 0
    for t in range(70):
        k = pyro.sample(f"k_{t}", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
    pyro.sample("x", dist.Normal(z + k, 1.0).expand(x.shape).to_event(1), obs=x)


@config_enumerate
def _crossing(x):
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    rows, columns = pyro.plate("rows", 3, dim=-2), pyro.plate("columns", 3, dim=-1)
    with rows:
        a = pyro.sample("a", dist.Bernoulli(0.5))
    with columns:
        b = pyro.sample("b", dist.Bernoulli(0.5))
    with rows, columns:
        pyro.sample("x", dist.Normal(z + a * b, 1.0), obs=x.expand(3, 3))


@config_enumerate
def _moved(x):
    with pyro.plate("data", len(x)):
        k = pyro.sample("k", dist.Bernoulli(0.5))
        z = pyro.sample("z", dist.Uniform(0.0, 1.0 + k))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


@config_enumerate
def _branching(x):
    z, k = pyro.sample("z", dist.Normal(0.0, 1.0)), pyro.sample("k", dist.Bernoulli(0.5))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(z if k > 0 else -z, 1.0), obs=x)


@config_enumerate
def _misplaced(x):
    z, k = pyro.sample("z", dist.Normal(0.0, 1.0)), pyro.sample("k", dist.Bernoulli(0.5))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(z + k.unsqueeze(-1), 1.0), obs=x)


@pytest.mark.parametrize(
    ("program", "words"),
    [
        (_branching, r"runs over all values of \['k'\] at once; got Boolean value.*try torch.where"),
        (_misplaced, "dimensions left of -1 where Pyro puts them; got a density of shape .* at site 'x'"),
        (
            _with(dist.Poisson(3.0)),
            r"listed; got Poisson; try truncating it.*dist.Categorical\(logits",
        ),
        (_with(dist.Geometric(0.3)), "finitely many values, listed; got Geometric"),
        (_with(dist.Bernoulli(torch.ones(3) / 2).to_event(1)), "in place of .to_event"),
        (_with(dist.Multinomial(2, torch.ones(3) / 3)), "got Multinomial"),
        (_with(dist.Bernoulli(torch.ones(3) / 2)), r"pyro.plate\('k_plate', 3\)"),
        (_with(dist.Binomial(torch.tensor([1.0, 2.0]), 0.5).to_event(1)), "in place of .to_event"),
        (lambda x: _many(x, total=sum), r"65,536 numbers; got one of .*; try pyro.plate"),
        (_sequence, r"discrete sites outside pyro.markov; got 70, 'k_0' to 'k_69'; try for t in pyro.markov"),
        (_crossing, "plates of discrete sites that form a tree"),
        (_moved, "a support of 'z' that no discrete site moves"),
    ],
)
def test_what_cannot_be_summed_is_refused_in_words(program, words, float64, monkeypatch):
    monkeypatch.setattr(elimination, "LARGEST", 2**16)
    with pytest.raises(ValueError, match=words):
        Target(program, programs.X)


def test_many_sites_that_meet_nowhere_cost_nothing(float64):
    target = Target(lambda x: _many(x, total=lambda ks: ks[0]), programs.X)
    assert target.log_joint(target.sample_prior(2)).isfinite().all()


def test_a_truncated_poisson_is_the_poisson(float64):
    def program(x):
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
        k = torch.arange(60)
        with pyro.plate("data", len(x)):
            n = pyro.sample("n", dist.Categorical(logits=dist.Poisson(rate).log_prob(k)))
            pyro.sample("x", dist.Normal(n, 1.0), obs=x)

    with pytest.warns(UserWarning, match="summing out the discrete sites n"):
        target = Target(program, programs.X)
    u = torch.tensor([[[0.5]]])
    n = torch.arange(200)
    terms = dist.Poisson(u.exp()).log_prob(n) + dist.Normal(n.double(), 1.0).log_prob(programs.X[:, None])
    torch.testing.assert_close(target.log_likelihood(u)[0, 0], terms.logsumexp(-1).sum(), rtol=1e-10, atol=1e-10)


def test_nothing_is_said_where_enumeration_is_declared_and_sequential_is_summed_too(float64):
    def program(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Bernoulli(0.3), infer={"enumerate": "sequential"})
            pyro.sample("x", dist.Normal(z + c, 1.0), obs=x)

    target = Target(program, programs.X)  # a warning would be an error here
    assert target.log_joint(target.origin).shape == (1,)


def test_pyros_own_hidden_markov_distribution_is_the_chain(float64):
    """DiscreteHMM, whose logarithms torch.func cannot derive as Pyro has them."""
    y = torch.tensor([0.3, 2.0, -0.4, 1.1])

    def whole(y):
        loc = pyro.sample("loc", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        chain = torch.tensor([[0.7, 0.3], [0.2, 0.8]]).log()[None]
        emission = dist.Normal(loc[..., None, :], 1.0)
        pyro.sample("y", dist.DiscreteHMM(torch.zeros(2), chain, emission, duration=len(y)), obs=y)

    target = Target(whole, y, plate=None)
    u = torch.randn(3, 1, 2)
    value, grad = target.value_and_grad(u)
    v = u.clone().requires_grad_()
    rows = []
    for loc in v[:, 0]:
        chain = torch.tensor([[0.7, 0.3], [0.2, 0.8]]).log()[None]
        fn = dist.DiscreteHMM(torch.zeros(2), chain, dist.Normal(loc[None], 1.0), duration=4)
        rows.append(fn.log_prob(y) + dist.Normal(0.0, 1.0).log_prob(loc).sum())
    expected = torch.stack(rows)
    torch.testing.assert_close(value[:, 0], expected.detach())
    torch.testing.assert_close(grad, torch.autograd.grad(expected.sum(), v)[0])


def test_the_first_transition_of_pyros_hidden_markov_distribution(float64):
    """DiscreteHMM transits before the first observation: a program that does not is told so by an identity."""
    y = torch.tensor([0.3, 2.0, -0.4, 1.1, 2.2])
    start, T = torch.tensor([0.9, 0.1]), len(y)

    def parameters():
        with pyro.plate("states", 2):
            return pyro.sample("rows", dist.Dirichlet(torch.ones(2))), pyro.sample("loc", dist.Normal(0.0, 1.0))

    def as_distribution(y, first):
        rows, loc = parameters()
        transitions = torch.cat([first.log()[None], rows.log().expand(T - 1, 2, 2)])
        hmm = dist.DiscreteHMM(start.log(), transitions, dist.Normal(loc[..., None, :], 1.0), duration=T)
        pyro.sample("y", hmm, obs=y)

    def as_published(y):
        rows, loc = parameters()
        hmm = dist.DiscreteHMM(start.log(), rows.log()[None], dist.Normal(loc[..., None, :], 1.0), duration=T)
        pyro.sample("y", hmm, obs=y)

    @config_enumerate
    def as_chain(y, first):
        rows, loc = parameters()
        state = None
        for t in pyro.markov(range(T)):
            state = pyro.sample(f"state_{t}", dist.Categorical(start @ first if state is None else rows[state]))
            pyro.sample(f"y_{t}", dist.Normal(loc[state], 1.0), obs=y[t])

    same, other = torch.eye(2), torch.tensor([[0.6, 0.4], [0.3, 0.7]])
    for first in (same, other):
        chain = Target(lambda y, first=first: as_chain(y, first), y, plate=None)
        hmm = Target(lambda y, first=first: as_distribution(y, first), y, plate=None)
        u = chain.sample_prior(3)
        sites, rows = chain.constrain(u), []
        for A, loc in zip(sites["rows"], sites["loc"], strict=True):
            forward = (start @ first) * dist.Normal(loc, 1.0).log_prob(y[0]).exp()
            for t in range(1, T):
                forward = forward @ A * dist.Normal(loc, 1.0).log_prob(y[t]).exp()
            rows.append(forward.sum().log())
        value, grad = hmm.value_and_grad(u)
        torch.testing.assert_close(chain.log_likelihood(u)[:, 0], torch.stack(rows), rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(value, chain.log_joint(u), rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(grad, chain.value_and_grad(u)[1], rtol=1e-9, atol=1e-9)
    published, chain = Target(as_published, y, plate=None), Target(lambda y: as_chain(y, same), y, plate=None)
    assert float((published.log_joint(u) - chain.log_joint(u)).abs().max()) > 0.01
