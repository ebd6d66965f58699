"""The one table of parts: a new prior, likelihood, guide or objective is one line here and inherits every test."""

import pyro
import torch
from torch.distributions import biject_to

from pyro_vae import guides, likelihoods, objectives, priors
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
    "VampPrior": _vamp,
    "NICE": lambda L: priors.NICE(L, hidden=(8,)),
    "Real NVP": lambda L: priors.RealNVP(L, hidden=(8,)),
    "masked autoregressive": lambda L: priors.MaskedAutoregressive(L, hidden=(8,)),
    "neural spline": lambda L: priors.NeuralSpline(L, hidden=(8,)),
    "Laplace": priors.Laplace,
    "Student's t": priors.StudentT,
    "uniform": lambda L: priors.Uniform(L, low=-2.0, high=3.0),
}


def hierarchical(L=1, M=1):
    return priors.HierarchicalNormal(mlp(M, 2 * L), latent_dim=L, top_dim=M)


def _real(N, D):
    return torch.randn(N, D)


def _binary(N, D):
    return torch.bernoulli(torch.full((N, D), 0.4))


def _unit(N, D):
    return 0.02 + 0.96 * torch.rand(N, D)


def _counts(N, D):
    return torch.poisson(torch.full((N, D), 1.5))


def _categories(N, D):
    return torch.randint(3, (N, D)).to(torch.get_default_dtype())


def _levels(N, D):
    return torch.randint(16, (N, D)).to(torch.get_default_dtype())


def _mixed(N, D):
    return torch.cat([torch.randn(N, D - 1), _binary(N, 1)], -1)


def _mixed_likelihood(L, D):
    return likelihoods.Mixed([likelihoods.Gaussian(mlp(L, D - 1), scale=0.7), likelihoods.Bernoulli(mlp(L, 1))])


LIKELIHOODS = {  # name: (L, D -> likelihood, N, D -> data)
    "Bernoulli": (lambda L, D: likelihoods.Bernoulli(mlp(L, D)), _binary),
    "continuous Bernoulli": (lambda L, D: likelihoods.ContinuousBernoulli(mlp(L, D)), _unit),
    "Beta": (lambda L, D: likelihoods.Beta(mlp(L, 2 * D)), _unit),
    "Gaussian, network": (lambda L, D: likelihoods.Gaussian(mlp(L, 2 * D)), _real),
    "Gaussian, learned": (lambda L, D: likelihoods.Gaussian(mlp(L, D), scale="learned", data_dim=D), _real),
    "Gaussian, fixed": (lambda L, D: likelihoods.Gaussian(mlp(L, D), scale=0.7), _real),
    "Student's t": (lambda L, D: likelihoods.StudentT(mlp(L, 2 * D), df=3.0), _real),
    "Student's t, learned": (
        lambda L, D: likelihoods.StudentT(mlp(L, D), df=None, scale="learned", data_dim=D),
        _real,
    ),
    "Laplace": (lambda L, D: likelihoods.Laplace(mlp(L, 2 * D)), _real),
    "categorical": (lambda L, D: likelihoods.Categorical(mlp(L, 3 * D), num_categories=3), _categories),
    "discretised logistic": (lambda L, D: likelihoods.DiscretisedLogistic(mlp(L, 2 * D), levels=16), _levels),
    "Poisson": (lambda L, D: likelihoods.Poisson(mlp(L, D)), _counts),
    "negative binomial": (lambda L, D: likelihoods.NegativeBinomial(mlp(L, 2 * D)), _counts),
    "zero-inflated": (lambda L, D: likelihoods.ZeroInflatedNegativeBinomial(mlp(L, 3 * D)), _counts),
    "mixed": (_mixed_likelihood, _mixed),
}


def _per_datum(family):
    return lambda L, D, N, model: family(N, latent_dim=L)


def encoder(*sizes):
    """Counts and levels squashed first: an untrained guide stays near its prior."""
    return torch.nn.Sequential(torch.nn.Softsign(), mlp(*sizes))


def _unconstrained(model):
    """What a refinement over real numbers climbs: the model, or its density through the prior's transform."""
    if not isinstance(model.prior, priors.Uniform):
        return model

    def log_joint(x, u):
        transform = biject_to(model.prior().support)
        z = transform(u)
        return model.log_joint(x, z) + transform.log_abs_det_jacobian(u, z)

    return log_joint


GUIDES = {  # name: (L, D, N, model) -> guide
    "diagonal": lambda L, D, N, model: guides.DiagonalGaussian(encoder(D, 2 * L)),
    "full covariance": lambda L, D, N, model: guides.FullCovarianceGaussian(
        encoder(D, 2 * L + L * (L - 1) // 2), latent_dim=L
    ),
    "low rank": lambda L, D, N, model: guides.LowRankGaussian(encoder(D, 3 * L), latent_dim=L),
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


def fitting(guide, prior):
    """The guide on the prior's support."""
    if isinstance(prior, priors.Uniform):
        return guides.Transformed(guide, biject_to(prior().support))
    return guide


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
