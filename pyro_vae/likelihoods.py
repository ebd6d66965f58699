"""Likelihoods p(x|z): torch modules whose call on z returns a Pyro distribution over x."""

from __future__ import annotations

import math

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyro_vae.checks import say

__all__ = ["Bernoulli", "Gaussian", "Likelihood"]


class Likelihood(nn.Module):
    """Base class of likelihoods p(x|z).

    To write one, subclass it and define ``forward(z)``, which takes z ``(..., L)`` and returns a Pyro distribution
    with ``batch_shape (...)`` and ``event_shape`` one datum's shape:

        >>> class Rate(Likelihood):
        ...     def __init__(self, network):
        ...         super().__init__()
        ...         self.network = network
        ...     def forward(self, z):
        ...         return dist.Exponential(self.network(z).exp()).to_event(1)
        >>> Rate(nn.Linear(2, 5))(torch.zeros(7, 2)).event_shape
        torch.Size([5])
    """

    def forward(self, z: Tensor) -> dist.TorchDistribution:
        """Return p(x|z), ``batch_shape (...)``, ``event_shape`` that of one datum."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(self, z) -> Distribution")


class Bernoulli(Likelihood):
    r"""Independent binary data, :math:`p(x|z) = \prod_d \pi_d(z)^{x_d} (1 - \pi_d(z))^{1 - x_d}`.

    Args:
        network: maps z ``(..., L)`` to logits ``(..., *D)``.
        event_dim: how many trailing dimensions one datum has.

    Example:
        >>> Bernoulli(nn.Linear(2, 64))(torch.zeros(7, 2)).batch_shape
        torch.Size([7])
    """

    def __init__(self, network: nn.Module, *, event_dim: int = 1) -> None:
        super().__init__()
        self.network = network
        self.event_dim = event_dim

    def forward(self, z: Tensor) -> dist.TorchDistribution:
        """Return the distribution of x given z."""
        return dist.Bernoulli(logits=self.network(z)).to_event(self.event_dim)


class Gaussian(Likelihood):
    r"""Independent real data, :math:`p(x|z) = \prod_d N(x_d; \mu_d(z), \sigma_d^2)`.

    Three kinds of sigma:

    - ``scale="network"``: the network gives mu and a raw sigma, side by side on its last dimension ``(..., 2 D)``, and
      sigma(z) = softplus(raw) + ``min_scale``;
    - ``scale="learned"``: one learned sigma a dimension; the network gives mu ``(..., D)``; needs ``data_dim``;
    - ``scale=<number or tensor>``: fixed.

    With a linear network and one of the last two this is the linear-Gaussian model (factor analysis; with one common
    sigma, probabilistic PCA). ``min_scale`` is a floor under a learnt sigma: without it the likelihood of a
    reproduced constant pixel is unbounded (Mattei & Frellsen 2018).

    Args:
        network: maps z to mu, or to mu and raw sigma.
        scale: see above.
        data_dim: D; needed by ``scale="learned"`` only.
        min_scale: the floor under a learnt sigma, in units of the data.

    Raises:
        ValueError: on an unknown ``scale``, one that is not positive, or a missing ``data_dim``.

    Example:
        >>> Gaussian(nn.Linear(2, 10), scale=0.5)(torch.zeros(7, 2)).event_shape
        torch.Size([10])
    """

    scale: Tensor

    def __init__(
        self,
        network: nn.Module,
        *,
        scale: str | float | Tensor = "network",
        data_dim: int | None = None,
        min_scale: float = 1e-3,
    ) -> None:
        super().__init__()
        self.network = network
        self.min_scale = float(min_scale)
        self.kind = scale if isinstance(scale, str) else "fixed"
        if scale == "learned":
            if data_dim is None:
                raise ValueError(say('data_dim with scale="learned"', "none", "data_dim=x.shape[-1]"))
            self.raw_scale = nn.Parameter(torch.full((data_dim,), math.log(math.expm1(1.0))))
        elif isinstance(scale, str):
            if scale != "network":
                raise ValueError(say('scale "network", "learned" or a number', repr(scale), "scale=1.0"))
        else:
            fixed = torch.as_tensor(scale, dtype=torch.get_default_dtype())
            if not bool((fixed > 0).all()) or not bool(torch.isfinite(fixed).all()):
                raise ValueError(say("a positive, finite scale", f"{scale}", "scale=1.0"))
            self.register_buffer("scale", fixed)

    def forward(self, z: Tensor) -> dist.TorchDistribution:
        """Return the distribution of x given z."""
        out = self.network(z)
        if self.kind == "network":
            if out.shape[-1] % 2:
                raise ValueError(
                    say(
                        "a network whose last dimension holds mu and sigma side by side",
                        f"an odd number, {out.shape[-1]}",
                        "a last layer of 2 * D",
                    )
                )
            loc, raw = out.chunk(2, -1)
            scale = softplus(raw) + self.min_scale
        else:
            loc = out
            scale = self.scale if self.kind == "fixed" else softplus(self.raw_scale) + self.min_scale
        return dist.Normal(loc, scale).to_event(1)
