import copy
import math

import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from pyro import poutine

import pyro_vae as pv
from pyro_vae import guides, likelihoods, priors
from pyro_vae.flows.planar import PlanarTransform
from pyro_vae.guides.cholesky_gaussian import CholeskyGaussian
from pyro_vae.networks import mlp
from tests.table_of_parts import (
    GUIDES,
    TWO_LEVEL_GUIDES,
    directional_derivative_error,
    fitting,
    hierarchical,
    perturbed,
)

pytestmark = pytest.mark.usefixtures("float64")

D, N = 2, 3
EACH = pytest.mark.parametrize("make", GUIDES.values(), ids=GUIDES.keys())


def made(make, L, scale=0.3):
    model = pv.Model(priors.StandardNormal(L), likelihoods.Gaussian(mlp(L, D), scale=1.0))
    return perturbed(make(L, D, N, model), scale)


def at_one_noise(guide, x):
    """The posterior of a guide whose refinement draws noise, under the same noise at every call."""
    pyro.set_rng_seed(1)
    return guide.posterior(x)


@EACH
@torch.no_grad()
def test_density_integrates_to_one_and_draws_follow_it(make):
    guide, x = made(make, 1), torch.randn(N, D)
    q = at_one_noise(guide, x)
    z = torch.linspace(-30, 30, 20001)[:, None, None].expand(-1, N, 1)
    log_q = q.log_prob(z)
    mass = log_q.exp() * 60 / 20000
    torch.testing.assert_close(mass.sum(0), torch.ones(N), rtol=0, atol=2e-5)
    draws = q.sample((20_000,))
    tanh = torch.tanh(draws[..., 0]), torch.tanh(z[..., 0])
    for sampled, exact in [(q.log_prob(draws.clone()), log_q), tanh, (tanh[0] ** 2, tanh[1] ** 2)]:
        error = sampled.std(0) / math.sqrt(len(draws))
        assert float(((sampled.mean(0) - (mass * exact).sum(0)) / error).abs().max()) < 5
    mean = (mass * z[..., 0]).sum(0)
    torch.testing.assert_close(q.mean[..., 0], mean, rtol=0, atol=2e-2)
    torch.testing.assert_close(q.variance[..., 0], (mass * (z[..., 0] - mean) ** 2).sum(0), rtol=2e-2, atol=0)


@EACH
@torch.no_grad()
def test_density_integrates_to_one_in_the_plane(make):
    guide, x = made(make, 2, 0.1), torch.randn(N, D)
    q = at_one_noise(guide, x)
    points = torch.linspace(-9, 9, 221)
    plane = torch.cartesian_prod(points, points)[:, None].expand(-1, N, 2)
    total = (q.log_prob(plane).exp() * (18 / 220) ** 2).sum(0)
    torch.testing.assert_close(total, torch.ones(N), rtol=0, atol=5e-3)  # a spline's narrow bins


@EACH
def test_own_draws_have_the_density_of_any_value(make):
    """A flow remembers the density of its last draw; evaluating it afresh through the inverse must agree."""
    q = made(make, 2).posterior(torch.randn(N, D))
    z = q.rsample((4,))
    torch.testing.assert_close(q.log_prob(z), q.log_prob(z.clone()), rtol=1e-6, atol=1e-6)


@EACH
def test_density_gradient_agrees_with_finite_differences(make):
    guide, x = made(make, 2), torch.randn(N, D)
    z = torch.randn(N, 2, requires_grad=True)
    parameters = list(guide.parameters())
    if isinstance(guide, guides.SemiAmortised):  # its gradient is straight-through by design
        parameters = []
    assert directional_derivative_error(lambda: at_one_noise(guide, x).log_prob(z).sum(), [z, *parameters]) < 1e-6


