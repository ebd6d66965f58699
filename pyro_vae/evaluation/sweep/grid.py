"""A grid of priors, likelihoods, guides, objectives and seeds on one data set: what did a swap change?"""

from __future__ import annotations

import itertools
import json
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyro
import torch
from pyro.infer import Trace_ELBO
from pyro.util import get_rng_state, set_rng_state
from torch import Tensor

from pyro_vae import checks
from pyro_vae.checks import positive_integer, say
from pyro_vae.evaluation.posterior.collapse import CollapseWarning, collapse
from pyro_vae.evaluation.sweep.table import FIGURES, PARTS, Sweep
from pyro_vae.guides import Guide, Transformed
from pyro_vae.inference.exact.quadrature import MAX_LATENT_DIM, quadrature
from pyro_vae.inference.posterior import GuideSampler
from pyro_vae.inference.target.target import Target
from pyro_vae.inference.variational.fit import fit
from pyro_vae.inference.variational.objectives import BetaELBO, ImportanceWeightedELBO
from pyro_vae.inference.variational.side_by_side import fit_side_by_side
from pyro_vae.model import Model
from pyro_vae.progress import progress_bar
from pyro_vae.randomness import fork_rng

__all__ = ["Sweep", "sweep"]


def sweep(
    x: Tensor | tuple[Tensor, ...],
    *,
    test: Tensor | tuple[Tensor, ...],
    priors: Mapping[str, Callable[[Any], Any]],
    likelihoods: Mapping[str, Callable[[], Any]],
    guides: Mapping[str, Callable[[], Any]],
    objectives: Mapping[str, Callable[[], Any]] | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    epochs: int = 50,
    batch_size: int = 64,
    lr: float = 1e-3,
    num_particles: int = 64,
    compile: bool | str = "auto",
    missing: bool = False,
    path: str | Path | None = None,
    progress: bool = True,
) -> Sweep:
    """Train every combination of parts and seeds for the same epochs, and measure each on the test data.

    A run that fails is a row with its reason, not a gap in the table. Where a prior is constrained, as on a box, the
    guide is moved to its support by ``guides.Transformed``. A point mass has no ELBO: its row says NaN.

    Runs that differ in their seeds only are trained side by side, as one program with stacked parameters: each ends
    with the weights that it would have alone, up to rounding, and its ``seconds`` are its share. Where that cannot be
    done, or one of them breaks, or with ``compile=False``, each is trained alone; so are networks too large or runs too
    short to gain by it.

    With ``path``, every measured run is appended to that file, and a sweep started again with the same names takes it
    from there; runs that failed are tried again.

    Args:
        x: training data ``(N, *D)``, or a tuple of tensors that run over the same data, ``(counts, library)``.
        test: test data, on which all figures are measured.
        priors: by name, functions of the guide that make a prior (a VampPrior needs the guide; others ignore it).
        likelihoods: by name, functions that make a likelihood.
        guides: by name, functions that make a guide.
        objectives: by name, functions that make a Pyro ELBO; ``Trace_ELBO`` if None.
        seeds: one run each.
        epochs: passes over the data of every run.
        batch_size: data a step.
        lr: Adam's learning rate.
        num_particles: K of the evidence's estimate where integration is too costly (more than 3 latent dimensions).
        compile: as in :func:`~pyro_vae.inference.variational.fit.fit`.
        missing: whether NaN in the data is a missing entry, as in :class:`~pyro_vae.model.Model`.
        path: a file of JSON lines that makes the sweep resumable.
        progress: show a progress bar.

    Returns:
        One row a run.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if a grid is empty, or ``path`` holds runs of other settings or another number of data.

    Example:
        >>> from pyro_vae import guides, likelihoods, networks, priors
        >>> x = torch.bernoulli(torch.full((80, 6), 0.4))
        >>> result = sweep(
        ...     x, test=x[:10], seeds=[0], epochs=1, progress=False,
        ...     priors={"normal": lambda guide: priors.StandardNormal(1)},
        ...     likelihoods={"Bernoulli": lambda: likelihoods.Bernoulli(networks.mlp(1, 6))},
        ...     guides={"diagonal": lambda: guides.DiagonalGaussian(networks.mlp(6, 2))},
        ... )
        >>> result.rows[0]["evidence_by"]
        'quadrature'
    """
    objectives = {"ELBO": Trace_ELBO} if objectives is None else objectives
    grids = dict(zip(PARTS, (priors, likelihoods, guides, objectives), strict=True))
    for name, grid in grids.items():
        if not grid or not all(callable(make) for make in grid.values()):
            raise ValueError(say(f"at least one {name} by name, each a function", f"{grid!r}", "{'name': lambda: ...}"))
    data = _tensors(x, "x"), _tensors(test, "test")
    positive_integer(num_particles, "num_particles")
    options: dict[str, Any] = {
        "epochs": epochs,
        "batch_size": batch_size,
        "lr": lr,
        "num_particles": num_particles,
        "missing": missing,
    }
    log = _Log(path, {**options, "num_data": [len(part[0]) for part in data]})
    combinations: list[tuple[str, ...]] = list(itertools.product(*grids.values()))
    rows = []
    with progress_bar(len(combinations) * len(seeds), "sweep", show=progress) as bar:
        for names in combinations:
            todo = [int(seed) for seed in seeds if (*names, seed) not in log.done]
            makers = [grids[part][name] for part, name in zip(PARTS, names, strict=True)]
            trained: dict[int, _Trained] = {}
            for seed in seeds:
                bar.set_postfix_str(", ".join(map(str, (*names, seed))))
                row = log.done.get((*names, seed))
                if row is None:
                    if compile is not False and todo and todo[0] == int(seed):
                        group, todo = todo[:_AT_ONCE], todo[_AT_ONCE:]
                        trained = _side_by_side(makers, group, data, compile=compile, **options)
                    run = trained.pop(int(seed), None)
                    row = dict(zip((*PARTS, "seed"), (*names, seed), strict=True))
                    row |= run.figures() if run else _run(makers, int(seed), data, compile=compile, **options)
                    log.append(row)
                rows.append(row)
                bar.update()
    return Sweep(rows)


