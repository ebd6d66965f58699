"""Supports of sites: whether data lie in them, and the way from the unconstrained scale to them."""

from __future__ import annotations

import itertools
from typing import Any

from torch import Tensor
from torch.distributions import Transform, biject_to, constraints

from pyro_vae.checks import say

__all__ = ["bijection", "check_support", "is_real", "same_support"]


def check_support(name: str, site: dict[str, Any]) -> None:
    """Check that an observed site's value fits its distribution's shape and support.

    Raises:
        ValueError: if it does not; the first offending row is named.
    """
    fn, value = site["fn"], site["value"]
    support = getattr(fn, "support", None)
    if support is None or not isinstance(value, Tensor):
        return
    event_dim = len(fn.event_shape)
    if value.dim() and tuple(value.shape[value.dim() - event_dim :]) != tuple(fn.event_shape):
        raise ValueError(
            say(
                f"data of event shape {tuple(fn.event_shape)} at site {name!r}, as the likelihood gives",
                f"{tuple(value.shape)}",
                "x.reshape, or a network of another size",
            )
        )
    if fn.batch_shape and value.dim() and value.dim() != len(fn.shape()):
        expected = f"data of shape {tuple(fn.shape())} at site {name!r}, one row a datum"
        raise ValueError(say(expected, f"{tuple(value.shape)}", "x[None] for a single datum, or x.reshape"))
    good = support.check(value)
    if isinstance(site["mask"], Tensor):
        good = good | ~site["mask"]
    if bool(good.all()):
        return
    rows = (~good).reshape(good.shape[0] if good.dim() else 1, -1).any(-1).nonzero().flatten()
    low, high = float(value.min()), float(value.max())
    raise ValueError(
        say(
            f"values at site {name!r} in the support of {_base_name(fn)}, {_support_name(support)}",
            f"values from {low:g} to {high:g} (first outside: row {int(rows[0])})",
            _support_remedy(_base_name(fn), low, high),
        )
    )


def _base_name(fn: Any) -> str:
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return type(fn).__name__


def _support_name(support: Any) -> str:
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return "{0, 1}" if isinstance(support, type(constraints.boolean)) else str(support)


def _support_remedy(family: str, low: float, high: float) -> str:
    if family != "Bernoulli":
        return "another likelihood, or transforming the data"
    if low >= 0 and high <= 1:
        return "(x > 0.5).float(), or fit(..., dynamic_binarisation=True) for probabilities"
    return f"(x > {(low + high) / 2:g}).float(), or a likelihood for counts or real values"


def bijection(support: Any) -> Transform:
    """The transform from real numbers to a support; torch registers none for that of a mixture."""
    if type(support).__name__ == "MixtureSameFamilyConstraint":  # older torch gives the components' own support
        support = support.base_constraint
    return biject_to(support)


def is_real(support: Any) -> bool:
    """Say whether a support is all real numbers, of any event shape."""
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support is constraints.real


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
