"""One cell of the atlas: one route on one posterior, its errors, its cost, and the verdict on it."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_vae.atlas.archive import fingerprint
from pyro_vae.atlas.measure import Errors, energy_distance, errors, judged, limit, to_sites
from pyro_vae.atlas.problem import Problem
from pyro_vae.atlas.routes import Route, cost, counting
from pyro_vae.atlas.truth import NUM_DRAWS
from pyro_vae.atlas.values import number
from pyro_vae.evaluation.posterior.verdict import (
    DO_NOT_TRUST,
    MAX_MEAN_SHIFT,
    MAX_STD_RATIO,
    TRUST,
    UNDECIDED,
    verdict,
)
from pyro_vae.evaluation.sites import joined_moments
from pyro_vae.inference.mcmc.draws import Draws
from pyro_vae.inference.posterior import Answer, answer
from pyro_vae.randomness import fork_rng

__all__ = ["Cell", "fill", "read_cells"]

_DRAWS = 4000  # of a posterior, for its quantiles and its weights
_COMPARED = 500  # of them, beside as many of the truth, for the energy distance
_SHOWN = 300  # of them, kept for the picture
_DISAGREE = 1.05  # an R-hat beyond which chains contradict each other, whatever their number of draws


@dataclass(frozen=True)
class Cell:
    """What became of one route on one posterior. Errors are in posterior standard deviations, bounds in nats.

    Attributes:
        problem: name of the posterior.
        route: name of the route.
        budget: gradients of log p that it might spend; 0 for a route that has no use for one.
        seed: of its random numbers.
        refused: why the route gave no posterior; empty if it did.
        errors: against the truth, see :class:`~pyro_vae.atlas.measure.Errors`.
        distance: energy distance to the truth's draws over the sites' numbers, in their standard deviations.
        floor: what it is without any difference.
        elbo: lower bound, and ``gap``, log p(x) less it, where both are known.
        pareto_k: of the importance weights; NaN where the posterior has no density.
        reweighted: the errors of the moments after importance re-weighting.
        num_gradients: evaluations spent in all, ``num_sequential`` one after another; None if not counted.
        seconds: wall time of the route.
        said: what the route says of its own convergence.
        decision: the verdict; empty for a point mass, which is no posterior.
        reason: of the verdict.
        judged: whether it was right.
        draws: of the two most telling numbers, ``(n, 2)`` as lists.
        fingerprint: of program and data, see :func:`~pyro_vae.atlas.archive.fingerprint`; NaN if not noted.
    """

    problem: str
    route: str
    budget: int
    seed: int
    refused: str = ""
    errors: Errors = field(default_factory=Errors)
    distance: float = math.nan
    floor: float = math.nan
    elbo: float = math.nan
    gap: float = math.nan
    pareto_k: float = math.nan
    reweighted: Errors = field(default_factory=Errors)
    num_gradients: int | None = None
    num_sequential: int | None = None
    seconds: float = math.nan
    said: str = ""
    decision: str = ""
    reason: str = ""
    judged: str = ""
    draws: list[list[float]] = field(default_factory=list, repr=False)
    fingerprint: float = field(default=math.nan, repr=False)

    @property
    def key(self) -> tuple[str, str, int, int]:
        """What tells it from the others."""
        return self.problem, self.route, self.budget, self.seed

    def to_json(self) -> str:
        """Return it as a line of JSON."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Cell:
        """Return the cell that such a line holds."""
        values = json.loads(line)
        return cls(**{**values, "errors": Errors(**values["errors"]), "reweighted": Errors(**values["reweighted"])})


def read_cells(file: Path) -> dict[tuple[str, str, int, int], Cell]:
    """Return the cells of a file by their keys; a line cut short is none, and no file has none."""
    cells = {}
    for line in file.read_text("utf-8").splitlines() if file.is_file() else ():
        with suppress(ValueError, TypeError, KeyError):
            cell = Cell.from_json(line)
            cells[cell.key] = cell
    return cells


def fill(problem: Problem, route: Route, budget: int, seed: int, reference: Any) -> Cell:
    """Run a route from its seed, and measure what it gives.

    Args:
        problem: the posterior, with its truth.
        route: what infers it.
        budget: gradients that the route may spend.
        seed: of everything random; the process's own random state is left as it was.
        reference: what the verdicts rest on, as :func:`pyro_vae.verdict` takes it.
    """
    target = problem.target
    cell = Cell(problem.name, route.name, budget if route.budgeted else 0, seed, fingerprint=fingerprint(target))
    with fork_rng():
        pyro.set_rng_seed(seed)
        began = time.perf_counter()
        try:
            with counting(target) as counts:
                posterior = route.infer(target, budget)
            seconds = time.perf_counter() - began
            seen = answer(target, posterior, num_samples=_DRAWS)
        except Exception as error:  # noqa: BLE001  whatever a route does to one posterior, the others are run
            return dataclasses.replace(cell, refused=_first_sentence(error), seconds=time.perf_counter() - began)
        if not bool(seen.u.isfinite().all()):
            return dataclasses.replace(cell, refused="its draws are not finite", seconds=seconds)
        num_gradients, num_sequential = cost(posterior, counts)
        measured = _measured(problem, seen)
        return dataclasses.replace(
            cell,
            seconds=seconds,
            num_gradients=num_gradients,
            num_sequential=num_sequential,
            said=_said(posterior),
            **measured,
            **_trusted(problem, posterior, seen, reference, measured["errors"]),
        )


