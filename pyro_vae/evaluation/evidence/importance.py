r"""Importance weights of a posterior's draws: the ELBO, the importance-weighted bound, re-weighted moments, k-hat.

With :math:`w_k = p(x, u_k) / q(u_k)` and :math:`u_k \sim q`, the mean of w is unbiased for p(x); its logarithm
is a lower bound in expectation (Jensen), which rises with K to log p(x) (Burda, Grosse & Salakhutdinov 2016).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.arviz_import import pareto_k
from pyro_vae.checks import positive_integer
from pyro_vae.evaluation.evidence.method import Estimate, EvidenceMethod, Settings
from pyro_vae.evaluation.evidence.moments import WeightedMoments
from pyro_vae.evaluation.sites import side_by_side
from pyro_vae.inference.mcmc.draws import Draws
from pyro_vae.inference.optimum.mode import laplace
from pyro_vae.inference.posterior import GuideSampler, answer
from pyro_vae.inference.target import blocks
from pyro_vae.inference.target.target import Target

__all__ = ["Elbo", "Importance", "Weights", "importance_weights", "log_mean_exp", "pareto_k", "proposal"]

_GROUPS = 100  # groups of the jackknife


@dataclass(frozen=True)
class Weights:
    """What K importance weights of each of N posteriors say; every tensor is ``(N,)`` unless stated.

    Attributes:
        elbo: mean of log w, nats: a lower bound of log p(x).
        elbo_error: its standard error.
        log_evidence: log of the mean of w, nats: a tighter lower bound in expectation.
        log_evidence_error: its standard error, by the jackknife over groups of draws.
        ess: effective number of draws, (sum w)^2 / sum w^2.
        pareto_k: shape of the weights' tail; above 0.7 the re-weighted estimates are not to be relied on.
        mean: re-weighted posterior mean of the named sites' numbers, side by side in the program's order, ``(N, M)``;
            M is L unless a site's support has more numbers than degrees of freedom (a simplex).
        std: their re-weighted posterior standard deviation, ``(N, M)``.
        own_mean: mean of the draws themselves, ``(N, M)``.
        own_std: standard deviation of the draws themselves, ``(N, M)``.
        num_samples: K.
    """

    elbo: Tensor
    elbo_error: Tensor
    log_evidence: Tensor
    log_evidence_error: Tensor
    ess: Tensor
    pareto_k: Tensor
    mean: Tensor
    std: Tensor
    own_mean: Tensor
    own_std: Tensor
    num_samples: int


def proposal(target: Target, posterior: Any) -> GuideSampler:
    """Return any posterior as a sampler of u with its density.

    Args:
        target: the densities that it is a posterior of.
        posterior: a guide, a distribution over u, Draws (then the Gaussian of their moments, since chains have no
            density), or None for Laplace's approximation.

    Raises:
        TypeError: if it is none of these.
        ValueError: if it is a point mass, which has no density to weigh by, or of other data.
    """
    if posterior is None:
        posterior = laplace(target)
    if isinstance(posterior, Draws):
        posterior = gaussian_of(answer(target, posterior).u)
    return GuideSampler(target, posterior)


def gaussian_of(u: Tensor) -> dist.MultivariateNormal:
    """Return the Gaussian with the moments of draws u ``(S, N, L)``, ``batch_shape (N,)``."""
    mean = u.mean(0)
    away = u - mean
    covariance = torch.einsum("snl,snk->nlk", away, away) / (len(u) - 1)
    ridge = 1e-6 * covariance.diagonal(dim1=-2, dim2=-1).mean(-1).clamp_min(1e-12)
    return dist.MultivariateNormal(mean, covariance + ridge[:, None, None] * torch.eye(u.shape[-1]).to(u))


@torch.no_grad()
def importance_weights(target: Target, posterior: Any = None, *, num_samples: int = 1000) -> Weights:
    r"""Weigh K draws of a posterior, in blocks so that memory does not grow with K.

    .. math:: \mathrm{ELBO} = \tfrac1K \sum_k \log w_k, \quad \log \hat p(x) = \log \tfrac1K \sum_k w_k, \quad
       \hat\mu = \frac{\sum_k w_k z_k}{\sum_k w_k}

    No tensor holds more than :math:`2^{22}` numbers a layer of the width of a datum (or one draw of all data, where
    that is more). The k-hat is that of the first draws that fit into as many numbers.

    Args:
        target: the densities.
        posterior: where to draw from, see :func:`proposal`.
        num_samples: K.

    Example:
        >>> import pyro_vae as pv
        >>> model = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Gaussian(torch.nn.Linear(2, 5), scale=1.0))
        >>> x = torch.zeros(3, 5)
        >>> exact = pv.analytic(model, x)  # with q the posterior itself, every weight is p(x)
        >>> weights = importance_weights(Target(model, x), exact, num_samples=10)
        >>> torch.allclose(weights.elbo, exact.log_evidence.double(), atol=1e-4)
        True
    """
    K = positive_integer(num_samples, "num_samples", minimum=2)
    tally = _Tally(target, K)
    for u, log_w in weighted_blocks(target, proposal(target, posterior), K):
        tally.add(side_by_side(target, u), log_w.double())
    return tally.result()


def weighted_blocks(target: Target, sampler: GuideSampler, num_samples: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield draws u ``(k, N, L)`` and their log weights ``(k, N)``, ``num_samples`` in all, in blocks that fit."""
    size = blocks.block_size(target)
    for start in range(0, num_samples, size):
        u, log_q = sampler.sample(min(size, num_samples - start))
        yield u, target.log_joint(u) - log_q


