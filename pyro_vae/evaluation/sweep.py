"""A grid of priors, likelihoods, guides, objectives and seeds on one data set: what did a swap change?"""

from __future__ import annotations

import itertools
import json
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyro
import torch
from pyro.infer import Trace_ELBO
from torch import Tensor

from pyro_vae import checks
from pyro_vae.checks import among, positive_integer, say
from pyro_vae.evaluation.collapse import CollapseWarning, collapse
from pyro_vae.inference.objectives import BetaELBO, ImportanceWeightedELBO
from pyro_vae.inference.quadrature import MAX_LATENT_DIM, quadrature
from pyro_vae.inference.target import Target
from pyro_vae.inference.variational import fit
from pyro_vae.model import Model

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Sweep", "sweep"]

PARTS = ("prior", "likelihood", "guide", "objective")
FIGURES = ("elbo", "evidence", "gap", "active_units", "seconds")


@dataclass(frozen=True)
class Sweep:
    """What :func:`sweep` measured. Prints as a table of means and spreads over seeds.

    Attributes:
        rows: one dictionary a run: the four parts' names and ``seed``; ``elbo``, ``evidence`` and ``gap`` (nats per
            datum of the test data), ``evidence_by`` ("quadrature", or "IWAE-K", a lower bound), ``active_units``,
            ``seconds``; ``error`` says why a run failed, and is empty otherwise.
    """

    rows: list[dict[str, Any]]

    def to_dataframe(self, *, per_seed: bool = False) -> Any:
        """Return a pandas DataFrame: one row a combination (means and standard deviations), or one a run."""
        import pandas as pd

        runs = pd.DataFrame(self.rows)
        if per_seed:
            return runs
        grouped = runs.groupby(list(PARTS), sort=False)
        table = grouped[list(FIGURES)].agg(["mean", "std"])
        table.columns = [name if kind == "mean" else f"{name}_std" for name, kind in table.columns]
        table["failed"] = grouped["error"].agg(lambda errors: sum(bool(error) for error in errors))
        return table.reset_index()

    def __str__(self) -> str:
        return self.to_dataframe().round(3).to_string(index=False)

    def heat_map(self, value: str = "evidence", *, rows: str = "prior", columns: str = "guide") -> Figure:
        """Draw the mean of a figure over seeds and over the parts that are not shown.

        Args:
            value: "elbo", "evidence", "gap", "active_units" or "seconds".
            rows: the part that runs down: "prior", "likelihood", "guide" or "objective".
            columns: the part that runs across.

        Raises:
            ValueError: on an unknown name, or the same part twice.
        """
        from matplotlib.figure import Figure

        among(value, FIGURES, "value")
        if among(rows, PARTS, "rows") == among(columns, PARTS, "columns"):
            raise ValueError(say("two different parts", f"{rows!r} twice", "rows='prior', columns='guide'"))
        table = self.to_dataframe(per_seed=True).pivot_table(index=rows, columns=columns, values=value, sort=False)
        figure = Figure(figsize=(2 + 1.1 * len(table.columns), 1.5 + 0.5 * len(table)), layout="constrained")
        axes = figure.add_subplot()
        image = axes.imshow(table.to_numpy(), aspect="auto", cmap="viridis")
        axes.set_xticks(range(len(table.columns)), table.columns, rotation=30, ha="right")
        axes.set_yticks(range(len(table)), table.index)
        for (i, j), cell in _cells(table.to_numpy()):
            axes.text(j, i, f"{cell:.2f}", ha="center", va="center", color="white", fontsize=8)
        unit = {"seconds": "s", "active_units": "dimensions"}.get(value, "nats per datum")
        figure.colorbar(image, label=f"{value} ({unit})")
        return figure


