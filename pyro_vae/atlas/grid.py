"""The run of all routes over all posteriors, resumable, in one process or several."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from pyro_vae.atlas.archive import fingerprint
from pyro_vae.atlas.cell import Cell, fill, read_cells
from pyro_vae.atlas.own import own_problem
from pyro_vae.atlas.problem import Problem
from pyro_vae.atlas.programs import load, names
from pyro_vae.atlas.result import Atlas
from pyro_vae.atlas.routes import ROUTES
from pyro_vae.checks import among, positive_integer, say
from pyro_vae.evaluation.posterior.reference import independent_reference
from pyro_vae.inference.target.program import Program
from pyro_vae.inference.target.target import Target
from pyro_vae.progress import progress_bar
from pyro_vae.randomness import fork_rng

__all__ = ["BUDGETS", "QUICK", "QUICK_ROUTES", "run"]

BUDGETS = (1_000, 5_000, 25_000)
QUICK = (  # what a first look needs
    *("linear_regression", "logistic_regression", "eight_schools_centred", "eight_schools_noncentred"),
    *("gaussian_mixture", "funnel", "banana", "two_modes"),
)
QUICK_ROUTES = ("mode", "Laplace", "multi-Pathfinder", "mean field", "full rank", "flow", "HMC", "NUTS", "tempering")


def run(
    problems: str | Sequence[str] | Program | Target | None = None,
    x: Any = None,
    *,
    routes: Sequence[str] | None = None,
    budgets: Sequence[int] = BUDGETS,
    seeds: Sequence[int] = (0,),
    truth: Any = None,
    telling: tuple[str, str] | None = None,
    path: str | Path | None = None,
    jobs: int = 1,
    progress: bool = True,
) -> Atlas:
    """Run routes over posteriors, and measure each against the truth and against the verdict on it.

    What a file of the folder ``path`` holds already is not run again, so that a run that was stopped goes on, and
    posteriors, routes, budgets and seeds may be added between.

    Args:
        problems: a name of the atlas or several (see :func:`pyro_vae.atlas.names`), all if None; or a Pyro program of
            one's own, or a Target.
        x: the data of one's own program: a tensor, or its arguments as a tuple.
        routes: by name, see ``pyro_vae.atlas.ROUTES``; all if None.
        budgets: the most gradients of log p at one u that a route may spend, one run each.
        seeds: one run each.
        truth: of one's own program: a :class:`~pyro_vae.atlas.truth.Truth`, long chains (``Draws``), or a distribution
            that is known to be exact. None integrates where L <= 3, and runs long chains otherwise.
        telling: two numbers of one's own program to draw, such as ``("tau", "theta[0]")``; the first two if None.
        path: a folder to keep the cells in.
        jobs: processes; each takes one posterior at a time.
        progress: show a bar on standard error.

    Raises:
        TypeError: if the program or its truth is none.
        ValueError: if a name is unknown, there is nothing to run, chains that shall be the truth have not converged, or
            the folder holds cells of another program or other data under the same name.

    Example:
        >>> import pyro_vae as pv
        >>> found = pv.atlas.run("linear_regression", routes=["Laplace"], progress=False)
        >>> [cell.judged for cell in found.cells]
        ['right']
    """
    chosen = [among(name, ROUTES, "a route") for name in (ROUTES if routes is None else _listed(routes))]
    plan = _Plan(
        tuple(chosen),
        tuple(sorted({positive_integer(budget, "a budget", minimum=100) for budget in budgets}, reverse=True)),
        tuple(positive_integer(seed, "a seed", minimum=0) for seed in seeds),
        None if path is None else Path(path),
    )
    own = callable(problems) or isinstance(problems, Target)
    if not (plan.routes and plan.budgets and plan.seeds and (own or problems is None or problems)):
        raise ValueError(say("at least one posterior, route, budget and seed", "none", "leaving them out"))
    if callable(problems) or isinstance(problems, Target):
        one = own_problem(problems, x, truth=truth, telling=telling)
        return Atlas(tuple(_run([one.name], lambda name: one, plan, jobs=1, progress=progress)), {one.name: one})
    if x is not None or truth is not None or telling is not None:
        raise ValueError(say("a program of one's own beside x, truth or telling", f"{problems!r}", "the program"))
    listed = names() if problems is None else [among(name, names(), "a posterior") for name in _listed(problems)]
    cells = _run(listed, load, plan, jobs=positive_integer(jobs, "jobs"), progress=progress)
    return Atlas(tuple(cells), {name: load(name) for name in listed})


@dataclass(frozen=True)
class _Plan:
    """What is run on each posterior."""

    routes: tuple[str, ...]
    budgets: tuple[int, ...]
    seeds: tuple[int, ...]
    path: Path | None

    def keys(self, problem: str) -> list[tuple[str, str, int, int]]:
        """The cells of a posterior, see :attr:`Cell.key`: one for a route that has no use for a budget."""
        return [
            (problem, route, budget, seed)
            for route in self.routes
            for budget in (self.budgets if ROUTES[route].budgeted else (0,))
            for seed in self.seeds
        ]

    def file(self, problem: str) -> Path | None:
        return None if self.path is None else self.path / "cells" / f"{problem}.jsonl"


def _run(
    listed: Sequence[str], find: Callable[[str], Problem], plan: _Plan, *, jobs: int, progress: bool
) -> list[Cell]:
    """All cells, in the order of the posteriors and routes."""
    if plan.path is not None:
        (plan.path / "cells").mkdir(parents=True, exist_ok=True)
    found: dict[tuple[str, str, int, int], Cell] = {}
    with progress_bar(sum(len(plan.keys(name)) for name in listed), "atlas", show=progress, unit="cell") as bar:

        def took(name: str, cells: list[Cell]) -> None:
            found.update((cell.key, cell) for cell in cells)
            bar.set_postfix_str(name)
            bar.update(len(cells))

        if jobs == 1:
            for name in listed:
                for cell in _cells(name, find, plan):
                    took(name, [cell])
        else:
            with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_one_thread) as pool:
                work = {pool.submit(_in_process, name, plan): name for name in listed}
                for future in _ended(work):
                    took(work[future], future.result())
    return [found[key] for name in listed for key in plan.keys(name)]


def _ended(work: dict[Future[list[Cell]], str]) -> Iterator[Future[list[Cell]]]:
    """Each piece of work as it ends; what has not begun is dropped where one fails."""
    try:
        yield from as_completed(work)
    finally:
        for future in work:
            future.cancel()


def _one_thread() -> None:
    torch.set_num_threads(1)


def _in_process(name: str, plan: _Plan) -> list[Cell]:
    return list(_cells(name, load, plan))


def _cells(name: str, find: Callable[[str], Problem], plan: _Plan) -> Iterator[Cell]:
    """The cells of one posterior, which are kept as they come."""
    file = plan.file(name)
    done = {} if file is None else read_cells(file)
    problem = find(name)
    _must_be_of(problem, done.values())
    reference = functools.cache(lambda: _reference(problem.target))
    for key in plan.keys(name):
        if key in done:
            yield done[key]
            continue
        _, route, budget, seed = key
        cell = fill(problem, ROUTES[route], budget, seed, reference())
        if file is not None:
            with file.open("a", encoding="utf-8") as out:
                out.write(cell.to_json() + "\n")
        yield cell


def _must_be_of(problem: Problem, cells: Iterable[Cell]) -> None:
    """Refuse kept cells of another program or other data, which only share the name.

    Raises:
        ValueError: if there are any.
    """
    now = fingerprint(problem.target)
    for cell in cells:
        if math.isfinite(cell.fingerprint) and not math.isclose(cell.fingerprint, now, rel_tol=1e-6, abs_tol=1e-6):
            expected = f"a folder without cells of another {problem.name!r}"
            raise ValueError(say(expected, "those of another program or other data", "another path"))


def _reference(target: Target) -> Any:
    """What all verdicts on a posterior rest on: it knows no route, and is found once."""
    with fork_rng(seed=1):
        return independent_reference(target)


def _listed(given: str | Sequence[str]) -> list[str]:
    return [given] if isinstance(given, str) else list(dict.fromkeys(given))
