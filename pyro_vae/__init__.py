"""pyro_vae: one latent-variable model, every way to infer it, and the measured distance between them.

Legend of dimensions, the same everywhere: ``C`` chains, ``S`` draws, ``N`` data, ``L`` latent dimension, ``D`` data
dimension, ``K`` importance samples. Log densities and evidences are in nats per datum, with every constant.
"""

from pyro_vae import datasets, guides, infer, likelihoods, networks, priors
from pyro_vae.evaluation.collapse import Collapse, CollapseWarning, collapse
from pyro_vae.evaluation.comparison import Comparison, compare
from pyro_vae.evaluation.imputation import impute
from pyro_vae.evaluation.sweep import Sweep, sweep
from pyro_vae.inference import objectives
from pyro_vae.inference.analytic import AnalyticPosterior, analytic
from pyro_vae.inference.coordinate_ascent import MeanFieldPosterior, coordinate_ascent
from pyro_vae.inference.mcmc.chees import ChEES
from pyro_vae.inference.mcmc.draws import Draws
from pyro_vae.inference.mcmc.gibbs import GaussianGibbs, Gibbs
from pyro_vae.inference.mcmc.hmc import HMC
from pyro_vae.inference.mcmc.independence import IndependenceMH
from pyro_vae.inference.mcmc.mala import MALA
from pyro_vae.inference.mcmc.nuts import NUTS
from pyro_vae.inference.mcmc.random_walk import RandomWalk
from pyro_vae.inference.mcmc.reference import pyro_mcmc
from pyro_vae.inference.mcmc.run import mcmc
from pyro_vae.inference.mcmc.tempering import ParallelTempering
from pyro_vae.inference.optimum import LaplacePosterior, ModePosterior, laplace, maximum_a_posteriori
from pyro_vae.inference.quadrature import QuadraturePosterior, quadrature
from pyro_vae.inference.target import Target
from pyro_vae.inference.variational import History, fit
from pyro_vae.model import Model

__all__ = [
    "HMC",
    "MALA",
    "NUTS",
    "AnalyticPosterior",
    "ChEES",
    "Collapse",
    "CollapseWarning",
    "Comparison",
    "Draws",
    "GaussianGibbs",
    "Gibbs",
    "History",
    "IndependenceMH",
    "LaplacePosterior",
    "MeanFieldPosterior",
    "ModePosterior",
    "Model",
    "ParallelTempering",
    "QuadraturePosterior",
    "RandomWalk",
    "Sweep",
    "Target",
    "analytic",
    "collapse",
    "compare",
    "coordinate_ascent",
    "datasets",
    "fit",
    "guides",
    "impute",
    "infer",
    "laplace",
    "likelihoods",
    "maximum_a_posteriori",
    "mcmc",
    "networks",
    "objectives",
    "priors",
    "pyro_mcmc",
    "quadrature",
    "sweep",
]
