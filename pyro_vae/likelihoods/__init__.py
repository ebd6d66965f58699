"""Likelihoods p(x|z): torch modules whose call on z returns a Pyro distribution over x."""

from pyro_vae.likelihoods.base import Likelihood
from pyro_vae.likelihoods.counts import NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial, ZeroInflatedPoisson
from pyro_vae.likelihoods.discrete import (
    Categorical,
    DiscretisedLogistic,
    DiscretisedLogisticDistribution,
    OrderedLogistic,
)
from pyro_vae.likelihoods.hurdle import Hurdle, HurdleGamma, HurdleLogNormal
from pyro_vae.likelihoods.location_scale import Gaussian, Laplace, StudentT
from pyro_vae.likelihoods.mixed import Mixed, SideBySide
from pyro_vae.likelihoods.positive import Exponential, Gamma, LogNormal
from pyro_vae.likelihoods.unit_interval import Bernoulli, Beta, ContinuousBernoulli

__all__ = [
    "Bernoulli",
    "Beta",
    "Categorical",
    "ContinuousBernoulli",
    "DiscretisedLogistic",
    "DiscretisedLogisticDistribution",
    "Exponential",
    "Gamma",
    "Gaussian",
    "Hurdle",
    "HurdleGamma",
    "HurdleLogNormal",
    "Laplace",
    "Likelihood",
    "LogNormal",
    "Mixed",
    "NegativeBinomial",
    "OrderedLogistic",
    "Poisson",
    "SideBySide",
    "StudentT",
    "ZeroInflatedNegativeBinomial",
    "ZeroInflatedPoisson",
]
