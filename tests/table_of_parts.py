"""The one table of parts: a new prior, likelihood, guide or objective is one line here and inherits every test."""

import math
from functools import partial

import pyro
import torch
from torch.distributions import constraints

from pyro_vae import guides, likelihoods, objectives, priors
from pyro_vae.inference.target.supports import bijection, is_real
from pyro_vae.networks import mlp

DATA_DIM = 2


def perturbed(module, scale=0.3):
    """Move every parameter away from its start, so that a flow is not the identity."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return module


def _vamp(L, guide=None):
    guide = guide or guides.DiagonalGaussian(mlp(DATA_DIM, 2 * L))
    return priors.VampPrior(guide, torch.randn(3, DATA_DIM))


PRIORS = {
    "standard normal": priors.StandardNormal,
    "diagonal normal": priors.DiagonalNormal,
    "Gaussian mixture": lambda L: priors.GaussianMixture(L, num_components=3),
    "Gaussian mixture, full": lambda L: priors.GaussianMixture(L, num_components=3, covariance="full"),
    "discrete mixture": lambda L: priors.DiscreteMixture(L, num_components=3),
    "VampPrior": _vamp,
    "NICE": lambda L: priors.NICE(L, hidden=(8,)),
    "Real NVP": lambda L: priors.RealNVP(L, hidden=(8,)),
    "masked autoregressive": lambda L: priors.MaskedAutoregressive(L, hidden=(8,)),
    "neural spline": lambda L: priors.NeuralSpline(L, hidden=(8,)),
    "Laplace": priors.Laplace,
    "Student's t": priors.StudentT,
    "Cauchy": priors.Cauchy,
    "uniform": lambda L: priors.Uniform(L, low=-2.0, high=3.0),
}


# for objectives that sum no discrete site out
PRIORS_OF_ONE_SITE = {name: make for name, make in PRIORS.items() if name != "discrete mixture"}


def hierarchical(L=1, M=1):
    return priors.HierarchicalNormal(mlp(M, 2 * L), latent_dim=L, top_dim=M)


def _mixed_likelihood(L, D):
    return likelihoods.Mixed([likelihoods.Gaussian(mlp(L, D - 1), scale=0.7), likelihoods.Bernoulli(mlp(L, 1))])


_MAKERS = {  # name: L, D -> likelihood
    "Bernoulli": lambda L, D: likelihoods.Bernoulli(mlp(L, D)),
    "continuous Bernoulli": lambda L, D: likelihoods.ContinuousBernoulli(mlp(L, D)),
    "Beta": lambda L, D: likelihoods.Beta(mlp(L, 2 * D)),
    "Gaussian, network": lambda L, D: likelihoods.Gaussian(mlp(L, 2 * D)),
    "Gaussian, learned": lambda L, D: likelihoods.Gaussian(mlp(L, D), scale="learned", data_dim=D),
    "Gaussian, fixed": lambda L, D: likelihoods.Gaussian(mlp(L, D), scale=0.7),
    "Student's t": lambda L, D: likelihoods.StudentT(mlp(L, 2 * D), df=3.0),
    "Student's t, learned": lambda L, D: likelihoods.StudentT(mlp(L, D), df=None, scale="learned", data_dim=D),
    "Laplace": lambda L, D: likelihoods.Laplace(mlp(L, 2 * D)),
    "log-normal": lambda L, D: likelihoods.LogNormal(mlp(L, 2 * D)),
    "gamma": lambda L, D: likelihoods.Gamma(mlp(L, 2 * D)),
    "gamma or 0": lambda L, D: likelihoods.HurdleGamma(mlp(L, 3 * D)),
    "log-normal or 0": lambda L, D: likelihoods.HurdleLogNormal(mlp(L, 2 * D), scale="learned", data_dim=D),
    "exponential": lambda L, D: likelihoods.Exponential(mlp(L, D)),
    "categorical": lambda L, D: likelihoods.Categorical(mlp(L, 3 * D), num_categories=3),
    "ordered logistic": lambda L, D: likelihoods.OrderedLogistic(mlp(L, D), levels=4, data_dim=D),
    "discretised logistic": lambda L, D: likelihoods.DiscretisedLogistic(mlp(L, 2 * D), levels=16),
    "Poisson": lambda L, D: likelihoods.Poisson(mlp(L, D)),
    "negative binomial": lambda L, D: likelihoods.NegativeBinomial(mlp(L, 2 * D)),
    "zero-inflated Poisson": lambda L, D: likelihoods.ZeroInflatedPoisson(mlp(L, 2 * D), max_mean=20.0),
    "zero-inflated negative binomial": lambda L, D: likelihoods.ZeroInflatedNegativeBinomial(
        mlp(L, 2 * D), dispersion="learned", data_dim=D
    ),
    "mixed": _mixed_likelihood,
}


def _drawn(make, N, D):
    """Data ``(N, D)`` of a likelihood's own kind: a draw from it at latents of a standard normal."""
    with torch.no_grad():
        return make(1, D)(torch.randn(N, 1)).sample().to(torch.get_default_dtype())


