"""Supports of sites: whether data lie in them, and the way from the unconstrained scale to them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Transform, biject_to, constraints, transforms
from torch.nn.functional import logsigmoid

from pyro_vae.checks import say

__all__ = [
    "bijection",
    "check_shape",
    "check_support",
    "in_words",
    "is_bounded",
    "is_real",
    "layers",
    "same_support",
    "underlying",
]


def check_shape(name: str, site: dict[str, Any]) -> None:
    """Check that an observed site's value fits its distribution's shape: outside plates as torch broadcasts them.

    Raises:
        ValueError: if it does not.
    """
    fn, value = site["fn"], site["value"]
    if not isinstance(value, Tensor) or not value.dim() or isinstance(underlying(fn), dist.Unit):
        return
    event = tuple(fn.event_shape)
    if tuple(value.shape[value.dim() - len(event) :]) != event:
        expected = f"data of event shape {event} at site {name!r}, as the likelihood gives"
        raise ValueError(say(expected, f"{tuple(value.shape)}", "x.reshape, or a network of another size"))
    rows = value.shape[: value.dim() - len(event)]
    if any(frame.vectorized for frame in site["cond_indep_stack"]):
        fits = not fn.batch_shape or len(rows) == len(fn.batch_shape)
    else:
        ends = zip(reversed(rows), reversed(fn.batch_shape), strict=False)
        fits = all(a == b or 1 in {a, b} for a, b in ends)
    if not fits:
        expected = f"data of shape {tuple(fn.shape())} at site {name!r}, one row a datum"
        raise ValueError(say(expected, f"{tuple(value.shape)}", "x[None] for a single datum, or x.reshape"))


def check_support(name: str, site: dict[str, Any]) -> None:
    """Check that an observed site's value lies in its distribution's support.

    Raises:
        ValueError: if it does not; the first offending row is named.
    """
    fn, value = site["fn"], site["value"]
    support = getattr(fn, "support", None)
    if support is None or not isinstance(value, Tensor):
        return
    if hasattr(fn, "parts") and hasattr(fn, "widths"):  # columns of different kinds: each answers for its own
        ends = itertools.accumulate(fn.widths)
        for part, width, end in zip(fn.parts, fn.widths, ends, strict=True):
            columns = value[..., end - width : end]
            check_support(f"{name}[..., {end - width}:{end}]", {**site, "fn": part, "value": columns})
        return
    good = support.check(value)
    if (beyond := len(fn.event_shape) - support.event_dim) > 0:  # of pyro.factor: an event that the support calls real
        good = good.flatten(-beyond).all(-1)
    if isinstance(site["mask"], Tensor):
        good = good | ~site["mask"]
    if bool(good.all()):
        return
    rows = (~good).reshape(good.shape[0] if good.dim() else 1, -1).any(-1).nonzero().flatten()
    seen = value[~value.isnan()]
    family = type(underlying(fn)).__name__.lstrip("_")
    low, high = float(seen.min()), float(seen.max())
    raise ValueError(
        say(
            f"values at site {name!r} in the support of {family}, {in_words(support)}",
            f"values from {low:g} to {high:g} (first outside: row {int(rows[0])})",
            _remedy(_bare(support), low, high),
        )
    )


def layers(fn: Any) -> Iterator[Any]:
    """A distribution, and what is under it where it only reshapes, expands or masks; a transformed one is another."""
    other = torch.distributions.TransformedDistribution | dist.FoldedDistribution | dist.ZeroInflatedDistribution
    yield fn
    while hasattr(fn, "base_dist") and not isinstance(fn, other):
        fn = fn.base_dist
        yield fn


def underlying(fn: Any) -> Any:
    """The distribution under what reshapes, expands or masks it."""
    return list(layers(fn))[-1]


def _bare(support: Any) -> Any:
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support


def in_words(support: Any) -> str:
    """Say in words which values a support holds.

    Example:
        >>> in_words(constraints.independent(constraints.unit_interval, 1)), in_words(constraints.nonnegative_integer)
        ('the interval from 0 to 1', 'whole numbers from 0 on')
    """
    support = _bare(support)
    low, high = (_number(getattr(support, f"{end}_bound", None)) for end in ("lower", "upper"))
    forms = {
        constraints.boolean: "{0, 1}",
        constraints.real: "all real numbers",
        constraints.real_vector: "all real numbers",
        constraints.nonnegative_integer: f"whole numbers from {low} on",
        constraints.positive: f"numbers above {low}",
        constraints.nonnegative: f"numbers from {low} on",
        constraints.unit_interval: f"the interval from {low} to {high}",
        constraints.integer_interval(0, 1): f"whole numbers from {low} to {high}",
    }
    return next((words for form, words in forms.items() if type(form) is type(support)), str(support))


def _number(bound: Any) -> str:
    if not isinstance(bound, Tensor):
        return str(bound) if bound is None else f"{bound:g}"
    low, high = float(bound.min()), float(bound.max())
    return f"{low:g}" if low == high else f"({low:g} to {high:g}, by dimension)"


def _remedy(support: Any, low: float, high: float) -> str:
    """What would mend data from low to high; the first of the remedies whose case it is."""
    inside = low >= 0 and high <= 1
    binary, counts, levels = (isinstance(support, type(form)) for form in _DISCRETE)
    top = getattr(support, "upper_bound", None)
    cases = [
        (binary and inside, "(x > 0.5).float(), or fit(..., dynamic_binarisation=True) for probabilities"),
        (binary, f"(x > {(low + high) / 2:g}).float(), or a likelihood for counts or real values"),
        (counts and low >= 0, "x.round() for counts, or a likelihood for real values, such as Gaussian"),
        (counts, "a likelihood for real values, such as Gaussian: no count is negative"),
        (levels and inside, f"({top} * x).round() for intensities, or likelihoods.ContinuousBernoulli"),
        (levels and low >= 0 and high <= (top or 0), "x.round()"),
        (levels, f"numbering them from 0, and room for {high - min(low, 0) + 1:g} of them"),
        (inside, "likelihoods.ContinuousBernoulli, or x.clamp(1e-3, 1 - 1e-3)"),
    ]
    return next((remedy for case, remedy in cases if case), "another likelihood, or transforming the data")


_DISCRETE = constraints.boolean, constraints.nonnegative_integer, constraints.integer_interval(0, 1)


def bijection(support: Any) -> Transform:
    """The transform from real numbers to a support: torch's, but for a mixture, which it has none of, and a simplex."""
    if isinstance(support, constraints.independent):
        return transforms.IndependentTransform(bijection(support.base_constraint), support.reinterpreted_batch_ndims)
    if hasattr(support, "base_constraint"):  # a mixture's
        return bijection(support.base_constraint)
    return StickBreaking() if support is constraints.simplex else biject_to(support)


