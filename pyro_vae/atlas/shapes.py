"""Densities of pure shape as Pyro programs: a wide prior that one factor exchanges for the density."""

from __future__ import annotations

from collections.abc import Callable

import pyro
import pyro.distributions as dist
from torch import Tensor

__all__ = ["Shape"]


class Shape:
    r"""The program whose posterior over ``z`` is a given density, and whose log evidence is that of the density.

    .. math:: p(z)\, p(x|z) = N(z; 0, w^2 I) \cdot \frac{f(z)}{N(z; 0, w^2 I)} = f(z)

    Called with the widths w of the prior, one a dimension, from which routes that start at prior draws start.

    Args:
        log_density: log f, ``(..., L)`` to ``(...)``; normalised, so that the evidence is 1.

    Example:
        >>> import torch
        >>> from pyro_vae import Target
        >>> normal = dist.Normal(1.0, 0.5).to_event(0)
        >>> target = Target(Shape(lambda z: normal.log_prob(z).sum(-1)), torch.full((2,), 3.0), plate=None)
        >>> bool(target.log_joint(torch.ones(1, 2)).allclose(2 * normal.log_prob(torch.tensor(1.0))))
        True
    """

    def __init__(self, log_density: Callable[[Tensor], Tensor]) -> None:
        self.log_density = log_density

    def __call__(self, width: Tensor) -> None:
        """Run the program."""
        prior = dist.Normal(width.new_zeros(len(width)), width).to_event(1)
        z = pyro.sample("z", prior)
        pyro.factor("shape", self.log_density(z) - prior.log_prob(z))
