"""Pathfinder: its algebra against dense formulas, its answers against closed forms."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_vae as pv
from pyro_vae.inference.optimum.factored_normal import FactoredNormal
from pyro_vae.inference.optimum.quasi_newton import History, QuasiNewton
from tests.truth import STANDARD_ERRORS, linear_gaussian, linear_gaussian_posterior

pytestmark = pytest.mark.usefixtures("float64")


def gaussian_program(mean, covariance):
    """A program whose posterior is the prior, and its log evidence, that of one number without a parent."""

    def program(x):
        pyro.sample("u", dist.MultivariateNormal(mean, covariance))
        pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    return program, torch.tensor(0.5), float(dist.Normal(0.0, 1.0).log_prob(torch.tensor(0.5)))


def covariance_of(L, condition):
    basis = torch.linalg.qr(torch.randn(L, L)).Q
    return (basis * torch.logspace(0, math.log10(condition), L)) @ basis.mT


def learnt(L, size, num_pairs):
    """A history of two functions that has seen pairs of random quadratics, and those pairs."""
    hessian = torch.stack([covariance_of(L, 20), covariance_of(L, 5)])
    history = History(torch.zeros(2, L), size)
    pairs = []
    for _ in range(num_pairs):
        step = torch.randn(2, L)
        drop = (hessian @ step.unsqueeze(-1)).squeeze(-1)
        history.learn(step, drop, torch.tensor([True, True]))
        pairs.append((step, drop))
    return history, pairs[-size:]


def dense_inverse(history, pairs, b):
    """BFGS' formula for the inverse Hessian, pair after pair, in NumPy."""
    H = np.diag(history.diagonal[b].numpy())
    for step, drop in pairs:
        s, y = step[b].numpy(), drop[b].numpy()
        left = np.eye(len(s)) - np.outer(s, y) / (s @ y)
        H = left @ H @ left.T + np.outer(s, s) / (s @ y)
    return H


@pytest.mark.parametrize(("size", "num_pairs"), [(3, 2), (3, 7), (6, 6)])
def test_the_compact_form_is_bfgs_formula_and_the_two_loops_are_too(size, num_pairs):
    history, pairs = learnt(4, size, num_pairs)
    u, grad = torch.randn(2, 4), torch.randn(2, 4)
    q, good = FactoredNormal.of_steps(u, grad, history.steps, history.drops, history.diagonal)
    assert good.all()
    for b in range(2):
        H = dense_inverse(history, pairs, b)
        np.testing.assert_allclose(q.covariance_matrix[b].numpy(), H, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(history.times(grad)[b].numpy(), H @ grad[b].numpy(), rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(q.mean[b].numpy(), u[b].numpy() + H @ grad[b].numpy(), rtol=1e-8, atol=1e-10)


def test_the_diagonal_is_algorithm_3():
    """Worked through by hand: alpha = (1, 1), s = (1, 0), y = (2, 0), so a = y'y = 4, b = y's = 2, c = s's = 1."""
    history = History(torch.ones(1, 2), 2)
    history.learn(torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 0.0]]), torch.tensor([True]))
    # 1 / alpha = a / b + y^2 / b - a s^2 / (b c) = (4/2 + 4/2 - 4/2, 4/2)
    torch.testing.assert_close(history.diagonal, torch.tensor([[0.5, 0.5]]))


def test_draws_and_density_are_those_of_the_dense_gaussian():
    history, _ = learnt(5, 2, 4)
    q, _ = FactoredNormal.of_steps(torch.randn(2, 5), torch.randn(2, 5), history.steps, history.drops, history.diagonal)
    dense = dist.MultivariateNormal(q.mean, q.covariance_matrix)
    value = torch.randn(7, 2, 5)
    torch.testing.assert_close(q.log_prob(value), dense.log_prob(value))
    torch.testing.assert_close(q.variance, dense.variance)
    torch.testing.assert_close(q.precision_diagonal, dense.precision_matrix.diagonal(dim1=-2, dim2=-1))
    root = (q.place(torch.eye(5).unsqueeze(1).expand(5, 2, 5)) - q.mean).movedim(0, -1)  # draws are linear in noise
    torch.testing.assert_close(root @ root.mT, q.covariance_matrix)


def test_the_climb_finds_the_summit_of_functions_at_their_own_pace():
    def rosenbrock(u):
        a, b = u.unbind(-1)
        return -((1 - a) ** 2) - 100 * (b - a**2) ** 2

    def with_grad(u):
        u = u.detach().requires_grad_()
        value = rosenbrock(u)
        return value.detach(), torch.autograd.grad(value.sum(), u)[0]

    u = torch.tensor([[-1.2, 1.0], [1.0, 1.0], [3.0, -5.0]])
    climb = QuasiNewton(u, *with_grad(u))
    for _ in range(150):
        if climb.ended.all():
            break
        climb.tell(*with_grad(climb.trial))
    assert climb.ended.all()
    torch.testing.assert_close(climb.u, torch.ones(3, 2), rtol=0, atol=1e-4)