_EMPTY: dict[str, Any] = dict.fromkeys(FIGURES, math.nan) | {"evidence_by": "", "error": ""}  # a row of a run


class _Log:
    """A file of JSON lines, one a finished run with its settings; without a path, nothing.

    Attributes:
        done: the runs that it holds, by the names of their parts and seed; failed ones and lines cut short are not.
    """

    def __init__(self, path: str | Path | None, settings: dict[str, Any]) -> None:
        self.path = None if path is None else Path(path)
        self.settings = settings
        self.done: dict[tuple[Any, ...], dict[str, Any]] = {}
        for line in self._text().splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            theirs = row.pop("settings", None)
            if theirs != settings:
                raise ValueError(say(f"{path} to hold runs with {settings}", f"one with {theirs}", "another path"))
            if not row["error"]:
                self.done[tuple(row[name] for name in (*PARTS, "seed"))] = row

    def _text(self) -> str:
        return self.path.read_text() if self.path is not None and self.path.exists() else ""

    def append(self, row: dict[str, Any]) -> None:
        """Write a run's row, on a line of its own even if an interrupted run left the last one open."""
        if self.path is not None:
            text = self._text()
            with self.path.open("a") as stream:
                stream.write(
                    "\n" * bool(text and text[-1] != "\n") + json.dumps({**row, "settings": self.settings}) + "\n"
                )


_AT_ONCE = 16  # runs side by side; more fill the caches
_ERRORS = (ValueError, TypeError, FloatingPointError, NotImplementedError, RuntimeError)  # of which a row tells


def _made(
    makers: Sequence[Any], seed: int, data: tuple[tuple[Tensor, ...], tuple[Tensor, ...]], missing: bool
) -> tuple[Any, Any, Any]:
    """Model, guide and loss of a run, at the start of the seed's random numbers."""
    make_prior, make_likelihood, make_guide, make_objective = makers
    pyro.set_rng_seed(seed)
    guide = make_guide()
    model = Model(make_prior(guide), make_likelihood(), missing=missing)
    return model, _on_support(guide, Target(model, tuple(part[:1] for part in data[0]))), make_objective()


def _run(
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
    except _ERRORS as error:
        return _EMPTY | {"error": f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"}


@dataclass
class _Trained:
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
        except _ERRORS as error:
            return _EMPTY | {"error": f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"}


def _side_by_side(
    makers: Sequence[Any],
    seeds: Sequence[int],
    data: tuple[tuple[Tensor, ...], tuple[Tensor, ...]],
    *,
    num_particles: int,
    missing: bool,
    **options: Any,
) -> dict[int, _Trained]:
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
    except _ERRORS:  # each is then trained alone, which says what is wrong
        return {}
    seconds = (time.perf_counter() - start) / len(seeds)
    found = {}
    for seed, (model, guide, _), state, generator in zip(seeds, made, states, generators, strict=True):
        random = {**state, "torch": generator.get_state()}
        found[seed] = _Trained(model, guide, data[1], num_particles, random, seconds)
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


def _tensors(x: Any, name: str) -> tuple[Tensor, ...]:
    parts = x if isinstance(x, tuple) else (x,)
    return tuple(checks.tensor(part, name) for part in parts)
