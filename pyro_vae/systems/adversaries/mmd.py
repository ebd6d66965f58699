"""The maximum mean discrepancy between two sets of rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_vae.checks import positive_number, same_width, say

__all__ = ["maximum_mean_discrepancy"]


def maximum_mean_discrepancy(x: Tensor, y: Tensor, *, bandwidths: Sequence[float]) -> Tensor:
    r"""Return the unbiased estimate of the squared maximum mean discrepancy of two laws, a scalar.

    .. math:: \mathrm{MMD}^2 = E\,k(x, x') + E\,k(y, y') - 2 E\,k(x, y), \qquad
        k(a, b) = \sum_j \exp\left(-\frac{|a - b|^2}{2 h_j^2}\right)

    It is zero in expectation if and only if the laws are the same, and may then be negative.

    Args:
        x: ``(N, D)``.
        y: ``(M, D)``.
        bandwidths: :math:`h_j`, of Gaussian kernels that are added.

    Raises:
        ValueError: if the widths differ, or a set has fewer than two rows.

    Source:
        Gretton, Borgwardt, Rasch, Scholkopf & Smola 2012, lemma 6.

    Example:
        >>> x = torch.zeros(2, 3)
        >>> maximum_mean_discrepancy(x, x, bandwidths=(1.0,))
        tensor(0.)
    """
    same_width(x, y, "x", "y")
    if min(len(x), len(y)) < 2:
        raise ValueError(say("two rows or more in each set", f"{len(x)} and {len(y)}", "larger batches"))
    x, y = x.flatten(1), y.flatten(1)
    N, M = len(x), len(y)
    rows = torch.cat([x, y])
    squares = rows.square().sum(-1)
    distances = (squares + squares.unsqueeze(-1) - 2 * rows @ rows.T).clamp_min(0)
    kernel = torch.zeros_like(distances)
    for h in bandwidths:
        kernel = kernel + (distances / (-2 * positive_number(h, "a bandwidth") ** 2)).exp()
    within_x, within_y, across = kernel[:N, :N], kernel[N:, N:], kernel[:N, N:]
    own = (within_x.sum() - within_x.diagonal().sum()) / (N * (N - 1))
    other = (within_y.sum() - within_y.diagonal().sum()) / (M * (M - 1))
    return own + other - 2 * across.mean()
