"""From numbers to sentences: what is wrong with a model, in which column and direction, and what to try."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from pyro_vae.evaluation.evidence.evidence import Evidence
from pyro_vae.evaluation.model.baselines import Baselines
from pyro_vae.evaluation.model.paired import told_apart
from pyro_vae.evaluation.model.two_sample import TwoSample

__all__ = ["Finding", "against_baselines", "verdict_of"]

_MAX_NAMED = 5  # columns or pairs of one sentence


@dataclass(frozen=True)
class Finding:
    """One statistic of the data against its replicates.

    Attributes:
        statistic: what it is.
        columns: which columns it is of; empty for a user's own.
        observed: of the data; a user's T(x, z) averaged over the posterior.
        middle: median of the replicates.
        low: their 2.5 % quantile.
        high: their 97.5 % quantile.
        size: distance from the median in standard deviations of the replicates.
        p_value: two-sided, of this one alone.
        adjusted: for looking at all.
    """

    statistic: str
    columns: tuple[int, ...]
    observed: float
    middle: float
    low: float
    high: float
    size: float
    p_value: float
    adjusted: float

    def where(self, names: tuple[str, ...]) -> str:
        """The columns by name."""
        return " × ".join(names[d] for d in self.columns)


def verdict_of(
    ok: bool,
    failed: Iterable[Finding],
    names: tuple[str, ...],
    kinds: tuple[str, ...],
    laws: tuple[str, ...],
    *,
    two_sample: TwoSample | None = None,
) -> str:
    """Return what is wrong and what to try.

    Args:
        ok: whether no check failed.
        failed: the statistics that did, worst first.
        names: of the columns.
        kinds: of the columns: "real", "binary" or "discrete".
        laws: of the columns: the distributions' names.
        two_sample: if that test tells the tables apart, else None.
    """
    if ok:
        return "nothing found: data from the model look like the data in all that was checked"
    failed = list(failed)
    single = _by_column([f for f in failed if len(f.columns) == 1])
    sentences = []
    for column in list(single)[:_MAX_NAMED]:
        sentences.append(f"{names[column]!r}: {_describe(single[column])}")
    if len(single) > _MAX_NAMED:
        sentences.append(f"and {len(single) - _MAX_NAMED} more columns")
    hit: dict[str, list[int]] = {}
    for column, those in single.items():
        hit.setdefault(_remedy(those, kinds[column], laws[column]), []).append(column)
    advice = [f"{remedy} ({_list(columns, names)})" for remedy, columns in hit.items()]
    pairs = [f for f in failed if len(f.columns) == 2]
    if pairs:
        sentences.append(_correlations(pairs, names))
        sound = [f for f in pairs if not single.keys() & set(f.columns)]  # a wrong column spoils its correlations
        advice += [_advice_on_pairs(sound, names)] if sound else []
    sentences += [f"{f.statistic}: {_direction(f)}" for f in failed if not f.columns]
    if two_sample is not None:
        sentences.append(f"a classifier tells the rows from the model's with AUC {two_sample.auc:.2f}")
        if not failed:
            advice.append(
                "how columns depend on each other beyond pairs: a larger latent_dim, a wider network or a richer prior"
            )
    return "the model does not fit. " + "; ".join(sentences) + (". Try: " + "; ".join(advice) if advice else "") + "."


_ADVICE = {
    "level": "training for longer, or inputs on one scale: the model is off where these columns lie",
    "spread": "a likelihood with a scale of its own a column, and training for longer",
    "shape": "a likelihood of another shape: a log scale for skewed columns, counts or categories where they are such",
}
_OTHERS = {  # what is wrong, and whether the model spreads too far: what may do better, and what if none is left
    ("tails", False): ("a likelihood with heavier tails", ("StudentT", "Laplace"), "with a smaller df"),
    ("tails", True): ("a likelihood with lighter tails", ("Gaussian", "Gamma"), "with one learned scale a column"),
    ("counts", False): ("counts with more spread", ("NegativeBinomial", "OrderedLogistic"), "with more training"),
    ("counts", True): ("counts with less spread", ("DiscretisedLogistic", "Poisson"), "with more training"),
    ("zeros", False): (
        "a likelihood with zeros of their own",
        ("a zero-inflated or another discrete one of counts", "HurdleGamma or HurdleLogNormal of other numbers"),
        "",
    ),
}
_HEAVIEST, _OWN_ZEROS = "StudentT", ("ZeroInflated", "Hurdle")
_FREE = ("Categorical", "OneHotCategorical", "Bernoulli")  # which can be any law of their values


def _remedy(failed: list[Finding], column: str, law: str) -> str:
    """What to try for a column of that kind that has that law."""
    kind = _kind(failed, column)
    if law.startswith(_FREE) or (kind == "zeros" and law.startswith(_OWN_ZEROS)):
        return _ADVICE["level"]
    if law == "Hurdle" and kind != "level":
        return "HurdleGamma (lighter tails) or HurdleLogNormal (heavier), whichever it has not, and training for longer"
    wide = kind != "zeros" and _spreads_too_far(failed)
    if (kind, wide) not in _OTHERS:
        return _ADVICE[kind]
    what, names, otherwise = _OTHERS[kind, wide]
    present = {"Normal": "Gaussian"}.get(law, law)
    others = [name for name in names if not present.startswith(name)]
    if not wide and present == _HEAVIEST:  # none has heavier ones
        others = []
    return f"{what}, such as {' or '.join(others)}" if others else f"{what}, {otherwise}"


def _spreads_too_far(failed: list[Finding]) -> bool:
    """Whether the statistic of spread that is most off is too large in the model."""
    spread = [f for f in failed if f.statistic in {"standard deviation", "maximum", "minimum"}]
    if not spread:
        return False
    worst = max(spread, key=lambda f: f.size)
    return worst.middle < worst.observed if worst.statistic == "minimum" else worst.middle > worst.observed


def _by_column(failed: list[Finding]) -> dict[int, list[Finding]]:
    found: dict[int, list[Finding]] = {}
    for f in failed:
        found.setdefault(f.columns[0], []).append(f)
    return found


def _kind(failed: list[Finding], column: str) -> str:
    """What is wrong with a column of that kind, from which of its statistics failed."""
    names = {f.statistic for f in failed}
    if column == "binary":  # one number says all
        return "level"
    if "share of zeros" in names:
        return "zeros"
    if "mean" in names and "50 % quantile" in names:
        return "level"
    if column == "discrete":
        return "counts"
    quantiles = {name for name in names if name.endswith("quantile")}
    beyond = any(
        (f.statistic == "maximum" and f.observed > f.middle) or (f.statistic == "minimum" and f.observed < f.middle)
        for f in failed
    )
    if beyond or "standard deviation" in names:
        return "spread" if quantiles and not beyond and "mean" not in names else "tails"
    return "shape"


def _describe(failed: list[Finding]) -> str:
    """The two or three plainest things that are wrong with one column."""
    order = ("share of zeros", "mean", "standard deviation", "50 % quantile")
    plain = sorted(
        (f for f in failed if f.statistic != "PIT"),
        key=lambda f: (order.index(f.statistic) if f.statistic in order else len(order), -f.size),
    )
    if not plain:
        return "its distribution as a whole (PIT) is not the model's"
    return ", ".join(f"{f.statistic} {_direction(f)}" for f in plain[:3])


def _direction(f: Finding) -> str:
    way = "too low" if f.middle < f.observed else "too high"
    return f"{way} in the model ({f.low:.3g} to {f.high:.3g}; the data have {f.observed:.3g})"


def _list(columns: list[int], names: tuple[str, ...]) -> str:
    more = f" and {len(columns) - _MAX_NAMED} more" if len(columns) > _MAX_NAMED else ""
    return ", ".join(names[c] for c in columns[:_MAX_NAMED]) + more


def _correlations(pairs: list[Finding], names: tuple[str, ...]) -> str:
    shown = ", ".join(f"{f.where(names)} ({f.observed:.2f}, model {f.middle:.2f})" for f in pairs[:_MAX_NAMED])
    return f"{len(pairs)} rank correlation{'s' * (len(pairs) > 1)} not the model's: {shown}"


def _advice_on_pairs(pairs: list[Finding], names: tuple[str, ...]) -> str:
    """Too weak asks for more latents; none in the data where the model has some, in one column, for a look at it."""
    lost = [f for f in pairs if abs(f.observed) < 0.5 * abs(f.middle)]
    for column in {c for f in lost for c in f.columns}:
        if len(lost) > 1 and all(column in f.columns for f in lost) and 2 * len(lost) >= len(pairs):
            return f"a look at {names[column]!r}: tied to others by the model, not by the data (rows out of order?)"
    weak = sum(abs(f.observed) > abs(f.middle) for f in pairs)
    if 2 * weak >= len(pairs):
        return "a larger latent_dim, a wider network, or training for longer: the model's correlations are too weak"
    return "training for longer, more training data, or a smaller network: the model's correlations are too strong"


def against_baselines(found: Evidence, baselines: Baselines) -> str:
    """Return better or worse than which, by how many nats a row, with the paired standard error."""
    parts: dict[str, list[str]] = {"better than": [], "not told apart from": [], "worse than": []}
    for name, value in sorted(baselines.log_prob.items(), key=lambda item: -float(item[1].mean())):
        away = found.log_evidence.double().cpu() - value
        mean, error = float(away.mean()), float(away.std() / len(away) ** 0.5) if len(away) > 1 else float("inf")
        unsure = [found.standard_error.double().cpu(), baselines.estimate_error.get(name, torch.zeros(1))]
        square = sum(float(part[part.isfinite()].square().sum()) for part in unsure)  # where it is not, a note says so
        apart = told_apart(mean, error, len(away), estimate_error=square**0.5 / len(away))
        key = "not told apart from" if not apart else "better than" if mean > 0 else "worse than"
        parts[key].append(f"{name} ({mean:+.3f}{f' ± {error:.3f}' if len(away) > 1 else ', one row'})")
    said = "; ".join(f"{key} {', '.join(names)}" for key, names in parts.items() if names)
    mean = float(found.log_evidence.double().mean())
    return f"held-out log p(x) {mean:.3f} nats a row: {said} (difference in nats a row ± paired standard error)"
