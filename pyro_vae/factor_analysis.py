"""The best linear-Gaussian model of data, by expectation maximisation; entries may be missing."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["FactorAnalysis", "factor_analysis"]

_FLOOR = 1e-4  # under a column's own variance, as a share of its variance: a column that others determine has one too


@dataclass(frozen=True)
class FactorAnalysis:
    r"""Factor analysis, :math:`x = \mu + W z + \epsilon` with :math:`z \sim N(0, I)`, :math:`\epsilon \sim N(0, \Psi)`.

    W is rotated so that :math:`W^T \Psi^{-1} W` is diagonal: then so is the covariance of z given complete x, and a
    diagonal Gaussian guide holds the exact posterior.

    Attributes:
        loc: mu ``(D,)``.
        loadings: W ``(D, L)``.
        variance: the diagonal of Psi ``(D,)``.
    """

    loc: Tensor
    loadings: Tensor
    variance: Tensor

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean ``(N, L)`` and covariance ``(N, L, L)`` of z given the entries of x ``(N, D)`` that are there."""
        there = (~x.isnan()).to(x)
        weighted = self.loadings / self.variance.unsqueeze(-1)  # Psi^-1 W
        precision = torch.einsum("nd,dk,dl->nkl", there, self.loadings, weighted)
        precision = precision + torch.eye(self.loadings.shape[1], dtype=x.dtype, device=x.device)
        covariance = torch.cholesky_inverse(torch.linalg.cholesky(precision))
        centred = (x - self.loc).nan_to_num(0.0)
        return torch.einsum("nkl,nl->nk", covariance, centred @ weighted), covariance

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log p of the entries that are there, ``(N,)``, nats."""
        there = ~x.isnan()
        mean, covariance = self.posterior(x)
        centred = (x - self.loc).nan_to_num(0.0)
        # the determinant lemma and Woodbury's identity, entry by entry
        log_det = (there * self.variance.log()).sum(-1) - torch.logdet(covariance)
        square = (centred.square() / self.variance).sum(-1)
        square = square - ((centred / self.variance) @ self.loadings * mean).sum(-1)
        return -0.5 * (square + log_det + there.sum(-1) * math.log(2 * math.pi))


@torch.no_grad()
def factor_analysis(x: Tensor, latent_dim: int, *, steps: int = 500, tolerance: float = 1e-5) -> FactorAnalysis:
    r"""Maximise the likelihood of factor analysis by expectation maximisation.

    Args:
        x: data ``(N, D)``; NaN is missing, and left out of the likelihood.
        latent_dim: L.
        steps: of the iteration at most.
        tolerance: ends it, once the log likelihood a datum rises by less.

    Source:
        Rubin & Thayer 1982; the start is that of Tipping & Bishop 1999.

    Example:
        >>> x = torch.randn(500, 1, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 2.0, 3.0])
        >>> factor_analysis(x, 1).loadings.abs().round(decimals=0).flatten()
        tensor([1., 2., 3.])
    """
    there = ~x.isnan()
    count = there.sum(0).clamp_min(1)
    loc = x.nanmean(0).nan_to_num(0.0)
    total = ((x - loc).square().nan_to_num(0.0).sum(0) / count).clamp_min(1e-12)
    found = _principal(x, loc, total, latent_dim)
    last = -math.inf
    for _ in range(steps):
        found = _maximise(x, there, found, total)
        value = float(found.log_prob(x).mean())
        if value - last < tolerance:
            break
        last = value
    return _rotated(found)


def _principal(x: Tensor, loc: Tensor, total: Tensor, L: int) -> FactorAnalysis:
    """The start: principal components of the standardised data, missing entries at their means."""
    scaled = ((x - loc) / total.sqrt()).nan_to_num(0.0)
    _, s, v = torch.linalg.svd(scaled, full_matrices=False)
    L_kept = min(L, len(s))
    rest = (s[L_kept:].square().sum() / max(len(x) * max(scaled.shape[1] - L_kept, 1), 1)).clamp_min(1e-2)
    size = (s[:L_kept].square() / len(x) - rest).clamp_min(1e-3).sqrt()
    loadings = x.new_zeros(x.shape[1], L)
    loadings[:, :L_kept] = v[:L_kept].T * size
    own = (1 - loadings.square().sum(-1)).clamp_min(1e-2)
    return FactorAnalysis(loc, loadings * total.sqrt().unsqueeze(-1), own * total)


def _maximise(x: Tensor, there: Tensor, model: FactorAnalysis, total: Tensor) -> FactorAnalysis:
    """One step: expected moments of (z, 1) given x, then each column's regression on them, over its own rows."""
    mean, covariance = model.posterior(x)
    N, L = mean.shape
    one = torch.cat([mean, mean.new_ones(N, 1)], -1)
    second = one.unsqueeze(-1) * one.unsqueeze(-2)
    second[:, :L, :L] += covariance
    gram = torch.einsum("nd,nkl->dkl", there.to(x), second)
    gram = gram + 1e-8 * torch.eye(L + 1, dtype=x.dtype, device=x.device)
    filled = x.nan_to_num(0.0)
    cross = torch.einsum("nd,nk->dk", filled, one)
    weights = torch.linalg.solve(gram, cross)  # (D, L + 1)
    square = filled.square().sum(0) - (weights * cross).sum(-1)
    variance = torch.maximum(square / there.sum(0).clamp_min(1), _FLOOR * total)
    return FactorAnalysis(weights[:, L], weights[:, :L], variance)


def _rotated(model: FactorAnalysis) -> FactorAnalysis:
    """The same distribution of x, with z along the axes of its posterior; the largest first."""
    _, axes = torch.linalg.eigh(model.loadings.T @ (model.loadings / model.variance.unsqueeze(-1)))
    return FactorAnalysis(model.loc, model.loadings @ axes.flip(-1), model.variance)