@pytest.mark.parametrize("L", [1, 2, 5])
def test_a_gaussian_posterior_is_found_whole_with_a_long_history(L):
    mean, covariance = torch.randn(L), covariance_of(L, 30)
    program, x, log_evidence = gaussian_program(mean, covariance)
    q = pv.pathfinder(program, x, history=3 * L, plate=None)
    std = covariance.diagonal().sqrt()
    assert q.converged.all()
    torch.testing.assert_close(q.mean[0] / std, mean / std, rtol=0, atol=0.02)
    torch.testing.assert_close(q.variance[0].sqrt() / std, torch.ones(L), rtol=0, atol=0.05)
    assert abs(float(q.elbo) - log_evidence) < 0.02
    assert float(q.pareto_k) < 0.3


def test_logistic_regression_agrees_with_laplace():
    X = torch.randn(150, 3)
    y = dist.Bernoulli(logits=X @ torch.tensor([1.0, -0.5, 0.0])).sample()

    def program(X, y):
        w = pyro.sample("w", dist.Normal(torch.zeros(3), 2.0).to_event(1))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Bernoulli(logits=X @ w), obs=y)

    target = pv.Target(program, (X, y), plate=None)
    q, normal = pv.pathfinder(target), pv.laplace(target)
    assert ((q.mean - normal.mean).abs() < 0.15 * normal.stddev).all()
    assert ((q.variance / normal.variance).log().abs() < 0.35).all()
    assert abs(float(q.elbo - normal.log_evidence)) < 0.1
    assert q.num_gradients == 4 * q.num_sequential


def test_n_posteriors_at_once_with_their_evidence():
    model, W, b = linear_gaussian(2, 6)
    x = torch.randn(5, 6)
    mean, V, log_evidence = linear_gaussian_posterior(x, W, b, 0.5)
    q = pv.pathfinder(model, x, history=8)
    assert q.batch_shape == (5,)
    assert q.event_shape == (2,)
    assert q.elbos.shape == (4, 5)
    np.testing.assert_allclose(q.mean.numpy(), mean, atol=0.02)
    np.testing.assert_allclose(q.variance.numpy(), np.diag(V)[None].repeat(5, 0), rtol=0.1)
    np.testing.assert_allclose(q.elbo.numpy(), log_evidence, atol=0.02)
    weights = pv.evidence(model, x, posterior=q, method="importance", num_samples=400)
    error = STANDARD_ERRORS * weights.standard_error.numpy() + 1e-6
    assert (np.abs(weights.log_evidence.numpy() - log_evidence) < error).all()


def test_paths_are_weighted_by_their_bounds_and_cover_two_modes():
    def program(x):
        u = pyro.sample("u", dist.Normal(0.0, 2.0))
        pyro.sample("x", dist.Normal(u**2, 0.3), obs=x)

    target = pv.Target(program, torch.tensor(2.0), plate=None)
    truth = pv.quadrature(target)
    q = pv.pathfinder(target, num_paths=6)
    left = q.mixture_distribution.probs[0, q.component_distribution.mean[0, :, 0] < 0].sum()
    assert 0.45 < float(left) < 0.55  # however many paths went there
    assert q.mean.abs().max() < 0.15
    assert float(q.elbo) < float(truth.log_evidence) - 0.5  # one mode alone misses log 2
    mixture = pv.evidence(target, posterior=q, method="elbo", num_samples=2000)
    assert float(mixture.log_evidence) > float(truth.log_evidence) - 0.1
    one, u = pv.pathfinder(target, num_paths=1), torch.linspace(-2, 2, 9).reshape(-1, 1, 1)
    torch.testing.assert_close(one.log_prob(u), one.best.log_prob(u))


def test_the_same_seed_gives_the_same_answer_in_either_precision():
    for dtype in (torch.float32, torch.float64):
        torch.set_default_dtype(dtype)
        program, x, log_evidence = gaussian_program(torch.zeros(2, dtype=dtype), covariance_of(2, 9).to(dtype))
        found = []
        for _ in range(2):
            pyro.set_rng_seed(7)
            found.append(pv.pathfinder(program, x.to(dtype), plate=None))
        assert torch.equal(found[0].mean, found[1].mean)
        assert found[0].mean.dtype == dtype
        assert abs(float(found[0].elbo) - log_evidence) < 0.05


def test_what_it_cannot_do_it_says():
    def nowhere(x):
        u = pyro.sample("u", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(torch.nan * u, 1.0), obs=x)

    def discrete(x):
        c = pyro.sample("c", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
        pyro.sample("x", dist.Normal(c, 1.0), obs=x)

    with pytest.raises(ValueError, match="a start of finite density"):
        pv.pathfinder(nowhere, torch.tensor(0.0), plate=None)
    with pytest.raises(ValueError, match="a continuous latent site"):
        pv.pathfinder(discrete, torch.tensor(0.0), plate=None)
    program, x, _ = gaussian_program(torch.zeros(2), torch.eye(2))
    with pytest.raises(ValueError, match="num_paths"):
        pv.pathfinder(program, x, num_paths=0, plate=None)
    short = pv.pathfinder(gaussian_program(10 * torch.ones(5), covariance_of(5, 1e4))[0], x, max_steps=2, plate=None)
    assert not short.converged.any()
