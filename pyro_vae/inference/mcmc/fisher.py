r"""The metric that brings a posterior's draws and gradients to one scale: least Fisher divergence from a Gaussian.

Of a Gaussian posterior, draws u have covariance :math:`\Sigma` and gradients :math:`\nabla \log p(u)` covariance
:math:`\Sigma^{-1}`: their gradients tell as much as the draws, and together they give :math:`\Sigma` as the geometric
mean of the one covariance and the inverse of the other, before the draws alone know it. Where draws of a first, wrong
metric are still too far apart or too near, the gradients' are so too, and the mean is right all the same.

Source: Seyboldt, Carlson & Carpenter, arXiv 2603.18845.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyro_vae.inference.mcmc.kernels.base import Metric

__all__ = ["CORRELATED", "DrawsAndGradients", "condition_beyond_noise", "fisher_metric", "growing_windows"]

CORRELATED = 10.0  # condition of the correlations beyond which a dense metric is worth its products
_MOST_DENSE = 300  # dimensions


class DrawsAndGradients:
    """What one window has seen of one posterior, its chains pooled.

    Args:
        dense: ask for a dense metric, whatever the draws show.
    """

    def __init__(self, *, dense: bool) -> None:
        self.dense = dense
        self._draws: list[Tensor] = []
        self._grads: list[Tensor] = []

    def update(self, u: Tensor, grad: Tensor) -> None:
        """Take one draw ``(C, 1, L)`` of every chain and its gradient."""
        self._draws.append(u[:, 0])
        self._grads.append(grad[:, 0])

    def metric(self) -> Metric:
        """Return the metric of the window."""
        return fisher_metric(torch.cat(self._draws), torch.cat(self._grads), dense=self.dense)


def fisher_metric(draws: Tensor, grads: Tensor, *, dense: bool = False) -> Metric:
    r"""Return the metric of least Fisher divergence: diagonal, or dense where the draws are correlated.

    The diagonal one is :math:`\sigma_i^2 = \sqrt{\mathrm{var}(u_i) / \mathrm{var}(g_i)}`. The dense one is, of the
    draws and gradients scaled by it, the matrix :math:`\Sigma` with :math:`\Sigma\, \mathrm{cov}(g)\, \Sigma =
    \mathrm{cov}(u)`.

    Args:
        draws: ``(S, L)``, of one posterior.
        grads: the gradients there, ``(S, L)``.
        dense: ask for a dense metric; it needs twice as many draws as dimensions all the same.

    Returns:
        A metric with factor ``(1, 1, L)``, or ``(1, 1, L, L)``.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> factor = torch.tensor([[1.0, 0.0], [0.99, 0.02]], dtype=torch.float64)
        >>> u = torch.randn(50, 2, dtype=torch.float64) @ factor.mT
        >>> metric = fisher_metric(u, -u @ torch.linalg.inv(factor @ factor.mT))
        >>> torch.allclose(metric.factor[0, 0], factor, rtol=0.02)
        True
    """
    fine = torch.isfinite(draws).all(-1) & torch.isfinite(grads).all(-1)
    u, g = draws[fine].double(), grads[fine].double()
    S, L = u.shape
    if S < 2:
        return Metric(torch.ones_like(draws[:1, None]))
    u, g = u - u.mean(0), g - g.mean(0)
    tiny = 1e-20
    scale = ((u.square().mean(0) + tiny) / (g.square().mean(0) + tiny)) ** 0.25
    wanted = dense or condition_beyond_noise(u) > CORRELATED
    if not wanted or S < 2 * L or not 1 < L <= _MOST_DENSE:
        return Metric(scale.to(draws)[None, None])
    ridge = 1e-5 / S * torch.eye(L).to(u)
    spread, slope = ((x.mT @ x) / S for x in (u / scale, g * scale))
    covariance = scale[:, None] * _between(spread + ridge, slope + ridge) * scale
    factor, failed = torch.linalg.cholesky_ex((covariance + covariance.mT) / 2)
    if bool(failed) or not bool(torch.isfinite(factor).all()):
        return Metric(scale.to(draws)[None, None])
    return Metric(factor.to(draws)[None, None], dense=True)


def _between(spread: Tensor, slope: Tensor) -> Tensor:
    r"""The positive definite X with X B X = A, for A and B ``(L, L)``: the geometric mean of A and :math:`B^{-1}`."""
    root, inverse_root = _roots(slope)
    middle, _ = _roots(root @ spread @ root)
    return inverse_root @ middle @ inverse_root


def _roots(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """A symmetric matrix' square root and the inverse of that."""
    values, vectors = torch.linalg.eigh(matrix)
    roots = values.clamp(min=1e-300).sqrt()
    return vectors * roots @ vectors.mT, vectors / roots @ vectors.mT


def condition_beyond_noise(draws: Tensor) -> float:
    r"""Return the condition of the correlations of draws ``(S, L)``, by what noise alone would make of them.

    Of L independent numbers it is about :math:`((1 + \sqrt{L / S}) / (1 - \sqrt{L / S}))^2` (Marchenko & Pastur 1967).
    Draws of a chain depend on each other, and count half. With too few of them to tell, it is 1.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> z = torch.randn(200, 3)
        >>> condition_beyond_noise(z) < 2, condition_beyond_noise(z.cumsum(1)) > 5
        (True, True)
    """
    S, L = draws.shape
    ratio = math.sqrt(2 * L / S)
    if ratio > 0.9 or L < 2:
        return 1.0
    values = torch.linalg.eigvalsh(torch.corrcoef(draws.double().mT).nan_to_num(0.0))
    noise = ((1 + ratio) / (1 - ratio)) ** 2
    return float(values[-1] / values[0].clamp(min=1e-12)) / noise


def growing_windows(num_steps: int) -> list[int]:
    """Return the steps after which the metric is renewed: ten, then windows half as long again.

    The last tenth (at most 50) of the steps only tune the step size.

    Example:
        >>> growing_windows(300), growing_windows(10)
        ([10, 25, 47, 80, 130, 270], [])
    """
    if num_steps < 20:
        return []
    stop = num_steps - min(50, max(1, round(0.1 * num_steps)))
    ends, width = [min(10, stop)], 15.0
    while ends[-1] < stop:
        last = ends[-1] + width + 1.5 * width > stop  # no room for this window and the next
        ends.append(stop if last else ends[-1] + int(width))
        width *= 1.5
    return ends