LIKELIHOODS = {name: (make, partial(_drawn, make)) for name, make in _MAKERS.items()}  # with N, D -> data


def _per_datum(family):
    return lambda L, D, N, model: family(N, latent_dim=L)


def encoder(*sizes):
    """Counts and levels squashed first: an untrained guide stays near its prior."""
    return torch.nn.Sequential(torch.nn.Softsign(), mlp(*sizes))


def _unconstrained(model):
    """What a refinement over real numbers climbs: the model, or its density through the prior's transform."""
    transform = to_support(model.prior)
    if transform is None:
        return model

    def log_joint(x, u):
        z = transform(u)
        return model.log_joint(x, z) + transform.log_abs_det_jacobian(u, z)

    return log_joint


GUIDES = {  # name: (L, D, N, model) -> guide
    "diagonal": lambda L, D, N, model: guides.DiagonalGaussian(encoder(D, 2 * L)),
    "full covariance": lambda L, D, N, model: guides.FullCovarianceGaussian(
        encoder(D, 2 * L + L * (L - 1) // 2), latent_dim=L
    ),
    "low rank": lambda L, D, N, model: guides.LowRankGaussian(encoder(D, 3 * L), latent_dim=L),
    "product of experts": lambda L, D, N, model: guides.ProductOfExperts(encoder(D, 2 * L), data_dim=D, latent_dim=L),
    "mixture": lambda L, D, N, model: guides.MixtureOfGaussians(encoder(D, 3 + 6 * L), latent_dim=L),
    "inverse autoregressive": lambda L, D, N, model: guides.InverseAutoregressive(
        encoder(D, 4), latent_dim=L, hidden=(8,)
    ),
    "planar": lambda L, D, N, model: guides.Planar(encoder(D, 4), latent_dim=L, num_transforms=2),
    "coupling": lambda L, D, N, model: guides.Coupling(encoder(D, 4), latent_dim=L, num_transforms=2, hidden=(8,)),
    "neural spline": lambda L, D, N, model: guides.NeuralSpline(
        encoder(D, 4), latent_dim=L, num_transforms=1, hidden=(8,)
    ),
    "per-datum diagonal": _per_datum(guides.PerDatumDiagonalGaussian),
    "per-datum full": _per_datum(guides.PerDatumFullCovarianceGaussian),
    "semi-amortised": lambda L, D, N, model: guides.SemiAmortised(
        guides.DiagonalGaussian(encoder(D, 2 * L)), _unconstrained(model), num_steps=1, num_particles=2
    ),
}

TWO_LEVEL_GUIDES = {
    "bottom-up": lambda L, D, N, model: guides.BottomUp(encoder(D, 2 * L), mlp(L, 2), latent_dim=L, top_dim=1),
    "top-down": lambda L, D, N, model: guides.TopDown(encoder(D, 2), encoder(1 + D, 2 * L), latent_dim=L, top_dim=1),
}


OBJECTIVES = {  # name: K -> objective; each is log p(x) for every draw where the guide is the posterior
    "importance-weighted": lambda K: objectives.ImportanceWeightedELBO(num_particles=K),
    "doubly reparameterised": lambda K: objectives.DoublyReparameterisedELBO(num_particles=K),
    "Renyi": lambda K: objectives.RenyiELBO(alpha=0.5, num_particles=K),
    "wake-sleep": lambda K: objectives.ReweightedWakeSleep(num_particles=K),
    "path derivative": lambda K: objectives.PathDerivativeELBO(num_particles=K),
    "beta": lambda K: objectives.BetaELBO(1.0, num_particles=K),
    "free bits": lambda K: objectives.FreeBitsELBO(0.0, num_particles=K),
}

OTHER_OBJECTIVES = {  # Pyro's own, and those with a weight on the KL: lower bounds too, from the third step on
    "Trace_ELBO": lambda K: pyro.infer.Trace_ELBO(num_particles=K),
    "closed-form KL": lambda K: pyro.infer.TraceMeanField_ELBO(num_particles=K),
    "beta 4": lambda K: objectives.BetaELBO(4.0, num_particles=K),
    "warm-up": lambda K: objectives.BetaELBO(objectives.warm_up(3), num_particles=K),
    "cyclical": lambda K: objectives.BetaELBO(objectives.cyclical(4, ramp=0.5), num_particles=K),
    "free bits 0.1": lambda K: objectives.FreeBitsELBO(0.1, num_particles=K),
}


def to_support(prior):
    """The transform from real numbers to a prior's support; None if that is all real numbers, or of two levels."""
    one_level = not isinstance(prior, priors.HierarchicalNormal)
    return bijection(prior().support) if one_level and not is_real(prior().support) else None


def fitting(guide, prior):
    """The guide on the prior's support."""
    transform = to_support(prior)
    return guide if transform is None else guides.Transformed(guide, transform)


def points(support, dim=1, num=20_001):
    r"""Every value of a support, or points that fill it: ``(P, dim)``, and the log of each one's weight ``(P,)``.

    Sums over them are integrals by the double-exponential rule (Takahasi & Mori 1974): over real numbers
    z = sinh(pi/2 sinh t), over all else the bijection of pi/2 sinh t; z to 1e9 and to 1e-9 off the ends.
    """
    if support.is_discrete:
        while hasattr(support, "base_constraint"):
            support = support.base_constraint
        low = getattr(support, "lower_bound", 0)
        high = getattr(support, "upper_bound", 1 if support is constraints.boolean else low + 3999)
        values = torch.arange(low, high + 1, dtype=torch.get_default_dtype())
        return values[:, None], torch.zeros(len(values))
    t = torch.linspace(-3.3, 3.3, num, dtype=torch.float64)
    u = math.pi / 2 * t.sinh()
    log_weight = (math.pi / 2 * t.cosh() * (t[1] - t[0])).log()
    if is_real(support):
        u, log_weight = u.sinh(), log_weight + u.cosh().log()
    u, log_weight = (torch.cartesian_prod(*[v] * dim).reshape(-1, dim) for v in (u, log_weight))
    transform = bijection(support)
    z = transform(u)
    log_weight = log_weight.sum(-1) + transform.log_abs_det_jacobian(u, z)
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    if hasattr(support, "atom"):
        z, log_weight = torch.cat([torch.full((1, dim), support.atom), z]), torch.cat([torch.zeros(1), log_weight])
    return z, log_weight


def directional_derivative_error(function, parameters, step=1e-5):
    """|autodiff - central difference| along one random direction, relative to the derivative's size."""
    parameters = [p for p in parameters if p.requires_grad]
    directions = [torch.randn_like(p) for p in parameters]
    grads = torch.autograd.grad(function(), parameters, allow_unused=True)
    exact = sum((g * d).sum() for g, d in zip(grads, directions, strict=True) if g is not None)
    values = []
    with torch.no_grad():
        for sign in (1, -1):
            for p, d in zip(parameters, directions, strict=True):
                p.add_(sign * step * d)
            values.append(function())
            for p, d in zip(parameters, directions, strict=True):
                p.add_(-sign * step * d)
    estimate = (values[0] - values[1]) / (2 * step)
    return float((exact - estimate).abs() / (1 + exact.abs()))
