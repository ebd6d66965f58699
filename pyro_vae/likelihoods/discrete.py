"""Likelihoods of categories and of ordered levels: categorical, ordered logistic, discretised logistic."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.distributions.utils import lazy_property
from torch.nn.functional import logsigmoid, softplus

from pyro_vae.checks import positive_integer, positive_number, say
from pyro_vae.likelihoods.base import Likelihood, split_last
from pyro_vae.scales import raw_scale, to_scale

__all__ = ["Categorical", "DiscretisedLogistic", "DiscretisedLogisticDistribution", "OrderedLogistic"]

_FARTHEST = 30.0  # of a cutpoint from 0: a probability of 1e-13
_LEAST_GAP = 1e-3  # between cutpoints


class Categorical(Likelihood):
    r"""Columns of categories 0 to K - 1, :math:`p(x|z) = \prod_d \mathrm{softmax}(f_d(z))_{x_d}`.

    Args:
        network: maps z ``(..., L)`` to logits ``(..., D K)``, the K of a column side by side.
        num_categories: K.

    Raises:
        TypeError: if ``num_categories`` is no whole number.
        ValueError: if it is below 2, or does not divide the network's last dimension.

    Example:
        >>> Categorical(nn.Linear(2, 12), num_categories=3)(torch.zeros(7, 2)).event_shape
        torch.Size([4])
    """

    def __init__(self, network: nn.Module, *, num_categories: int) -> None:
        super().__init__()
        self.network = network
        self.num_categories = positive_integer(num_categories, "num_categories", minimum=2)

    def forward(self, z: Tensor) -> dist.TorchDistribution:
        """Return the distribution of x given z."""
        out = self.network(z)
        K = self.num_categories
        if out.shape[-1] % K:
            got = f"a last dimension of {out.shape[-1]}"
            raise ValueError(say(f"a network that gives D * {K} logits", got, f"a last layer of D * {K}"))
        return dist.Categorical(logits=out.unflatten(-1, (-1, K))).to_event(1)


class OrderedLogistic(Likelihood):
    r"""Ordered levels 0 to K - 1 of any margins, :math:`P(x_d \le k|z) = \sigma(c_{dk} - f_d(z))`.

    The cutpoints :math:`c_{d0} < c_{d1} < ...` are a column's own, so that it may have any law; z moves all of its mass
    up or down. For ratings, numbers of rooms, or whatever takes a few values in an order. In logs without cancellation,
    as the discretised logistic, and so finite where ``pyro.distributions.OrderedLogistic`` is not.

    Args:
        network: maps z ``(..., L)`` to f ``(..., D)``.
        levels: K.
        data_dim: D.

    Raises:
        TypeError: if ``levels`` or ``data_dim`` is no whole number.
        ValueError: if ``levels`` is below 2, ``data_dim`` below 1, or the network's last dimension is not D.

    Source:
        McCullagh 1980, Regression models for ordinal data, equation 1.2 (proportional odds).

    Example:
        >>> OrderedLogistic(nn.Linear(2, 5), levels=4, data_dim=5)(torch.zeros(7, 2)).event_shape
        torch.Size([5])
    """

    def __init__(self, network: nn.Module, *, levels: int, data_dim: int) -> None:
        super().__init__()
        self.network = network
        K = positive_integer(levels, "levels", minimum=2)
        D = positive_integer(data_dim, "data_dim")
        self.first_cutpoint = nn.Parameter(torch.empty(D))
        self.raw_gaps = nn.Parameter(torch.empty(D, K - 2))
        self._start_at_shares(torch.full((D, K), 1 / K))

    @torch.no_grad()
    def start_at(self, x: Tensor) -> None:
        """Let the margins be the columns' own, ``(N, D)`` with NaN for missing, where the network gives 0.

        One row is spread over all levels, as in Perks 1947; those above a column's highest have no probability to
        speak of.
        """
        K = self.raw_gaps.shape[-1] + 2
        levels = torch.arange(K, dtype=x.dtype, device=x.device).unsqueeze(-1)
        count = torch.stack([(column == levels).sum(-1) for column in x.unbind(-1)]) + 1 / K
        count = count.masked_fill(levels.squeeze(-1) > x.nan_to_num(0.0).amax(0).unsqueeze(-1), 0.0)
        self._start_at_shares(count / count.sum(-1, keepdim=True))

    @torch.no_grad()
    def _start_at_shares(self, share: Tensor) -> None:
        """Let P(x_d = k) be ``(D, K)`` where the network gives 0."""
        below, above = share.cumsum(-1)[:, :-1], share.flip(-1).cumsum(-1).flip(-1)[:, 1:]
        cutpoints = (below.log() - above.log()).clamp(-_FARTHEST, _FARTHEST)
        self.first_cutpoint.copy_(cutpoints[:, 0])
        self.raw_gaps.copy_(raw_scale(cutpoints.diff().clamp_min(2 * _LEAST_GAP), floor=_LEAST_GAP))

    def forward(self, z: Tensor) -> dist.TorchDistribution:
        """Return the distribution of x given z."""
        f, D = self.network(z), len(self.first_cutpoint)
        if f.shape[-1] != D:
            raise ValueError(say(f"a network that gives {D} numbers", f"{f.shape[-1]}", f"a last layer of {D}"))
        gaps = to_scale(self.raw_gaps, floor=_LEAST_GAP)
        cutpoints = torch.cat([self.first_cutpoint.unsqueeze(-1), gaps], -1).cumsum(-1)
        between = torch.nn.functional.pad(torch.log(-torch.expm1(-gaps)), (1, 1))
        return OrderedLogisticDistribution(f, cutpoints, between).to_event(1)


class OrderedLogisticDistribution(dist.Categorical):
    r"""Levels 0 to K - 1 with :math:`P(x_d \le k) = \sigma(c_{dk} - f_d)`.

    A density looks at the level's own two cutpoints; all K logits are made when they are asked for.

    Args:
        f: ``(..., D)``.
        cutpoints: c, ``(D, K - 1)``, increasing in k.
        between: :math:`\log(1 - e^{c_{k - 1} - c_k})` for the levels between two cutpoints, 0 at the ends, ``(D, K)``.

    Example:
        >>> cutpoints = torch.tensor([[-1.0, 1.0]])
        >>> between = torch.tensor([[0.0, -0.1454, 0.0]])
        >>> OrderedLogisticDistribution(torch.zeros(7, 1), cutpoints, between).log_prob(torch.tensor([1])).shape
        torch.Size([7, 1])
    """

    def __init__(self, f: Tensor, cutpoints: Tensor, between: Tensor, validate_args: bool | None = None) -> None:
        self.f, self.cutpoints, self.between = f, cutpoints, between
        self._num_events = between.shape[-1]
        super(torch.distributions.Categorical, self).__init__(f.shape, validate_args=validate_args)

    @lazy_property
    def logits(self) -> Tensor:
        """Log P(x = k), ``(..., D, K)``."""
        away = self.cutpoints - self.f.unsqueeze(-1)
        below = torch.nn.functional.pad(logsigmoid(away), (0, 1))  # log P(x <= k)
        above = torch.nn.functional.pad(logsigmoid(-away), (1, 0))  # log P(x >= k)
        return below + above + self.between

    @lazy_property
    def probs(self) -> Tensor:
        """P(x = k), ``(..., D, K)``."""
        return self.logits.softmax(-1)

    @property
    def _param(self) -> Tensor:  # type: ignore[override]
        return self.logits

    def expand(self, batch_shape: Any, _instance: Any = None) -> OrderedLogisticDistribution:
        """Return the same distribution with a larger ``batch_shape``."""
        f = self.f.expand(torch.Size(batch_shape))
        return OrderedLogisticDistribution(f, self.cutpoints, self.between, validate_args=self._validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log P(x), in nats."""
        if self._validate_args:
            self._validate_sample(value)
        k, column = value.long(), torch.arange(len(self.between), device=value.device)
        last = self._num_events - 1
        upper = logsigmoid(self.cutpoints[column, k.clamp_max(last - 1)] - self.f)
        lower = logsigmoid(self.f - self.cutpoints[column, (k - 1).clamp_min(0)])
        ends = upper.new_zeros(())
        return torch.where(k < last, upper, ends) + torch.where(k > 0, lower, ends) + self.between[column, k]


