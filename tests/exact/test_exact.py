"""The closed form, quadrature, the mode and Laplace, each against a truth computed without the package."""

import itertools
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import integrate, optimize, special, stats
from sklearn.decomposition import FactorAnalysis

import pyro_vae as pv
from pyro_vae.evaluation.model.density import held_out
from tests.truth import STANDARD_ERRORS, bernoulli_joint, grid_integral, linear_gaussian, linear_gaussian_posterior


def _decoder(latent_dim, data_dim=12, width=16):
    """A nonlinear decoder with bent, wide posteriors."""
    network = pv.networks.mlp(latent_dim, width, data_dim)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=1.0)
    return pv.Model(pv.priors.StandardNormal(latent_dim), pv.likelihoods.Bernoulli(network))


# -- closed form ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("latent_dim", "data_dim"), [(1, 3), (2, 10), (20, 5), (50, 80)])
def test_closed_form_is_the_textbooks(latent_dim, data_dim, float64):
    model, W, b = linear_gaussian(latent_dim, data_dim, scale=0.3)
    x = model.sample(9)["x"]
    mean, V, log_evidence = linear_gaussian_posterior(x, W, b, 0.3)
    posterior = pv.analytic(model, x)
    np.testing.assert_allclose(posterior.mean.detach(), mean, atol=1e-10)
    np.testing.assert_allclose(posterior.covariance_matrix.detach(), np.broadcast_to(V, (9, *V.shape)), atol=1e-10)
    np.testing.assert_allclose(posterior.log_evidence.detach(), log_evidence, rtol=1e-10)


def test_single_precision_loses_no_more_than_rounding():
    """The route reads W and b off a float32 program and goes on in float64, so all that is lost is that reading.

    Column i of W is read as fl(fl(W_i + b) - b): off by at most u |W_i + b| + u |W_i|, with u half the machine epsilon.
    The evidence moves by the slope against W times that, to first order, and is rounded once more in the end.
    """
    model, W, b = linear_gaussian(2, 10, scale=0.05)
    x = model.sample(20)["x"]
    weight, scale = torch.tensor(W, requires_grad=True), float(torch.tensor(0.05))
    covariance = weight @ weight.T + scale**2 * torch.eye(10).double()
    exact = torch.distributions.MultivariateNormal(torch.tensor(b), covariance).log_prob(x.double())
    u = torch.finfo(torch.float32).eps / 2
    read = u * ((weight + torch.tensor(b).unsqueeze(-1)).abs() + weight.abs()).detach()
    slopes = [torch.autograd.grad(value, weight, retain_graph=True)[0] for value in exact]
    allowed = torch.stack([(slope.abs() * read).sum() for slope in slopes]) + u * exact.detach().abs()
    off = (pv.analytic(model, x).log_evidence.double() - exact).detach().abs()
    assert (off <= 1.01 * allowed).all()  # 1 %: what the second order may add
    assert allowed.max() < 1e-2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("spread", [1e-4, 1.0, 1e3, 1e5])
def test_closed_form_takes_a_prior_of_any_width(spread, dtype):
    A = torch.randn(2, 2, dtype=dtype)

    def program(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=dtype), spread).to_event(1))
            pyro.sample("x", dist.Normal(z @ A.T, 0.5).to_event(1), obs=x)

    x = torch.randn(4, 2, dtype=dtype)
    covariance = spread**2 * (A @ A.T).double().numpy() + 0.25 * np.eye(2)
    expected = stats.multivariate_normal(np.zeros(2), covariance).logpdf(x.double().numpy())
    found = pv.analytic(program, x).log_evidence
    # W is exact here (b = 0); spread**2 and the precision 1 / spread**2 are rounded: relative errors of a few eps
    np.testing.assert_allclose(found, expected, rtol=20 * torch.finfo(dtype).eps)


def test_closed_form_is_factor_analysis_of_scikit_learn(float64):
    data = pv.datasets.linear_gaussian(400, latent_dim=3, data_dim=8)
    fa = FactorAnalysis(3, tol=1e-8, max_iter=2000).fit(data.x.numpy())
    network = pv.networks.mlp(3, 8)
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor(fa.components_.T))
        network[0].bias.copy_(torch.tensor(fa.mean_))
    scale = torch.tensor(fa.noise_variance_**0.5)
    model = pv.Model(pv.priors.StandardNormal(3), pv.likelihoods.Gaussian(network, scale=scale))
    posterior = pv.analytic(model, data.x)
    np.testing.assert_allclose(posterior.log_evidence.detach(), fa.score_samples(data.x.numpy()), rtol=1e-9)
    np.testing.assert_allclose(posterior.mean.detach(), fa.transform(data.x.numpy()), atol=1e-9)
    truth = pv.quadrature(model, data.x[:5])
    np.testing.assert_allclose(truth.log_evidence.detach(), fa.score_samples(data.x[:5].numpy()), atol=1e-9)