@EACH
def test_reparameterised_gradient_is_that_of_the_expectation(make):
    """d E[h(z)] / d parameters by draws, against a sum over a grid, within 5 standard errors."""
    guide, x = made(make, 1), torch.randn(N, D)
    if isinstance(guide, guides.SemiAmortised):
        guide = guide.guide
    q = guide.posterior(x)
    z = torch.linspace(-12, 12, 40001)[:, None, None].expand(-1, N, 1)  # fine: a spline's bins are narrow
    with torch.no_grad():
        h = torch.sin(z[..., 0]) + 0.1 * z[..., 0] ** 2
    parameters = list(guide.parameters())
    exact = torch.autograd.grad((q.log_prob(z).exp() * h).sum() * 24 / 40000, parameters, allow_unused=True)
    batches = []
    for _ in range(40):
        draws = guide.posterior(x).rsample((50,))[..., 0]
        value = (torch.sin(draws) + 0.1 * draws**2).sum() / 50
        batches.append(torch.autograd.grad(value, parameters, allow_unused=True))
    for _ in range(5):  # along random directions
        along = [torch.randn_like(p) for p in parameters]
        truth, *sampled = (
            sum((g * d).sum() for g, d in zip(grads, along, strict=True) if g is not None)
            for grads in (exact, *batches)
        )
        sampled = torch.stack(sampled)
        assert abs(float((sampled.mean() - truth) * math.sqrt(len(batches)) / sampled.std())) < 5


@EACH
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_program_and_shapes(make, dtype):
    guide = made(make, 2)
    if isinstance(guide, guides.SemiAmortised):
        guide._model[0].to(dtype)
    guide.to(dtype)
    x = torch.randn(N, D, dtype=dtype)
    q = guide.posterior(x)
    assert (q.batch_shape, q.event_shape, q.has_rsample) == ((N,), (2,), True)
    site = poutine.trace(guide).get_trace(x).nodes["z"]
    assert (site["value"].shape, site["value"].dtype) == ((N, 2), dtype)
    assert q.expand([5, N]).sample().shape == (5, N, 2)
    assert q.log_prob(q.sample((4, 5))).shape == (4, 5, N)


@EACH
def test_survives_saving_and_copying(make):
    guide, x, z = made(make, 2), torch.randn(N, D), torch.randn(N, 2)
    twin = copy.deepcopy(guide)
    fresh = made(make, 2)
    if isinstance(guide, guides.SemiAmortised):
        fresh._model = guide._model
    fresh.load_state_dict(guide.state_dict())
    expected = at_one_noise(guide, x).log_prob(z)
    for other in (twin, fresh):
        torch.testing.assert_close(at_one_noise(other, x).log_prob(z), expected)


@pytest.mark.parametrize("make", TWO_LEVEL_GUIDES.values(), ids=TWO_LEVEL_GUIDES.keys())
def test_two_level_guide_is_one_density_over_both_sites(make):
    model = pv.Model(hierarchical(L=2), likelihoods.Gaussian(mlp(2, D), scale=1.0))
    guide, x = perturbed(make(2, D, N, model)), torch.randn(N, D)
    trace = poutine.trace(guide).get_trace(x)
    trace.compute_log_prob()
    both = torch.cat([trace.nodes["z_top"]["value"], trace.nodes["z"]["value"]], -1)
    q = guide.posterior(x)
    assert (q.batch_shape, q.event_shape) == ((N,), (3,))
    torch.testing.assert_close(q.log_prob(both), trace.nodes["z_top"]["log_prob"] + trace.nodes["z"]["log_prob"])
    assert pv.Target(model, x).log_joint(q.sample((5,))).shape == (5, N)  # the order of the model's sites
    assert q.expand([4, N]).sample().shape == (4, N, 3)


def test_flow_guides_start_at_or_near_their_gaussian():
    x, z = torch.randn(N, D), torch.randn(N, 2)
    for make, tolerance in [
        (guides.InverseAutoregressive, 1e-12),
        (guides.Coupling, 1e-12),
        (guides.NeuralSpline, 1e-12),
        (guides.Planar, 0.5),
    ]:
        guide = make(mlp(D, 4), latent_dim=2)
        loc, raw = guide.head(guide.network(x)).split([2, 3], -1)
        gaussian = torch.distributions.MultivariateNormal(loc, scale_tril=guides.gaussian.triangle(raw, 2))
        torch.testing.assert_close(guide.posterior(x).log_prob(z), gaussian.log_prob(z), rtol=0, atol=tolerance)


def test_planar_inverse_carries_the_gradient():
    w, v, b = (torch.randn(s, requires_grad=True) for s in ((4, 3), (4, 3), (4,)))
    z = torch.randn(4, 3, requires_grad=True)
    g = PlanarTransform(3 * w, 3 * v, b)
    torch.testing.assert_close(g(g.inv(z)), z)
    for i in range(4):
        one = PlanarTransform(3 * w[i], 3 * v[i], b[i])
        jacobian = torch.autograd.functional.jacobian(one, z[i])
        torch.testing.assert_close(one.log_abs_det_jacobian(z[i], one(z[i])), torch.linalg.slogdet(jacobian)[1])
    assert (
        directional_derivative_error(lambda: PlanarTransform(3 * w, 3 * v, b).inv(z).sin().sum(), [z, w, v, b]) < 1e-6
    )


