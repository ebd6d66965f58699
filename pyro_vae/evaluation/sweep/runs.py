"""One run of a sweep: made, trained alone or side by side with those of other seeds, and measured."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro.util import get_rng_state, set_rng_state
from torch import Tensor

from pyro_vae.evaluation.posterior.collapse import CollapseWarning, collapse
from pyro_vae.evaluation.sweep.table import FIGURES
from pyro_vae.guides import Guide, Transformed
from pyro_vae.inference.exact.quadrature import MAX_LATENT_DIM, quadrature
from pyro_vae.inference.posterior import GuideSampler
from pyro_vae.inference.target.target import Target
from pyro_vae.inference.variational.fit import fit
from pyro_vae.inference.variational.objectives import BetaELBO, ImportanceWeightedELBO
from pyro_vae.inference.variational.side_by_side import fit_side_by_side
from pyro_vae.model import Model
from pyro_vae.randomness import fork_rng

__all__ = ["AT_ONCE", "Trained", "run", "side_by_side"]

_EMPTY: dict[str, Any] = dict.fromkeys(FIGURES, math.nan) | {"evidence_by": "", "error": ""}  # a row of a run
AT_ONCE = 16  # runs side by side; more fill the caches


def _made(
    makers: Sequence[Any], seed: int, data: tuple[tuple[Tensor, ...], tuple[Tensor, ...]], missing: bool
) -> tuple[Any, Any, Any]:
    """Model, guide and loss of a run, at the start of the seed's random numbers."""
    make_prior, make_likelihood, make_guide, make_objective = makers
    pyro.set_rng_seed(seed)
    guide = make_guide()
    model = Model(make_prior(guide), make_likelihood(), missing=missing)
    return model, _on_support(guide, Target(model, tuple(part[:1] for part in data[0]))), make_objective()


def run(
    makers: Sequence[Any],
    seed: int,
    data: tuple[tuple[Tensor, ...], tuple[Tensor, ...]],
    *,
    num_particles: int,
    missing: bool,
    **options: Any,
) -> dict[str, Any]:
    """Train one combination and measure it: the figures of a row, or why there are none."""
    x, test = data
    try:
        with pyro.get_param_store().scope():  # what one run has learnt is not where the next one starts
            model, guide, loss = _made(makers, seed, data, missing)
            history = fit(model, guide, x, loss=loss, validation=None, progress=False, **options)
            return _EMPTY | _figures(Target(model, test), guide, num_particles) | {"seconds": history.seconds}
    except Exception as error:  # noqa: BLE001  whatever a part raises, the row tells
        return _EMPTY | {"error": f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"}


@dataclass
class Trained:
    """A run that was trained side by side with others, about to be measured."""

    model: Any
    guide: Any
    test: tuple[Tensor, ...]
    num_particles: int
    random: Any  # where its random numbers stand
    seconds: float

    def figures(self) -> dict[str, Any]:
        """The figures of its row, or why there are none."""
        set_rng_state(self.random)
        try:
            found = _figures(Target(self.model, self.test), self.guide, self.num_particles)
            return _EMPTY | found | {"seconds": self.seconds}
        except Exception as error:  # noqa: BLE001  whatever a part raises, the row tells
            return _EMPTY | {"error": f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"}


def side_by_side(
    makers: Sequence[Any],
    seeds: Sequence[int],
    data: tuple[tuple[Tensor, ...], tuple[Tensor, ...]],
    *,
    num_particles: int,
    missing: bool,
    **options: Any,
) -> dict[int, Trained]:
    """The runs of one combination by seed, trained as one program; none if they cannot be, or one of them breaks."""
    if len(seeds) < 2 or len(set(seeds)) < len(seeds):
        return {}
    start = time.perf_counter()
    made, states, generators = [], [], []
    try:
        with pyro.get_param_store().scope():
            for seed in seeds:
                made.append(_made(makers, seed, data, missing))
                states.append(get_rng_state())
                generators.append(torch.Generator())
                generators[-1].set_state(states[-1]["torch"])
            losses = [loss for *_, loss in made]
            fit_side_by_side([m[:2] for m in made], data[0], losses=losses, generators=generators, **options)
    except Exception:  # noqa: BLE001  each is then trained alone, which says what is wrong
        return {}
    seconds = (time.perf_counter() - start) / len(seeds)
    found = {}
    for seed, (model, guide, _), state, generator in zip(seeds, made, states, generators, strict=True):
        random = {**state, "torch": generator.get_state()}
        found[seed] = Trained(model, guide, data[1], num_particles, random, seconds)
    return found


@torch.no_grad()
def _figures(target: Target, guide: Any, num_particles: int) -> dict[str, Any]:
    """ELBO, evidence, gap and active units of the test data."""
    model, test, N = target.model, target.args, target.num_data
    with fork_rng():
        point = GuideSampler(target, guide).draw(1)[1] is None
    elbo = math.nan if point else -BetaELBO(num_particles=16).loss(model, guide, *test) / N
    if target.latent_dim <= MAX_LATENT_DIM:
        evidence, by = float(quadrature(target).log_evidence.mean()), "quadrature"
    elif point:
        evidence, by = math.nan, "nothing: a point mass gives no bound"
    else:
        objective = ImportanceWeightedELBO(num_particles=num_particles)
        batches = zip(*(part.split(100) for part in test), strict=True)
        evidence, by = -sum(objective.loss(model, guide, *batch) for batch in batches) / N, f"IWAE-{num_particles}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollapseWarning)
        units = collapse(target, guide).active_units
    return {"elbo": elbo, "evidence": evidence, "gap": evidence - elbo, "active_units": units, "evidence_by": by}


def _on_support(guide: Any, target: Target) -> Any:
    """The guide, moved to where the prior lives if that is not all real numbers."""
    if len(target.sites) > 1 or target.plain or not isinstance(guide, Guide) or isinstance(guide, Transformed):
        return guide
    (site,) = target.sites.values()
    return Transformed(guide, site.transform)