def test_closed_form_reads_any_gaussian_program(float64):
    """Two latent sites, a correlated prior, another plate name: no class of the package."""
    S = torch.tensor([[1.0, 0.6], [0.6, 2.0]])
    A = torch.randn(4, 3)

    def program(x):
        with pyro.plate("rows", len(x)):
            a = pyro.sample("a", dist.MultivariateNormal(torch.tensor([1.0, -1.0]), S))
            c = pyro.sample("c", dist.Normal(0.5, 2.0))
            mean = torch.cat([a, c.unsqueeze(-1)], -1) @ A.T
            pyro.sample("x", dist.Normal(mean, 0.7).to_event(1), obs=x)

    x = torch.randn(6, 4)
    prior_cov = np.block([[S.numpy(), np.zeros((2, 1))], [np.zeros((1, 2)), 4 * np.ones((1, 1))]])
    m = np.array([1.0, -1.0, 0.5])
    cov = A.numpy() @ prior_cov @ A.numpy().T + 0.49 * np.eye(4)
    posterior = pv.analytic(program, x, plate="rows")
    expected = stats.multivariate_normal(A.numpy() @ m, cov).logpdf(x.numpy())
    np.testing.assert_allclose(posterior.log_evidence, expected, rtol=1e-10)
    gain = prior_cov @ A.numpy().T @ np.linalg.inv(cov)
    np.testing.assert_allclose(posterior.mean, m + (x.numpy() - A.numpy() @ m) @ gain.T, atol=1e-10)


def test_closed_form_of_a_state_space_chain_is_kalmans_smoother(float64):
    a, q, r, T = 0.9, 0.5, 0.3, 6

    def chain(x):
        z = pyro.sample("z_0", dist.Normal(0.2, 1.5))
        for t in range(T):
            z = z if t == 0 else pyro.sample(f"z_{t}", dist.Normal(a * z + 0.1, q))
            pyro.sample(f"x_{t}", dist.Normal(z, r), obs=x[t])

    x = torch.randn(T)
    mean, var, predicted, log_evidence = 0.2, 1.5**2, [], 0.0
    filtered = []
    for t in range(T):
        if t:
            mean, var = a * mean + 0.1, a**2 * var + q**2
        predicted.append((mean, var))
        log_evidence += stats.norm(mean, (var + r**2) ** 0.5).logpdf(float(x[t]))
        gain = var / (var + r**2)
        mean, var = mean + gain * (float(x[t]) - mean), (1 - gain) * var
        filtered.append((mean, var))
    smooth = [filtered[-1]]
    for t in range(T - 2, -1, -1):
        (m, v), (m1, v1), (s, w) = filtered[t], predicted[t + 1], smooth[0]
        gain = a * v / v1
        smooth.insert(0, (m + gain * (s - m1), v + gain**2 * (w - v1)))
    posterior = pv.analytic(chain, x)
    np.testing.assert_allclose(posterior.mean[0], [m for m, _ in smooth], rtol=1e-10)
    np.testing.assert_allclose(posterior.variance[0], [v for _, v in smooth], rtol=1e-10)
    assert float(posterior.log_evidence) == pytest.approx(log_evidence, rel=1e-10)


def test_closed_form_of_sites_of_every_layout(float64):
    """A data plate left of another, a latent on a latent, a correlated observation: all one Gaussian."""
    S = torch.tensor([[1.0, 0.6], [0.6, 2.0]])

    def program(x, y):
        with pyro.plate("data", len(x), dim=-2):
            a = pyro.sample("a", dist.Normal(0.3, 1.5))
            with pyro.plate("parts", 3, dim=-1):
                b = pyro.sample("b", dist.Normal(2 * a, 0.7))
                pyro.sample("x", dist.Normal(b - a, 0.4), obs=x)
            pyro.sample("y", dist.MultivariateNormal(torch.cat([a, -a], -1).unsqueeze(-2), S), obs=y.unsqueeze(-2))

    x, y = torch.randn(5, 3), torch.randn(5, 2)
    to_u = np.array([[1, 0, 0, 0], [2, 0.7, 0, 0], [2, 0, 0.7, 0], [2, 0, 0, 0.7]]) @ np.diag([1.5, 1, 1, 1])
    W = np.array([[-1, 1, 0, 0], [-1, 0, 1, 0], [-1, 0, 0, 1], [1, 0, 0, 0], [-1, 0, 0, 0]])
    prior, m = to_u @ to_u.T, 0.3 * np.array([1, 2, 2, 2])
    noise = np.zeros((5, 5))
    noise[:3, :3], noise[3:, 3:] = 0.16 * np.eye(3), S.numpy()
    data, cov = np.concatenate([x, y], -1), W @ prior @ W.T + noise
    posterior = pv.analytic(program, (x, y))
    expected = stats.multivariate_normal(W @ m, cov).logpdf(data)
    np.testing.assert_allclose(posterior.log_evidence, expected, rtol=1e-10)
    gain = prior @ W.T @ np.linalg.inv(cov)
    np.testing.assert_allclose(posterior.mean, m + (data - W @ m) @ gain.T, atol=1e-10)