def test_transformed_guide_fits_a_constrained_prior():
    prior = priors.Uniform(2, low=-2.0, high=3.0)
    inner = guides.DiagonalGaussian(mlp(D, 4))
    guide = fitting(inner, prior)
    x, u = torch.randn(N, D), torch.randn(5, N, 2)
    z = -2 + 5 * torch.sigmoid(u)
    by_hand = inner.posterior(x).log_prob(u) - (5 * torch.sigmoid(u) * (1 - torch.sigmoid(u))).log().sum(-1)
    torch.testing.assert_close(guide.posterior(x).log_prob(z), by_hand)


def test_point_mass_finds_the_mode():
    model = pv.Model(priors.StandardNormal(2), likelihoods.Gaussian(mlp(2, 4), scale=0.5)).requires_grad_(False)
    x = torch.randn(1, 4)
    guide = guides.PointMass(torch.nn.Linear(4, 2))
    optimiser = torch.optim.LBFGS(guide.parameters(), max_iter=200, line_search_fn="strong_wolfe")
    elbo = pyro.infer.Trace_ELBO()

    def closure():
        optimiser.zero_grad()
        loss = elbo.differentiable_loss(model, guide, x)
        loss.backward()
        return loss

    optimiser.step(closure)
    exact = pv.analytic(model, x)
    torch.testing.assert_close(guide.posterior(x).mean.detach(), exact.mean.detach(), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_refinement_raises_the_elbo():
    """Each datum's ELBO, in closed form on the linear-Gaussian model, rises with the number of steps."""
    model = pv.Model(priors.StandardNormal(2), likelihoods.Gaussian(mlp(2, 4), scale=0.5)).requires_grad_(False)
    x = model.sample(20)["x"]
    first = guides.DiagonalGaussian(mlp(4, 4))
    exact = pv.analytic(model, x)
    p = torch.distributions.MultivariateNormal(exact.mean, exact.covariance_matrix)

    def kl(q):
        q = torch.distributions.MultivariateNormal(q.mean, torch.diag_embed(q.variance))
        return torch.distributions.kl_divergence(q, p)

    start = kl(first.posterior(x))
    gaps = [kl(guides.SemiAmortised(first, model, num_steps=n, num_particles=64).posterior(x)) for n in (5, 40)]
    assert float((gaps[0] - start).max()) < 0
    assert float((gaps[1] - gaps[0]).mean()) < 0


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: guides.DiagonalGaussian(mlp(D, 3)), ValueError, "even last layer"),
        (lambda: guides.LowRankGaussian(mlp(D, 3), latent_dim=2)(torch.zeros(N, D)), ValueError, "factor"),
        (lambda: guides.MixtureOfGaussians(mlp(D, 3), latent_dim=2)(torch.zeros(N, D)), ValueError, "logits"),
        (lambda: guides.Coupling(torch.nn.Identity(), latent_dim=2), ValueError, "context_dim"),
        (lambda: guides.PerDatumDiagonalGaussian(4, latent_dim=2)(torch.zeros(N, D)), ValueError, "4 data"),
        (lambda: guides.Transformed(mlp(D, 3), torch.distributions.ExpTransform()), TypeError, "Guide first"),
        (lambda: guides.Transformed(guides.PointMass(mlp(D, 3)), None), TypeError, "biject_to"),
        (
            lambda: guides.SemiAmortised(guides.PointMass(mlp(D, 3)), None).posterior(torch.zeros(N, D)),
            TypeError,
            "diag",
        ),
        (lambda: guides.SemiAmortised(guides.PointMass(mlp(D, 3)), None, num_particles=3), ValueError, "even"),
        (lambda: guides.Planar(mlp(D, 3), latent_dim=2, num_transforms=0), ValueError, "num_transforms"),
        (lambda: guides.Coupling(mlp(D, 3), latent_dim=2, hidden=8), TypeError, "sequence of widths"),
    ],
)
def test_bad_input_is_a_sentence(make, error, says):
    with pytest.raises(error, match=says):
        make()


