"""Densities of many draws in blocks, so that memory does not grow with their number."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_vae.inference.target.target import Target

__all__ = ["block_size", "log_joint_in_blocks"]

NUMBERS = 2**22  # that one tensor of a block holds: 16 MB in float32


def block_size(target: Target) -> int:
    """How many draws of all data make tensors of at most 2^22 numbers, at least one."""
    numbers = sum(arg.numel() for arg in target.args if isinstance(arg, Tensor))
    return max(1, NUMBERS // max(numbers, target.origin.numel(), 64 * target.num_data, target.largest_sum))


def _shared_block_size(target: Target) -> int:
    """The same of points that all data share, where densities are products: a point and its decoder's numbers."""
    datum = sum(arg[:1].numel() for arg in target.args if isinstance(arg, Tensor) and arg.dim())
    return max(1, 2 * NUMBERS // max(target.num_data, datum, 256))


def log_joint_in_blocks(target: Target, u: Tensor) -> Tensor:
    """Return log p(x, u) at u ``(S, N, L)`` or ``(S, 1, L)``, ``(S, N)``, nats, a block of draws at a time.

    Example:
        >>> import pyro_vae as pv
        >>> model = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(torch.nn.Linear(2, 8)))
        >>> log_joint_in_blocks(Target(model, torch.ones(3, 8)), torch.zeros(5, 3, 2)).shape
        torch.Size([5, 3])
    """
    shared = u.shape[-2] < target.num_data and target.has_products
    size = _shared_block_size(target) if shared else block_size(target)
    return torch.cat([target.log_joint(part) for part in u.split(size)])
