"""Predictive checks: data against data from the model, column by column, pair by pair and row by row."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.checks import positive_integer, positive_number, say
from pyro_vae.evaluation.evidence.evidence import Evidence
from pyro_vae.evaluation.model.baselines import Baselines, baselines
from pyro_vae.evaluation.model.density import held_out
from pyro_vae.evaluation.model.discrepancy import Family, family, pit, statistics_of
from pyro_vae.evaluation.model.replicates import Columns, as_columns, posterior_replicates, prior_replicates
from pyro_vae.evaluation.model.result import Criticism, worst_rows
from pyro_vae.evaluation.model.two_sample import TwoSample, two_sample_test
from pyro_vae.evaluation.model.words import Finding
from pyro_vae.inference.mcmc.draws import Draws
from pyro_vae.inference.posterior import answer
from pyro_vae.inference.target.program import Program
from pyro_vae.inference.target.target import Target, as_target
from pyro_vae.randomness import fork_rng

__all__ = ["criticise"]

_MAX_NUMBERS = 5e7  # in all replicates together; beyond, rows are left out
_MIN_ROWS = 20  # for a two-sample test
_MAX_FAMILIES = 3  # groups of checks, over which the level is shared out


@torch.no_grad()
def criticise(
    model: Program | Target,
    x_test: Tensor | tuple[Any, ...] | None = None,
    posterior: Any = None,
    *,
    x_train: Tensor | tuple[Any, ...] | None = None,
    statistics: Mapping[str, Callable[[Any, Any], Any]] | None = None,
    num_replicates: int = 200,
    names: Any = None,
    to_units: Callable[[np.ndarray], np.ndarray] | None = None,
    log_jacobian: Tensor | None = None,
    level: float = 0.05,
    seed: int = 0,
    plate: str | None = "data",
) -> Criticism:
    r"""Check a model against held-out data: what would data look like if the model were right?

    R replicated data sets of the size of x_test, missing where it is, come from the program. Of each, and of x_test:
    mean, standard deviation, five quantiles, extremes and share of zeros of each column; the distance from uniform
    (Anderson & Darling) of its PIT, randomised where ties need it; the rank correlation of each pair of columns. The
    data are one of R + 1 exchangeable sets if the model is right, so that

    .. math:: p_j = \frac{1}{R + 1} \sum_{r=0}^{R} 1\left[\max_k t_{rk} \ge t_{0j}\right]

    with t a statistic standardised over all R + 1 is a p-value that holds for all statistics together (Westfall &
    Young's maxT). A random forest then tries to tell the rows from replicated ones. Over both (and ``statistics``),
    Bonferroni: a right model fails with probability at most ``level``, in all. "Right" means with its parameters: of a
    model fitted to few rows, alarms are more frequent, as they should be.

    If all latents lie in the data plate, replicates come from the prior predictive. A whole program's come from the
    posterior predictive where a posterior is given: its p-values are conservative. User statistics always compare
    T(x, z) with T(x replicated given z, z) over posterior draws of z.

    Args:
        model: a Pyro program, or a :class:`Target` in place of it and the data.
        x_test: held-out data ``(N, *D)``, or the program's arguments as a tuple.
        posterior: a guide, a distribution over u, or Draws, of the held-out data: for ``statistics``, for log p(x) by
            importance sampling where it is not exact, and for the replicates of a whole program.
        x_train: training data, for the baselines.
        statistics: T(x, z) by name, one number each: x as the program observes it, z its latent site ``(N, L)``; of
            several sites dictionaries by name.
        num_replicates: R, at least 3 / level - 1; of user statistics more, that their p-values can be small enough.
        names: of the D columns; None for the site's with a number.
        to_units: maps columns ``(..., D)`` as the program sees them to other units, each by itself and rising; in those
            statistics and baselines are reported.
        log_jacobian: what turns log p(x) of a row into that of the other units, ``(N,)``.
        level: of false alarms in all.
        seed: of all that is random here.
        plate: the data plate; None for a whole program.

    Raises:
        TypeError, ValueError: as :class:`Target`; if names are too few or many, if ``statistics`` come without a
            posterior, or one is no number.

    Sources:
        Gelman, Meng & Stern 1996; Gabry, Simpson, Vehtari, Betancourt & Gelman 2019; Lopez-Paz & Oquab 2017.

    Example:
        >>> import pyro_vae as pv
        >>> model = pv.Model(pv.priors.StandardNormal(1), pv.likelihoods.Gaussian(torch.nn.Linear(1, 2), scale=0.5))
        >>> x = model.sample(100)["x"]
        >>> x[:, 1] += 3
        >>> found = criticise(model, x, names=["height", "weight"])
        >>> found.ok, "weight" in found.verdict
        (False, True)
    """
    positive_number(level, "level", example=0.05)
    positive_integer(num_replicates, "num_replicates", minimum=math.ceil(_MAX_FAMILIES / level) - 1)
    target = as_target(model, x_test, plate=plate)
    if statistics and posterior is None:
        raise ValueError(say("a posterior beside statistics T(x, z)", "none", "posterior=guide, or pv.mcmc(model, x)"))
    _check_units(to_units, log_jacobian)
    notes: list[str] = []
    convert = to_units or (lambda values: values)
    with fork_rng(seed=seed):
        full = as_columns(target, names)
        log_p = _log_p(target, posterior, notes)
        if to_units is not None:
            _check_rising(to_units, full)
        if log_p is not None and log_jacobian is not None:
            if log_jacobian.shape != log_p.log_evidence.shape:
                shape, got = tuple(log_p.log_evidence.shape), tuple(log_jacobian.shape)
                raise ValueError(
                    say(f"a log_jacobian of shape {shape}, one number a row", f"{got}", "a sum over columns")
                )
            moved = log_p.log_evidence + log_jacobian.to(log_p.log_evidence)
            log_p = replace(log_p, log_evidence=moved)
        if isinstance(posterior, Draws) and not bool(posterior.converged(max_rhat=1.05, min_ess=100).all()):
            notes.append(f"replicates come from draws that are not to be trusted: {posterior.verdict}")
        if not target.per_datum and posterior is None:
            notes.append("replicates of the prior: a posterior asks what the program makes of these data")
        some, columns = _fewer_rows(target, full, num_replicates, names, notes)
        sets, source = _replicates(some, columns, posterior, num_replicates)
        rng = np.random.default_rng(seed)
        every = convert(np.concatenate([columns.values[None], sets]))
        pits = pit(every, _tied(every, columns.discrete), rng)
        found = family(*statistics_of(every, columns.discrete, pits))
        findings = _findings(found)
        if statistics:
            enough = max(num_replicates, math.ceil(4 * _MAX_FAMILIES * len(statistics) / level))
            findings += _user_findings(target, full, _draws(target, posterior, enough), statistics)
        two = _tell_apart(some, columns, sets[-1], seed, notes)
    beside = _baselines(target, full, x_train, convert, notes)
    return Criticism(
        findings=tuple(findings),
        names=columns.names,
        kinds=columns.kinds,
        laws=tuple(law.name for law in columns.laws),
        replicated_from=source,
        pit=pits[0],
        two_sample=two,
        evidence=log_p,
        worst=worst_rows(log_p),
        baselines=beside,
        notes=tuple(notes),
        level=float(level),
    )


def _check_units(to_units: Any, log_jacobian: Any) -> None:
    """Other units come with their Jacobian, or log p(x) and the baselines would be of different data."""
    if (to_units is None) != (log_jacobian is None):
        got = "to_units alone" if log_jacobian is None else "log_jacobian alone"
        raise ValueError(
            say("to_units and log_jacobian together", got, "log_jacobian=-scale.log().sum() for x * scale")
        )


def _check_rising(to_units: Callable[[np.ndarray], np.ndarray], columns: Columns) -> None:
    """Check that units rise with the columns, and leave an atom at 0 where it is."""
    moved = np.asarray(to_units(np.sort(columns.values, 0)))
    if moved.shape != columns.values.shape or bool((np.diff(moved, axis=0) < 0).any()):
        raise ValueError(say("to_units that rises in every column", "one that falls", "lambda x: loc + abs(scale) * x"))
    if bool((np.asarray(to_units(np.zeros_like(columns.values[:1])))[:, columns.atoms] != 0).any()):
        raise ValueError(say("to_units that leaves the share of zeros at 0", "one that moves it", "a scale alone"))


def _log_p(target: Target, posterior: Any, notes: list[str]) -> Evidence | None:
    if not target.per_datum:
        notes.append("one posterior of the whole program: no log p(x) a row, and no rows that fit worst")
        return None
    found = held_out(target, posterior)
    left = int((~found.resolved).sum())
    if left:
        notes.append(
            f"log p(x) of {left} of {len(found.resolved)} rows by {found.method} is not resolved: it may be higher"
        )
    return found


def _fewer_rows(
    target: Target, columns: Columns, num_replicates: int, names: Any, notes: list[str]
) -> tuple[Target, Columns]:
    """Leave out rows where all replicates together would be too many numbers."""
    N, D = columns.values.shape
    keep = int(_MAX_NUMBERS // ((num_replicates + 1) * D))
    if keep >= N or not target.per_datum:
        return target, columns
    notes.append(f"replicates of {keep} of {N} rows, taken at random")
    fewer = target.rows(torch.randperm(N)[:keep].sort().values)
    return fewer, as_columns(fewer, names)


def _replicates(target: Target, columns: Columns, posterior: Any, num_replicates: int) -> tuple[np.ndarray, str]:
    """R data sets ``(R, N, D)``, and where they are from."""
    if target.per_datum or posterior is None:
        return np.stack(list(prior_replicates(target, columns, num_replicates))), "the prior predictive"
    u = _draws(target, posterior, num_replicates)
    drawn = [columns.of(sites) for sites, _ in posterior_replicates(target, columns, u)]
    return np.stack(drawn), "the posterior predictive"


def _draws(target: Target, posterior: Any, num_draws: int) -> Tensor:
    """That many draws of u, ``(S, N, L)``, from all chains alike where there are chains."""
    u = answer(target, posterior, num_samples=num_draws).u
    return u[torch.linspace(0, len(u) - 1, num_draws).round().long()]


def _tied(sets: np.ndarray, discrete: np.ndarray) -> np.ndarray:
    """Which columns have ties between sets: the discrete ones, and laws with an atom."""
    first, second = sets[1], sets[2]
    return discrete | (first == second).any(0)


def _findings(found: Family) -> list[Finding]:
    low, middle, high = np.quantile(found.replicated, [0.025, 0.5, 0.975], axis=0)
    scale = np.maximum(found.replicated.std(0), [s.resolution for s in found.statistics])
    size = np.abs(found.observed - middle) / scale
    numbers = zip(
        *(found.statistics, found.observed, middle, low, high, size, found.p_value, found.adjusted), strict=True
    )
    return [Finding(s.name, s.columns, *map(float, rest)) for s, *rest in numbers]


def _user_findings(
    target: Target, columns: Columns, u: Tensor, statistics: Mapping[str, Callable[[Any, Any], Any]]
) -> list[Finding]:
    """Posterior predictive p-values of T(x, z), two-sided; adjusted by Bonferroni."""

    def alone(values: dict[str, Tensor]) -> Any:
        return next(iter(values.values())) if len(values) == 1 else values

    observed: dict[str, list[float]] = {name: [] for name in statistics}
    replicated: dict[str, list[float]] = {name: [] for name in statistics}
    for drawn, latent in posterior_replicates(target, columns, u):
        for name, statistic in statistics.items():
            for values, store in ((columns.values_by_site, observed), (drawn, replicated)):
                masked = {k: torch.where(columns.values_by_site[k].isnan(), torch.nan, v) for k, v in values.items()}
                number = torch.as_tensor(statistic(alone(masked), alone(latent)))
                if number.numel() != 1:
                    raise ValueError(say(f"one number from {name!r}", f"shape {tuple(number.shape)}", "T(x, z).mean()"))
                store[name].append(float(number))
    findings = []
    for name in statistics:
        mine, theirs = np.array(observed[name]), np.array(replicated[name])
        above, below = ((1 + share.sum()) / (1 + len(share)) for share in (theirs >= mine, theirs <= mine))
        p = min(1.0, 2 * min(above, below))
        low, middle, high = np.quantile(theirs, [0.025, 0.5, 0.975])
        size = abs(mine.mean() - middle) / max(float(theirs.std()), 1e-12)
        numbers = (mine.mean(), middle, low, high, size, p, min(1.0, p * len(statistics)))
        findings.append(Finding(name, (), *map(float, numbers)))
    return findings


def _tell_apart(
    target: Target, columns: Columns, replicate: np.ndarray, seed: int, notes: list[str]
) -> TwoSample | None:
    """The two-sample test of the rows, covariates beside them, against those of one replicate."""
    if not target.per_datum:
        notes.append("rows of a whole program share its latents: no two-sample test, which takes independent rows")
        return None
    if len(replicate) < _MIN_ROWS:
        notes.append(f"{len(replicate)} rows are too few for a two-sample test ({_MIN_ROWS})")
        return None
    beside = [
        arg.reshape(len(arg), -1).double().cpu().numpy()
        for arg in target.args
        if isinstance(arg, Tensor) and arg.dim() and len(arg) == len(replicate) and not _is_observed(arg, columns)
    ]
    rows = [np.concatenate([values, *beside], 1) for values in (columns.values, replicate)]
    return two_sample_test(*rows, seed=seed, paired=bool(beside) or bool(np.isnan(columns.values).any()))


def _is_observed(arg: Tensor, columns: Columns) -> bool:
    return any(arg is v or (arg.shape == v.shape and arg.equal(v.to(arg))) for v in columns.values_by_site.values())


def _baselines(
    target: Target, columns: Columns, x_train: Any, convert: Callable[[np.ndarray], np.ndarray], notes: list[str]
) -> Baselines | None:
    if x_train is None:
        return None
    if not target.per_datum:
        notes.append("no baselines beside a whole program")
        return None
    x = as_columns(Target(target.model, x_train, plate=target.plate)).values
    discrete, atoms, names = columns.discrete, columns.atoms, columns.names
    L = target.latent_dim
    found = baselines(convert(x), convert(columns.values), latent_dim=L, discrete=discrete, atoms=atoms, names=names)
    notes.extend(found.notes)
    return found
