"""How many different things a sample holds, and how far apart they are, beside the data: what a generator lacks."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["diversity", "effective_number", "spread"]

_NUM_COMPARED = 256


def effective_number(x: Tensor, width: Tensor | float) -> Tensor:
    r"""Return the effective number of different rows of x ``(N, D)``: 1 if all are equal, N if all are far apart.

    It is the exponential of the entropy of the eigenvalues of K / N, where
    :math:`K_{ij} = \exp(-\|x_i - x_j\|^2 / 2 w^2)`.

    Source: Friedman & Dieng 2023, The Vendi score, definition 3.1.

    Example:
        >>> round(float(effective_number(torch.tensor([[0.0], [0.0], [9.0], [9.0]]), 1.0)), 4)
        2.0
    """
    flat = x.flatten(1).double()
    kernel = (-0.5 * (torch.cdist(flat, flat) / width).square()).exp()
    share = torch.linalg.eigvalsh(kernel / len(flat)).clamp_min(1e-300)
    return (-(share * share.log()).sum()).exp()


@torch.no_grad()
def diversity(fake: Tensor, real: Tensor) -> float:
    """Return the effective number of samples over that of as many data: about 1 where the generator has them all.

    The kernel's width is half the median distance between two data.

    Example:
        >>> x = torch.linspace(0, 1, 50)[:, None]
        >>> diversity(x, x), diversity(torch.zeros(50, 1), x) < 0.3
        (1.0, True)
    """
    count = min(_NUM_COMPARED, len(fake), len(real))
    some, others = real[:count].flatten(1).double(), fake[:count].to(real.device)
    width = torch.pdist(some).median().clamp_min(1e-12) / 2
    return float(effective_number(others, width) / effective_number(some, width))


@torch.no_grad()
def spread(fake: Tensor, real: Tensor) -> float:
    """Return the median distance between two samples over that between two data: 1 where the generator is right.

    Diversity cannot tell a generator that is too wide from a right one where the data already are all different.

    Example:
        >>> x = torch.linspace(0, 1, 50)[:, None]
        >>> round(spread(3 * x, x), 4)
        3.0
    """
    of_fake, of_real = (torch.pdist(x[:_NUM_COMPARED].flatten(1).double()).median() for x in (fake, real))
    return float(of_fake / of_real.clamp_min(1e-12))
