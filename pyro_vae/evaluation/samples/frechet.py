"""The Frechet distance between two Gaussians fitted to features."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_vae.checks import same_width, say

__all__ = ["frechet_distance"]


def frechet_distance(a: Tensor, b: Tensor) -> float:
    r"""Return the squared Frechet distance of Gaussians with the moments of two sets of features.

    .. math:: |\mu_a - \mu_b|^2 + \mathrm{tr}(\Sigma_a + \Sigma_b - 2 (\Sigma_a^{1/2} \Sigma_b \Sigma_a^{1/2})^{1/2})

    Two sets of one law have a distance above 0, of the order of the variance over the rows: compare with that of real
    rows against other real rows.

    Args:
        a: features ``(N, F)``.
        b: features ``(M, F)``.

    Raises:
        ValueError: if the widths differ, or a set has fewer than two rows.

    Source:
        Dowson & Landau 1982, equation 4; Heusel et al. 2017, equation 6, whose features are Inception's.

    Example:
        >>> x = torch.randn(100, 3)
        >>> round(frechet_distance(x, x + 2), 3)
        12.0
    """
    same_width(a, b, "a", "b")
    if min(len(a), len(b)) < 2:
        raise ValueError(say("two rows or more in each set", f"{len(a)} and {len(b)}", "more rows"))
    a, b = a.flatten(1).double(), b.flatten(1).double()
    covariance_a, covariance_b = a.T.cov(), b.T.cov()
    covariance_a, covariance_b = torch.atleast_2d(covariance_a), torch.atleast_2d(covariance_b)
    values, vectors = torch.linalg.eigh(covariance_a)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ covariance_b @ root).clamp_min(0).sqrt().sum()
    distance = (a.mean(0) - b.mean(0)).square().sum() + covariance_a.trace() + covariance_b.trace() - 2 * cross
    return float(distance.clamp_min(0))
