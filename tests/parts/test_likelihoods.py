import copy
import math
from functools import partial

import numpy as np
import pyro
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
import torch

import pyro_vae as pv
from pyro_vae import likelihoods
from pyro_vae.networks import mlp
from tests.table_of_parts import LIKELIHOODS, _mixed_likelihood, directional_derivative_error, perturbed, points
from tests.truth import STANDARD_ERRORS

pytestmark = pytest.mark.usefixtures("float64")

EACH = pytest.mark.parametrize(("make", "data"), LIKELIHOODS.values(), ids=LIKELIHOODS.keys())
ONE_COLUMN = pytest.mark.parametrize(
    "make",
    [make for make, _ in LIKELIHOODS.values() if not isinstance(make(1, 2), likelihoods.Mixed)],
    ids=[name for name, (make, _) in LIKELIHOODS.items() if not isinstance(make(1, 2), likelihoods.Mixed)],
)


@ONE_COLUMN
@torch.no_grad()
def test_density_sums_to_one_and_draws_follow_it(make):
    """Total mass, and the means of log p and of two bounded functions over draws within 5 standard errors."""
    p = perturbed(make(1, 1))(0.5 * torch.randn(3, 1))
    x, log_weight = points(p.support)
    log_p = p.log_prob(x[:, None])
    mass = (log_p + log_weight[:, None]).exp()
    torch.testing.assert_close(mass.sum(0), torch.ones(3), rtol=0, atol=2e-5)
    draws = p.sample((20_000,))
    tanh = [torch.tanh(v / 3) for v in (draws[..., 0], x.expand(-1, 3))]
    for sampled, exact in [
        (p.log_prob(draws), log_p),
        (tanh[0], tanh[1]),
        (tanh[0] ** 2, tanh[1] ** 2),
    ]:
        error = sampled.std(0) / math.sqrt(len(draws)) + 1e-6
        truth = (mass * exact.nan_to_num(neginf=0.0)).sum(0)
        assert float(((sampled.mean(0) - truth) / error).abs().max()) < 5


@ONE_COLUMN
@torch.no_grad()
def test_mean_and_variance_are_those_of_the_density(make):
    """Where the distribution has them: a categorical has no mean, a heavy tail perhaps no variance."""
    p = make(1, 1)(torch.randn(2, 1))
    x, log_weight = points(p.support)
    mass = (p.log_prob(x[:, None]) + log_weight[:, None]).exp()
    mean = (mass * x).sum(0)
    variance = (mass * (x - mean) ** 2).sum(0)
    for said, summed in ((p.mean[..., 0], mean), (p.variance[..., 0], variance)):
        known = said.isfinite()
        torch.testing.assert_close(said[known], summed[known], rtol=2e-4, atol=1e-4)


@EACH
@pytest.mark.parametrize("raw", [-1e4, -60.0, -15.0, 15.0, 60.0, 1e4])
@pytest.mark.parametrize("sign", [1, -1])
def test_extreme_outputs_of_a_network_are_safe_in_single_precision(make, data, raw, sign):
    """Density and gradient are finite, and the density is that of double precision."""
    x = data(5, 3)
    found = []
    for dtype in (torch.float32, torch.float64):
        likelihood = make(1, 3).to(dtype)
        for module in likelihood.modules():
            if isinstance(module, torch.nn.Linear):
                torch.nn.init.zeros_(module.weight)
                module.bias.data = raw * sign ** torch.arange(len(module.bias)).to(dtype)  # all alike, or in turn
        log_p = likelihood(torch.zeros(5, 1, dtype=dtype)).log_prob(x.float().to(dtype))
        log_p.sum().backward()
        grads = [p.grad for p in likelihood.parameters() if p.grad is not None]
        assert bool(log_p.isfinite().all()), dtype
        assert grads, dtype
        assert all(bool(g.isfinite().all()) for g in grads), dtype
        found.append(log_p.detach().double())
    torch.testing.assert_close(*found, rtol=1e-3, atol=0.05)


