"""A likelihood for tables whose columns are of different kinds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_vae.checks import say
from pyro_vae.likelihoods.base import Likelihood

__all__ = ["Mixed", "SideBySide"]


class SideBySide(dist.TorchDistribution):
    r"""Independent vectors side by side, :math:`\log p(x) = \sum_i \log p_i(x_i)` with x = (x_1, x_2, ...).

    Args:
        parts: distributions with equal ``batch_shape`` and one event dimension each.

    Example:
        >>> normal = dist.Normal(torch.zeros(3), 1.0).to_event(1)
        >>> SideBySide([normal, dist.Bernoulli(logits=torch.zeros(2)).to_event(1)]).event_shape
        torch.Size([5])
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012  torch's own convention

    def __init__(self, parts: Sequence[dist.TorchDistribution]) -> None:
        batch = torch.broadcast_shapes(*(part.batch_shape for part in parts))
        self.parts = [part.expand(batch) for part in parts]
        self.widths = [part.event_shape[0] for part in parts]
        super().__init__(batch, torch.Size([sum(self.widths)]))

    @property
    def support(self) -> constraints.Constraint:
        """The parts' supports side by side."""
        return constraints.cat([part.support for part in self.parts], -1, self.widths)

    def expand(self, batch_shape: Any, _instance: Any = None) -> SideBySide:
        """Return the same distribution with a larger ``batch_shape``."""
        return SideBySide([part.expand(torch.Size(batch_shape)) for part in self.parts])

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the sum of the parts' log densities, ``(...)``."""
        pieces = value.split(self.widths, -1)
        return torch.stack([part.log_prob(piece) for part, piece in zip(self.parts, pieces, strict=True)]).sum(0)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw every part."""
        draws = [part.sample(torch.Size(sample_shape)) for part in self.parts]
        dtype = next((draw.dtype for draw in draws if draw.is_floating_point()), torch.get_default_dtype())
        return torch.cat([draw.to(dtype) for draw in draws], -1)

    @property
    def mean(self) -> Tensor:
        """The parts' means side by side."""
        return torch.cat([part.mean for part in self.parts], -1)

    @property
    def variance(self) -> Tensor:
        """The parts' variances side by side."""
        return torch.cat([part.variance for part in self.parts], -1)


class Mixed(Likelihood):
    """Columns of different kinds: each part is a likelihood of its own columns, side by side in the order given.

    To share a trunk, build every part's network on the same module.

    Args:
        parts: likelihoods whose data are vectors.

    Raises:
        TypeError: if a part is no Likelihood.
        ValueError: if there is none.

    Example:
        >>> from pyro_vae.likelihoods import Bernoulli, Gaussian
        >>> trunk = nn.Linear(2, 8)
        >>> real = Gaussian(nn.Sequential(trunk, nn.Linear(8, 3)), scale=0.5)
        >>> binary = Bernoulli(nn.Sequential(trunk, nn.Linear(8, 2)))
        >>> Mixed([real, binary])(torch.zeros(7, 2)).event_shape
        torch.Size([5])
    """

    def __init__(self, parts: Sequence[Likelihood]) -> None:
        super().__init__()
        if not parts:
            raise ValueError(say("at least one part", "none", "[Gaussian(...), Bernoulli(...)]"))
        for part in parts:
            if not isinstance(part, Likelihood):
                raise TypeError(say("parts that are Likelihoods", type(part).__name__, "likelihoods.Gaussian(network)"))
        self.parts = nn.ModuleList(parts)

    def forward(self, z: Tensor) -> dist.TorchDistribution:
        """Return the distribution of x given z."""
        return SideBySide([part(z) for part in self.parts])
