"""pyro_vae: one latent-variable model, every way to infer it, and the measured distance between them.

Legend of dimensions, the same everywhere: ``C`` chains, ``S`` draws, ``N`` data, ``L`` latent dimension, ``D`` data
dimension, ``K`` importance samples. Log densities and evidences are in nats per datum, with every constant.
"""

from pyro_vae import datasets, guides, infer, likelihoods, networks, priors
from pyro_vae.evaluation.agreement import Agreement, agreement
from pyro_vae.evaluation.calibration import Calibration, calibrate
from pyro_vae.evaluation.comparison import Comparison, compare
from pyro_vae.evaluation.evidence import Bracket, Evidence, bracket, evidence
from pyro_vae.evaluation.exchange import to_arviz
from pyro_vae.evaluation.gaps import Ledger, gaps
from pyro_vae.evaluation.verdict import Verdict, verdict
from pyro_vae.inference.analytic import AnalyticPosterior, analytic
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
    "Agreement",
    "AnalyticPosterior",
    "Bracket",
    "Calibration",
    "ChEES",
    "Comparison",
    "Draws",
    "Evidence",
    "GaussianGibbs",
    "Gibbs",
    "History",
    "IndependenceMH",
    "LaplacePosterior",
    "Ledger",
    "ModePosterior",
    "Model",
    "ParallelTempering",
    "QuadraturePosterior",
    "RandomWalk",
    "Target",
    "Verdict",
    "agreement",
    "analytic",
    "bracket",
    "calibrate",
    "compare",
    "datasets",
    "evidence",
    "fit",
    "gaps",
    "guides",
    "infer",
    "laplace",
    "likelihoods",
    "maximum_a_posteriori",
    "mcmc",
    "networks",
    "priors",
    "pyro_mcmc",
    "quadrature",
    "to_arviz",
    "verdict",
]
