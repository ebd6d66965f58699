"""A distribution over data whose missing entries are NaN."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_vae.checks import say
from pyro_vae.likelihoods.mixed import SideBySide

__all__ = ["ObservedEntries"]


class ObservedEntries(dist.TorchDistribution):
    r"""The law of the entries that are not NaN, :math:`\log p(x_{obs}) = \sum_{d: x_d \ne NaN} \log p(x_d)`.

    Independent entries only: then the others need no integral. A datum with every entry missing has log density 0.
    Draws are complete.

    Args:
        base_dist: a distribution whose event is one of independent entries.

    Raises:
        ValueError: if the entries are not independent.

    Source:
        Rubin 1976: ignoring what is missing is right if entries are missing at random.

    Example:
        >>> p = ObservedEntries(dist.Normal(torch.zeros(2), 1.0).to_event(1))
        >>> p.log_prob(torch.tensor([0.0, torch.nan]))
        tensor(-0.9189)
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012  torch's own convention

    def __init__(self, base_dist: dist.TorchDistribution) -> None:
        self.base_dist = base_dist
        self._filler = _inside(base_dist)
        super().__init__(base_dist.batch_shape, base_dist.event_shape, validate_args=False)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """As the base has it."""
        return bool(self.base_dist.has_rsample)

    @property
    def support(self) -> constraints.Constraint:
        """The base's support, with NaN."""
        return _WithNaN(self.base_dist.support, self._filler)

    def expand(self, batch_shape: Any, _instance: Any = None) -> ObservedEntries:
        """Return the same law with a larger ``batch_shape``."""
        return ObservedEntries(self.base_dist.expand(torch.Size(batch_shape)))

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density of the observed entries, ``(...)``, in nats."""
        missing = value.isnan()
        entries = _entries(self.base_dist, torch.where(missing, self._filler.to(value), value))
        missing = missing.expand(entries.shape)
        return torch.where(missing, 0.0, entries).flatten(-len(self.event_shape)).sum(-1)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw complete data."""
        return self.base_dist.sample(torch.Size(sample_shape))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draw complete data with gradients."""
        return self.base_dist.rsample(torch.Size(sample_shape))

    @property
    def mean(self) -> Tensor:
        """The base's mean."""
        return self.base_dist.mean

    @property
    def variance(self) -> Tensor:
        """The base's variance."""
        return self.base_dist.variance


class _WithNaN(constraints.Constraint):
    """A support in which NaN stands for any entry; ``filler`` is a value of it."""

    def __init__(self, base_constraint: Any, filler: Tensor) -> None:
        self.base_constraint = base_constraint
        self.filler = filler
        super().__init__()

    @property
    def is_discrete(self) -> bool:  # type: ignore[override]
        return bool(self.base_constraint.is_discrete)

    @property
    def event_dim(self) -> int:  # type: ignore[override]
        return int(self.base_constraint.event_dim)

    def check(self, value: Tensor) -> Tensor:
        return self.base_constraint.check(torch.where(value.isnan(), self.filler.to(value), value))


def _entries(fn: Any, value: Tensor) -> Tensor:
    """The log density of every entry by itself, of the shape of the value."""
    if isinstance(fn, SideBySide):
        pieces = zip(fn.parts, value.split(fn.widths, -1), strict=True)
        return torch.cat([_entries(part, piece) for part, piece in pieces], -1)
    return fn.base_dist.log_prob(value)


def _inside(fn: Any) -> Tensor:
    """A value of one datum's shape inside the support, to stand where an entry is missing."""
    if isinstance(fn, SideBySide):
        return torch.cat([_inside(part) for part in fn.parts], -1)
    independent = isinstance(fn, torch.distributions.Independent)
    if not independent or fn.base_dist.event_shape or fn.reinterpreted_batch_ndims != len(fn.event_shape):
        got = type(fn).__name__
        remedy = "a likelihood that ends in .to_event(...), or imputing the entries"
        raise ValueError(say("a likelihood of independent entries, where some are missing", got, remedy))
    return _value_of(fn.base_dist.support).expand(fn.event_shape)


def _value_of(support: Any) -> Tensor:
    """A value that a support holds; of one with bounds without a look at their values, so that steps can be traced."""
    low: Any = getattr(support, "lower_bound", None)
    high: Any = getattr(support, "upper_bound", None)
    if low is not None and (high is None or support.is_discrete):
        return torch.as_tensor(low if support.is_discrete else low + 1)
    if high is not None:
        return torch.as_tensor(high if support.is_discrete else high - 1 if low is None else (low + high) / 2)
    for value in (0.0, 0.5, 1.0):
        if bool(support.check(filler := torch.tensor(value)).all()):
            return filler
    raise ValueError(say("a support that holds 0, 1/2 or 1", f"{support}", "shifting the data"))
