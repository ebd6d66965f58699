"""Predictive checks: what the data have that data from the model have not, column by column, and what to try."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
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
from pyro_vae.evaluation.model.two_sample import TwoSample, two_sample_test
from pyro_vae.evaluation.model.words import Finding, against_baselines, verdict_of
from pyro_vae.inference.posterior import answer
from pyro_vae.inference.target.program import Program
from pyro_vae.inference.target.target import Target, as_target
from pyro_vae.randomness import fork_rng

__all__ = ["Criticism", "criticise"]

_MAX_NUMBERS = 5e7  # in all replicates together; beyond, rows are left out
_MIN_ROWS = 20  # for a two-sample test
_MAX_FAMILIES = 3  # groups of checks, over which the level is shared out


@dataclass(frozen=True)
class Criticism:
    """How far data from a model are from the data. Prints as a table with its verdict.

    Attributes:
        findings: every statistic: its columns, the data's value, the interval of the replicates, its p-value, and its
            p-value adjusted for looking at all.
        names: of the D columns.
        kinds: of the D columns: "real", "binary" or "discrete".
        replicated_from: "the prior predictive" or "the posterior predictive".
        pit: where each entry lies among its replicates, ``(N, D)``, NaN where missing; uniform if the model is right.
        two_sample: the classifier's verdict on the rows against replicated ones; None where rows are not independent.
        evidence: log p(x) of each row; None of a whole program.
        worst: rows in the order of log p(x), lowest first; the ten worst.
        baselines: simple models on the same rows; None without ``x_train``.
        notes: what was left out, and why.
        level: of false alarms in all.
    """

    findings: tuple[Finding, ...]
    names: tuple[str, ...]
    kinds: tuple[str, ...]
    replicated_from: str
    pit: np.ndarray = field(repr=False)
    two_sample: TwoSample | None
    evidence: Evidence | None = field(repr=False)
    worst: tuple[int, ...]
    baselines: Baselines | None
    notes: tuple[str, ...]
    level: float = 0.05

    @property
    def families(self) -> dict[str, float]:
        """The p-value of each group of checks, valid for the group as a whole."""
        own = [f for f in self.findings if f.columns]
        given = [f for f in self.findings if not f.columns]
        found = {"statistics": min((f.adjusted for f in own), default=1.0)}
        if self.two_sample is not None:
            found["two-sample test"] = self.two_sample.p_value
        if given:
            found["own statistics"] = min(f.adjusted for f in given)
        return found

    @property
    def p_value(self) -> float:
        """Of all checks together (Bonferroni over the groups)."""
        return min(1.0, min(self.families.values()) * len(self.families))

    @property
    def ok(self) -> bool:
        """Whether nothing was found, at ``level`` in all."""
        return self.p_value > self.level

    @property
    def failed(self) -> tuple[Finding, ...]:
        """The statistics that give the model away, worst first."""
        sharp = self.level / len(self.families)
        return tuple(sorted((f for f in self.findings if f.adjusted <= sharp), key=lambda f: -f.size))

    @property
    def against_baselines(self) -> str:
        """Better or worse than which baseline, by how many nats a row; empty without baselines."""
        if self.baselines is None or self.evidence is None:
            return ""
        return against_baselines(self.evidence, self.baselines)

    @property
    def verdict(self) -> str:
        """What is wrong, by name of column and in which direction, and what to try."""
        give_away = self.two_sample is not None and self.two_sample.p_value <= self.level / len(self.families)
        return verdict_of(self.ok, self.failed, self.names, self.kinds, self.two_sample if give_away else None)

    def to_dataframe(self) -> Any:
        """Return a pandas DataFrame, one row a statistic."""
        import pandas as pd

        return pd.DataFrame([{**vars(f), "columns": f.where(self.names)} for f in self.findings])

    def __rich__(self) -> Any:
        from rich.console import Group
        from rich.table import Table

        table = Table(title=f"{len(self.pit)} rows against {self.replicated_from}", title_justify="left")
        for name in ("column", "statistic", "data", "replicates, 95 %", "p", "adjusted"):
            table.add_column(name, justify="left" if name in {"column", "statistic"} else "right")
        shown = self.failed[:12] or sorted(self.findings, key=lambda f: f.adjusted)[:5]
        for f in shown:
            interval = f"{f.low:.4g} to {f.high:.4g}"
            cells = (f.where(self.names), f.statistic, f"{f.observed:.4g}", interval, f"{f.p_value:.3g}")
            table.add_row(*cells, f"{f.adjusted:.3g}")
        if len(shown) < len(self.findings):
            table.caption, table.caption_justify = f"{len(shown)} of {len(self.findings)} statistics", "left"
        lines = [str(self.two_sample)] if self.two_sample else []
        if self.evidence is not None:
            lines += [f"{self.evidence}", f"rows that fit worst: {', '.join(map(str, self.worst))}"]
        lines += [text for text in (self.against_baselines, *(f"note: {note}" for note in self.notes)) if text]
        return Group(self.verdict, table, *lines)

    def __str__(self) -> str:
        from rich.console import Console

        out = io.StringIO()
        Console(file=out, width=110, no_color=True, highlight=False).print(self)
        return out.getvalue().rstrip()


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
    notes: list[str] = []
    with fork_rng(seed=seed):
        full = as_columns(target, names)
        log_p = _log_p(target, posterior, notes)
        if not target.per_datum and posterior is None:
            notes.append("replicates of the prior: a posterior asks what the program makes of these data")
        some, columns = _fewer_rows(target, full, num_replicates, names, notes)
        sets, source = _replicates(some, columns, posterior, num_replicates)
        rng = np.random.default_rng(seed)
        every = np.concatenate([columns.values[None], sets])
        pits = pit(every, _tied(every, columns.discrete), rng)
        found = family(*statistics_of(every, columns.discrete, pits))
        findings = _findings(found)
        if statistics:
            enough = max(num_replicates, math.ceil(4 * _MAX_FAMILIES * len(statistics) / level))
            findings += _user_findings(target, full, _draws(target, posterior, enough), statistics)
        two = _tell_apart(some, columns, sets[-1], seed, notes)
    order = () if log_p is None else tuple(log_p.log_evidence.argsort()[:10].tolist())
    beside = _baselines(target, full, x_train, notes)
    return Criticism(
        findings=tuple(findings),
        names=columns.names,
        kinds=columns.kinds,
        replicated_from=source,
        pit=pits[0],
        two_sample=two,
        evidence=log_p,
        worst=order,
        baselines=beside,
        notes=tuple(notes),
        level=float(level),
    )


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


def _baselines(target: Target, columns: Columns, x_train: Any, notes: list[str]) -> Baselines | None:
    if x_train is None:
        return None
    if not target.per_datum:
        notes.append("no baselines beside a whole program")
        return None
    x = x_train[0] if isinstance(x_train, tuple) else x_train
    found = baselines(x, columns.values, latent_dim=target.latent_dim, discrete=columns.discrete, names=columns.names)
    notes.extend(found.notes)
    return found