class _Tally:
    """What K weights say, gathered over blocks: sums by group for the jackknife, three sets of running moments."""

    def __init__(self, target: Target, num_samples: int) -> None:
        self.K, self.done = num_samples, 0
        self.groups = min(num_samples, _GROUPS)
        self.log_sums = target.origin.new_full((self.groups, target.num_data), -math.inf, dtype=torch.float64)
        self.reweighted, self.own, self.log_w = WeightedMoments(), WeightedMoments(), WeightedMoments()
        self.kept: list[Tensor] = []

    def add(self, z: Tensor, log_w: Tensor) -> None:
        k = len(z)
        member = torch.arange(self.done, self.done + k, device=z.device) * self.groups // self.K
        for group in range(int(member[0]), int(member[-1]) + 1):
            self.log_sums[group] = torch.logaddexp(self.log_sums[group], log_w[member == group].logsumexp(0))
        self.reweighted.add(z, log_w)
        self.own.add(z)
        self.log_w.add(log_w[..., None])
        if self.done == 0 or self.done * z.shape[1] < blocks.NUMBERS:
            self.kept.append(log_w)
        self.done += k

    def result(self) -> Weights:
        K, w = self.K, self.reweighted
        counts = torch.bincount(torch.arange(K) * self.groups // K, minlength=self.groups).to(self.log_sums)
        log_evidence, error = log_mean_exp(self.log_sums, counts)
        return Weights(
            elbo=self.log_w.mean[:, 0],
            elbo_error=(self.log_w.scatter[:, 0] / (K - 1) / K).sqrt(),
            log_evidence=log_evidence,
            log_evidence_error=error,
            ess=w.total.square() / w.square,
            pareto_k=pareto_k(torch.cat(self.kept)),
            mean=w.mean,
            std=(w.scatter / w.total[:, None]).sqrt(),
            own_mean=self.own.mean,
            own_std=(self.own.scatter / (K - 1)).sqrt(),
            num_samples=K,
        )


class Importance(EvidenceMethod):
    r"""The log of the mean weight; unresolved where k-hat is above 0.7, for a heavy tail hides its own error.

    From k = 1/2 on weights have no variance, and the error of their mean falls as :math:`K^{k - 1}`, not as
    :math:`K^{-1/2}` (Vehtari et al. 2024): the jackknife's error is taken :math:`K^{k - 1/2}` times.
    """

    name = "importance"

    def estimate(self, target: Target, posterior: Any, settings: Settings) -> Estimate:
        """Return the importance-weighted bound with its jackknife error."""
        w = importance_weights(target, posterior, num_samples=settings.num_samples)
        error = w.log_evidence_error * w.num_samples ** (w.pareto_k - 0.5).clamp_min(0.0)
        error = error.masked_fill(w.pareto_k > 0.7, math.inf)
        return Estimate(w.log_evidence, error, _reason(w))


class Elbo(EvidenceMethod):
    """The mean log weight: a bound, never the evidence."""

    name = "elbo"
    bound = True

    def estimate(self, target: Target, posterior: Any, settings: Settings) -> Estimate:
        """Return the ELBO with its standard error."""
        w = importance_weights(target, posterior, num_samples=settings.num_samples)
        return Estimate(w.elbo, w.elbo_error, _reason(w))


def _reason(w: Weights) -> str:
    return f"{w.num_samples} draws of the posterior; a lower bound in expectation"


def log_mean_exp(log_sums: Tensor, counts: Tensor | None = None) -> tuple[Tensor, Tensor]:
    r"""Log of a mean of exponentials, and its standard error by the jackknife over groups.

    With :math:`\theta_{-g}` the estimate without group g, the error is
    :math:`\sqrt{\tfrac{G-1}{G} \sum_g (\theta_{-g} - \bar\theta)^2}`. It needs no expansion of the logarithm (the delta
    method is too small where few weights dominate), and is infinite where a single group holds all the weight.

    Args:
        log_sums: log of each group's sum of weights, ``(G, N)``; or single log weights.
        counts: draws a group, ``(G,)``; ones if None.

    Returns:
        Estimate and standard error, ``(N,)`` each, nats.

    Example:
        >>> value, error = log_mean_exp(torch.zeros(50, 3))
        >>> value, error
        (tensor([0., 0., 0.]), tensor([0., 0., 0.]))
    """
    G = len(log_sums)
    counts = log_sums.new_ones(G) if counts is None else counts.to(log_sums)
    total = log_sums.logsumexp(0)
    share = (log_sums - total).exp()
    without = torch.log1p(-share) - torch.log1p(-counts / counts.sum())[:, None]  # theta_-g - theta
    spread = (without - without.mean(0)).square().sum(0)
    error = ((G - 1) / G * spread).sqrt()
    return total - counts.sum().log(), torch.where(error.isnan(), math.inf, error)