def sweep(
    x: Tensor,
    *,
    test: Tensor,
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

    A run that fails is a row with its reason, not a gap in the table. With ``path``, every finished run is appended to
    that file, and a sweep started again with the same names takes it from there.

    Args:
        x: training data ``(N, *D)``.
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
        compile: as in :func:`~pyro_vae.inference.variational.fit`.
        missing: whether NaN in the data is a missing entry, as in :class:`~pyro_vae.model.Model`.
        path: a file of JSON lines that makes the sweep resumable.
        progress: show a progress bar.

    Returns:
        One row a run.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if a grid is empty.

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
    checks.tensor(test, "test")
    positive_integer(num_particles, "num_particles")
    file = None if path is None else Path(path)
    done = _finished(file)
    rows = []
    for names in _bar(list(itertools.product(*grids.values(), seeds)), progress):
        key = dict(zip((*PARTS, "seed"), names, strict=True))
        row = done.get(names)
        if row is None:
            makers: list[Any] = [grids[part][name] for part, name in zip(PARTS, names, strict=False)]
            settings = {"epochs": epochs, "batch_size": batch_size, "lr": lr, "compile": compile}
            row = {**key, **_run(makers, int(names[-1]), (x, test), num_particles, settings, missing=missing)}
            if file is not None:
                with file.open("a") as stream:
                    stream.write("\n" * _cut_short(file) + json.dumps(row) + "\n")
        rows.append(row)
    return Sweep(rows)


def _run(
    makers: Sequence[Any],
    seed: int,
    data: tuple[Tensor, Tensor],
    num_particles: int,
    settings: dict[str, Any],
    *,
    missing: bool,
) -> dict[str, Any]:
    x, test = data
    make_prior, make_likelihood, make_guide, make_objective = makers
    result: dict[str, Any] = dict.fromkeys(FIGURES, math.nan) | {"evidence_by": "", "error": ""}
    try:
        pyro.set_rng_seed(seed)
        guide = make_guide()
        model = Model(make_prior(guide), make_likelihood(), missing=missing)
        history = fit(model, guide, x, loss=make_objective(), validation=None, progress=False, **settings)
        with torch.no_grad():
            elbo = -BetaELBO(num_particles=16).loss(model, guide, test) / len(test)
            evidence, how = _evidence(model, guide, test, num_particles)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CollapseWarning)
            units = collapse(model, guide, test).active_units
    except (ValueError, TypeError, FloatingPointError, NotImplementedError, RuntimeError) as error:
        return result | {"error": f"{type(error).__name__}: {error}"}
    return result | {
        "elbo": elbo,
        "evidence": evidence,
        "gap": evidence - elbo,
        "active_units": units,
        "seconds": history.seconds,
        "evidence_by": how,
    }


def _evidence(model: Model, guide: Any, x: Tensor, num_particles: int) -> tuple[float, str]:
    if Target(model, x[:1]).latent_dim <= MAX_LATENT_DIM:
        return float(quadrature(model, x).log_evidence.mean()), "quadrature"
    objective = ImportanceWeightedELBO(num_particles=num_particles)
    total = sum(objective.loss(model, guide, batch) for batch in x.split(100))
    return -total / len(x), f"IWAE-{num_particles}"


def _finished(path: Path | None) -> dict[tuple[Any, ...], dict[str, Any]]:
    """The runs that a file holds, by the names of their parts and seed; a line cut short is run again."""
    done: dict[tuple[Any, ...], dict[str, Any]] = {}
    if path is None or not path.exists():
        return done
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        done[tuple(row[name] for name in (*PARTS, "seed"))] = row
    return done


def _cut_short(path: Path) -> bool:
    """Whether the last line of a file lacks its end, as an interrupted run leaves it."""
    text = path.read_text()
    return bool(text) and not text.endswith("\n")


def _cells(table: Any) -> Iterator[tuple[tuple[int, int], float]]:
    rows, columns = table.shape
    return (((i, j), float(table[i, j])) for i in range(rows) for j in range(columns))


def _bar(runs: list[Any], progress: bool) -> Any:
    from tqdm.auto import tqdm

    return tqdm(runs, desc="sweep", disable=not progress)