@EACH
def test_gradient_agrees_with_finite_differences(make, data):
    likelihood = perturbed(make(2, 3))
    z, x = torch.randn(5, 2, requires_grad=True), data(5, 3)
    assert directional_derivative_error(lambda: likelihood(z).log_prob(x).sum(), [z, *likelihood.parameters()]) < 1e-6


@EACH
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shapes_and_dtypes(make, data, dtype):
    likelihood, x = make(2, 3).to(dtype), data(7, 3).to(dtype)
    p = likelihood(torch.zeros(2, dtype=dtype))
    assert (p.batch_shape, p.event_shape) == ((), (3,))
    for shape in [(7,), (4, 5, 7)]:
        log_prob = likelihood(torch.randn(*shape, 2, dtype=dtype)).log_prob(x)
        assert (log_prob.shape, log_prob.dtype) == (shape, dtype)
        assert torch.isfinite(log_prob).all()


@EACH
def test_copies_and_saved_states_agree(make, data):
    likelihood, z, x = perturbed(make(2, 3)), torch.randn(5, 2), data(5, 3)
    fresh = make(2, 3)
    fresh.load_state_dict(copy.deepcopy(likelihood).state_dict())
    torch.testing.assert_close(fresh(z).log_prob(x), likelihood(z).log_prob(x))


@EACH
def test_target_sees_the_density_in_every_chain(make, data):
    likelihood, x = perturbed(make(2, 3)), data(4, 3)
    target = pv.Target(pv.Model(pv.priors.StandardNormal(2), likelihood), x)
    u = torch.randn(3, 2, 4, 2)
    torch.testing.assert_close(target.log_likelihood(u), likelihood(u).log_prob(x))


