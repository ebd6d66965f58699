"""A sweep from its folder: the grid by name, the rows that are done, and what is still to run."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from typing import Any

from torch import Tensor

from pyro_vae.checks import among, say
from pyro_vae.datasets.encoding import log_jacobian
from pyro_vae.datasets.kinds import Schema
from pyro_vae.distributed import agree, rank
from pyro_vae.evaluation.sweep.grid import sweep as run_grid
from pyro_vae.evaluation.sweep.table import Sweep
from pyro_vae.likelihoods import Likelihood
from pyro_vae.runs.build import build_guide, build_likelihood, build_prior, check_device, likelihood_name, objective
from pyro_vae.runs.data import Prepared, prepare
from pyro_vae.runs.folder import Run, RunError, versions, write_whole
from pyro_vae.runs.isolation import isolated
from pyro_vae.runs.learning import resolved
from pyro_vae.runs.parts import GUIDES, LIKELIHOODS, OBJECTIVES, PRIORS, parse
from pyro_vae.runs.recipe import Recipe
from pyro_vae.runs.start import bound_counts

__all__ = ["Grid", "sweep"]

_TABLES = {"prior": PRIORS, "likelihood": LIKELIHOODS, "guide": GUIDES, "objective": OBJECTIVES}
PARTS = tuple(_TABLES)
_OWN = ("seeds", "rows", "num_particles")
_LEFT_OUT = (  # what a sweep does not take from a recipe
    *("model", "patience", "kl_warmup", "clip_norm", "dynamic_binarisation", "validation", "seed"),
    *("mixed_precision", "memory_map"),
)


@dataclass(frozen=True)
class Grid:
    """What a sweep runs: every combination of parts and seeds, under one recipe.

    Attributes:
        recipe: what all runs share.
        parts: the names to combine, by "prior", "likelihood", "guide" and "objective".
        seeds: one run each.
        rows: at most so many test data, from the first.
        num_particles: K of the evidence's bound where integration is out of reach.
    """

    recipe: Recipe
    parts: dict[str, tuple[str, ...]]
    seeds: tuple[int, ...] = (0, 1, 2)
    rows: int = 100
    num_particles: int = 64

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Grid:
        """Return the grid with these values: those of a recipe, with lists of names for parts, and ``seeds``.

        Raises:
            ValueError: if a name is unknown, or a value is of the wrong kind or out of range.
        """
        shared = [field.name for field in fields(Recipe) if field.name not in _LEFT_OUT]
        for name in values:
            among(name, [*shared, *_OWN], "a name of the configuration")
        rest = {name: value for name, value in values.items() if name not in (*PARTS, *_OWN)}
        chosen = {"prior": "StandardNormal", "guide": "DiagonalGaussian", "latent_dim": "2", "epochs": 100}
        recipe = Recipe.of({**chosen, **rest, "validation": 0.0, "memory_map": "no"})
        parts = {name: _names(name, values.get(name, getattr(recipe, name))) for name in PARTS}
        for name, texts in parts.items():
            for text in texts:
                if text != "auto" or name != "likelihood":
                    parse(text, _TABLES[name], f"the {name}")
        seeds = values.get("seeds", cls.seeds)
        if not _whole(seeds) or not seeds or len(set(seeds)) < len(seeds):
            expected = "seeds as a list of different whole numbers from 0"
            raise ValueError(say(expected, f"{seeds!r}", "seeds = [0, 1, 2]"))
        sizes = {name: values.get(name, getattr(cls, name)) for name in ("rows", "num_particles")}
        for name, size in sizes.items():
            if not _whole([size]) or not size:
                raise ValueError(say(f"{name} to be at least 1", f"{size!r}", f"{name} = {getattr(cls, name)}"))
        return cls(recipe, parts, tuple(seeds), **sizes)

    def to_toml(self) -> str:
        """Return it as a configuration file."""
        shared = {name: value for name, value in asdict(self.recipe).items() if name not in (*_LEFT_OUT, *PARTS)}
        values = {**shared, **self.parts, **{name: getattr(self, name) for name in _OWN}}
        return "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())


def sweep(run: Run, grid: Grid, *, progress: bool = False) -> Sweep:
    """Run what a grid asks for and its folder does not hold yet.

    The folder's ``rows.jsonl`` gets a line as each run ends, so that a sweep that was stopped goes on where it was;
    names and seeds may be added between. Likelihoods that are asked for, of a table, have a file each: they see its
    columns on scales of their own. ``table.csv`` and ``heat-map.png`` are written at the end.

    Args:
        run: the folder.
        grid: what to run.
        progress: show a bar on standard error.

    Raises:
        RunError: if the folder holds a sweep under other settings or a training run, is in use, or is not writable.
        ValueError: if data or parts are not usable.
    """
    check_device(grid.recipe.device)
    if run.exists:
        raise RunError(say("a folder of a sweep", f"the run at {run.folder}", "another --output"))
    with isolated(grid.recipe):
        recipes = [replace(grid.recipe, likelihood=text) for text in grid.parts["likelihood"]]
        each = [(recipe, prepare(recipe)) for recipe in recipes]  # a likelihood says how its columns are scaled
        if not len(each[0][1].x["test"]):
            raise ValueError(say("data to measure on", f"test = {grid.recipe.test} of the rows", "test=0.2"))
        with _written(run, grid, each[0][1].digest) if rank() == 0 else nullcontext():
            agree(None)  # rank 0 has the folder
            rows = [row for recipe, prepared in each for row in _rows(run, grid, recipe, prepared, progress=progress)]
            result = Sweep(rows)
            if rank() == 0:
                _finish(run, result)
    return result


def _rows(run: Run, grid: Grid, recipe: Recipe, prepared: Prepared, *, progress: bool) -> list[dict[str, Any]]:
    """The rows of one likelihood, log densities in the units of the data as given."""
    x, test = prepared.x["train"][:], prepared.x["test"][: grid.rows]
    if recipe.latent_dim == "auto":
        known = replace(recipe, prior="StandardNormal", guide="DiagonalGaussian")
        recipe = replace(recipe, latent_dim=resolved(known, prepared).latent_dim)
    result = run_grid(
        x,
        test=test,
        **_makers(grid, recipe, prepared.schema, x),
        seeds=grid.seeds,
        epochs=recipe.epochs,
        batch_size=min(recipe.batch_size, len(x)),
        lr=recipe.lr,
        num_particles=grid.num_particles,
        compile=recipe.compiled,
        missing=prepared.schema.missing,
        path=run / _file(recipe, prepared.schema),
        progress=progress,
    )
    jacobian = float(log_jacobian(prepared.schema, test).double().mean())
    return [row | {name: row[name] + jacobian for name in ("elbo", "evidence")} for row in result.rows]


def _file(recipe: Recipe, schema: Schema) -> str:
    """Where the rows are kept: a likelihood that is asked for sees a table's columns on scales of its own."""
    if recipe.likelihood == "auto" or not schema.columns:
        return "rows.jsonl"
    return f"rows-{re.sub('[^A-Za-z0-9.]+', '-', recipe.likelihood)}.jsonl"


