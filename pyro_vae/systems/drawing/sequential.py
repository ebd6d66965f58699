"""A Gaussian drawn in steps, each of which sees those before: the law of a recurrent guide."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

__all__ = ["Choose", "SequentialNormal", "Unroll"]

Choose = Callable[[int, Tensor, Tensor], Tensor]
"""Gives z_t for t, its location and its scale."""
Unroll = Callable[[torch.Size, Choose], list[tuple[Tensor, Tensor, Tensor]]]
"""Runs the recurrence for leading dimensions, with each z_t as it is chosen; gives z, location and scale, T times."""


class SequentialNormal(dist.TorchDistribution):
    r"""The law :math:`q(z) = \prod_t N\bigl(z_t; \mu_t(z_{<t}), \sigma_t(z_{<t})^2\bigr)` of T vectors side by side.

    The density of the draw that was taken last is that of the same pass; of any other value, it takes one of its own.

    Args:
        unroll: runs the recurrence; its locations and scales are ``(..., L)``.
        batch_shape: of the law.
        num_steps: T.
        latent_dim: L, of one step.
        like: a tensor of the dtype and device of the noise.

    Example:
        >>> def walk(lead, choose):
        ...     z, steps = torch.zeros(*lead, 2), []
        ...     for t in range(3):
        ...         loc, scale = z, torch.ones(())
        ...         z = choose(t, loc, scale)
        ...         steps.append((z, loc, scale))
        ...     return steps
        >>> q = SequentialNormal(walk, torch.Size([7]), num_steps=3, latent_dim=2, like=torch.zeros(()))
        >>> z = q.rsample()
        >>> z.shape, bool(torch.allclose(q.log_prob(z), q.log_prob(z.clone())))
        (torch.Size([7, 6]), True)
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012  torch's own convention
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self, unroll: Unroll, batch_shape: torch.Size, *, num_steps: int, latent_dim: int, like: Tensor
    ) -> None:
        self.unroll = unroll
        self.num_steps = num_steps
        self.latent_dim = latent_dim
        self.like = like
        self._last: tuple[Tensor, Tensor] | None = None
        super().__init__(batch_shape, torch.Size([num_steps * latent_dim]), validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> SequentialNormal:
        """Return the same law with a larger ``batch_shape``."""
        sizes = {"num_steps": self.num_steps, "latent_dim": self.latent_dim}
        return SequentialNormal(self.unroll, torch.Size(batch_shape), **sizes, like=self.like)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draw z with gradients, ``(..., T L)``."""
        lead = torch.Size(sample_shape) + self.batch_shape
        noise = torch.randn(*lead, *self.event_shape, dtype=self.like.dtype, device=self.like.device)
        each = noise.split(self.latent_dim, -1)
        steps = self.unroll(lead, lambda t, loc, scale: loc + scale * each[t])
        z = torch.cat([z for z, _, _ in steps], -1)
        self._last = (z, _log_density(steps))
        return z

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log q(z), ``(...)``, in nats."""
        if self._last is not None and value is self._last[0] and value.requires_grad >= torch.is_grad_enabled():
            return self._last[1]
        lead = torch.broadcast_shapes(value.shape[:-1], self.batch_shape)
        each = value.expand(*lead, *self.event_shape).split(self.latent_dim, -1)
        return _log_density(self.unroll(lead, lambda t, loc, scale: each[t]))


def _log_density(steps: list[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    z, loc, scale = (
        torch.cat([part.expand(steps[0][0].shape) for part in parts], -1) for parts in zip(*steps, strict=True)
    )
    return dist.Normal(loc, scale, validate_args=False).log_prob(z).sum(-1)
