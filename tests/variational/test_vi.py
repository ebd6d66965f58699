"""Variational inference without tuning, against closed forms and quadrature."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoIAFNormal, AutoLaplaceApproximation, AutoMultivariateNormal, AutoNormal
from scipy import optimize

import pyro_vae as pv
from pyro_vae.inference.posterior import GuideSampler
from pyro_vae.inference.variational.whole import stochastic
from pyro_vae.inference.variational.whole.families import LowRank
from pyro_vae.inference.variational.whole.flow_family import Flow
from pyro_vae.inference.variational.whole.natural import natural_steps
from pyro_vae.inference.variational.whole.noise import even_noise
from pyro_vae.inference.variational.whole.objective import Objective
from tests.truth import STANDARD_ERRORS, linear_gaussian, linear_gaussian_posterior

pytestmark = pytest.mark.usefixtures("float64")

LOG_EVIDENCE = float(torch.distributions.Normal(0.0, 1.0).log_prob(torch.tensor(0.5)))


def gaussian(covariance, mean=None):
    """The target whose posterior is a given Gaussian; its log evidence is LOG_EVIDENCE."""
    mean = torch.zeros(len(covariance)) if mean is None else mean

    def program(x):
        pyro.sample("u", dist.MultivariateNormal(mean, covariance))
        pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    return pv.Target(program, torch.tensor(0.5), plate=None)


def correlated(L, condition=30.0):
    basis = torch.linalg.qr(torch.randn(L, L)).Q
    return (basis * torch.logspace(0, math.log10(condition), L)) @ basis.mT


@pytest.fixture
def banana():
    """A target in two dimensions, and its log evidence: x is normal with variance 4 + 1."""

    def program(x):
        a = pyro.sample("a", dist.Normal(0.0, 2.0))
        pyro.sample("b", dist.Normal(0.5 * a**2, 0.7))
        pyro.sample("x", dist.Normal(a, 1.0), obs=x)

    x = torch.tensor(1.0)
    return pv.Target(program, x, plate=None), float(dist.Normal(0.0, math.sqrt(5)).log_prob(x))


def test_mean_field_has_the_inverse_of_the_precisions_diagonal():
    covariance, mean = correlated(4), torch.randn(4)
    q = pv.vi(gaussian(covariance, mean), guide="mean_field")
    variance = 1 / torch.linalg.inv(covariance).diagonal()
    torch.testing.assert_close(q.mean[0], mean, rtol=0, atol=1e-2)
    torch.testing.assert_close(q.variance[0], variance, rtol=1e-2, atol=0)
    gap = 0.5 * (torch.logdet(covariance) - variance.log().sum())  # KL of the optimum, in closed form
    assert abs(float(q.elbo) - LOG_EVIDENCE + float(gap)) < STANDARD_ERRORS * float(q.elbo_error)
    assert q.converged.all()


def test_full_rank_is_exact_on_a_gaussian():
    covariance, mean = correlated(6, 1e4), torch.randn(6)
    q = pv.vi(gaussian(covariance, mean), guide="full_rank")
    torch.testing.assert_close(q.mean[0], mean, rtol=0, atol=1e-3)
    torch.testing.assert_close(q.base_dist.covariance_matrix[0], covariance, rtol=1e-3, atol=1e-3 * 1e4)
    assert abs(float(q.elbo) - LOG_EVIDENCE) < 1e-3
    assert float(q.pareto_k) < 0.2
    assert f"1 posteriors of 6 numbers; ELBO {float(q.elbo):.3f} nats" in repr(q)


def test_low_rank_is_exact_on_a_diagonal_with_two_directions():
    W = torch.randn(8, 2)
    covariance = torch.diag(torch.rand(8) + 0.5) + 3 * W @ W.mT
    q = pv.vi(gaussian(covariance), guide="low_rank", rank=2)
    assert abs(float(q.elbo) - LOG_EVIDENCE) < 5e-3
    torch.testing.assert_close(q.variance[0], covariance.diagonal(), rtol=0.05, atol=0)
    short = pv.vi(gaussian(covariance), guide="low_rank", rank=1)
    assert float(short.elbo) < LOG_EVIDENCE - 0.1


def test_natural_steps_need_one_step_on_a_gaussian():
    covariance, mean = correlated(3), torch.randn(3)
    start = dist.MultivariateNormal(5 * torch.ones(1, 3), 4.0 * torch.eye(3).unsqueeze(0))
    q, spent, calls = natural_steps(gaussian(covariance, mean), start, max_steps=2)
    torch.testing.assert_close(q.mean[0], mean)
    torch.testing.assert_close(q.covariance_matrix[0], covariance)
    assert (spent, calls) == (64, 2)


def test_even_noise_has_a_standard_normals_moments():
    z = even_noise(64, 5, torch.zeros(()))[:, 0]
    torch.testing.assert_close(z.mean(0), torch.zeros(5))
    torch.testing.assert_close(z.mT @ z / 64, torch.eye(5))
    assert abs(float(z.pow(4).mean()) - 3) < 0.3


@pytest.mark.parametrize("objective", ["elbo", "renyi", "importance"])
def test_each_objective_has_its_own_best_variance(objective):
    """On a Gaussian of two numbers with correlation 0.9, the best equal variance by SciPy and NumPy."""
    covariance = np.array([[1.0, 0.9], [0.9, 1.0]])
    precision = np.linalg.inv(covariance)

    def renyi(log_variance, alpha=0.5):
        inner = np.linalg.slogdet(alpha * np.eye(2) / np.exp(log_variance) + (1 - alpha) * precision)[1]
        return (0.5 * inner + alpha * log_variance) / (1 - alpha)

    draws = np.random.default_rng(0).standard_normal((40_000, 4, 2))

    def importance(log_variance):
        u = np.exp(log_variance / 2) * draws
        log_w = -0.5 * np.einsum("skl,lm,skm->sk", u, precision, u) + 0.5 * (draws**2).sum(-1) + log_variance
        return -np.log(np.exp(log_w).mean(1)).mean()

    goals = {"elbo": lambda v: 0.5 * np.trace(precision) * np.exp(v) - v, "renyi": renyi, "importance": importance}
    expected = np.exp(optimize.minimize_scalar(goals[objective], bounds=(-4, 2), method="bounded").x)
    target = gaussian(torch.as_tensor(covariance))
    q = pv.vi(target, guide="mean_field", objective=objective, num_particles=4, alpha=0.5)
    tolerance = {"elbo": 1e-3, "renyi": 0.05, "importance": 0.1}[objective]
    np.testing.assert_allclose(float(q.variance.mean()), expected, rtol=tolerance)
    assert (float(q.variance[0, 0]) > 0.21) == (objective != "elbo")  # the ELBO's is 1 - 0.9^2 = 0.19


def test_a_flow_bends_where_a_gaussian_cannot_and_auto_finds_that(banana):
    target, log_evidence = banana
    normal = pv.vi(target, guide="full_rank")
    q = pv.vi(target, max_gradients=25_000)
    assert q.guide == "flow"
    assert "flow raised the bound of full_rank" in q.reason
    error = math.hypot(float(q.elbo_error), float(normal.elbo_error))
    assert float(q.elbo) > float(normal.elbo) + STANDARD_ERRORS * error
    assert abs(float(q.elbo) - log_evidence) < 0.03
    u = torch.randn(5, 1, 2)
    z = q.base_dist.transform(u)
    torch.testing.assert_close(q.base_dist.transform.inv(z), u)
    jacobian = torch.func.jacrev(lambda v: q.base_dist.transform(v.reshape(1, 1, 2)).reshape(2))(u[0, 0])
    by_hand = dist.Normal(0.0, 1.0).log_prob(u[0, 0]).sum() - torch.linalg.slogdet(jacobian)[1]
    torch.testing.assert_close(q.log_prob(z)[0, 0], by_hand)


def test_auto_stops_at_the_full_covariance_where_that_is_exact():
    q = pv.vi(gaussian(correlated(3)))
    assert q.guide == "full_rank"
    assert "flow was not tried" in q.reason


@pytest.mark.parametrize("L", [1, 2, 5])
def test_a_flows_couplings_are_inverse_to_themselves_for_every_posterior(L):
    start = dist.MultivariateNormal(torch.randn(3, L), torch.eye(L).expand(3, L, L))
    family = Flow(start, num_transforms=5, hidden=6)
    theta = 0.3 * torch.randn(3, family.num_params)
    u, log_q = family.place(theta, torch.randn(4, 1, L))
    torch.testing.assert_close(family.distribution(theta).log_prob(u), log_q)
    alone = dist.MultivariateNormal(start.mean[1:2], start.covariance_matrix[1:2])
    own = Flow(alone, num_transforms=5, hidden=6)
    own.couplings = family.couplings
    torch.testing.assert_close(own.distribution(theta[1:2]).log_prob(u[:, 1:2])[:, 0], log_q[:, 1])
    at_start = family.distribution(family.origin).log_prob(u)
    torch.testing.assert_close(at_start, start.log_prob(u))


@pytest.mark.parametrize("guide", ["mean_field", "full_rank"])
def test_n_posteriors_at_once_are_each_alone(guide):
    target = pv.Target(pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(pv.networks.mlp(2, 6, 8))),
                       (torch.rand(3, 8) < 0.4).double())  # fmt: skip
    together = pv.vi(target, guide=guide)
    assert together.converged.all()
    for n in range(3):
        alone = pv.vi(target.rows([n]), guide=guide)
        std = alone.variance[0].sqrt()
        assert ((together.mean[n] - alone.mean[0]).abs() < 0.1 * std).all()
        assert ((together.variance[n].sqrt() / std).log().abs() < 0.1).all()


def test_the_answers_of_a_linear_gaussian_model_are_the_textbooks():
    model, W, b = linear_gaussian(2, 5)
    x = torch.randn(4, 5)
    mean, _, log_evidence = linear_gaussian_posterior(x, W, b, 0.5)
    q = pv.vi(model, x, guide="full_rank")
    np.testing.assert_allclose(q.mean.numpy(), mean, atol=1e-3)
    np.testing.assert_allclose(q.elbo.numpy(), log_evidence, atol=1e-3)
    found = pv.evidence(model, x, posterior=q, method="importance", num_samples=200)
    np.testing.assert_allclose(found.log_evidence.numpy(), log_evidence, atol=1e-3)
    table = pv.compare(model, x, {"vi": q}, truth=pv.analytic(model, x))
    np.testing.assert_allclose(table.scores["vi"].kl.numpy(), 0.0, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_same_seed_gives_the_same_answer_in_either_precision(dtype):
    torch.set_default_dtype(dtype)
    target = gaussian(correlated(3))
    found = []
    for _ in range(2):
        pyro.set_rng_seed(3)
        found.append(pv.vi(target, guide="full_rank"))
    assert torch.equal(found[0].mean, found[1].mean)
    assert found[0].mean.dtype == dtype
    assert abs(float(found[0].elbo) - LOG_EVIDENCE) < 2e-3


@pytest.fixture
def regression():
    """Two slopes and a scale, of 60 rows."""

    def program(X, y):
        w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        scale = pyro.sample("scale", dist.LogNormal(0.0, 0.5))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(X @ w, scale), obs=y)

    X = torch.randn(60, 2)
    return pv.Target(program, (X, X.sum(-1) + torch.randn(60)), plate=None)


@pytest.mark.parametrize("guide", [AutoNormal, AutoMultivariateNormal])
def test_pyros_automatic_guides_are_trained(guide, regression):
    target = regression
    truth = pv.quadrature(target)
    q = pv.vi(target, guide=guide, max_gradients=16_000)
    assert q.guide == guide.__name__
    assert ((q.mean - truth.mean).abs() < 0.15 * truth.variance.sqrt()).all()
    assert abs(float(q.elbo - truth.log_evidence)) < 0.2
    weights = pv.evidence(target, posterior=q, method="importance", num_samples=2000)
    assert abs(float(weights.log_evidence - truth.log_evidence)) < 0.1


def test_a_pyro_flows_density_is_that_of_its_own_trace(regression):
    guide = AutoIAFNormal(regression.model)
    q = pv.vi(regression, guide=guide, max_gradients=4_000)
    assert q.guide == "AutoIAFNormal"
    u, log_q = GuideSampler(regression, guide).draw(5)
    torch.testing.assert_close(q.log_prob(u), log_q)
    assert q.sample((2,)).shape == (2, 1, 3)
    assert float(q.elbo) < float(pv.quadrature(regression).log_evidence) + STANDARD_ERRORS * float(q.elbo_error)


def test_a_spent_budget_is_said(banana):
    for guide in ("full_rank", "flow"):
        q = pv.vi(banana[0], guide=guide, max_gradients=300)
        assert not q.converged.any()
        assert "the budget ran out" in q.reason
        assert q.num_gradients <= 300
        assert math.isfinite(float(q.elbo))


@pytest.mark.parametrize("guide", ["auto", "full_rank", "flow"])
def test_a_budget_that_the_start_uses_up_is_kept_to(guide):
    """Forty dimensions want 160 gradients for one natural-gradient step, and as many for one step of the search."""
    torch.manual_seed(0)
    q = pv.vi(gaussian(torch.eye(40)), guide=guide, max_gradients=150)
    assert q.num_gradients <= 150
    assert not q.converged.any()
    assert "the budget" in q.reason
    assert math.isfinite(float(q.elbo))


def test_what_was_spent_is_counted(banana):
    target, _ = banana
    counted = []
    own = target.value_and_grad
    target.value_and_grad = lambda u, **settings: (counted.append(u[..., 0, 0].numel()), own(u, **settings))[1]
    q = pv.vi(target, guide="mean_field")
    assert q.num_gradients == sum(counted)
    assert q.num_sequential == len(counted)
    assert len(q.elbos) >= q.num_steps
    assert q.seconds > 0


def test_draws_beyond_the_edge_of_the_support_are_said():
    def program(x):
        scale = pyro.sample("scale", dist.Exponential(1.0))
        pyro.sample("x", dist.Uniform(0.0, scale), obs=x)

    q = pv.vi(program, torch.tensor(1.0), guide="mean_field", plate=None)
    assert not q.converged.any()
    assert "infinite density" in q.reason or "budget" in q.reason


def test_bad_input_is_refused(banana):
    target, _ = banana
    cases = [
        (ValueError, "guide to be one of", {"guide": "full rank"}),
        (TypeError, "an automatic guide of Pyro", {"guide": 3}),
        (ValueError, "an ELBO trains", {"guide": AutoLaplaceApproximation}),
        (ValueError, "objective to be one of", {"objective": "kl"}),
        (ValueError, "an alpha other than 1", {"objective": "renyi", "alpha": 1.0}),
        (ValueError, "max_gradients", {"max_gradients": 3}),
        (ValueError, "rank", {"guide": "low_rank", "rank": 0}),
    ]
    for error, words, settings in cases:
        with pytest.raises(error, match=words):
            pv.vi(target, **settings)

    def discrete(x):
        c = pyro.sample("c", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
        pyro.sample("x", dist.Normal(c, 1.0), obs=x)

    with pytest.raises(ValueError, match="a continuous latent site"):
        pv.vi(discrete, torch.tensor(0.0), plate=None)
    with pytest.raises(ValueError, match="latent"):
        pv.vi(lambda x: pyro.sample("x", dist.Normal(0.0, 1.0), obs=x), torch.tensor(0.0), plate=None)


def test_an_ascent_that_ended_below_its_start_is_put_back(banana, monkeypatch):
    start = dist.MultivariateNormal(torch.zeros(1, 2), torch.eye(2).unsqueeze(0))
    monkeypatch.setattr(stochastic, "_STEP_SIZES", (5.0, 5.0, 5.0))  # so long that it falls
    search = stochastic.train(banana[0], Flow(start, num_transforms=2), Objective(), name="flow", budget=64 * 50)
    assert not search.converged.any()
    assert "put back" in search.reason
    u = torch.randn(6, 1, 2)
    torch.testing.assert_close(search.q.log_prob(u), start.log_prob(u))


def test_a_low_rank_gaussian_far_off_has_no_density_and_raises_nothing():
    family = LowRank(dist.MultivariateNormal(torch.zeros(2, 4), correlated(4).expand(2, 4, 4)), 2)
    theta, noise = 0.1 * torch.randn(2, family.num_params), torch.randn(5, 1, 6)
    u, log_q = family.place(theta, noise)
    torch.testing.assert_close(log_q, family.distribution(theta).log_prob(u))
    theta[0, 8:] = 1e200
    own = family.place(theta, noise)[1]
    assert own[:, 0].isnan().all()
    torch.testing.assert_close(own[:, 1], log_q[:, 1])