class DiscretisedLogisticDistribution(dist.TorchDistribution):
    r"""A logistic variable rounded to 0, 1, ..., ``levels`` - 1, whose end levels take the tails.

    :math:`P(x) = F((x + \tfrac12 - m)/s) - F((x - \tfrac12 - m)/s)` with F the logistic sigmoid, computed in logs
    without cancellation: :math:`\log P = \log\sigma(b) + \log\sigma(-a) + \log(1 - e^{a - b})` for a < b.

    Args:
        loc: m, in levels.
        scale: s, in levels.
        levels: how many levels.

    Source:
        Salimans et al. 2017 (PixelCNN++), equation 2.

    Example:
        >>> d = DiscretisedLogisticDistribution(torch.tensor(1.0), torch.tensor(0.5), levels=4)
        >>> d.log_prob(torch.arange(4.0)).exp().sum()
        tensor(1.)
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}  # noqa: RUF012  torch's convention

    def __init__(self, loc: Tensor, scale: Tensor, *, levels: int = 256) -> None:
        self.loc, self.scale = torch.broadcast_tensors(loc, scale)
        self.levels = levels
        super().__init__(self.loc.shape)

    @property
    def support(self) -> constraints.Constraint:
        """The whole numbers 0 to levels - 1."""
        return constraints.integer_interval(0, self.levels - 1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> DiscretisedLogisticDistribution:
        """Return the same distribution with a larger ``batch_shape``."""
        shape = torch.Size(batch_shape)
        return DiscretisedLogisticDistribution(self.loc.expand(shape), self.scale.expand(shape), levels=self.levels)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log P(x), in nats."""
        if self._validate_args:
            self._validate_sample(value)
        value = value.to(self.loc)
        a, b = (value - 0.5 - self.loc) / self.scale, (value + 0.5 - self.loc) / self.scale
        inside = logsigmoid(b) + logsigmoid(-a) + torch.log(-torch.expm1(-1 / self.scale))
        return torch.where(value <= 0, logsigmoid(b), torch.where(value >= self.levels - 1, logsigmoid(-a), inside))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw levels, as numbers of the parameters' dtype."""
        with torch.no_grad():
            u = torch.rand(self._extended_shape(torch.Size(sample_shape)), dtype=self.loc.dtype, device=self.loc.device)
            tiny = torch.finfo(u.dtype).tiny
            x = self.loc + self.scale * (u.clamp_min(tiny).log() - (-u).log1p())
            return x.round().clamp(0, self.levels - 1)

    @property
    def mean(self) -> Tensor:
        """The mean, by summing over the levels."""
        return self._moment(1)

    @property
    def variance(self) -> Tensor:
        """The variance, by summing over the levels."""
        return self._moment(2) - self._moment(1) ** 2

    def _moment(self, power: int) -> Tensor:
        x = torch.arange(self.levels, dtype=self.loc.dtype, device=self.loc.device)
        x = x.reshape(-1, *[1] * self.loc.dim())
        return (self.log_prob(x.expand(self.levels, *self.loc.shape)).exp() * x**power).sum(0)