@contextmanager
def _written(run: Run, grid: Grid, digest: str) -> Iterator[None]:
    """Be the one process that has the folder; of several, each appends its rows."""
    run.make()
    with run.locked():
        _start(run, grid, digest)
        yield


def _makers(grid: Grid, recipe: Recipe, schema: Schema, x: Tensor) -> dict[str, dict[str, Callable[..., Any]]]:
    """What makes each part of one likelihood's runs by its name, as :func:`pyro_vae.sweep` takes it."""
    return {
        "priors": {text: _prior(replace(recipe, prior=text)) for text in grid.parts["prior"]},
        "likelihoods": {likelihood_name(recipe, schema): partial(_likelihood, recipe, schema, x)},
        "guides": {text: partial(build_guide, replace(recipe, guide=text), schema) for text in grid.parts["guide"]},
        "objectives": {text: partial(objective, replace(recipe, objective=text)) for text in grid.parts["objective"]},
    }


def _likelihood(recipe: Recipe, schema: Schema, x: Tensor) -> Likelihood:
    made = build_likelihood(recipe, schema)
    bound_counts(made, schema, x)
    return made


def _prior(recipe: Recipe) -> Callable[[Any], Any]:
    """Makes a prior, whatever the guide."""
    return lambda guide: build_prior(recipe)


def _start(run: Run, grid: Grid, digest: str) -> None:
    """Write what the folder is about, or check that it is about the same."""
    names = sorted({field.name for field in fields(Recipe)} - {*_LEFT_OUT, *PARTS, "data"})
    shared = {name: getattr(grid.recipe, name) for name in names}
    shared |= {"rows": grid.rows, "num_particles": grid.num_particles}
    about = {"fingerprint": digest, "shared": shared, "versions": versions()}
    if (run / "sweep.toml").is_file():
        before = run.read_json("about.json")
        if before["fingerprint"] != digest:
            got = f"others at {grid.recipe.data}"
            raise RunError(say("the data that the sweep was started with", got, "another --output"))
        if changed := [name for name, value in shared.items() if before["shared"][name] != value]:
            got = ", ".join(f"{name} = {shared[name]!r}, before {before['shared'][name]!r}" for name in changed)
            raise RunError(say("the settings that the sweep was started with", got, "the same, or another --output"))
    else:
        run.write_json("about.json", about)
    write_whole(run / "sweep.toml", grid.to_toml().encode())


def _finish(run: Run, result: Sweep) -> None:
    write_whole(run / "table.csv", result.to_dataframe(per_seed=True).to_csv(index=False).encode())
    if any(not row["error"] for row in result.rows):
        out = io.BytesIO()
        varied = [name for name in PARTS if len({row[name] for row in result.rows}) > 1]
        down, across = (*varied, *(name for name in ("prior", "guide") if name not in varied))[:2]
        result.heat_map(rows=down, columns=across).savefig(out, format="png", dpi=150)
        write_whole(run / "heat-map.png", out.getvalue())


def _names(name: str, given: Any) -> tuple[str, ...]:
    """The names of one part: a single text, or a list of different ones."""
    names = [given] if isinstance(given, str) else given
    if not isinstance(names, list | tuple) or not names or not all(isinstance(text, str) for text in names):
        raise ValueError(say(f"{name} as a list of names", f"{given!r}", f'{name} = ["{getattr(Recipe, name)}"]'))
    return tuple(dict.fromkeys(names))


def _whole(values: Any) -> bool:
    """Whether values are a list of whole numbers from 0."""
    return isinstance(values, list | tuple) and all(type(value) is int and 0 <= value < 2**32 for value in values)