class StickBreaking(transforms.StickBreakingTransform):
    r"""Torch's transform to the simplex of K numbers, with a log determinant that falls off in the tails as it must.

    Torch reads :math:`\log y_k` off y, whose rounding keeps it from falling below some number: from there on the
    density over u is flat and has no integral, and a chain that comes there never returns. With
    :math:`z_k = \sigma(v_k)` the share that is broken off the stick, it is

    .. math:: \log |\det J| = \sum_{k=1}^{K-1} \log \sigma(v_k) + (K - k) \log \sigma(-v_k),
        \qquad v_k = u_k - \log (K - k) .
    """

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Return it from x alone, ``(..., K - 1)`` to ``(...)``."""
        left = x.shape[-1] + 1 - x.new_ones(x.shape[-1]).cumsum(-1)
        shifted = x - left.log()
        log_det: Tensor = (logsigmoid(shifted) + left * logsigmoid(-shifted)).sum(-1)
        return log_det


def is_real(support: Any) -> bool:
    """Say whether a support is all real numbers, of any event shape."""
    return _bare(support) is constraints.real


def is_bounded(support: Any) -> bool:
    """Say whether a support is known to have a finite volume.

    Example:
        >>> is_bounded(constraints.interval(0.0, 3.0)), is_bounded(constraints.positive)
        (True, False)
    """
    support = _bare(support)
    ends = hasattr(support, "lower_bound") and hasattr(support, "upper_bound")
    return ends or support in {constraints.simplex, constraints.corr_cholesky, constraints.boolean}


def same_support(a: Any, b: Any) -> bool:
    """Whether two supports are the same set, so that one transform serves every run."""
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor):
        return a.shape == b.shape and bool((a == b).all())
    if isinstance(a, constraints.Constraint):
        one, two = vars(a), vars(b)
        return one.keys() == two.keys() and all(same_support(one[key], two[key]) for key in one)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(itertools.starmap(same_support, zip(a, b, strict=True)))
    return bool(a == b)
