"""Gaussians and mixtures of them over tables with missing entries: fitted by EM, scored on what is observed."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

__all__ = ["Mixture", "complete", "factor_analysis", "factors", "gaussian", "mixture", "probabilistic_pca"]

_MAX_WORK = 2e10  # patterns of missingness times D^3: what EM may cost
_MAX_COMPONENTS = 10
_MAX_FULL = 60  # columns up to which a mixture's components have full covariances


class Mixture:
    """A mixture of K Gaussians; K = 1 is a Gaussian.

    Args:
        weights: ``(K,)``.
        means: ``(K, D)``.
        covariances: ``(K, D, D)``.
        floor: variance added to each column, ``(D,)``: what the table's own rounding leaves open.
    """

    def __init__(self, weights: Any, means: Any, covariances: Any, floor: np.ndarray) -> None:
        self.weights, self.means = np.asarray(weights), np.asarray(means)
        self.covariances = np.asarray(covariances) + np.diag(floor)

    def log_prob(self, x: np.ndarray) -> np.ndarray:
        """Return the log density of the entries that are observed, ``(N,)``, nats; 0 for a row without any."""
        from scipy.special import logsumexp

        out = np.zeros(len(x))
        for rows, seen in _patterns(x):
            if seen.any():
                parts = [
                    np.log(w) + _log_normal(x[np.ix_(rows, seen)], m[seen], c[np.ix_(seen, seen)])
                    for w, m, c in zip(self.weights, self.means, self.covariances, strict=True)
                ]
                out[rows] = logsumexp(parts, axis=0)
        return out


def gaussian(x: np.ndarray, floor: np.ndarray) -> Mixture:
    """Fit a full covariance by scikit-learn's LedoitWolf, which is defined when N <= D."""
    from sklearn.covariance import LedoitWolf

    found = LedoitWolf().fit(x)
    return Mixture([1.0], found.location_[None], found.covariance_[None], floor)


def factor_analysis(x: np.ndarray, latent_dim: int, floor: np.ndarray) -> Mixture:
    """Fit scikit-learn's FactorAnalysis."""
    found = factors(x, latent_dim)
    return Mixture([1.0], found.mean_[None], found.get_covariance()[None], floor)


def factors(x: np.ndarray, latent_dim: int) -> Any:
    """Return scikit-learn's FactorAnalysis, fitted."""
    from sklearn.decomposition import FactorAnalysis

    with _quiet():
        return FactorAnalysis(latent_dim, max_iter=5000, svd_method="lapack").fit(x)


def probabilistic_pca(x: np.ndarray, latent_dim: int, floor: np.ndarray) -> Mixture:
    """Fit scikit-learn's PCA, read as Tipping & Bishop's model."""
    from sklearn.decomposition import PCA

    found = PCA(latent_dim, svd_solver="full").fit(x)
    return Mixture([1.0], found.mean_[None], found.get_covariance()[None], floor)


def mixture(x: np.ndarray, floor: np.ndarray, rng: np.random.Generator) -> tuple[Mixture, str]:
    """Fit scikit-learn's GaussianMixture, full or diagonal, with the number of components of the lowest BIC.

    The columns are spread over their own rounding first, so that no component can shrink onto a value that repeats.
    """
    from sklearn.mixture import GaussianMixture

    spread = x + np.sqrt(12 * floor) * (rng.random(x.shape) - 0.5)
    best: Any = None
    for kind in ("diag", "full") if x.shape[1] <= _MAX_FULL else ("diag",):
        worse, lowest = 0, np.inf
        for K in range(1, min(_MAX_COMPONENTS, max(len(x) // 5, 1)) + 1):
            with _quiet():
                found = GaussianMixture(K, covariance_type=kind, n_init=2, reg_covar=1e-4, random_state=0).fit(spread)
            bic = found.bic(spread)
            best = (bic, kind, found) if best is None or bic < best[0] else best
            worse, lowest = (0, bic) if bic < lowest else (worse + 1, lowest)
            if worse == 2:
                break
    _, kind, found = best
    covariances = found.covariances_ if kind == "full" else [np.diag(v) for v in found.covariances_]
    words = f"{found.n_components} {'component' if found.n_components == 1 else 'components'}, {kind} covariance"
    return Mixture(found.weights_, found.means_, covariances, 0 * floor), words


def complete(x: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
    """Return x with its missing entries drawn given the others, from a Gaussian fitted by EM; None if that is too long.

    The columns must be standardised: the covariance has one pseudo-row of the unit matrix, so that it is always
    positive definite.
    """
    if not np.isnan(x).any():
        return x
    patterns = list(_patterns(x))
    N, D = x.shape
    if len(patterns) * D**3 > _MAX_WORK:
        return None
    mean, covariance = np.zeros(D), np.eye(D)
    for _ in range(30):
        filled, extra = x.copy(), np.eye(D)
        for rows, seen in patterns:
            guess, left = _conditional(x[rows], seen, mean, covariance)
            filled[np.ix_(rows, ~seen)] = guess
            extra[np.ix_(~seen, ~seen)] += len(rows) * left
        before, mean = covariance, filled.mean(0)
        covariance = ((filled - mean).T @ (filled - mean) + extra) / (N + 1)
        if np.abs(covariance - before).max() < 1e-4:
            break
    for rows, seen in patterns:
        guess, left = _conditional(x[rows], seen, mean, covariance)
        if guess.size:
            noise = rng.standard_normal(guess.shape) @ np.linalg.cholesky(left + 1e-9 * np.eye(len(left))).T
            filled[np.ix_(rows, ~seen)] = guess + noise
    return filled


def _conditional(
    x: np.ndarray, seen: np.ndarray, mean: np.ndarray, covariance: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean ``(n, m)`` and covariance ``(m, m)`` of the missing entries of one pattern given the seen ones."""
    weight = np.linalg.solve(covariance[np.ix_(seen, seen)], covariance[np.ix_(seen, ~seen)])
    guess = mean[~seen] + (x[:, seen] - mean[seen]) @ weight
    return guess, covariance[np.ix_(~seen, ~seen)] - covariance[np.ix_(~seen, seen)] @ weight


def _patterns(x: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the rows of each pattern of missingness, and which columns they have."""
    kinds, which = np.unique(~np.isnan(x), axis=0, return_inverse=True)
    for k, seen in enumerate(kinds):
        yield np.flatnonzero(which.reshape(-1) == k), seen


def _log_normal(x: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    from scipy.linalg import solve_triangular

    tril = np.linalg.cholesky(covariance)
    white = solve_triangular(tril, (x - mean).T, lower=True)
    return -0.5 * (white**2).sum(0) - np.log(np.diag(tril)).sum() - 0.5 * len(mean) * np.log(2 * np.pi)


class _quiet(warnings.catch_warnings):  # noqa: N801  a context manager
    """A fit that stops at its iterations is a little worse, not wrong."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.simplefilter("ignore")
