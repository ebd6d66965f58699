"""Standard normal noise for fixed draws: spread evenly, and with the moments of a standard normal."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["even_noise"]


def even_noise(num_draws: int, dim: int, like: Tensor) -> Tensor:
    """Return ``(num_draws, 1, dim)`` in antithetic pairs from a scrambled Sobol' sequence, in random order.

    Mean and covariance are those of a standard normal exactly, where there are twice as many draws as dimensions: of
    a quadratic function the mean over them is exact.

    Source: Owen 1998 for the scrambling; Giordano, Ingram & Broderick 2024 for the use of fixed draws.

    Args:
        num_draws: an even number.
        dim: at most 21,201, as Sobol' sequences go.
        like: a tensor of the dtype and device wanted.

    Example:
        >>> z = even_noise(8, 2, torch.zeros(()))[:, 0]
        >>> bool((z.mT @ z / 8 - torch.eye(2)).abs().max() < 1e-5)
        True
    """
    seed = int(torch.randint(2**31, ()))
    half = num_draws // 2
    uniform = torch.quasirandom.SobolEngine(dim, scramble=True, seed=seed).draw(half, dtype=torch.float64)
    z = math.sqrt(2) * torch.erfinv((2 * uniform - 1).clamp(-1 + 1e-12, 1 - 1e-12))
    if half >= dim:
        z = torch.linalg.solve_triangular(torch.linalg.cholesky(z.mT @ z / half), z.mT, upper=False).mT
    z = torch.cat([z, -z])[torch.randperm(2 * half)]
    return z.unsqueeze(1).to(like)
