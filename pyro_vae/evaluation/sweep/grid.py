"""A grid of priors, likelihoods, guides, objectives and seeds on one data set: what did a swap change?"""

from __future__ import annotations

import itertools
import json
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyro
import torch
from pyro.infer import Trace_ELBO
from torch import Tensor

from pyro_vae import checks
from pyro_vae.checks import positive_integer, say
from pyro_vae.evaluation.posterior.collapse import CollapseWarning, collapse
from pyro_vae.evaluation.sweep.table import FIGURES, PARTS, Sweep
from pyro_vae.guides import Guide, PointMass, Transformed
from pyro_vae.inference.exact.quadrature import MAX_LATENT_DIM, quadrature
from pyro_vae.inference.target.target import Target
from pyro_vae.inference.variational.fit import fit
from pyro_vae.inference.variational.objectives import BetaELBO, ImportanceWeightedELBO
from pyro_vae.model import Model

__all__ = ["Sweep", "sweep"]

Data = Tensor | tuple[Tensor, ...]


def sweep(
    x: Data,
    *,
    test: Data,
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

    With ``path``, every finished run is appended to that file, and a sweep started again with the same names takes it
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
    train_data, test_data = _tensors(x, "x"), _tensors(test, "test")
    positive_integer(num_particles, "num_particles")
    settings = {"epochs": epochs, "batch_size": batch_size, "lr": lr}
    made_with = {**settings, "num_particles": num_particles, "num_data": [len(train_data[0]), len(test_data[0])]}
    made_with["missing"] = missing
    file = None if path is None else Path(path)
    done = _finished(file, made_with)
    rows = []
    bar = _bar(list(itertools.product(*grids.values(), seeds)), progress)
    for names in bar:
        bar.set_postfix_str(", ".join(map(str, names)))
        row = done.get(names)
        if row is None:
            makers: list[Any] = [grids[part][name] for part, name in zip(PARTS, names, strict=False)]
            options: dict[str, Any] = {
                **settings,
                "num_particles": num_particles,
                "compile": compile,
                "missing": missing,
            }
            figures = _run(makers, int(names[-1]), (train_data, test_data), **options)
            row = {**dict(zip((*PARTS, "seed"), names, strict=True)), **figures}
            if file is not None:
                with file.open("a") as stream:
                    stream.write("\n" * _cut_short(file) + json.dumps({**row, "settings": made_with}) + "\n")
        rows.append(row)
    return Sweep(rows)


def _run(
    makers: Sequence[Any],
    seed: int,
    data: tuple[tuple[Tensor, ...], tuple[Tensor, ...]],
    *,
    num_particles: int,
    missing: bool,
    **options: Any,
) -> dict[str, Any]:
    x, test = data
    make_prior, make_likelihood, make_guide, make_objective = makers
    result: dict[str, Any] = dict.fromkeys(FIGURES, math.nan) | {"evidence_by": "", "error": ""}
    try:
        pyro.set_rng_seed(seed)
        guide = make_guide()
        model = Model(make_prior(guide), make_likelihood(), missing=missing)
        guide = _on_support(guide, Target(model, tuple(part[:1] for part in x)))
        history = fit(model, guide, x, loss=make_objective(), validation=None, progress=False, **options)
        with torch.no_grad():
            elbo = _elbo(model, guide, test)
            evidence, how = _evidence(model, guide, test, num_particles)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CollapseWarning)
            units = collapse(model, guide, test[0]).active_units
    except (ValueError, TypeError, FloatingPointError, NotImplementedError, RuntimeError) as error:
        return result | {"error": f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"}
    return result | {
        "elbo": elbo,
        "evidence": evidence,
        "gap": evidence - elbo,
        "active_units": units,
        "seconds": history.seconds,
        "evidence_by": how,
    }


def _on_support(guide: Any, target: Target) -> Any:
    """The guide, moved to where the prior lives if that is not all real numbers."""
    if len(target.sites) > 1 or target.plain or not isinstance(guide, Guide) or isinstance(guide, Transformed):
        return guide
    (site,) = target.sites.values()
    return Transformed(guide, site.transform)


def _is_point(guide: Any) -> bool:
    return isinstance(getattr(guide, "guide", guide), PointMass)


def _elbo(model: Model, guide: Any, test: tuple[Tensor, ...]) -> float:
    return math.nan if _is_point(guide) else -BetaELBO(num_particles=16).loss(model, guide, *test) / len(test[0])


def _evidence(model: Model, guide: Any, test: tuple[Tensor, ...], num_particles: int) -> tuple[float, str]:
    if Target(model, tuple(part[:1] for part in test)).latent_dim <= MAX_LATENT_DIM:
        return float(quadrature(model, test).log_evidence.mean()), "quadrature"
    if _is_point(guide):
        return math.nan, "nothing: a point mass gives no bound"
    objective = ImportanceWeightedELBO(num_particles=num_particles)
    batches = zip(*(part.split(100) for part in test), strict=True)
    total = sum(objective.loss(model, guide, *batch) for batch in batches)
    return -total / len(test[0]), f"IWAE-{num_particles}"


def _tensors(x: Data, name: str) -> tuple[Tensor, ...]:
    parts = x if isinstance(x, tuple) else (x,)
    return tuple(checks.tensor(part, name) for part in parts)


def _finished(path: Path | None, made_with: dict[str, Any]) -> dict[tuple[Any, ...], dict[str, Any]]:
    """The runs that a file holds, by the names of their parts and seed; a line cut short is run again."""
    done: dict[tuple[Any, ...], dict[str, Any]] = {}
    if path is None or not path.exists():
        return done
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        settings = row.pop("settings", None)
        if settings != made_with:
            raise ValueError(say(f"{path} to hold runs with {made_with}", f"one with {settings}", "another path"))
        if not row["error"]:
            done[tuple(row[name] for name in (*PARTS, "seed"))] = row
    return done


def _cut_short(path: Path) -> bool:
    """Whether the last line of a file lacks its end, as an interrupted run leaves it."""
    text = path.read_text()
    return bool(text) and not text.endswith("\n")


def _bar(runs: list[Any], progress: bool) -> Any:
    from tqdm.auto import tqdm

    return tqdm(runs, desc="sweep", disable=not progress)
