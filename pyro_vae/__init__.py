"""pyro_vae: one latent-variable model, every way to infer it, and the measured distance between them.

Legend of dimensions, the same everywhere: ``C`` chains, ``S`` draws, ``N`` data, ``L`` latent dimension, ``D`` data
dimension, ``K`` importance samples. Log densities and evidences are in nats per datum, with every constant.

Importing the package loads neither torch nor Pyro: a name is imported from its home when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what type checkers and editors read; _HOMES says the same at run time, and a test compares them
    from pyro_vae import atlas as atlas
    from pyro_vae import course as course
    from pyro_vae import datasets as datasets
    from pyro_vae import guides as guides
    from pyro_vae import infer as infer
    from pyro_vae import likelihoods as likelihoods
    from pyro_vae import networks as networks
    from pyro_vae import priors as priors
    from pyro_vae import systems as systems
    from pyro_vae.evaluation.evidence.bracket import Bracket as Bracket
    from pyro_vae.evaluation.evidence.bracket import bracket as bracket
    from pyro_vae.evaluation.evidence.evidence import Evidence as Evidence
    from pyro_vae.evaluation.evidence.evidence import evidence as evidence
    from pyro_vae.evaluation.imputation import impute as impute
    from pyro_vae.evaluation.imputation_check import ImputationCheck as ImputationCheck
    from pyro_vae.evaluation.imputation_check import check_imputation as check_imputation
    from pyro_vae.evaluation.model.baselines import Baselines as Baselines
    from pyro_vae.evaluation.model.baselines import baselines as baselines
    from pyro_vae.evaluation.model.criticism import criticise as criticise
    from pyro_vae.evaluation.model.result import Criticism as Criticism
    from pyro_vae.evaluation.model.selection import ModelComparison as ModelComparison
    from pyro_vae.evaluation.model.selection import compare_models as compare_models
    from pyro_vae.evaluation.posterior.agreement import Agreement as Agreement
    from pyro_vae.evaluation.posterior.agreement import agreement as agreement
    from pyro_vae.evaluation.posterior.calibration import Calibration as Calibration
    from pyro_vae.evaluation.posterior.calibration import calibrate as calibrate
    from pyro_vae.evaluation.posterior.collapse import Collapse as Collapse
    from pyro_vae.evaluation.posterior.collapse import CollapseWarning as CollapseWarning
    from pyro_vae.evaluation.posterior.collapse import collapse as collapse
    from pyro_vae.evaluation.posterior.comparison import Comparison as Comparison
    from pyro_vae.evaluation.posterior.comparison import compare as compare
    from pyro_vae.evaluation.posterior.exchange import to_arviz as to_arviz
    from pyro_vae.evaluation.posterior.gaps import Ledger as Ledger
    from pyro_vae.evaluation.posterior.gaps import gaps as gaps
    from pyro_vae.evaluation.posterior.verdict import Verdict as Verdict
    from pyro_vae.evaluation.posterior.verdict import verdict as verdict
    from pyro_vae.evaluation.samples.classifier import ImageClassifier as ImageClassifier
    from pyro_vae.evaluation.samples.classifier import image_classifier as image_classifier
    from pyro_vae.evaluation.samples.quality import SampleQuality as SampleQuality
    from pyro_vae.evaluation.samples.quality import sample_quality as sample_quality
    from pyro_vae.evaluation.sweep.grid import sweep as sweep
    from pyro_vae.evaluation.sweep.table import Sweep as Sweep
    from pyro_vae.explorer.explore import explore as explore
    from pyro_vae.inference.exact.analytic import AnalyticPosterior as AnalyticPosterior
    from pyro_vae.inference.exact.analytic import analytic as analytic
    from pyro_vae.inference.exact.quadrature import QuadraturePosterior as QuadraturePosterior
    from pyro_vae.inference.exact.quadrature import quadrature as quadrature
    from pyro_vae.inference.mcmc.draws import Draws as Draws
    from pyro_vae.inference.mcmc.kernels.barker import Barker as Barker
    from pyro_vae.inference.mcmc.kernels.base import Kernel as Kernel
    from pyro_vae.inference.mcmc.kernels.chees import ChEES as ChEES
    from pyro_vae.inference.mcmc.kernels.gibbs import GaussianGibbs as GaussianGibbs
    from pyro_vae.inference.mcmc.kernels.gibbs import Gibbs as Gibbs
    from pyro_vae.inference.mcmc.kernels.hmc import HMC as HMC
    from pyro_vae.inference.mcmc.kernels.independence import IndependenceMH as IndependenceMH
    from pyro_vae.inference.mcmc.kernels.mala import MALA as MALA
    from pyro_vae.inference.mcmc.kernels.nuts import NUTS as NUTS
    from pyro_vae.inference.mcmc.kernels.random_walk import RandomWalk as RandomWalk
    from pyro_vae.inference.mcmc.kernels.tempering import ParallelTempering as ParallelTempering
    from pyro_vae.inference.mcmc.reference import pyro_mcmc as pyro_mcmc
    from pyro_vae.inference.mcmc.run import mcmc as mcmc
    from pyro_vae.inference.optimum.mode import LaplacePosterior as LaplacePosterior
    from pyro_vae.inference.optimum.mode import ModePosterior as ModePosterior
    from pyro_vae.inference.optimum.mode import laplace as laplace
    from pyro_vae.inference.optimum.mode import maximum_a_posteriori as maximum_a_posteriori
    from pyro_vae.inference.optimum.pathfinder import PathfinderPosterior as PathfinderPosterior
    from pyro_vae.inference.optimum.pathfinder import pathfinder as pathfinder
    from pyro_vae.inference.target.target import Target as Target
    from pyro_vae.inference.variational import objectives as objectives
    from pyro_vae.inference.variational.coordinate_ascent import MeanFieldPosterior as MeanFieldPosterior
    from pyro_vae.inference.variational.coordinate_ascent import coordinate_ascent as coordinate_ascent
    from pyro_vae.inference.variational.fit import History as History
    from pyro_vae.inference.variational.fit import fit as fit
    from pyro_vae.inference.variational.whole.result import VIPosterior as VIPosterior
    from pyro_vae.inference.variational.whole.vi import vi as vi
    from pyro_vae.model import Model as Model
    from pyro_vae.systems.adversaries.adversarial import AdversarialHistory as AdversarialHistory
    from pyro_vae.systems.adversaries.adversarial import AdversarialWarning as AdversarialWarning
    from pyro_vae.systems.adversaries.adversarial import fit_adversarial as fit_adversarial

_HOMES = {
    "atlas": "pyro_vae.atlas",
    "course": "pyro_vae.course",
    "datasets": "pyro_vae.datasets",
    "guides": "pyro_vae.guides",
    "infer": "pyro_vae.infer",
    "likelihoods": "pyro_vae.likelihoods",
    "networks": "pyro_vae.networks",
    "priors": "pyro_vae.priors",
    "systems": "pyro_vae.systems",
    "Agreement": "pyro_vae.evaluation.posterior.agreement",
    "agreement": "pyro_vae.evaluation.posterior.agreement",
    "Calibration": "pyro_vae.evaluation.posterior.calibration",
    "calibrate": "pyro_vae.evaluation.posterior.calibration",
    "Collapse": "pyro_vae.evaluation.posterior.collapse",
    "CollapseWarning": "pyro_vae.evaluation.posterior.collapse",
    "collapse": "pyro_vae.evaluation.posterior.collapse",
    "Comparison": "pyro_vae.evaluation.posterior.comparison",
    "compare": "pyro_vae.evaluation.posterior.comparison",
    "Bracket": "pyro_vae.evaluation.evidence.bracket",
    "Evidence": "pyro_vae.evaluation.evidence.evidence",
    "bracket": "pyro_vae.evaluation.evidence.bracket",
    "evidence": "pyro_vae.evaluation.evidence.evidence",
    "to_arviz": "pyro_vae.evaluation.posterior.exchange",
    "Ledger": "pyro_vae.evaluation.posterior.gaps",
    "gaps": "pyro_vae.evaluation.posterior.gaps",
    "impute": "pyro_vae.evaluation.imputation",
    "ImputationCheck": "pyro_vae.evaluation.imputation_check",
    "check_imputation": "pyro_vae.evaluation.imputation_check",
    "Baselines": "pyro_vae.evaluation.model.baselines",
    "baselines": "pyro_vae.evaluation.model.baselines",
    "Criticism": "pyro_vae.evaluation.model.result",
    "criticise": "pyro_vae.evaluation.model.criticism",
    "ModelComparison": "pyro_vae.evaluation.model.selection",
    "compare_models": "pyro_vae.evaluation.model.selection",
    "Sweep": "pyro_vae.evaluation.sweep.table",
    "sweep": "pyro_vae.evaluation.sweep.grid",
    "Verdict": "pyro_vae.evaluation.posterior.verdict",
    "verdict": "pyro_vae.evaluation.posterior.verdict",
    "ImageClassifier": "pyro_vae.evaluation.samples.classifier",
    "image_classifier": "pyro_vae.evaluation.samples.classifier",
    "SampleQuality": "pyro_vae.evaluation.samples.quality",
    "sample_quality": "pyro_vae.evaluation.samples.quality",
    "objectives": "pyro_vae.inference.variational",
    "explore": "pyro_vae.explorer.explore",
    "AnalyticPosterior": "pyro_vae.inference.exact.analytic",
    "analytic": "pyro_vae.inference.exact.analytic",
    "MeanFieldPosterior": "pyro_vae.inference.variational.coordinate_ascent",
    "coordinate_ascent": "pyro_vae.inference.variational.coordinate_ascent",
    "Barker": "pyro_vae.inference.mcmc.kernels.barker",
    "ChEES": "pyro_vae.inference.mcmc.kernels.chees",
    "Draws": "pyro_vae.inference.mcmc.draws",
    "GaussianGibbs": "pyro_vae.inference.mcmc.kernels.gibbs",
    "Gibbs": "pyro_vae.inference.mcmc.kernels.gibbs",
    "HMC": "pyro_vae.inference.mcmc.kernels.hmc",
    "IndependenceMH": "pyro_vae.inference.mcmc.kernels.independence",
    "Kernel": "pyro_vae.inference.mcmc.kernels.base",
    "MALA": "pyro_vae.inference.mcmc.kernels.mala",
    "NUTS": "pyro_vae.inference.mcmc.kernels.nuts",
    "RandomWalk": "pyro_vae.inference.mcmc.kernels.random_walk",
    "pyro_mcmc": "pyro_vae.inference.mcmc.reference",
    "mcmc": "pyro_vae.inference.mcmc.run",
    "ParallelTempering": "pyro_vae.inference.mcmc.kernels.tempering",
    "LaplacePosterior": "pyro_vae.inference.optimum.mode",
    "ModePosterior": "pyro_vae.inference.optimum.mode",
    "laplace": "pyro_vae.inference.optimum.mode",
    "maximum_a_posteriori": "pyro_vae.inference.optimum.mode",
    "PathfinderPosterior": "pyro_vae.inference.optimum.pathfinder",
    "pathfinder": "pyro_vae.inference.optimum.pathfinder",
    "QuadraturePosterior": "pyro_vae.inference.exact.quadrature",
    "quadrature": "pyro_vae.inference.exact.quadrature",
    "Target": "pyro_vae.inference.target.target",
    "History": "pyro_vae.inference.variational.fit",
    "fit": "pyro_vae.inference.variational.fit",
    "VIPosterior": "pyro_vae.inference.variational.whole.result",
    "vi": "pyro_vae.inference.variational.whole.vi",
    "Model": "pyro_vae.model",
    "AdversarialHistory": "pyro_vae.systems.adversaries.adversarial",
    "AdversarialWarning": "pyro_vae.systems.adversaries.adversarial",
    "fit_adversarial": "pyro_vae.systems.adversaries.adversarial",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = import_module(_HOMES[name])
    value = getattr(home, name, home)  # a module is its own home
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