def test_named_families_agree_with_scipy():
    """Fixed outputs through a constant network, against SciPy's densities with all their constants."""

    def constant(*values):
        layer = torch.nn.Linear(1, len(values))
        torch.nn.init.zeros_(layer.weight)
        layer.bias.data = torch.tensor(values)
        return layer

    def raw(value):
        return math.log(math.expm1(value))

    r, mean, library = 2.3, 1.7, 3.0
    nb = scipy.stats.nbinom(r, r / (r + library * mean))
    g, bounded = 1 / (1 + math.exp(0.4)), 4 * mean / (4 + mean)
    real, counts, unit = torch.tensor([-1.3, 0.0, 2.2]), torch.tensor([0.0, 1.0, 9.0]), torch.tensor([0.1, 0.5, 0.93])
    positive = torch.tensor([0.1, 1.3, 7.0])
    many = torch.full((3,), library)
    count_nets = constant(math.log(mean), raw(r - 0.01)), constant(math.log(mean), raw(r - 0.01), -0.4)
    for likelihood, x, expected, covariates in [
        (likelihoods.Gaussian(constant(0.3, raw(0.8 - 1e-3))), real, scipy.stats.norm(0.3, 0.8).logpdf, ()),
        (likelihoods.Laplace(constant(0.3), scale=0.8), real, scipy.stats.laplace(0.3, 0.8).logpdf, ()),
        (likelihoods.StudentT(constant(0.3), df=3.5, scale=0.8), real, scipy.stats.t(3.5, 0.3, 0.8).logpdf, ()),
        (
            likelihoods.LogNormal(constant(0.3), scale=0.8),
            positive,
            scipy.stats.lognorm(0.8, scale=math.exp(0.3)).logpdf,
            (),
        ),
        (likelihoods.Exponential(constant(math.log(mean))), positive, scipy.stats.expon(scale=mean).logpdf, ()),
        (likelihoods.Gamma(count_nets[0]), positive, scipy.stats.gamma(r, scale=mean / r).logpdf, ()),
        (
            likelihoods.HurdleGamma(count_nets[1]),
            torch.cat([torch.zeros(1), positive]),
            lambda x: np.where(x == 0, np.log(g), np.log(1 - g) + scipy.stats.gamma(r, scale=mean / r).logpdf(x)),
            (),
        ),
        (
            likelihoods.HurdleLogNormal(constant(0.3, raw(0.8 - 1e-3), -0.4)),
            torch.cat([torch.zeros(1), positive]),
            lambda x: np.where(
                x == 0,
                np.log(g),
                np.log(1 - g) + scipy.stats.lognorm(0.8, scale=math.exp(0.3)).logpdf(np.maximum(x, 1e-9)),
            ),
            (),
        ),
        (
            likelihoods.ZeroInflatedPoisson(constant(math.log(mean), -0.4)),
            counts,
            lambda x: np.log(g * (x == 0) + (1 - g) * scipy.stats.poisson(library * mean).pmf(x)),
            (many,),
        ),
        (likelihoods.Bernoulli(constant(0.7)), counts[:2], scipy.stats.bernoulli(1 / (1 + math.exp(-0.7))).logpmf, ()),
        (likelihoods.Poisson(constant(math.log(mean))), counts, scipy.stats.poisson(library * mean).logpmf, (many,)),
        (likelihoods.NegativeBinomial(count_nets[0]), counts, nb.logpmf, (many,)),
        (
            likelihoods.ZeroInflatedNegativeBinomial(count_nets[1]),
            counts,
            lambda x: np.log(g * (x == 0) + (1 - g) * nb.pmf(x)),
            (many,),
        ),
        (
            likelihoods.Poisson(constant(math.log(mean)), max_mean=4.0),
            counts,
            scipy.stats.poisson(library * bounded).logpmf,
            (many,),
        ),
        (
            likelihoods.NegativeBinomial(constant(math.log(mean)), dispersion="learned", max_mean="data", data_dim=1),
            counts,
            scipy.stats.nbinom(0.01 + math.log(2), 1 - mean / (mean + 0.01 + math.log(2))).logpmf,
            (),
        ),
        (
            likelihoods.Beta(constant(0.4, raw(5.0 - 1.0))),
            unit,
            scipy.stats.beta(
                *((1e-4 + (1 - 2e-4) * m) * 5 for m in (1 / (1 + math.exp(-0.4)), 1 / (1 + math.exp(0.4))))
            ).logpdf,
            (),
        ),
    ]:
        got = likelihood(torch.zeros(len(x), 1), *(c[: len(x)] for c in covariates)).log_prob(x[:, None])
        torch.testing.assert_close(got.detach(), torch.as_tensor(expected(x.numpy())), rtol=1e-9, atol=1e-9)


def test_discretised_logistic_is_a_difference_of_distribution_functions():
    loc, scale = torch.tensor([3.2, 120.0, 254.0]), torch.tensor([0.4, 9.0, 2.0])
    p = likelihoods.DiscretisedLogisticDistribution(loc, scale)
    x = torch.tensor([3.0, 100.0, 250.0])
    cdf = scipy.stats.logistic(loc.numpy(), scale.numpy()).cdf
    expected = torch.log(torch.as_tensor(cdf(x.numpy() + 0.5) - cdf(x.numpy() - 0.5)))
    torch.testing.assert_close(p.log_prob(x), expected)
    far = likelihoods.DiscretisedLogisticDistribution(torch.tensor(0.0), torch.tensor(0.1)).log_prob(
        torch.tensor(200.0)
    )
    assert float(far) == pytest.approx(-1995.0, abs=0.1)  # a difference of two zeros, were it not for the logs


