import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import MultivariateNormal

import pyro_vae as pv
from pyro_vae import guides, likelihoods, priors
from pyro_vae.networks import MaskedInput, mlp
from tests.table_of_parts import LIKELIHOODS, perturbed

pytestmark = pytest.mark.usefixtures("float64")

N, D, L = 6, 4, 2


@pytest.fixture
def linear(float64):
    """A linear-Gaussian model, data with holes (one row whole, one all missing), and the joint law of (z, x)."""
    model = pv.Model(priors.StandardNormal(L), likelihoods.Gaussian(mlp(L, D), scale=0.6), missing=True)
    model.requires_grad_(False)
    x = model.sample(N)["x"]
    holes = torch.rand(N, D) < 0.4
    holes[0], holes[1] = False, True
    x[holes] = torch.nan
    layer = model.likelihood.network[0]
    joint = torch.cat([torch.eye(L), layer.weight])  # (z, x) = joint z + noise
    covariance = joint @ joint.T
    covariance[L:, L:] += 0.36 * torch.eye(D)
    return model, x, torch.cat([torch.zeros(L), layer.bias]), covariance


def conditional(mean, covariance, x):
    """The law of the missing part of (z, x) given the observed part, and log p of the latter, by conditioning."""
    value = torch.cat([torch.full((L,), torch.nan), x])
    known, unknown = ~value.isnan(), value.isnan()
    cross, own = covariance[unknown][:, known], covariance[known][:, known]
    gain = torch.linalg.solve(own, cross.T).T if known.any() else cross
    loc = mean[unknown] + gain @ (value[known] - mean[known])
    evidence = MultivariateNormal(mean[known], own).log_prob(value[known]) if known.any() else torch.tensor(0.0)
    return loc, covariance[unknown][:, unknown] - gain @ cross.T, evidence


@pytest.mark.parametrize("route", [pv.analytic, pv.quadrature, pv.laplace])
def test_routes_give_the_exact_posterior_of_the_observed_entries(linear, route):
    model, x, mean, covariance = linear
    posterior = route(model, x)
    tolerance = {"rtol": 1e-5, "atol": 1e-5}
    for n in range(N):
        loc, cov, evidence = conditional(mean, covariance, x[n])
        torch.testing.assert_close(posterior.mean[n], loc[:L], **tolerance)
        torch.testing.assert_close(posterior.variance[n], cov.diagonal()[:L], **tolerance)
        if route is not pv.laplace:
            torch.testing.assert_close(posterior.log_evidence[n], evidence, **tolerance)


def test_a_datum_with_nothing_observed_has_the_prior_as_its_posterior(linear):
    model, x, _, _ = linear
    truth = pv.quadrature(model, x[1:2])
    assert float(truth.log_evidence) == pytest.approx(0, abs=1e-8)
    torch.testing.assert_close(truth.mean, torch.zeros(1, L), rtol=0, atol=1e-6)
    torch.testing.assert_close(truth.variance, torch.ones(1, L), rtol=1e-5, atol=0)


def test_imputations_follow_the_exact_conditional(linear):
    model, x, mean, covariance = linear
    draws = pv.impute(model, x, pv.analytic(model, x), num_samples=20_000)
    seen = ~x.isnan()
    assert bool((draws[:, seen] == x[seen]).all())
    for n in range(1, N):
        loc, cov, _ = conditional(mean, covariance, x[n])
        drawn, loc, cov = draws[:, n, ~seen[n]], loc[L:], cov[L:, L:]
        if not len(loc):
            continue
        error = (cov.diagonal() / len(draws)).sqrt()
        assert float(((drawn.mean(0) - loc) / error).abs().max()) < 5
        spread = (cov.diagonal()[:, None] * cov.diagonal() + cov**2).sqrt() / math.sqrt(len(draws))
        assert float(((torch.atleast_2d(drawn.T.cov()) - cov).abs() / spread).max()) < 5


