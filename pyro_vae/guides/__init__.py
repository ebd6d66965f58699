"""Guides q(z|x): Pyro programs over the latent site whose call on x also returns q as a Pyro distribution."""

from pyro_vae.guides.base import Guide
from pyro_vae.guides.experts import ProductOfExperts
from pyro_vae.guides.flows import Coupling, InverseAutoregressive, NeuralSpline, Planar
from pyro_vae.guides.gaussian import DiagonalGaussian, FullCovarianceGaussian, LowRankGaussian, PointMass
from pyro_vae.guides.hierarchy import BottomUp, TopDown
from pyro_vae.guides.mixture import MixtureOfGaussians
from pyro_vae.guides.per_datum import PerDatumDiagonalGaussian, PerDatumFullCovarianceGaussian
from pyro_vae.guides.semi_amortised import SemiAmortised
from pyro_vae.guides.transformed import Transformed

__all__ = [
    "BottomUp",
    "Coupling",
    "DiagonalGaussian",
    "FullCovarianceGaussian",
    "Guide",
    "InverseAutoregressive",
    "LowRankGaussian",
    "MixtureOfGaussians",
    "NeuralSpline",
    "PerDatumDiagonalGaussian",
    "PerDatumFullCovarianceGaussian",
    "Planar",
    "PointMass",
    "ProductOfExperts",
    "SemiAmortised",
    "TopDown",
    "Transformed",
]