def _ordered(f, counts):
    """Ordered levels that start at columns with so many rows a level, one more spread over all, where f is 0."""
    network = torch.nn.Linear(1, len(counts))
    torch.nn.init.zeros_(network.weight)
    network.bias.data = torch.full((len(counts),), f)
    p = likelihoods.OrderedLogistic(network, levels=len(counts[0]), data_dim=len(counts))
    columns = [np.repeat(np.arange(len(own), dtype=float), own) for own in counts]
    x = np.full((max(map(len, columns)), len(columns)), np.nan)
    for i, own in enumerate(columns):
        x[: len(own), i] = own
    p.start_at(torch.as_tensor(x))
    return p(torch.zeros(1))


@pytest.mark.parametrize("f", [0.0, 1.7, -40.0])
def test_ordered_levels_are_pyros_and_move_with_z(f):
    counts = np.array([[50, 10, 15, 25], [2, 90, 5, 3]])
    p = _ordered(f, counts)
    got = torch.stack([p.base_dist.log_prob(torch.full((2,), float(k))) for k in range(4)], -1).detach()
    shares = (counts + 0.25) / 101
    cutpoints = scipy.special.logit(np.cumsum(shares, -1)[:, :-1])
    if f == 0.0:
        np.testing.assert_allclose(got.exp(), shares, rtol=1e-12)
    if f != -40.0:
        theirs = pyro.distributions.OrderedLogistic(torch.full((2,), f), torch.as_tensor(cutpoints))
        np.testing.assert_allclose(got.exp(), theirs.probs, rtol=1e-9)
    else:  # there differences of distribution functions round to 0; the levels fall off as e^-40
        tail = -40.0 + np.log(np.exp(-cutpoints[:, :-1]) - np.exp(-cutpoints[:, 1:]))
        np.testing.assert_allclose(got[:, 1:3], tail, rtol=1e-12)