def test_resampled_imputations_follow_the_exact_conditional_from_a_posterior_that_errs(linear):
    """The prior in place of the posterior: mean and spread of its own draws are off, those of resampled ones are not.

    Draws that are resampled from K particles of weights w are worth about K_eff = (sum w)^2 / sum w^2 of them.
    """
    model, x, mean, covariance = linear
    wrong = dist.Normal(torch.zeros(N, L), 1.0).to_event(1)
    K = 50_000
    draws = pv.impute(model, x, wrong, num_samples=20_000, num_particles=K)
    plain = pv.impute(model, x, wrong, num_samples=20_000)
    z = torch.randn(20_000, N, L)
    log_w = pv.Target(model, x).log_likelihood(z)
    worth = 1 / (1 / len(draws) + (2 * log_w).logsumexp(0).sub(2 * log_w.logsumexp(0)).exp() * len(z) / K)
    off = 0.0
    for n in range(2, N):
        seen = ~x[n].isnan()
        if bool(seen.all()):
            continue
        loc, cov, _ = conditional(mean, covariance, x[n])
        error = (cov[L:, L:].diagonal() / worth[n]).sqrt()
        assert float(((draws[:, n, ~seen].mean(0) - loc[L:]) / error).abs().max()) < 5
        spread = draws[:, n, ~seen].std(0) / cov[L:, L:].diagonal().sqrt()
        assert float((spread - 1).abs().max()) < 5 / math.sqrt(2 * float(worth[n]))
        off = max(off, float(((plain[:, n, ~seen].mean(0) - loc[L:]) / error).abs().max()))
    assert off > 20


def test_imputations_see_the_covariates():
    """Counts with a library size: the mean of a draw is the library times the rate, whatever z is."""
    layer = torch.nn.Linear(L, 1)
    torch.nn.init.zeros_(layer.weight)
    model = pv.Model(priors.StandardNormal(L), likelihoods.Poisson(layer), missing=True)
    counts, library = torch.full((2, 1), torch.nan), torch.tensor([1.0, 50.0])
    draws = pv.impute(model, (counts, library), torch.zeros(4000, 2, L))[..., 0]
    expected = library * layer.bias.detach().exp()
    assert float(((draws.mean(0) - expected) / (expected / len(draws)).sqrt()).abs().max()) < 5


def test_a_guide_that_sees_the_mask_learns_the_exact_posterior(linear):
    """A guide on zero-filled data and mask: the mean gap to the exact evidence falls below 0.05 nats."""
    model, _, _, _ = linear
    x = model.sample(512)["x"]
    x[torch.rand(512, D) < 0.3] = torch.nan
    guide = guides.FullCovarianceGaussian(MaskedInput(mlp(2 * D, 32, 5)), latent_dim=L)
    loss = pv.objectives.PathDerivativeELBO()
    history = pv.fit(model, guide, x, epochs=60, batch_size=64, lr=5e-3, loss=loss, validation=None, progress=False)
    gap = float(pv.analytic(model, x).log_evidence.mean()) - history.train_elbo[-1]
    assert -0.02 < gap < 0.05
    assert history.train_elbo[0] < history.train_elbo[-1] - 0.2


@pytest.mark.parametrize(("make", "data"), LIKELIHOODS.values(), ids=LIKELIHOODS.keys())
def test_columns_add_up(make, data):
    """log p(x_1) + log p(x_2) = log p(x_1, x_2) given z, with a gradient that NaN does not reach."""
    likelihood = perturbed(make(1, 2))
    model = pv.Model(priors.StandardNormal(1), likelihood, missing=True)
    x, z = data(N, 2), torch.randn(3, N, 1, requires_grad=True)
    left, right = x.clone(), x.clone()
    left[:, 0], right[:, 1] = torch.nan, torch.nan
    parts = [model.decode(z).log_prob(part) for part in (left, right)]
    torch.testing.assert_close(parts[0] + parts[1], likelihood(z).log_prob(x))
    grads = torch.autograd.grad(parts[0].sum(), [z, *likelihood.parameters()], allow_unused=True)
    assert all(bool(torch.isfinite(g).all()) for g in grads if g is not None)
    target = pv.Target(model, left)
    torch.testing.assert_close(target.log_likelihood(z.detach()), parts[0].detach())


@pytest.mark.parametrize(("make", "data"), LIKELIHOODS.values(), ids=LIKELIHOODS.keys())
def test_a_step_on_data_with_gaps_is_traced(make, data):
    """What stands where an entry is missing must not be found by looking at values."""
    x = data(64, 2)
    x[torch.rand(64, 2) < 0.2] = torch.nan
    model = pv.Model(priors.StandardNormal(1), make(1, 2), missing=True)
    guide = guides.DiagonalGaussian(MaskedInput(mlp(4, 2)))
    elbo = pv.infer.CompiledTrace_ELBO(backend="eager")
    svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), elbo)
    losses = [svi.step(x) for _ in range(6)]
    assert elbo.num_graphs == 1
    assert math.isfinite(losses[-1])


