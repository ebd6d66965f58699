"""pyro_vae: one latent-variable model, every way to infer it, and the measured distance between them.

Legend of dimensions, the same everywhere: ``C`` chains, ``S`` draws, ``N`` data, ``L`` latent dimension, ``D`` data
dimension, ``K`` importance samples. Log densities and evidences are in nats per datum, with every constant.

Importing the package loads neither torch nor Pyro: a name is imported from its home when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what type checkers and editors read; _HOMES says the same at run time, and a test compares them
    from pyro_vae import datasets as datasets
    from pyro_vae import guides as guides
    from pyro_vae import infer as infer
    from pyro_vae import likelihoods as likelihoods
    from pyro_vae import networks as networks
    from pyro_vae import priors as priors
    from pyro_vae.evaluation.agreement import Agreement as Agreement
    from pyro_vae.evaluation.agreement import agreement as agreement
    from pyro_vae.evaluation.bracket import Bracket as Bracket
    from pyro_vae.evaluation.bracket import bracket as bracket
    from pyro_vae.evaluation.calibration import Calibration as Calibration
    from pyro_vae.evaluation.calibration import calibrate as calibrate
    from pyro_vae.evaluation.collapse import Collapse as Collapse
    from pyro_vae.evaluation.collapse import CollapseWarning as CollapseWarning
    from pyro_vae.evaluation.collapse import collapse as collapse
    from pyro_vae.evaluation.comparison import Comparison as Comparison
    from pyro_vae.evaluation.comparison import compare as compare
    from pyro_vae.evaluation.evidence import Evidence as Evidence
    from pyro_vae.evaluation.evidence import evidence as evidence
    from pyro_vae.evaluation.exchange import to_arviz as to_arviz
    from pyro_vae.evaluation.gaps import Ledger as Ledger
    from pyro_vae.evaluation.gaps import gaps as gaps
    from pyro_vae.evaluation.imputation import impute as impute
    from pyro_vae.evaluation.sweep import Sweep as Sweep
    from pyro_vae.evaluation.sweep import sweep as sweep
    from pyro_vae.evaluation.verdict import Verdict as Verdict
    from pyro_vae.evaluation.verdict import verdict as verdict
    from pyro_vae.inference import objectives as objectives
    from pyro_vae.inference.analytic import AnalyticPosterior as AnalyticPosterior
    from pyro_vae.inference.analytic import analytic as analytic
    from pyro_vae.inference.coordinate_ascent import MeanFieldPosterior as MeanFieldPosterior
    from pyro_vae.inference.coordinate_ascent import coordinate_ascent as coordinate_ascent
    from pyro_vae.inference.mcmc.chees import ChEES as ChEES
    from pyro_vae.inference.mcmc.draws import Draws as Draws
    from pyro_vae.inference.mcmc.gibbs import GaussianGibbs as GaussianGibbs
    from pyro_vae.inference.mcmc.gibbs import Gibbs as Gibbs
    from pyro_vae.inference.mcmc.hmc import HMC as HMC
    from pyro_vae.inference.mcmc.independence import IndependenceMH as IndependenceMH
    from pyro_vae.inference.mcmc.kernel import Kernel as Kernel
    from pyro_vae.inference.mcmc.mala import MALA as MALA
    from pyro_vae.inference.mcmc.nuts import NUTS as NUTS
    from pyro_vae.inference.mcmc.random_walk import RandomWalk as RandomWalk
    from pyro_vae.inference.mcmc.reference import pyro_mcmc as pyro_mcmc
    from pyro_vae.inference.mcmc.run import mcmc as mcmc
    from pyro_vae.inference.mcmc.tempering import ParallelTempering as ParallelTempering
    from pyro_vae.inference.optimum import LaplacePosterior as LaplacePosterior
    from pyro_vae.inference.optimum import ModePosterior as ModePosterior
    from pyro_vae.inference.optimum import laplace as laplace
    from pyro_vae.inference.optimum import maximum_a_posteriori as maximum_a_posteriori
    from pyro_vae.inference.quadrature import QuadraturePosterior as QuadraturePosterior
    from pyro_vae.inference.quadrature import quadrature as quadrature
    from pyro_vae.inference.target import Target as Target
    from pyro_vae.inference.variational import History as History
    from pyro_vae.inference.variational import fit as fit
    from pyro_vae.model import Model as Model

_HOMES = {
    "datasets": "pyro_vae.datasets",
    "guides": "pyro_vae.guides",
    "infer": "pyro_vae.infer",
    "likelihoods": "pyro_vae.likelihoods",
    "networks": "pyro_vae.networks",
    "priors": "pyro_vae.priors",
    "Agreement": "pyro_vae.evaluation.agreement",
    "agreement": "pyro_vae.evaluation.agreement",
    "Calibration": "pyro_vae.evaluation.calibration",
    "calibrate": "pyro_vae.evaluation.calibration",
    "Collapse": "pyro_vae.evaluation.collapse",
    "CollapseWarning": "pyro_vae.evaluation.collapse",
    "collapse": "pyro_vae.evaluation.collapse",
    "Comparison": "pyro_vae.evaluation.comparison",
    "compare": "pyro_vae.evaluation.comparison",
    "Bracket": "pyro_vae.evaluation.bracket",
    "Evidence": "pyro_vae.evaluation.evidence",
    "bracket": "pyro_vae.evaluation.bracket",
    "evidence": "pyro_vae.evaluation.evidence",
    "to_arviz": "pyro_vae.evaluation.exchange",
    "Ledger": "pyro_vae.evaluation.gaps",
    "gaps": "pyro_vae.evaluation.gaps",
    "impute": "pyro_vae.evaluation.imputation",
    "Sweep": "pyro_vae.evaluation.sweep",
    "sweep": "pyro_vae.evaluation.sweep",
    "Verdict": "pyro_vae.evaluation.verdict",
    "verdict": "pyro_vae.evaluation.verdict",
    "objectives": "pyro_vae.inference.objectives",
    "AnalyticPosterior": "pyro_vae.inference.analytic",
    "analytic": "pyro_vae.inference.analytic",
    "MeanFieldPosterior": "pyro_vae.inference.coordinate_ascent",
    "coordinate_ascent": "pyro_vae.inference.coordinate_ascent",
    "ChEES": "pyro_vae.inference.mcmc.chees",
    "Draws": "pyro_vae.inference.mcmc.draws",
    "GaussianGibbs": "pyro_vae.inference.mcmc.gibbs",
    "Gibbs": "pyro_vae.inference.mcmc.gibbs",
    "HMC": "pyro_vae.inference.mcmc.hmc",
    "IndependenceMH": "pyro_vae.inference.mcmc.independence",
    "Kernel": "pyro_vae.inference.mcmc.kernel",
    "MALA": "pyro_vae.inference.mcmc.mala",
    "NUTS": "pyro_vae.inference.mcmc.nuts",
    "RandomWalk": "pyro_vae.inference.mcmc.random_walk",
    "pyro_mcmc": "pyro_vae.inference.mcmc.reference",
    "mcmc": "pyro_vae.inference.mcmc.run",
    "ParallelTempering": "pyro_vae.inference.mcmc.tempering",
    "LaplacePosterior": "pyro_vae.inference.optimum",
    "ModePosterior": "pyro_vae.inference.optimum",
    "laplace": "pyro_vae.inference.optimum",
    "maximum_a_posteriori": "pyro_vae.inference.optimum",
    "QuadraturePosterior": "pyro_vae.inference.quadrature",
    "quadrature": "pyro_vae.inference.quadrature",
    "Target": "pyro_vae.inference.target",
    "History": "pyro_vae.inference.variational",
    "fit": "pyro_vae.inference.variational",
    "Model": "pyro_vae.model",
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