@pytest.mark.parametrize("levels", [2, 3, 17])
def test_the_density_of_one_level_is_that_of_all_normalised(levels, float64):
    network = torch.nn.Linear(3, 4)
    ordered = likelihoods.OrderedLogistic(network, levels=levels, data_dim=4)
    torch.nn.init.normal_(ordered.first_cutpoint)
    z, x = torch.randn(50, 3), torch.randint(levels, (50, 4))
    found = []
    for p in (ordered(z).base_dist, pyro.distributions.Categorical(logits=ordered(z).base_dist.logits)):
        value = p.log_prob(x)
        found.append((value.detach(), *torch.autograd.grad(value.sum(), list(ordered.parameters()), allow_unused=True)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
    p = ordered(z).base_dist
    assert p.expand((2, 50, 4)).log_prob(x).shape == (2, 50, 4)
    support = p.enumerate_support(expand=False)
    torch.testing.assert_close(p.log_prob(support).exp().sum(0), torch.ones(50, 4))


def test_a_level_above_a_columns_highest_is_not_drawn():
    p = _ordered(0.0, [[50, 49, 0, 0], [0, 20, 30, 49]])
    drawn = p.sample((100_000,))
    assert drawn.max(0).values.tolist() == [1, 3]
    share = float((drawn[:, 1] == 2).double().mean())
    exact = 30.25 / 100
    assert abs(share - exact) < STANDARD_ERRORS * (exact * (1 - exact) / 100_000) ** 0.5


@pytest.mark.parametrize("logit", [-60.0, -1e-3, 0.0, 0.01, 25.0])
def test_continuous_bernoulli_keeps_its_normaliser_at_extreme_logits(logit):
    """In single precision too, where probabilities round to 0 or 1."""
    layer = torch.nn.Linear(1, 1).float()
    torch.nn.init.zeros_(layer.weight)
    layer.bias.data = torch.tensor([logit], dtype=torch.float32)
    p = likelihoods.ContinuousBernoulli(layer)(torch.zeros(1, dtype=torch.float32))
    x = 0.5 - math.copysign(0.4, -logit or 1.0) * (1 if logit else 0)
    total, _ = scipy.integrate.quad(lambda t: math.exp(logit * t - max(logit, 0)), 0, 1, points=[0.0, 1.0])
    expected = logit * x - max(logit, 0) - math.log(total)
    assert p.log_prob(torch.tensor([x], dtype=torch.float32)).item() == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_floor_bounds_the_density_of_a_reproduced_constant():
    """Without the floor, a pixel that is reproduced exactly has unbounded likelihood (Mattei & Frellsen 2018)."""
    layer = torch.nn.Linear(1, 2)
    layer.bias.data = torch.tensor([0.0, -1e4])
    p = likelihoods.Gaussian(layer, min_scale=0.01)(torch.zeros(1))
    assert p.log_prob(torch.zeros(1)).item() == pytest.approx(-math.log(0.01) - 0.5 * math.log(2 * math.pi))


def test_mixed_adds_its_parts():
    trunk = mlp(2, 4)
    parts = [
        likelihoods.Gaussian(torch.nn.Sequential(trunk, mlp(4, 2)), scale=0.5),
        likelihoods.Categorical(torch.nn.Sequential(trunk, mlp(4, 3)), num_categories=3),
        likelihoods.Poisson(torch.nn.Sequential(trunk, mlp(4, 1))),
    ]
    mixed = likelihoods.Mixed(parts)
    z = torch.randn(6, 2)
    x = torch.cat([torch.randn(6, 2), torch.randint(3, (6, 1)), torch.poisson(torch.ones(6, 1))], -1)
    by_hand = sum(part(z).log_prob(piece) for part, piece in zip(parts, x.split([2, 1, 1], -1), strict=True))
    torch.testing.assert_close(mixed(z).log_prob(x), by_hand)
    assert mixed(z).sample().shape == (6, 4)
    assert len(list(mixed.parameters())) == 2 + 3 * 2  # the trunk once


@pytest.mark.parametrize(
    ("likelihood", "x", "says"),
    [
        (lambda: likelihoods.Bernoulli(mlp(1, 2)), torch.tensor([[0.0, 3.0]]), r"\{0, 1\}.*3.*x > 1.5"),
        (lambda: likelihoods.Poisson(mlp(1, 2)), torch.tensor([[-1.0, 3.0]]), "Poisson.*from 0 on.*-1 to 3.*Gaussian"),
        (lambda: likelihoods.NegativeBinomial(mlp(1, 4)), torch.tensor([[0.5, 3.0]]), r"x\.round"),
        (
            lambda: likelihoods.ZeroInflatedNegativeBinomial(mlp(1, 6)),
            -torch.ones(1, 2),
            "of ZeroInflatedNeg.*no count",
        ),
        (lambda: likelihoods.Beta(mlp(1, 4)), torch.tensor([[0.0, 0.5]]), "Beta.*ContinuousBernoulli"),
        (lambda: likelihoods.HurdleGamma(mlp(1, 6)), torch.tensor([[-1.0, 0.5]]), "Hurdle.*numbers from 0 on"),
        (lambda: likelihoods.ContinuousBernoulli(mlp(1, 2)), torch.tensor([[0.0, 2.0]]), "the interval from 0 to 1"),
        (lambda: likelihoods.Categorical(mlp(1, 6), num_categories=3), torch.tensor([[0.0, 3.0]]), "0 to 2.*for 4"),
        (lambda: likelihoods.DiscretisedLogistic(mlp(1, 4)), torch.tensor([[0.5, 3.0]]), "Logistic.*0 to 255.*round"),
        (
            lambda: likelihoods.OrderedLogistic(mlp(1, 2), levels=3, data_dim=2),
            torch.tensor([[0.0, 3.0]]),
            "0 to 2.*for 4",
        ),
        (lambda: likelihoods.DiscretisedLogistic(mlp(1, 4)), torch.rand(1, 2), r"\(255 \* x\)\.round"),
        (lambda: _mixed_likelihood(1, 2), torch.tensor([[0.5, 3.0]]), r"x\[\.\.\., 1:2\].*Bernoulli, \{0, 1\}"),
        (lambda: likelihoods.Gaussian(mlp(1, 4)), torch.zeros(1, 3), "event shape"),
        (
            lambda: likelihoods.Bernoulli(mlp(3, 2)),
            torch.zeros(1, 2),
            r"network to take z of shape \(1, 1\).*layer of 1",
        ),
    ],
)
def test_data_outside_the_support_are_a_sentence(likelihood, x, says):
    model = pv.Model(pv.priors.StandardNormal(1), likelihood())
    with pytest.raises(ValueError, match=says) as error:
        pv.Target(model, x.double())
    assert all(word in str(error.value) for word in ("expected", "got", "try"))


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: likelihoods.Gaussian(mlp(1, 3))(torch.zeros(1)), ValueError, "side by side"),
        (lambda: likelihoods.Gaussian(mlp(1, 3), scale="learnt"), ValueError, "learned"),
        (lambda: likelihoods.Gaussian(mlp(1, 3), scale="learned"), ValueError, "data_dim"),
        (lambda: likelihoods.Laplace(mlp(1, 3), scale=-1.0), ValueError, "positive"),
        (lambda: likelihoods.StudentT(mlp(1, 3), df=-1.0), ValueError, "positive, finite df"),
        (lambda: likelihoods.Categorical(mlp(1, 4), num_categories=3)(torch.zeros(1)), ValueError, "logits"),
        (lambda: likelihoods.Categorical(mlp(1, 4), num_categories=1), ValueError, "at least 2"),
        (lambda: likelihoods.ZeroInflatedNegativeBinomial(mlp(1, 4))(torch.zeros(1)), ValueError, "gate"),
        (lambda: likelihoods.Poisson(mlp(1, 4), max_mean="training"), ValueError, "data"),
        (lambda: likelihoods.Poisson(mlp(1, 4), max_mean="data"), ValueError, "data_dim"),
        (lambda: likelihoods.Poisson(mlp(1, 4), max_mean=-1.0), ValueError, "max_mean"),
        (lambda: likelihoods.Poisson(mlp(1, 2), max_mean=torch.tensor([1.0, 0.0])), ValueError, "positive ceilings"),
        (lambda: likelihoods.NegativeBinomial(mlp(1, 4), dispersion="shared"), ValueError, "learned"),
        (lambda: likelihoods.NegativeBinomial(mlp(1, 4), dispersion="learned"), ValueError, "data_dim"),
        (lambda: likelihoods.HurdleGamma(mlp(1, 4))(torch.zeros(1)), ValueError, "gate"),
        (lambda: likelihoods.HurdleLogNormal(mlp(1, 4))(torch.zeros(1)), ValueError, "gate"),
        (lambda: likelihoods.HurdleLogNormal(mlp(1, 4), scale="learned"), ValueError, "data_dim"),
        (lambda: likelihoods.Beta(mlp(1, 4), min_concentration=-1.0), ValueError, "min_concentration"),
        (lambda: likelihoods.DiscretisedLogistic(mlp(1, 4), min_scale=-1.0), ValueError, "min_scale"),
        (lambda: likelihoods.OrderedLogistic(mlp(1, 4), levels=1, data_dim=4), ValueError, "levels"),
        (lambda: likelihoods.OrderedLogistic(mlp(1, 4), levels=3, data_dim=0), ValueError, "data_dim"),
        (
            lambda: likelihoods.OrderedLogistic(mlp(1, 4), levels=3, data_dim=2)(torch.zeros(1)),
            ValueError,
            "a network that gives 2 numbers",
        ),
        (lambda: likelihoods.Bernoulli(mlp(1, 4), event_dim=-1), ValueError, "event_dim"),
        (lambda: likelihoods.Gaussian(mlp(1, 4), scale="learned", data_dim=0), ValueError, "data_dim"),
        (lambda: likelihoods.Mixed([]), ValueError, "at least one part"),
        (lambda: likelihoods.Mixed([mlp(1, 2)]), TypeError, "Likelihoods"),
    ],
)
def test_bad_input_is_a_sentence(make, error, says):
    with pytest.raises(error, match=says):
        make()