def _student(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.StudentT(3.0, 0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def _log_normal(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.LogNormal(z, 0.1), obs=x)


def _bent_far_out(x):
    """Linear to the eye for z of size one, not where its wide prior lies."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1e3))
        pyro.sample("x", dist.Normal(z + 1e-5 * z**2, 1.0), obs=x)


def _flat(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([len(x)]).mask(torch.zeros(len(x)) > 0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def _masked(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z.unsqueeze(-1), 1.0).expand([len(x), 2]).mask(x > 0).to_event(1), obs=x)


def _funnel(x):
    with pyro.plate("data", len(x)):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        b = pyro.sample("b", dist.Normal(0.0, a.exp()))
        pyro.sample("x", dist.Normal(b, 1.0), obs=x)


@pytest.mark.parametrize(
    ("program", "x", "reason"),
    [
        (_decoder(2), torch.zeros(3, 12), "is Bernoulli, not Normal"),
        (_student, torch.zeros(3), "prior site 'z' is StudentT"),
        (_funnel, torch.zeros(3), "standard deviation depends on the latent at site 'b'"),
        (_masked, torch.zeros(3, 2), "observed site 'x' is masked"),
        (_flat, torch.zeros(3), "prior site 'z' is masked"),
        (_bent_far_out, torch.zeros(3), "not linear in the latent"),
        (_log_normal, torch.ones(3), "is LogNormal, not Normal"),
        (pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Gaussian(pv.networks.mlp(2, 9, 4), scale=1.0)),
         torch.zeros(3, 4), "mean is not linear"),
        (pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Gaussian(pv.networks.mlp(2, 8))),
         torch.zeros(3, 4), "standard deviation depends"),
    ],
)  # fmt: skip
def test_closed_form_refuses_anything_else_and_says_why(program, x, reason):
    with pytest.raises(ValueError, match=reason) as error:
        pv.analytic(program, x)
    assert "try quadrature" in str(error.value)


# -- quadrature ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("latent_dim", [1, 2, 3])
@pytest.mark.parametrize("scale", [0.05, 1.0])
def test_quadrature_is_the_closed_form_within_its_bound(latent_dim, scale, float64):
    model, W, b = linear_gaussian(latent_dim, 8, scale=scale)
    N = 12 if latent_dim < 3 else 6
    x = model.sample(N)["x"]
    mean, V, log_evidence = linear_gaussian_posterior(x, W, b, scale)
    truth = pv.quadrature(model, x)
    error = np.abs(truth.log_evidence.detach().numpy() - log_evidence)
    assert (error <= truth.error_bound.numpy()).all()
    assert error.max() < 1e-9
    np.testing.assert_allclose(truth.mean, mean, atol=1e-9)
    np.testing.assert_allclose(truth.covariance_matrix, np.broadcast_to(V, (N, *V.shape)), atol=1e-9)


@pytest.mark.parametrize("latent_dim", [1, 2])
def test_quadrature_is_a_plain_dense_sum_on_a_bent_posterior(latent_dim, float64):
    model = _decoder(latent_dim)
    x = model.sample(6)["x"]
    num = 6001 if latent_dim == 1 else 401
    dense = grid_integral(lambda z: bernoulli_joint(model, x, torch.tensor(z).unsqueeze(1)), latent_dim, num=num)
    truth = pv.quadrature(model, x)
    assert (np.abs(truth.log_evidence.numpy() - dense) <= truth.error_bound.numpy()).all()


@pytest.mark.parametrize("activation", [torch.nn.Tanh, torch.nn.ReLU])
@pytest.mark.parametrize("latent_dim", [1, 2, 3])
def test_error_bound_is_honest_when_the_resolution_doubles(latent_dim, activation, float64):
    network = pv.networks.mlp(latent_dim, 24, 15, activation=activation)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.8)
    model = pv.Model(pv.priors.StandardNormal(latent_dim), pv.likelihoods.Bernoulli(network))
    x = model.sample(10 if latent_dim < 3 else 5)["x"]
    first = 8 if latent_dim == 3 else 12
    coarse, fine, finest = (pv.quadrature(model, x, resolution=first * k, tolerance=math.inf) for k in (1, 2, 4))
    assert ((coarse.log_evidence - fine.log_evidence).abs() <= coarse.error_bound).all()
    assert ((fine.log_evidence - finest.log_evidence).abs() <= fine.error_bound).all()
    assert (finest.error_bound <= coarse.error_bound).all()  # of some data something else is the bound
    assert (finest.error_bound < coarse.error_bound).float().mean() > 0.5


def test_single_precision_states_its_rounding():
    model = _decoder(2)
    x = model.sample(10)["x"]
    single = pv.quadrature(model, x)
    double = pv.quadrature(model.double(), x.double())
    assert ((single.log_evidence - double.log_evidence).abs() <= single.error_bound + double.error_bound).all()


def test_quadrature_finds_every_mode(float64):
    """x = z^2 + noise: two narrow modes far apart, equally heavy."""

    def program(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 2.0))
            pyro.sample("x", dist.Normal(z**2, 0.1), obs=x)

    x = torch.tensor([1.0, 4.0, 9.0])
    truth = pv.quadrature(program, x)
    dense = grid_integral(
        lambda z: stats.norm.logpdf(z, 0, 2) + stats.norm.logpdf(x.numpy(), z**2, 0.1), 1, low=-12, high=12, num=200_001
    )
    assert (np.abs(truth.log_evidence.numpy() - dense) <= truth.error_bound.numpy()).all()
    assert truth.mean.abs().max() < 1e-6
    draws = truth.sample((4000,))
    share = (draws > 0).double().mean(0)
    assert (share - 0.5).abs().max() < STANDARD_ERRORS * 0.5 / 4000**0.5


@pytest.mark.parametrize(("noise", "found"), [(0.01, True), (0.001, False)])
def test_a_mode_between_the_points_of_the_coarse_grid_is_found_or_said_to_be_missed(noise, found, float64):
    """x = (z1^2, z2) + noise: two modes at +-sqrt(x1), one of which may lie a hundred nats down on a coarse grid.

    With y = z1^2 the first factor is chi^2 of one degree smoothed by the noise: here by SciPy's quadrature over y.
    """

    def program(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            mean = torch.stack([z[..., 0] ** 2, z[..., 1]], -1)
            pyro.sample("x", dist.Normal(mean, noise).to_event(1), obs=x)

    x = torch.tensor([[1.06, 0.03], [0.9, -0.2], [1.5, 1.234]])
    truth = pv.quadrature(program, x)
    exact = []
    for a, b in x.tolist():
        inside = (a - 12 * noise, a + 12 * noise)
        first = integrate.quad(lambda y, a=a: stats.chi2(1).pdf(y) * stats.norm(y, noise).pdf(a), *inside)[0]
        exact.append(math.log(first) + stats.norm(0, math.hypot(1, noise)).logpdf(b))
    off = (truth.log_evidence - torch.tensor(exact)).abs()
    assert (off <= truth.error_bound).all()
    if found:
        assert off.max() < 0.01
        assert truth.mean[:, 0].abs().max() < 0.01
    else:
        assert torch.isinf(truth.error_bound).all()


def test_more_points_find_the_mode_that_fewer_miss(float64):
    """Modes at +-sqrt(2), each 7e-5 wide: with 64 points they cannot be shown, with the default they are."""

    def program(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z**2, 2e-4), obs=x)

    x = torch.tensor([2.0])
    expected = math.log(stats.chi2(1).pdf(2.0))  # up to the curvature of that density over the noise, 1e-8
    few, many = pv.quadrature(program, x, max_points=64), pv.quadrature(program, x)
    assert float(few.error_bound) == math.inf
    assert abs(float(many.log_evidence) - expected) <= float(many.error_bound) + 1e-7
    assert float(many.error_bound) < 1e-3


@pytest.mark.parametrize(("noise", "x"), [(0.05, 7.0), (0.05, 15.0), (0.01, 20.0)])
def test_quadrature_follows_mass_far_outside_the_prior(noise, x, float64):
    def program(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, noise), obs=x)

    truth = pv.quadrature(program, torch.tensor([x]))
    expected = stats.norm(0, (1 + noise**2) ** 0.5).logpdf(x)
    assert abs(float(truth.log_evidence) - expected) <= float(truth.error_bound) < 1e-3


def test_mass_that_no_grid_reaches_has_no_bound(float64):
    def improper(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.factor("pull", z**4)  # grows for ever
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    assert torch.isinf(pv.quadrature(improper, torch.zeros(1)).error_bound).all()


def _gaussian_process(y):
    """Far out the noise is below what single precision resolves, and the covariance has no Cholesky factor."""
    length, noise = (pyro.sample(name, dist.LogNormal(*at)) for name, at in (("length", (-1, 1)), ("noise", (-2, 2))))
    grid = torch.linspace(0, 1, len(y)).to(y)
    cov = torch.exp(-0.5 * ((grid[:, None] - grid) / length) ** 2) + noise**2 * torch.eye(len(y)).to(y)
    pyro.sample("y", dist.MultivariateNormal(torch.zeros(len(y)).to(y), cov), obs=y)


def test_points_without_a_density_are_none_where_no_mass_is_near():
    grid = np.linspace(0, 1, 25)
    y = torch.tensor(np.sin(6 * grid) + 0.2 * np.random.default_rng(0).normal(size=25)).float()
    truth = pv.quadrature(_gaussian_process, y)
    u = np.stack(np.meshgrid(np.linspace(-6, 4, 201), np.linspace(-6, 2, 161), indexing="ij"), -1).reshape(-1, 2)
    prior = stats.norm(-1, 1).logpdf(u[:, 0]) + stats.norm(-2, 2).logpdf(u[:, 1])
    square = (grid[:, None] - grid) ** 2
    cov = np.exp(-0.5 * square / np.exp(2 * u[:, 0, None, None])) + np.exp(2 * u[:, 1, None, None]) * np.eye(25)
    solved = np.linalg.solve(cov, np.tile(y.double().numpy()[:, None], (len(u), 1, 1)))[..., 0]
    joint = prior - 0.5 * (solved @ y.double().numpy() + np.linalg.slogdet(cov)[1] + 25 * np.log(2 * np.pi))
    expected = special.logsumexp(joint) + 2 * np.log(0.05)
    assert abs(float(truth.log_evidence) - expected) < float(truth.error_bound) + 1e-3
    assert float(truth.error_bound) < 1e-2


def test_mass_that_reaches_points_without_a_density_has_no_bound():
    assert torch.isinf(pv.quadrature(_gaussian_process, torch.linspace(-1, 1, 12) ** 2).error_bound).all()


def test_rows_take_apart_only_what_runs_over_the_data(float64):
    """Four data and four knots: the argument that happens to have N entries is left whole."""
    knots = torch.tensor([-3.0, -1.0, 1.0, 3.0])

    def program(x, knots):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z + knots.std() + knots[0], 0.3), obs=x)

    x = torch.tensor([0.0, 1.0, 2.0, 5.0])
    expected = stats.norm(float(knots.std() + knots[0]), (1 + 0.09) ** 0.5).logpdf(x.numpy())
    whole = pv.Target(program, (x, knots))
    assert torch.equal(whole.rows([2, 0]).args[1], knots)
    truth = pv.quadrature(program, (x, knots), tolerance=1e-12)
    np.testing.assert_allclose(truth.log_evidence, expected, rtol=1e-9)


def test_quadrature_of_a_constrained_conjugate_pair(float64):
    """Gamma prior, Poisson data: the evidence is negative binomial, the posterior Gamma."""

    def program(x):
        with pyro.plate("data", len(x)):
            rate = pyro.sample("rate", dist.Gamma(2.0, 0.5))
            pyro.sample("x", dist.Poisson(rate), obs=x)

    x = torch.tensor([0.0, 3.0, 20.0])
    truth = pv.quadrature(program, x, tolerance=1e-9)
    expected = stats.nbinom(2, 0.5 / 1.5).logpmf(x.numpy())
    assert (np.abs(truth.log_evidence.numpy() - expected) <= truth.error_bound.numpy()).all()
    mean_rate = truth.expectation(lambda u: u.exp().squeeze(-1))
    np.testing.assert_allclose(mean_rate, (2 + x.numpy()) / 1.5, rtol=1e-6)


def test_draws_have_the_posteriors_own_distribution():
    model, W, b = linear_gaussian(2, 6, scale=0.5)
    x = model.sample(3)["x"]
    mean, V, _ = linear_gaussian_posterior(x, W, b, 0.5)
    S = 20_000
    draws = pv.quadrature(model, x).sample((S,)).double().numpy()
    whitened = (draws - mean) @ np.linalg.inv(np.linalg.cholesky(V)).T
    assert np.abs(whitened.mean(0)).max() < STANDARD_ERRORS / S**0.5
    assert np.abs(whitened.var(0) - 1).max() < STANDARD_ERRORS * (2 / S) ** 0.5
    for n in range(3):
        assert stats.kstest(whitened[:, n, 0], "norm").pvalue > 1e-5


def test_draws_follow_the_seed_and_the_answer_needs_none():
    model = _decoder(2)
    x = model.sample(3)["x"]
    pyro.set_rng_seed(1)
    one = pv.quadrature(model, x)
    first = one.sample((5,))
    pyro.set_rng_seed(1)
    two = pv.quadrature(model, x)
    assert torch.equal(first, two.sample((5,)))
    assert torch.equal(one.log_evidence, two.log_evidence)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tolerance": "fine"}, "a tolerance in nats; got 'fine'"),
        ({"tolerance": math.nan}, "at least 0 nats; got nan"),
        ({"tolerance": -1.0}, "at least 0 nats"),
        ({"max_points": 0}, "max_points to be at least 1"),
        ({"resolution": 2.5}, "resolution to be a whole number"),
    ],
)
def test_settings_of_quadrature_that_mean_nothing_are_refused(settings, words):
    with pytest.raises((TypeError, ValueError), match=words):
        pv.quadrature(_decoder(2), torch.zeros(3, 12), **settings)


def test_too_many_dimensions_are_refused_with_their_price():
    with pytest.raises(ValueError, match=r"32\*\*10 = 1e\+15 evaluations"):
        pv.quadrature(_decoder(10), torch.zeros(3, 12))


# -- mode and Laplace ----------------------------------------------------------------------------------------------


def test_mode_and_laplace_are_exact_on_the_linear_gaussian_model(float64):
    model, W, b = linear_gaussian(20, 30, scale=0.4)
    x = model.sample(7)["x"]
    mean, V, log_evidence = linear_gaussian_posterior(x, W, b, 0.4)
    mode, approximation = pv.maximum_a_posteriori(model, x), pv.laplace(model, x)
    np.testing.assert_allclose(mode.mean, mean, atol=1e-8)
    np.testing.assert_allclose(approximation.mean, mean, atol=1e-8)
    np.testing.assert_allclose(approximation.covariance_matrix, np.broadcast_to(V, (7, *V.shape)), atol=1e-10)
    np.testing.assert_allclose(approximation.log_evidence, log_evidence, rtol=1e-10)
    assert bool(mode.converged.all())
    assert bool(approximation.converged.all())


def test_mode_is_scipys_best_of_many_starts(float64):
    model = _decoder(2)
    x = model.sample(5)["x"]
    mode = pv.maximum_a_posteriori(model, x, num_starts=8)
    for n in range(5):

        def height(z, n=n):
            return -bernoulli_joint(model, x[n : n + 1], torch.tensor(z).reshape(1, 2)).item()

        best = min(optimize.minimize(height, start).fun for start in np.random.default_rng(0).normal(size=(8, 2)))
        assert float(mode.log_joint[n]) == pytest.approx(-best, abs=1e-6)


def test_mode_of_a_constrained_latent_has_no_jacobian_and_laplace_has(float64):
    def program(x):
        with pyro.plate("data", len(x)):
            rate = pyro.sample("rate", dist.Gamma(2.0, 0.5))
            pyro.sample("x", dist.Poisson(rate), obs=x)

    x = torch.tensor([3.0, 20.0])
    shape, scale = 2 + x.numpy(), 1 / 1.5
    mode = pv.maximum_a_posteriori(program, x)
    np.testing.assert_allclose(mode.mean.exp().flatten(), (shape - 1) * scale, rtol=1e-6)
    approximation = pv.laplace(program, x)
    np.testing.assert_allclose(approximation.mean.exp().flatten(), shape * scale, rtol=1e-6)
    np.testing.assert_allclose(approximation.variance.flatten(), 1 / shape, rtol=1e-6)


def test_laplace_curvature_is_the_finite_difference(float64):
    model = _decoder(2)
    x = model.sample(4)["x"]
    approximation, h = pv.laplace(model, x), 1e-4
    eye = torch.eye(2) * h

    def f(u):
        return bernoulli_joint(model, x, u)

    m = approximation.mean
    hessian = np.array([[
        (f(m + a + b) - f(m + a - b) - f(m - a + b) + f(m - a - b)) / (4 * h * h)
        for b in eye] for a in eye])  # fmt: skip
    np.testing.assert_allclose(approximation.precision_matrix, -np.moveaxis(hessian, -1, 0), rtol=1e-4, atol=1e-4)


def test_every_route_takes_a_target_in_place_of_model_and_data(float64):
    model, *_ = linear_gaussian(2, 5)
    x = torch.randn(4, 5)
    target = pv.Target(model, x)
    for route in (pv.analytic, pv.quadrature, pv.laplace, pv.maximum_a_posteriori, pv.coordinate_ascent):
        assert torch.equal(route(target).mean, route(model, x).mean)
        with pytest.raises(ValueError, match="a Target alone"):
            route(target, x)
        with pytest.raises(ValueError, match="expected data x beside a program; got none"):
            route(model)


def test_a_whole_program_without_plate_has_its_closed_form(float64):
    """Two means under one prior each, seen many times over: data of one dimension more than the distribution."""

    def program(x):
        mean = pyro.sample("mean", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
        pyro.sample("x", dist.Normal(mean, 0.5), obs=x)

    x = torch.randn(7, 2)
    posterior = pv.analytic(program, x)
    precision = 1 / 4 + 7 / 0.25
    torch.testing.assert_close(posterior.mean, (x.sum(0) / 0.25 / precision).unsqueeze(0))
    torch.testing.assert_close(posterior.variance, torch.full((1, 2), 1 / precision))
    cov = 0.25 * np.eye(7) + 4.0 * np.ones((7, 7))
    expected = stats.multivariate_normal(np.zeros(7), cov).logpdf(x.T.numpy()).sum()
    assert float(posterior.log_evidence) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("df", [1.0, 2.0])
def test_heavy_tails_do_not_hide_the_peak(df, float64):
    """Student's t under Student's t, whose tails lie within 28 nats of the peak over a thousand times its width."""

    def program(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.StudentT(df, 0.0, 1.0))
            pyro.sample("x", dist.StudentT(df, z, 1.0), obs=x)

    x = torch.tensor([0.0, 1.0, 5.0, 50.0])
    found = pv.quadrature(program, x)
    expected = []
    for value in x.tolist():
        law = stats.t(df)
        parts = [-math.inf, *sorted({-10.0, 0.0, 1.0, value - 5, value, value + 5, value + 60}), math.inf]
        pieces = itertools.pairwise(parts)
        expected.append(sum(integrate.quad(lambda z: law.pdf(z) * law.pdf(value - z), *p)[0] for p in pieces))
    off = (found.log_evidence - torch.tensor(expected).log()).abs()
    assert (off <= found.error_bound + 1e-6).all(), (off, found.error_bound)
    assert found.error_bound.max() < 1e-3


@pytest.mark.parametrize(("L", "max_points"), [(1, 256), (2, 2**14)])
def test_a_peak_that_no_allowed_grid_shows_has_no_bound(L, max_points, float64):
    def program(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Cauchy(torch.zeros(L), 1.0).to_event(1))
            pyro.sample("x", dist.Cauchy(z, 1.0).to_event(1), obs=x)

    x = torch.linspace(0.0, 9.0, 40).unsqueeze(-1).expand(-1, L)
    found = pv.quadrature(program, x.contiguous(), max_points=max_points)
    truth = (2 / (math.pi * (x.square() + 4))).log().sum(-1)
    assert ((found.log_evidence - truth).abs() <= found.error_bound).all()
    assert found.error_bound.isinf().any()


def test_where_a_value_underflows_there_is_no_bound_and_elsewhere_the_answer(float64):
    """log r of a Gamma(0.01, 0.01) reaches -700, where exp is 0: what lies beyond of a count of 0 cannot be seen."""
    a = 0.01

    def program(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Poisson(pyro.sample("r", dist.Gamma(a, a))), obs=x)

    x = torch.tensor([3.0, 0.0, 1.0])
    found, lg = pv.quadrature(program, x), lambda v: torch.as_tensor(v).lgamma()
    exact = a * math.log(a) - lg(a) + lg(a + x) - (a + x) * math.log(a + 1) - lg(x + 1)
    assert ((found.log_evidence - exact).abs() <= found.error_bound + 1e-9).all()
    assert (found.error_bound[[0, 2]] < 1e-3).all()


def test_a_climb_whose_curvature_overflows_ends_elsewhere(float64):
    """Priors so wide that some starts have no finite Hessian; the mode of the others is the regression's."""
    x = torch.linspace(0.0, 1.0, 20)
    y = 1 + 2 * x + 0.1 * torch.sin(20 * x)

    def program(x, y):
        a, b = (pyro.sample(name, dist.Normal(0.0, 1000.0)) for name in "ab")
        tau = pyro.sample("tau", dist.Gamma(1e-4, 1e-4))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(a + b * x, tau.rsqrt()), obs=y)

    found = pv.laplace(program, (x, y))
    design = torch.stack([torch.ones(20), x], -1)
    torch.testing.assert_close(found.loc.flatten()[:2], torch.linalg.lstsq(design, y).solution, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("latent_dim", [1, 2, 3])
def test_a_narrow_component_of_the_prior_is_in_the_sum_or_its_bound_is_infinite(latent_dim, float64):
    """It holds all mass, between the points of every grid; the wide one, far away, is all that those show."""
    torch.manual_seed(0)
    L, D, scale = latent_dim, 4, 1.0
    prior = pv.priors.GaussianMixture(L, num_components=2, covariance="full")
    weights, covariances = torch.tensor([0.9, 0.1]), torch.stack([0.02**2 * torch.eye(L), torch.eye(L)])
    prior.start_at(weights, torch.stack([torch.zeros(L), 8 * torch.ones(L)]), covariances)
    network = torch.nn.Linear(L, D)
    model = pv.Model(prior, pv.likelihoods.Gaussian(network, scale=scale)).requires_grad_(False)
    x, parts = model.sample(12 if L < 3 else 5)["x"], prior().component_distribution
    W = network.weight
    terms = [
        weight.log()
        + torch.distributions.MultivariateNormal(network(mean), W @ S @ W.T + scale**2 * torch.eye(D)).log_prob(x)
        for weight, mean, S in zip(weights, parts.mean, parts.covariance_matrix, strict=True)
    ]
    exact = torch.stack(terms).logsumexp(0)
    truth = pv.quadrature(model, x)
    assert bool(((truth.log_evidence - exact).abs() <= truth.error_bound + 1e-6).all())
    found = held_out(pv.Target(model, x))  # rows that no grid resolves are sampled
    assert bool(found.resolved.all())
    torch.testing.assert_close(found.log_evidence, exact, rtol=0, atol=1e-3)


@pytest.mark.parametrize("y", [[1.0, 1.01, 5.0], [-0.4, 2.0, 2.013, -3.0, 7.7]])
def test_two_good_readings_among_outliers_are_a_peak_between_the_points(y, float64):
    """Nearly all mass lies within a hundredth of where two readings agree, under a bump a hundred times as wide."""
    y = torch.tensor(y)
    good, bad, share, width = 0.01, 3.0, 0.8, 10.0

    def program(y):
        mu = pyro.sample("mu", dist.Normal(0.0, width))
        with pyro.plate("readings", len(y)):
            c = pyro.sample("c", dist.Bernoulli(1 - share), infer={"enumerate": "parallel"})
            pyro.sample("y", dist.Normal(mu, torch.where(c > 0, bad, good)), obs=y)

    terms = []
    for outlier in itertools.product((False, True), repeat=len(y)):
        scales = np.where(outlier, bad, good)
        joint = stats.multivariate_normal(np.zeros(len(y)), np.diag(scales**2) + width**2)
        terms.append(joint.logpdf(y.numpy()) + np.log(np.where(outlier, 1 - share, share)).sum())
    truth = pv.quadrature(program, (y,), plate=None)
    assert truth.error_bound.item() < 1e-3
    assert abs(truth.log_evidence.item() - special.logsumexp(terms)) < truth.error_bound.item() + 1e-8


@pytest.mark.parametrize(
    ("prior", "count"), [(0.1, (5, 0)), (0.1, (0, 5)), (0.02, (9, 1)), (0.5, (5, 0)), (2.0, (5, 0))]
)
def test_mass_where_a_probability_rounds_to_one_leaves_no_bound(prior, count):
    """In single precision 1 - theta below 6e-8 is nothing, and a sparse Beta or Dirichlet has mass there."""

    def of_beta(x):
        theta = pyro.sample("theta", dist.Beta(prior, prior))
        pyro.sample("k", dist.Binomial(sum(count), theta), obs=x[0])

    def of_dirichlet(x):
        theta = pyro.sample("theta", dist.Dirichlet(torch.full((3,), prior)))
        pyro.sample("k", dist.Multinomial(int(sum(count)), theta), obs=torch.cat([x, torch.zeros(1)]))

    n, k = np.array([sum(count)]), np.array([*count, 0])
    for program, a in ((of_beta, k[:2] + prior), (of_dirichlet, k + prior)):
        start = np.full(len(a), prior)
        truth = special.gammaln(n + 1).item() - special.gammaln(k + 1).sum()
        truth += special.gammaln(a).sum() - special.gammaln(a.sum())
        truth -= special.gammaln(start).sum() - special.gammaln(start.sum())
        found = pv.quadrature(program, (torch.tensor(count, dtype=torch.float32),), plate=None)
        assert abs(found.log_evidence.item() - truth) <= found.error_bound.item() + 1e-5
        assert prior < 1 or found.error_bound.item() < 1e-3


@pytest.mark.parametrize(("unit", "noise"), [(1e3, 500.0), (1e4, 5e3), (1e8, 5e7)])
@pytest.mark.parametrize("bend", [lambda z: (3 * z).sin(), lambda z: z + 0.5 * z.tanh() + 0.3 * z**2])
def test_a_column_that_bends_is_seen_beside_one_in_larger_units(unit, noise, bend):
    def program(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            mean = torch.stack([unit * z, bend(z)], -1)
            pyro.sample("x", dist.Normal(mean, torch.tensor([noise, 0.1])).to_event(1), obs=x)

    x = torch.tensor([[0.5, 1.0], [-1.0, 0.0], [0.2, -1.0]]) * torch.tensor([unit, 1.0])
    with pytest.raises(ValueError, match="the mean is not linear in the latent: at site 'x'"):
        pv.analytic(program, x)
    assert pv.evidence(program, x).method == "quadrature"


@pytest.mark.parametrize("unit", [1e-4, 1.0, 1e6])
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_columns_of_any_units_are_linear_in_single_precision(unit, offset):
    """Rounding is not taken for a bend: against the closed form, whatever one column's unit and the other's shift."""
    W, scales = torch.tensor([[unit, -0.7 * unit], [0.3, 0.5]]), torch.tensor([unit, 0.4])

    def program(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ W.T + torch.tensor([0.0, offset]), scales).to_event(1), obs=x)

    x = torch.tensor([[0.4 * unit, 0.2 + offset], [-unit, -1.0 + offset]])
    found = pv.analytic(program, x).log_evidence
    own = torch.tensor([unit, 1.0]).double()
    W, scales, centred = W.double() / own[:, None], scales.double() / own, (x - torch.tensor([0.0, offset])) / own
    exact = stats.multivariate_normal(cov=W @ W.T + torch.diag(scales**2)).logpdf(centred) - math.log(unit)
    np.testing.assert_allclose(found, exact, rtol=1e-3, atol=1e-2)