def test_missing_at_random_does_not_bias_a_learned_mean():
    """Half the entries missing: a learned bias converges to the mean of the observed entries."""
    x = torch.randn(400, 1) + 2.0
    x[::2] = torch.nan
    layer = torch.nn.Linear(1, 1)
    torch.nn.init.zeros_(layer.weight)
    model = pv.Model(priors.StandardNormal(1), likelihoods.Gaussian(layer, scale=1.0), missing=True)
    z = torch.zeros(400, 1)
    layer.weight.requires_grad_(False)
    (grad,) = torch.autograd.grad(model.decode(z).log_prob(x).sum(), layer.bias)
    expected = (x.nan_to_num(nan=layer.bias.item()) - layer.bias).sum()
    torch.testing.assert_close(grad[0], expected.detach())


def test_nan_without_the_flag_is_refused(linear):
    _, x, _, _ = linear
    model = pv.Model(priors.StandardNormal(L), likelihoods.Gaussian(mlp(L, D), scale=0.6))
    guide = guides.DiagonalGaussian(mlp(D, 2 * L))
    with pytest.raises(ValueError, match="missing=True"):
        pv.quadrature(model, x)
    with pytest.raises(ValueError, match="missing=True"):
        pv.fit(model, guide, x, progress=False)
    flagged = pv.Model(priors.StandardNormal(L), likelihoods.Gaussian(mlp(L, D), scale=0.6), missing=True)
    with pytest.raises(ValueError, match="infinite"):
        pv.Target(flagged, torch.full((2, D), torch.inf))


def test_bad_input_is_a_sentence(linear):
    model, x, _, _ = linear
    with pytest.raises(TypeError, match="posterior distribution"):
        pv.impute(model, x, None)
    with pytest.raises(TypeError, match=r"pyro_vae\.Model"):
        pv.impute(lambda x: None, x, pv.analytic(model, x))
    with pytest.raises(ValueError, match="of the same data"):
        pv.impute(model, x, torch.zeros(5, N + 1, L))
    with pytest.raises(ValueError, match="draws of z of 2 dimensions"):
        pv.impute(model, x, torch.zeros(5, N, 1))
    with pytest.raises(ValueError, match=r"NaN in x.*MaskedInput"):
        pv.fit(model, guides.DiagonalGaussian(mlp(D, 2 * L)), x, progress=False)
    with pytest.raises(ValueError, match="independent entries"):
        likelihoods.observed.ObservedEntries(MultivariateNormal(torch.zeros(2), torch.eye(2)))


@pytest.mark.parametrize("route", ["laplace", "quadrature", "mcmc", "guide"])
def test_a_latent_in_an_interval_imputes_on_its_own_scale(route):
    """x = z + noise of 0.01 with z uniform on (0, 1): the entry beside an observed 0.9 is 0.9, not logit(0.9)."""

    network = torch.nn.Linear(1, 2)
    torch.nn.init.ones_(network.weight)
    torch.nn.init.zeros_(network.bias)
    model = pv.Model(priors.Uniform(1, low=0.0, high=1.0), pv.likelihoods.Gaussian(network, scale=0.01), missing=True)
    x = torch.tensor([[0.9, torch.nan], [0.1, torch.nan]])

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Uniform(x[:, :1] - 0.01, x[:, :1] + 0.01).to_event(1))

    posterior = {
        "laplace": lambda: pv.laplace(model, x),
        "quadrature": lambda: pv.quadrature(model, x),
        "mcmc": lambda: pv.mcmc(model, x, kernel=pv.NUTS(), num_samples=50, warmup_steps=50, num_chains=2),
        "guide": lambda: guide,
    }[route]()
    filled = pv.impute(model, x, posterior, num_samples=200)
    # each draw is off by at most some 0.02 of noise; logits would be off by more than one
    torch.testing.assert_close(filled[..., 1].mean(0), torch.tensor([0.9, 0.1]), atol=0.02, rtol=0)


@pytest.mark.parametrize(
    "guide",
    [
        lambda: guides.DiagonalGaussian(mlp(D, 2 * L)),
        lambda: guides.ProductOfExperts(mlp(D, 2 * L), data_dim=D, latent_dim=L),
    ],
)
def test_a_network_that_does_not_see_what_is_missing_is_named(linear, guide):
    model, x, *_ = linear
    with pytest.raises(ValueError, match=r"NaN in x.*MaskedInput"):
        pv.fit(model, guide(), x, epochs=1, validation=None, progress=False)