def test_a_guide_outside_the_priors_support_is_told_the_transform():
    model = pv.Model(priors.Uniform(2), likelihoods.Gaussian(mlp(2, D), scale=1.0))
    told = r"the interval from 0 to 1.*all real numbers; try guides.Transformed\(guide, torch.distributions.biject_to"
    with pytest.raises(ValueError, match=told):
        pv.fit(model, guides.DiagonalGaussian(mlp(D, 4)), torch.randn(80, D), progress=False)


@pytest.mark.parametrize(
    ("prior", "guide", "error", "says"),
    [
        (
            priors.StandardNormal(2),
            lambda: guides.DiagonalGaussian(mlp(D, 6)),
            ValueError,
            "dimension 2, or a prior of 3",
        ),
        (hierarchical(2), lambda: guides.DiagonalGaussian(mlp(D, 4)), ValueError, "guides.BottomUp"),
        (priors.StandardNormal(2), lambda: guides.DiagonalGaussian(mlp(5, 4)), ValueError, r"shape \(64, 2\).*of 2$"),
        (
            priors.StandardNormal(2),
            lambda: guides.DiagonalGaussian(mlp(D, 4)).float(),
            ValueError,
            r"float32, as the parameters of DiagonalGaussian.*float64; try x.to\(torch.float32\)",
        ),
        (priors.StandardNormal(2), lambda: guides.PerDatumDiagonalGaussian(72, latent_dim=2), ValueError, "batch_size"),
    ],
    ids=["dimension", "levels", "width", "dtype", "per datum"],
)
def test_a_guide_that_does_not_fit_is_a_sentence(prior, guide, error, says):
    """One line each: without the shapes that Pyro appends to an error."""
    model = pv.Model(prior.double(), likelihoods.Gaussian(mlp(2, D), scale=1.0))
    with pytest.raises(error, match=says) as raised:
        pv.fit(model, guide(), torch.randn(80, D), progress=False)
    assert "\n" not in str(raised.value)


def test_a_transform_that_saturates_keeps_its_gradient_finite():
    prior = priors.Uniform(1).float()
    guide = fitting(guides.DiagonalGaussian(mlp(D, 2)).float(), prior)
    guide.guide.network[0].bias.data[0] = 40.0  # sigmoid(40) is 1 in single precision
    q = guide.posterior(torch.zeros(N, D, dtype=torch.float32))
    grads = torch.autograd.grad(q.log_prob(q.rsample()).sum(), list(guide.parameters()))
    assert all(bool(torch.isfinite(grad).all()) for grad in grads)


@pytest.mark.parametrize("shape", [(), (5,)])
def test_the_density_at_its_own_draws_is_that_of_their_noise_however_ill_conditioned(shape):
    """A factor that training passes through: solving for the noise in single precision gives any number."""
    L = 10
    tril = 0.7 * torch.ones(L, L).tril(-1) + 1e-3 * torch.eye(L)
    q = CholeskyGaussian(torch.zeros(3, L).float(), scale_tril=tril.float())
    assert float(torch.linalg.cond(tril)) > 1e20
    z = q.rsample(shape)
    log_q = q.log_prob(z).double()
    known = -0.5 * L * math.log(2 * math.pi) - L * math.log(1e-3)
    square = 2 * (known - log_q)  # chi-squared with L degrees of freedom
    assert 0 < float(square.min()) <= float(square.max()) < scipy.stats.chi2(L).isf(1e-9)
    assert float((q.log_prob(z.clone()).double() - log_q).abs().max()) > 1e6
    z += 1  # no draw of q any more
    assert torch.equal(q.log_prob(z), q.log_prob(z.clone()))


def test_it_is_pyros_gaussian_elsewhere_and_has_its_gradients():
    torch.manual_seed(0)
    loc, raw = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3, 3, requires_grad=True)
    tril = raw.tril(-1) + torch.diag_embed(raw.diagonal(dim1=-2, dim2=-1).exp())
    ours, pyros = CholeskyGaussian(loc, scale_tril=tril), dist.MultivariateNormal(loc, scale_tril=tril)
    found = []
    for q in (ours, pyros, ours.expand((2, 4)), pyros.expand((2, 4))):
        torch.manual_seed(1)
        z = q.rsample((6,))
        value = q.log_prob(z)
        found.append(
            (z, value, *torch.autograd.grad((value + z.square().sum(-1)).sum(), (loc, raw), retain_graph=True))
        )
        at = torch.randn(4, 3)
        torch.testing.assert_close(q.log_prob(at), pyros.log_prob(at).expand(q.batch_shape))
    for one, other in (found[:2], found[2:]):
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
