r"""A Gaussian copula with factors over columns of both kinds: the baseline of a mixed table.

Each column is a monotone function of one coordinate of :math:`y \sim N(0, R)`, :math:`R = \Lambda\Lambda^T + \Psi`. A
continuous value fixes its coordinate; a discrete one says in which interval it lies. Given the L factors f all
coordinates are independent, so that

.. math:: p(x) = \prod_c \frac{p_c(x_c)}{\varphi(y_c)} N(y_C; 0, R_{CC})
   \int \prod_d \left[\Phi\tfrac{b_d - \lambda_d f}{\sqrt{\psi_d}} - \Phi\tfrac{a_d - \lambda_d f}{\sqrt{\psi_d}}\right]
   p(f|y_C)\, df

with the integral by importance sampling: a density of the continuous columns, a probability of the discrete ones.
"""

from __future__ import annotations

import numpy as np

from pyro_vae.evaluation.model.gaussians import complete, factors
from pyro_vae.evaluation.model.marginals import Discrete, KernelDensity

__all__ = ["Copula"]

_MAX_NUMBERS = 2**22  # in one array: rows times draws times columns
_LARGEST_SHARE = 0.995  # of a coordinate's variance that the factors can explain


class Copula:
    """Fitted by normal scores: marginals first, then scikit-learn's FactorAnalysis of the scores.

    The score of a discrete value is the mean of its interval. It varies less than the coordinate itself, by its
    variance s^2; a correlation with it is too small by the factor s, which is put back.

    Args:
        x: training rows ``(N, D)``, NaN where missing.
        test: rows to score, for the values that a discrete column can have.
        discrete: which columns are, ``(D,)``.
        floor: variance of each column's rounding, ``(D,)``.
        latent_dim: number of factors.
        rng: for the missing entries and the factors' draws.
    """

    def __init__(
        self,
        x: np.ndarray,
        test: np.ndarray,
        *,
        discrete: np.ndarray,
        floor: np.ndarray,
        latent_dim: int,
        rng: np.random.Generator,
    ) -> None:
        self.discrete, self.rng = discrete, rng
        self.real = {d: KernelDensity(x[:, d], floor[d]) for d in np.flatnonzero(~discrete).tolist()}
        self.boxes = {d: Discrete(x[:, d], test[:, d]) for d in np.flatnonzero(discrete).tolist()}
        scores = np.stack([self._score(d, x[:, d]) for d in range(x.shape[1])], 1)
        shrunk = np.maximum(np.nanstd(scores, 0), 1e-6)
        filled = complete((scores - np.nanmean(scores, 0)) / shrunk, rng)
        if filled is None:
            raise MemoryError("too many patterns of missingness")
        found = factors(filled, latent_dim)
        unit = np.sqrt(np.diag(found.get_covariance())) * np.where(discrete, shrunk, 1.0)
        self.set_loadings(found.components_.T / unit[:, None])

    def set_loadings(self, loadings: np.ndarray) -> None:
        """Take the factors' loadings ``(D, L)``; the rest of each unit variance is noise."""
        share = (loadings**2).sum(1)
        self.loadings = loadings * np.sqrt(np.minimum(1.0, _LARGEST_SHARE / np.maximum(share, 1e-12)))[:, None]
        self.noise = 1 - (self.loadings**2).sum(1)

    def _score(self, d: int, column: np.ndarray) -> np.ndarray:
        """Normal scores of a column, NaN where missing."""
        from scipy.special import ndtri
        from scipy.stats import norm

        there = ~np.isnan(column)
        out = np.full(len(column), np.nan)
        if d in self.real:
            out[there] = self.real[d].score(column[there])
        else:
            low, high = self.boxes[d].box(column[there])
            out[there] = (norm.pdf(ndtri(low)) - norm.pdf(ndtri(high))) / np.maximum(high - low, 1e-12)
        return out

    def log_prob(self, x: np.ndarray, *, num_samples: int = 1000) -> tuple[np.ndarray, np.ndarray]:
        """Return log p(x) of the observed entries and its Monte Carlo standard error, ``(N,)`` each, nats."""
        real = np.flatnonzero(~self.discrete).tolist()
        there = ~np.isnan(x[:, real])
        value = np.zeros(len(x))
        scores = np.zeros(there.shape)
        for k, d in enumerate(real):
            rows = there[:, k]
            scores[rows, k] = self.real[d].score(x[rows, d])
            value[rows] += self.real[d].log_prob(x[rows, d]) + 0.5 * scores[rows, k] ** 2 + 0.5 * np.log(2 * np.pi)
        marginal_part, mean, precision = self._given(scores, there, self.loadings[real], self.noise[real])
        value += marginal_part
        if not self.discrete.any():
            return value, np.zeros(len(x))
        size = max(1, _MAX_NUMBERS // (num_samples * int(self.discrete.sum())))
        parts = [
            self._boxes(x[rows], mean[rows], precision[rows], num_samples)
            for rows in np.array_split(np.arange(len(x)), -(-len(x) // size))
        ]
        return value + np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])

    @staticmethod
    def _given(
        y: np.ndarray, there: np.ndarray, loadings: np.ndarray, noise: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Log N(y; 0, R) of the entries that are there ``(N,)``, and mean and precision of the factors given them."""
        weight = there / noise
        precision = np.eye(loadings.shape[1]) + np.einsum("nd,dl,dk->nlk", weight, loadings, loadings)
        pull = (weight * y) @ loadings
        mean = np.linalg.solve(precision, pull[..., None])[..., 0]
        quadratic = (weight * y**2).sum(1) - (pull * mean).sum(1)
        log_det = np.linalg.slogdet(precision)[1] + (there * np.log(noise)).sum(1)
        return -0.5 * (quadratic + log_det + there.sum(1) * np.log(2 * np.pi)), mean, precision

    def _boxes(
        self, x: np.ndarray, mean: np.ndarray, precision: np.ndarray, num_samples: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Log probability of the discrete entries given the continuous ones, and its standard error, ``(N,)``.

        The proposal is the factors' Gaussian given the continuous columns and given the scores of the discrete ones
        as noisy measurements, 1.3 times as wide.
        """
        from scipy.special import log_ndtr, logsumexp, ndtri

        places = np.flatnonzero(self.discrete).tolist()
        loadings, noise = self.loadings[places], self.noise[places]
        low, high = (np.stack(edge, 1) for edge in zip(*(self.boxes[d].box(x[:, d]) for d in places), strict=True))
        there = ~np.isnan(x[:, places])
        score = np.nan_to_num(np.stack([self._score(d, x[:, d]) for d in places], 1))
        inside = np.maximum(1 - np.mean(score**2, 0), 0.05)  # roughly the variance within an interval
        weight = there / (noise + inside)
        tighter = precision + np.einsum("nd,dl,dk->nlk", weight, loadings, loadings)
        pull = np.einsum("nlk,nk->nl", precision, mean) + (weight * score) @ loadings
        centre = np.linalg.solve(tighter, pull[..., None])[..., 0]
        wide = 1.3 * np.linalg.inv(np.linalg.cholesky(tighter)).transpose(0, 2, 1)
        noise_of_f = self.rng.standard_normal((len(x), num_samples, loadings.shape[1]))
        f = centre[:, None] + np.einsum("nlk,nsk->nsl", wide, noise_of_f)
        log_q = -0.5 * (noise_of_f**2).sum(-1) - np.linalg.slogdet(wide)[1][:, None]
        off = f - mean[:, None]
        log_p = (
            -0.5 * np.einsum("nsl,nlk,nsk->ns", off, precision, off) + 0.5 * np.linalg.slogdet(precision)[1][:, None]
        )
        at = f @ loadings.T  # (N, S, Dd)
        a, b = (np.where(there, ndtri(edge), bound) for edge, bound in ((low, -np.inf), (high, np.inf)))
        a, b = ((edge[:, None] - at) / np.sqrt(noise) for edge in (a, b))
        flip = a > 0  # the upper tail is the lower one seen from the other side
        a, b = np.where(flip, -b, a), np.where(flip, -a, b)
        top, bottom = log_ndtr(b), log_ndtr(a)
        log_box = top + np.log(np.maximum(-np.expm1(np.minimum(bottom - top, 0.0)), 1e-300))
        log_w = log_box.sum(-1) + log_p - log_q
        total = logsumexp(log_w, axis=1)
        share = np.exp(log_w - total[:, None])
        return total - np.log(num_samples), np.sqrt(np.maximum((share**2).sum(1) - 1 / num_samples, 0))