class DiscretisedLogistic(Likelihood):
    """Ordered levels such as the 256 of an image: a logistic variable rounded to whole numbers.

    The data are the levels 0 to ``levels`` - 1 as floats. The location is (levels - 1) sigmoid(raw), so that it
    starts in the middle; the scale is levels / 8 times softplus(raw), with ``min_scale`` levels as its floor.

    Args:
        network: maps z ``(..., L)`` to raw location and raw scale side by side, ``(..., 2 D)``.
        levels: how many levels.
        min_scale: the floor under the scale, in levels.

    Raises:
        TypeError: if ``levels`` is no whole number.
        ValueError: if it is below 2, ``min_scale`` negative, or the network's last dimension odd.

    Example:
        >>> DiscretisedLogistic(nn.Linear(2, 10))(torch.zeros(7, 2)).event_shape
        torch.Size([5])
    """

    def __init__(self, network: nn.Module, *, levels: int = 256, min_scale: float = 0.1) -> None:
        super().__init__()
        self.network = network
        self.levels = positive_integer(levels, "levels", minimum=2)
        self.min_scale = positive_number(min_scale, "min_scale", example=0.1, zero=True)

    def forward(self, z: Tensor) -> dist.TorchDistribution:
        """Return the distribution of x given z."""
        raw_loc, raw_scale = split_last(self.network(z), 2, "location and scale")
        loc = (self.levels - 1) * torch.sigmoid(raw_loc)
        scale = self.levels / 8 * softplus(raw_scale) + self.min_scale
        return DiscretisedLogisticDistribution(loc, scale, levels=self.levels).to_event(1)
