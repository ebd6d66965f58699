"""How far a posterior is from the truth, by named site, and whether the verdict on it was right."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pyro_vae.atlas.truth import Truth
from pyro_vae.evaluation.posterior.verdict import (
    DO_NOT_TRUST,
    MAX_MEAN_SHIFT,
    MAX_STD_RATIO,
    REWEIGHT,
    TRUST,
    UNDECIDED,
)
from pyro_vae.inference.target.target import Target

__all__ = [
    "DISTRUSTS_RIGHT",
    "RIGHT",
    "TRUSTS_WRONG",
    "Errors",
    "energy_distance",
    "errors",
    "judged",
    "limit",
    "to_sites",
]

RIGHT = "right"
TRUSTS_WRONG = "trusts a wrong one"
DISTRUSTS_RIGHT = "distrusts a right one"

_NORMAL_WIDTH = 2 * 1.6448536269514722  # standard deviations of a Gaussian from its 5 % to its 95 % quantile


@dataclass(frozen=True)
class Errors:
    """How far means, standard deviations and quantiles are from the truth, in posterior standard deviations.

    Where a site has no standard deviation (a tail too heavy for one) its unit is the distance of the 5 % and 95 %
    quantiles over 3.29, which is the standard deviation of a Gaussian, and its mean and ratio are left out.

    Attributes:
        by_site: by site the largest error over its numbers: ``mean``, ``std_ratio`` (the one furthest from 1), ``low``
            and ``high`` (of the 5 % and 95 % quantiles).
        mean: the largest over all sites.
        std_ratio: the one furthest from 1.
        quantile: the largest of the quantiles' errors.
        wrong: whether the mean is off by more than ``max_mean_shift``, or a standard deviation by more than a factor
            ``max_std_ratio``, by more than three standard errors of truth and estimate.
    """

    by_site: dict[str, dict[str, float]] = field(default_factory=dict)
    mean: float = math.nan
    std_ratio: float = math.nan
    quantile: float = math.nan
    wrong: bool = False


def errors(
    truth: Truth,
    mean: dict[str, Tensor],
    std: dict[str, Tensor],
    *,
    low: dict[str, Tensor] | None = None,
    high: dict[str, Tensor] | None = None,
    noise: float = 0.0,
    max_mean_shift: float = MAX_MEAN_SHIFT,
    max_std_ratio: float = MAX_STD_RATIO,
) -> Errors:
    """Compare a posterior's moments and quantiles with the truth's, by site.

    Args:
        truth: what is known.
        mean: by site, of the site's shape; likewise the others.
        std: standard deviations.
        low: 5 % quantiles, where they are known.
        high: 95 % quantiles.
        noise: standard error of the estimated means, in posterior standard deviations.
        max_mean_shift: beyond it a posterior is wrong; the default is that of :func:`pyro_vae.verdict`.
        max_std_ratio: likewise.
    """
    by_site, wrong = {}, False
    for name, centre in truth.mean.items():
        spread = (truth.high[name] - truth.low[name]) / _NORMAL_WIDTH
        exists = truth.std[name].isfinite() & (truth.std[name] > 0)
        unit = torch.where(exists, truth.std[name], spread)
        off = ((mean[name] - centre).abs() / unit)[exists]
        ratio = (std[name] / unit)[exists]
        sure = 3 * (noise + (truth.mean_error[name] / unit)[exists])
        factor = torch.maximum(ratio, 1 / ratio)
        wrong |= not bool(((off <= max_mean_shift + sure) & (factor <= max_std_ratio * (1 + sure))).all())
        found = {"mean": _largest(off), "std_ratio": _furthest(ratio)} if bool(exists.any()) else {}
        if low is not None and high is not None:
            found["low"] = _largest((low[name] - truth.low[name]).abs() / unit)
            found["high"] = _largest((high[name] - truth.high[name]).abs() / unit)
        by_site[name] = found
    ratios, shifts, tails = (
        torch.tensor([found[name] for found in by_site.values() for name in names if name in found])
        for names in (("std_ratio",), ("mean",), ("low", "high"))
    )
    return Errors(by_site, _largest(shifts), _furthest(ratios), _largest(tails), wrong)


def limit(found: Errors, *, max_mean_shift: float = MAX_MEAN_SHIFT, max_std_ratio: float = MAX_STD_RATIO) -> float:
    """The larger of the errors of means and of standard deviations, in units of the limits: above 1 it is too large.

    Example:
        >>> limit(Errors(mean=0.5, std_ratio=1.0))
        2.0
    """
    spread = abs(math.log(found.std_ratio)) / math.log(max_std_ratio) if found.std_ratio > 0 else math.inf
    if math.isnan(found.mean):
        return spread if not math.isnan(found.std_ratio) else math.nan
    return max(found.mean / max_mean_shift, spread)


def _largest(values: Tensor) -> float:
    """The largest of some errors; NaN is the largest of all, and of none there is none."""
    return float(values.max()) if values.numel() else math.nan


def _furthest(ratios: Tensor) -> float:
    if not ratios.numel():
        return math.nan
    flat = ratios.flatten()
    return float(flat[flat.log().abs().argmax()])


def energy_distance(x: Tensor, y: Tensor, *, num_permutations: int = 200) -> tuple[float, float]:
    r"""Energy distance of two samples, and what it is without any difference.

    .. math:: D^2 = \frac{1}{\sqrt M} \big( 2 E\|X - Y\| - E\|X - X'\| - E\|Y - Y'\| \big),

    the unbiased estimate, whose root is returned (0 where it is negative). The floor is the 95 % quantile over random
    relabellings of both samples: below it nothing can be said.

    Source: Szekely & Rizzo 2013, "Energy statistics: a class of statistics based on distances", equation 2.

    Args:
        x: draws ``(n, M)``.
        y: draws ``(m, M)``.
        num_permutations: relabellings behind the floor.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> distance, floor = energy_distance(torch.randn(500, 2), 2.0 + torch.randn(500, 2))
        >>> distance > 5 * floor
        True
    """
    both = torch.cat([x, y]).double()
    pair = torch.cdist(both, both) / math.sqrt(both.shape[1])
    labels = torch.zeros(len(both), dtype=torch.float64)
    labels[: len(x)] = 1.0
    shuffled = torch.stack([labels, *(labels[torch.randperm(len(both))] for _ in range(num_permutations))], -1)
    first, second = pair @ shuffled, pair @ (1 - shuffled)
    n, m = len(x), len(y)
    across = (shuffled * second).sum(0) / (n * m)
    within = (shuffled * first).sum(0) / (n * (n - 1)), ((1 - shuffled) * second).sum(0) / (m * (m - 1))
    squared = (2 * across - within[0] - within[1]).clamp_min(0).sqrt()
    return float(squared[0]), float(squared[1:].quantile(0.95))


def judged(decision: str, *, wrong: bool, reweighted_wrong: bool) -> str:
    """Say whether a verdict was right, against the truth.

    Args:
        decision: the verdict.
        wrong: whether the posterior itself is wrong.
        reweighted_wrong: whether it is so after re-weighting.

    Example:
        >>> judged("trust", wrong=True, reweighted_wrong=False)
        'trusts a wrong one'
        >>> judged("do not trust", wrong=True, reweighted_wrong=True)
        'right'
    """
    if decision == UNDECIDED:
        return UNDECIDED
    trusted = {TRUST: wrong, REWEIGHT: reweighted_wrong}
    if decision in trusted:
        return TRUSTS_WRONG if trusted[decision] else RIGHT
    return RIGHT if decision == DO_NOT_TRUST and wrong else DISTRUSTS_RIGHT


def to_sites(target: Target, flat: Tensor) -> dict[str, Tensor]:
    """Numbers of the named sites side by side ``(M,)``, in the program's order, as sites with their shapes."""
    shapes = _shapes(target)
    parts = flat.split([shape.numel() for shape in shapes.values()])
    return {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


def _shapes(target: Target) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in target.constrain(target.origin).items()}
