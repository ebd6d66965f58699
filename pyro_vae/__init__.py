"""pyro_vae: one latent-variable model, every way to infer it, and the measured distance between them.

Legend of dimensions, the same everywhere: ``C`` chains, ``S`` draws, ``N`` data, ``L`` latent dimension, ``D`` data
dimension, ``K`` importance samples. Log densities and evidences are in nats per datum, with every constant.
"""

from pyro_vae import datasets, guides, likelihoods, networks, priors
from pyro_vae.evaluation.comparison import Comparison, compare
from pyro_vae.inference.analytic import AnalyticPosterior, analytic
from pyro_vae.inference.mcmc.draws import Draws
from pyro_vae.inference.mcmc.reference import pyro_mcmc
from pyro_vae.inference.optimum import LaplacePosterior, ModePosterior, laplace, maximum_a_posteriori
from pyro_vae.inference.quadrature import QuadraturePosterior, quadrature
from pyro_vae.inference.target import Target
from pyro_vae.inference.variational import History, fit
from pyro_vae.model import Model

__all__ = [
    "AnalyticPosterior",
    "Comparison",
    "Draws",
    "History",
    "LaplacePosterior",
    "ModePosterior",
    "Model",
    "QuadraturePosterior",
    "Target",
    "analytic",
    "compare",
    "datasets",
    "fit",
    "guides",
    "laplace",
    "likelihoods",
    "maximum_a_posteriori",
    "networks",
    "priors",
    "pyro_mcmc",
    "quadrature",
]
