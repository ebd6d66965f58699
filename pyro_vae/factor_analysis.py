"""The best linear-Gaussian model of data, by expectation maximisation; entries may be missing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pyro_vae.checks import positive_integer, say

__all__ = ["FactorAnalysis", "factor_analysis"]

_FLOOR = 1e-4  # under a column's own variance, as a share of its variance: a column that others determine has one too
_COMPONENT_FLOOR = 0.1  # variance towards which a component of few rows is drawn, all factors together having 1


@dataclass(frozen=True)
class FactorAnalysis:
    r"""Factor analysis, :math:`x = b + W z + \epsilon` with :math:`\epsilon \sim N(0, \Psi)`, z a Gaussian mixture.

    With one component that is :math:`z \sim N(0, I)`; with several,
    :math:`z \sim \sum_k \pi_k N(\mu_k, \Sigma_k)`, the whole of mean 0 and covariance I. W is rotated so that
    :math:`W^T \Psi^{-1} W` is diagonal: then, of one component, so is the covariance of z given complete x, and a
    diagonal Gaussian guide holds the exact posterior.

    Attributes:
        loc: b ``(D,)``.
        loadings: W ``(D, L)``.
        variance: the diagonal of Psi ``(D,)``.
        weights: pi ``(K,)``.
        means: mu ``(K, L)``.
        covariances: Sigma ``(K, L, L)``.
    """

    loc: Tensor
    loadings: Tensor
    variance: Tensor
    weights: Tensor
    means: Tensor
    covariances: Tensor

    def components(
        self, x: Tensor, patterns: Tensor | None = None, row: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        r"""Return :math:`\log \pi_k p(x_n|k)` ``(N, K)``, and mean ``(N, K, L)`` and covariance of z given x and k.

        Rows that lack the same entries share a covariance: ``patterns`` are those of x, ``row`` says which a row has.
        """
        there = ~x.isnan()
        if patterns is None or row is None:
            patterns, row = there.unique(dim=0, return_inverse=True)
        weighted = self.loadings / self.variance.unsqueeze(-1)  # Psi^-1 W
        prior = torch.cholesky_inverse(torch.linalg.cholesky(self.covariances))
        each = self.loadings.unsqueeze(-1) * weighted.unsqueeze(-2)  # (D, L, L)
        added = (patterns.to(x) @ each.flatten(1)).unflatten(-1, each.shape[1:])
        chol = torch.linalg.cholesky(added.unsqueeze(1) + prior)  # (P, K, L, L)
        root = torch.linalg.solve_triangular(chol, torch.eye(chol.shape[-1]).to(chol), upper=False)
        covariance = root.mT @ root
        centred = (x - self.loc).nan_to_num(0.0)
        pull = (prior @ self.means.unsqueeze(-1)).squeeze(-1)
        natural = (centred @ weighted).unsqueeze(1) + pull
        mean = (covariance[row] @ natural.unsqueeze(-1)).squeeze(-1)
        # the determinant lemma and Woodbury's identity, entry by entry
        log_det = (there.to(x) * self.variance.log()).sum(-1, keepdim=True) + torch.logdet(self.covariances)
        log_det = log_det + 2 * chol.diagonal(dim1=-2, dim2=-1).log().sum(-1)[row]
        square = (centred.square() / self.variance).sum(-1, keepdim=True) + (self.means * pull).sum(-1)
        square = square - (natural * mean).sum(-1)
        constant = there.to(x).sum(-1, keepdim=True) * math.log(2 * math.pi)
        return self.weights.log() - 0.5 * (square + log_det + constant), mean, covariance[row]

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean ``(N, L)`` and covariance ``(N, L, L)`` of z given the entries of x ``(N, D)`` that are there."""
        log_joint, means, covariances = self.components(x)
        share = torch.softmax(log_joint, -1)
        mean = torch.einsum("nk,nkl->nl", share, means)
        apart = means - mean.unsqueeze(1)
        return mean, torch.einsum("nk,nkij->nij", share, covariances + apart.unsqueeze(-1) * apart.unsqueeze(-2))

    def sample_posterior(self, x: Tensor, num_samples: int, *, generator: torch.Generator) -> Tensor:
        """Draw z given x, ``(S, N, L)``."""
        log_joint, means, covariances = self.components(x)
        k = torch.multinomial(torch.softmax(log_joint, -1), num_samples, replacement=True, generator=generator)
        row = torch.arange(len(x)).unsqueeze(-1)
        noise = torch.randn(*k.shape, means.shape[-1], generator=generator, dtype=means.dtype)
        z = means[row, k] + torch.einsum("nsij,nsj->nsi", torch.linalg.cholesky(covariances)[row, k], noise)
        return z.transpose(0, 1)

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log p of the entries that are there, ``(N,)``, nats."""
        return torch.logsumexp(self.components(x)[0], -1)


@torch.no_grad()
def factor_analysis(
    x: Tensor,
    latent_dim: int,
    *,
    num_components: int = 1,
    pseudo_rows: float = 0.0,
    start: FactorAnalysis | None = None,
    steps: int = 500,
    tolerance: float = 1e-5,
    seed: int = 0,
) -> FactorAnalysis:
    r"""Maximise the likelihood of factor analysis by expectation maximisation.

    Several components start at a mixture of the factors of one, and each covariance is drawn a little, as by L + 1
    rows, towards a small one, so that none shrinks to a point.

    Args:
        x: data ``(N, D)``; NaN is missing, and left out of the likelihood.
        latent_dim: L.
        num_components: of the mixture that z has.
        pseudo_rows: whose worth a column's own variance is drawn towards the column's variance; the likelihood alone
            may leave it none (a Heywood case; Martin & McDonald 1975).
        start: that of one component, where it is known already: several start at it.
        steps: of the iteration at most.
        tolerance: ends it, once the log likelihood a datum rises by less.
        seed: of the mixture's starts.

    Raises:
        ValueError: if there are fewer rows than components.

    Source:
        Rubin & Thayer 1982; the start is that of Tipping & Bishop 1999. With several components, the mixture of
        common factor analysers of Baek, McLachlan & Flack 2010.

    Example:
        >>> x = torch.randn(500, 1, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 2.0, 3.0])
        >>> factor_analysis(x, 1).loadings.abs().round(decimals=0).flatten()
        tensor([1., 2., 3.])
    """
    K = positive_integer(num_components, "num_components")
    if len(x) < K:
        raise ValueError(say(f"at least {K} rows for {K} components", f"{len(x)}", f"num_components={len(x)}"))
    count = (~x.isnan()).sum(0).clamp_min(1)
    loc = x.nanmean(0).nan_to_num(0.0)
    total = ((x - loc).square().nan_to_num(0.0).sum(0) / count).clamp_min(1e-12)
    climb: Any = partial(_climbed, x, total=total, pseudo_rows=pseudo_rows, steps=steps, tolerance=tolerance)
    found = start or climb(_principal(x, loc, total, latent_dim))
    if K > 1:
        found = climb(_split(x, found, K, seed))
    return _rotated(found)


def _climbed(
    x: Tensor, found: FactorAnalysis, total: Tensor, *, pseudo_rows: float, steps: int, tolerance: float
) -> FactorAnalysis:
    """Iterate until a step raises the likelihood by less than the tolerance: after two steps a leap where they lead."""
    there, row = (~x.isnan()).unique(dim=0, return_inverse=True)
    maximise = partial(_maximise, x, there, row, total=total, pseudo_rows=pseudo_rows)
    for _ in range(-(-steps // 3)):
        first, value = maximise(found)
        second, after = maximise(first)
        if after - value < tolerance:
            return second
        third, leapt = maximise(_leap(found, first, second, total))
        found = third if leapt >= after else second
    return found


def _leap(a: FactorAnalysis, b: FactorAnalysis, c: FactorAnalysis, total: Tensor) -> FactorAnalysis:
    r"""Where three points lead, :math:`a + 2 s r + s^2 v` with r = b - a, v = c - 2 b + a, s = |r| / |v|.

    Source: Varadhan & Roland 2008, SQUAREM, scheme S3.
    """
    x, y, z = (_packed(model, total.sqrt()) for model in (a, b, c))
    r, v = y - x, z - 2 * y + x
    size = (r.norm() / v.norm().clamp_min(1e-300)).clamp_min(1.0)
    return _unpacked(x + 2 * size * r + size.square() * v, a, total.sqrt())


def _packed(model: FactorAnalysis, scale: Tensor) -> Tensor:
    """The parameters as one vector of unconstrained numbers, the columns in units of their scale."""
    chol = torch.linalg.cholesky(model.covariances)
    diagonal = chol.diagonal(dim1=-2, dim2=-1)
    parts = [model.loc / scale, model.loadings / scale.unsqueeze(-1), (model.variance / scale.square()).log()]
    parts += [model.weights.log(), model.means, chol.tril(-1), diagonal.log()]
    return torch.cat([part.flatten() for part in parts])


def _unpacked(vector: Tensor, like: FactorAnalysis, scale: Tensor) -> FactorAnalysis:
    """The inverse of :func:`_packed`."""
    (D, L), K = like.loadings.shape, len(like.weights)
    sizes = [D, D * L, D, K, K * L, K * L * L, K * L]
    loc, loadings, variance, weights, means, below, diagonal = vector.split(sizes)
    chol = below.view(K, L, L) + torch.diag_embed(diagonal.view(K, L).clamp(-30.0, 30.0).exp())
    return FactorAnalysis(
        loc * scale,
        loadings.view(D, L) * scale.unsqueeze(-1),
        variance.clamp(-30.0, 30.0).exp() * scale.square(),
        torch.softmax(weights, 0),
        means.view(K, L),
        chol @ chol.mT,
    )


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
    one = torch.eye(L, dtype=x.dtype, device=x.device)
    return FactorAnalysis(
        loc, loadings * total.sqrt().unsqueeze(-1), own * total, x.new_ones(1), x.new_zeros(1, L), one.unsqueeze(0)
    )


def _split(x: Tensor, found: FactorAnalysis, K: int, seed: int) -> FactorAnalysis:
    """The start of several components: a mixture of the posterior means of one."""
    from sklearn.mixture import GaussianMixture

    z = found.posterior(x)[0].cpu().numpy()
    mixture = GaussianMixture(K, random_state=seed, n_init=3, reg_covar=_COMPONENT_FLOOR).fit(z)
    parts = (torch.as_tensor(part).to(x) for part in (mixture.weights_, mixture.means_, mixture.covariances_))
    return FactorAnalysis(found.loc, found.loadings, found.variance, *parts)


def _maximise(
    x: Tensor, patterns: Tensor, row: Tensor, model: FactorAnalysis, *, total: Tensor, pseudo_rows: float
) -> tuple[FactorAnalysis, float]:
    """One step of expectation maximisation, and the log likelihood a datum before it.

    Expected moments of (z, 1) given x, then each column's regression on them over its own rows, and the mixture's
    moments.
    """
    there = (~x.isnan()).to(x)
    log_joint, mean, covariance = model.components(x, patterns, row)
    value = torch.logsumexp(log_joint, -1, keepdim=True)
    share = (log_joint - value).exp()  # (N, K)
    N, K, L = mean.shape
    one = torch.cat([mean, mean.new_ones(N, K, 1)], -1)
    second = (share.unsqueeze(-1) * one).mT @ one
    second[:, :L, :L] += (share.unsqueeze(-2) @ covariance.flatten(2)).view(N, L, L)
    gram = (there.T @ second.flatten(1)).unflatten(-1, (L + 1, L + 1))
    gram = gram + 1e-8 * torch.eye(L + 1, dtype=x.dtype, device=x.device)
    filled = x.nan_to_num(0.0)
    cross = filled.T @ torch.einsum("nk,nki->ni", share, one)
    weights = torch.linalg.solve(gram, cross)  # (D, L + 1)
    square = filled.square().sum(0) - (weights * cross).sum(-1)
    rows = there.sum(0).clamp_min(1)
    variance = torch.maximum((square + pseudo_rows * total) / (rows + pseudo_rows), _FLOOR * total)
    mixture = (model.weights, model.means, model.covariances)
    if K > 1:
        mixture = _mixture_moments(share, mean, covariance)
    found = FactorAnalysis(weights[:, L], weights[:, :L], variance, *mixture)
    return _standardised(found) if K > 1 else found, float(value.mean())


def _mixture_moments(share: Tensor, mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weights, means and covariances of the components by their shares of the data; one row more for each weight."""
    count, L = share.sum(0), mean.shape[-1]
    means = torch.einsum("nk,nkl->kl", share, mean) / count.clamp_min(1e-6).unsqueeze(-1)
    apart = mean - means
    weighted = share.T.unsqueeze(-1) * apart.transpose(0, 1)
    scatter = weighted.mT @ apart.transpose(0, 1) + torch.einsum("nk,nkij->kij", share, covariance)
    floor = (L + 1) * _COMPONENT_FLOOR * torch.eye(L, dtype=mean.dtype, device=mean.device)
    return (count + 1) / (count + 1).sum(), means, (scatter + floor) / (count + L + 1)[:, None, None]


def _standardised(model: FactorAnalysis) -> FactorAnalysis:
    """The same distribution of x, with z of mean 0 and covariance I."""
    mean = model.weights @ model.means
    apart = model.means - mean
    covariance = torch.einsum("k,ki,kj->ij", model.weights, apart, apart)
    covariance = covariance + torch.einsum("k,kij->ij", model.weights, model.covariances)
    to_z = torch.linalg.cholesky(covariance)
    from_z = torch.linalg.inv(to_z)
    return FactorAnalysis(
        model.loc + model.loadings @ mean,
        model.loadings @ to_z,
        model.variance,
        model.weights,
        apart @ from_z.T,
        from_z @ model.covariances @ from_z.T,
    )


def _rotated(model: FactorAnalysis) -> FactorAnalysis:
    """The same distribution of x, with z along the axes of its posterior; the largest first."""
    _, axes = torch.linalg.eigh(model.loadings.T @ (model.loadings / model.variance.unsqueeze(-1)))
    axes = axes.flip(-1)
    turned = axes.T @ model.covariances @ axes
    return FactorAnalysis(model.loc, model.loadings @ axes, model.variance, model.weights, model.means @ axes, turned)