def _measured(problem: Problem, seen: Answer) -> dict[str, Any]:
    """Errors by site, the energy distance, and the draws to show."""
    target, truth = problem.target, problem.truth
    mean, std = (to_sites(target, moment[0]) for moment in joined_moments(target, seen))
    values = target.constrain(seen.u)  # (S, *site shape)
    low, high = ({name: v.double().quantile(p, dim=0) for name, v in values.items()} for p in (0.05, 0.95))
    kept = torch.linspace(0, len(seen.u) - 1, min(_COMPARED, len(seen.u))).long()
    x, y = (
        torch.cat([sites[name][rows].reshape(len(rows), -1).double() for name in values], -1)
        for sites, rows in ((values, kept), (truth.draws, torch.arange(NUM_DRAWS - _COMPARED, NUM_DRAWS)))
    )
    unit = (y.quantile(0.84, dim=0) - y.quantile(0.16, dim=0)) / 2
    moving = unit > 0
    distance, floor = energy_distance(x[:, moving] / unit[moving], y[:, moving] / unit[moving])
    shown = torch.stack([number(values, name)[kept[:_SHOWN]] for name in problem.telling], -1)
    return {
        "errors": errors(truth, mean, std, low=low, high=high, noise=_noise(seen)),
        "distance": distance,
        "floor": floor,
        "draws": [[float(f"{v:.4g}") for v in row] for row in shown.tolist()],
    }


def _noise(seen: Answer) -> float:
    """Standard error of the posterior's own moments: of its draws, or of chains' effective ones."""
    return float(seen.ess.rsqrt().max()) if seen.ess is not None else len(seen.u) ** -0.5


def _trusted(problem: Problem, posterior: Any, seen: Answer, reference: Any, found_off: Errors) -> dict[str, Any]:
    """The verdict on a posterior, and whether it is right: of chains by the numbers that a user would take."""
    target, truth, wrong = problem.target, problem.truth, found_off.wrong
    if isinstance(posterior, Draws):
        (decision, reason), wrong = _of_chains(posterior), limit(found_off) > 1
        return {"decision": decision, "reason": reason} | {
            "judged": judged(decision, wrong=wrong, reweighted_wrong=wrong)
        }
    if seen.log_q is None:
        return {"reason": "a point mass has no spread, and so nothing to trust"}
    found = verdict(target, None, posterior, reference=reference, num_samples=_DRAWS)
    w = found.weights
    mean, std = (to_sites(target, moment[0]) for moment in (w.mean, w.std))
    reweighted = errors(truth, mean, std)  # these very numbers are what a user would take
    known = math.nan if truth.log_evidence is None else truth.log_evidence
    return {
        "elbo": float(w.elbo),
        "gap": known - float(w.elbo),
        "pareto_k": float(w.pareto_k),
        "reweighted": reweighted,
        "decision": found.decision[0],
        "reason": found.reasons[0],
        "judged": judged(found.decision[0], wrong=wrong, reweighted_wrong=reweighted.wrong),
    }


def _of_chains(draws: Draws) -> tuple[str, str]:
    """The verdict on chains and its reason: trusted where they know their moments to within the limits.

    Three standard errors of each mean lie within 0.25 posterior standard deviations, and three of each standard
    deviation within a factor 1.25: the limits by which every other posterior is judged, and not the fixed number of
    draws that :meth:`~pyro_vae.Draws.converged` asks. Chains that disagree are not trusted, and of those that are
    merely short nothing is decided.
    """
    shift, ratio = _uncertainty(draws)
    if shift <= MAX_MEAN_SHIFT and ratio <= MAX_STD_RATIO:
        return TRUST, f"means are known to {shift:.2f} sd, sds to a factor {ratio:.2f}: three standard errors"
    worst = max(float(value.nan_to_num(1.0).max()) for value in draws.rhat.values())
    return (DO_NOT_TRUST if worst > _DISAGREE else UNDECIDED), draws.verdict


def _uncertainty(draws: Draws) -> tuple[float, float]:
    """Three standard errors of the mean, in standard deviations, and the factor of those of the standard deviation.

    Both are the largest over all numbers that move, and NaN if there is one of which they are not known.
    """
    std = torch.cat([value.flatten() for value in draws.std().values()])
    moves = std != 0
    mean_error, std_error = (
        (torch.cat([value.flatten() for value in errors.values()])[moves] / std[moves]).max()
        for errors in (draws.mcse, draws.mcse_std)
    )
    return 3 * float(mean_error), float((3 * std_error).exp())


def _said(posterior: Any) -> str:
    """What a route says of its own convergence."""
    if isinstance(posterior, Draws):
        return posterior.verdict
    if reason := getattr(posterior, "reason", ""):
        return str(reason)
    converged = getattr(posterior, "converged", None)
    return "" if not isinstance(converged, Tensor) else "converged" if bool(converged.all()) else "not converged"


def _first_sentence(error: Exception) -> str:
    """The error's first line, with its type where the message alone says little."""
    words = str(error).strip().split("\n", 1)[0]
    return words if isinstance(error, ValueError | TypeError) and words else f"{type(error).__name__}: {words}"
