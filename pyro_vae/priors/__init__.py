"""Priors p(z): torch modules whose call returns a Pyro distribution."""

from pyro_vae.priors.base import Prior
from pyro_vae.priors.flows import NICE, MaskedAutoregressive, NeuralSpline, RealNVP
from pyro_vae.priors.hierarchy import HierarchicalNormal
from pyro_vae.priors.mixtures import DiscreteMixture, GaussianMixture, VampPrior
from pyro_vae.priors.simple import Cauchy, DiagonalNormal, Laplace, StandardNormal, StudentT, Uniform

__all__ = [
    "NICE",
    "Cauchy",
    "DiagonalNormal",
    "DiscreteMixture",
    "GaussianMixture",
    "HierarchicalNormal",
    "Laplace",
    "MaskedAutoregressive",
    "NeuralSpline",
    "Prior",
    "RealNVP",
    "StandardNormal",
    "StudentT",
    "Uniform",
    "VampPrior",
]