def test_a_library_size_below_zero_is_a_sentence():
    model = pv.Model(pv.priors.StandardNormal(1), likelihoods.Poisson(mlp(1, 2)))
    x = torch.ones(10, 2), -torch.ones(10)
    with pytest.raises(
        ValueError, match=r"^expected the likelihood.*parameter rate; try.*library size above 0.*weights$"
    ):
        pv.fit(model, pv.guides.DiagonalGaussian(mlp(2, 2)), x, validation=None, progress=False)


COUNTS = pytest.mark.parametrize(
    ("family", "width"),
    [
        (likelihoods.Poisson, 2),
        (likelihoods.ZeroInflatedPoisson, 4),
        (partial(likelihoods.NegativeBinomial, dispersion="learned"), 2),
        (partial(likelihoods.ZeroInflatedNegativeBinomial, dispersion="learned"), 4),
    ],
    ids=["Poisson", "zero-inflated Poisson", "negative binomial", "zero-inflated negative binomial"],
)


@COUNTS
def test_no_mean_of_counts_runs_away_from_the_data(family, width):
    """Twice the largest count is the ceiling, wherever z is, of each column; far below it the mean is e^f."""
    x = torch.tensor([[3.0, 0.0], [torch.nan, 1.0], [50.0, 0.0]])
    network = torch.nn.Linear(1, width)
    likelihood = family(network, max_mean="data", data_dim=2)
    free = family(copy.deepcopy(network), **({"data_dim": 2} if isinstance(family, partial) else {}))
    torch.nn.init.ones_(network.weight)
    torch.nn.init.zeros_(network.bias)
    free.network.load_state_dict(network.state_dict())
    z = torch.tensor([[-12.0], [40.0]])
    unbounded = likelihood(z).log_prob(x[2])
    torch.testing.assert_close(unbounded, free(z).log_prob(x[2]))  # until the data have been seen
    likelihood.bound_by(x)
    low, high = _mean_of_counts(likelihood(z))
    torch.testing.assert_close(high, torch.tensor([100.0, 2.0]), rtol=1e-6, atol=0)
    torch.testing.assert_close(low, _mean_of_counts(free(z))[0], rtol=1e-5, atol=0)
    (gradient,) = torch.autograd.grad(likelihood(z).log_prob(x[2]).sum(), network.weight)
    assert bool(gradient.isfinite().all())


def _mean_of_counts(p):
    """Of the counts, or of the part beside extra zeros."""
    base = p.base_dist
    return getattr(base, "base_dist", base).mean.detach()


@pytest.mark.parametrize("raw", [1e3, 1e5, 1e8])
def test_a_count_of_nearly_no_dispersion_keeps_its_probability_in_single_precision(raw):
    """Beyond r = 1e4 it is Poisson to 1 %, and differences of log Gamma would come out as densities above 1."""
    network = torch.nn.Linear(1, 2).float()
    torch.nn.init.zeros_(network.weight)
    with torch.no_grad():
        network.bias.copy_(torch.tensor([math.log(60.0), raw]))
    x = torch.arange(0.0, 400.0).float()
    log_prob = (
        likelihoods.NegativeBinomial(network)(torch.zeros(400, 1).float()).log_prob(x.unsqueeze(-1)).detach().double()
    )
    r = min(raw, 1e4)
    exact = torch.as_tensor(scipy.stats.nbinom.logpmf(x.double().numpy(), r, r / (r + 60)))
    assert float((log_prob - exact).abs()[20:120].max()) < 0.02
    assert float(log_prob.exp().sum()) == pytest.approx(1, abs=0.02)
