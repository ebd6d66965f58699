r"""Importance weights of a posterior's draws: the ELBO, the importance-weighted bound, re-weighted moments, k-hat.

With :math:`w_k = p(x, u_k) / q(u_k)` and :math:`u_k \sim q`, the mean of w is unbiased for p(x); its logarithm
is a lower bound in expectation (Jensen), which rises with K to log p(x) (Burda, Grosse & Salakhutdinov 2016).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.checks import positive_integer
from pyro_vae.inference.mcmc.draws import Draws
from pyro_vae.inference.optimum.mode import laplace
from pyro_vae.inference.posterior import GuideSampler, answer
from pyro_vae.inference.target import blocks
from pyro_vae.inference.target.target import Target

__all__ = ["Weights", "importance_weights", "log_mean_exp", "pareto_k", "proposal"]

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
        mean: re-weighted posterior mean of u, ``(N, L)``.
        std: re-weighted posterior standard deviation of u, ``(N, L)``.
        own_mean: mean of the draws themselves, ``(N, L)``.
        own_std: standard deviation of the draws themselves, ``(N, L)``.
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
        posterior = laplace(target.model, target.args, plate=target.plate)
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
       \hat\mu = \frac{\sum_k w_k u_k}{\sum_k w_k}

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
    sums = _Sums(target, K)
    for u, log_w in weighted_blocks(target, proposal(target, posterior), K):
        sums.add(u.double(), log_w.double())
    return sums.result()


def weighted_blocks(target: Target, sampler: GuideSampler, num_samples: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield draws u ``(k, N, L)`` and their log weights ``(k, N)``, ``num_samples`` in all, in blocks that fit."""
    size = blocks.block_size(target)
    for start in range(0, num_samples, size):
        u, log_q = sampler.sample(min(size, num_samples - start))
        yield u, target.log_joint(u) - log_q


class _Sums:
    """Running sums over blocks of weights, in float64, relative to the largest weight so far."""

    def __init__(self, target: Target, num_samples: int) -> None:
        N, L = target.origin.shape
        zero = target.origin.new_zeros(N, dtype=torch.float64)
        wide = target.origin.new_zeros(N, L, dtype=torch.float64)
        self.K, self.done = num_samples, 0
        self.groups = min(num_samples, _GROUPS)
        self.log_sums = zero.expand(self.groups, N).clone().fill_(-math.inf)
        self.top, self.square = zero - math.inf, zero  # largest log w; sum of w^2 relative to it
        self.first, self.second = wide, wide  # sums of w u and w u^2 relative to it
        self.log_mean, self.log_scatter = zero, zero  # of log w (Chan, Golub & LeVeque 1979)
        self.own_first, self.own_second = wide, wide
        self.kept: list[Tensor] = []
        self.centre: Tensor | None = None

    def add(self, u: Tensor, log_w: Tensor) -> None:
        k = len(u)
        if self.centre is None:
            self.centre = u.mean(0)  # keeps the sums of squares from cancelling
        u = u - self.centre
        member = torch.arange(self.done, self.done + k, device=u.device) * self.groups // self.K
        for group in range(int(member[0]), int(member[-1]) + 1):
            self.log_sums[group] = torch.logaddexp(self.log_sums[group], log_w[member == group].logsumexp(0))
        top = torch.maximum(self.top, log_w.amax(0))
        old = (self.top - top).nan_to_num(nan=0.0).exp()
        w = (log_w - top).nan_to_num(nan=-math.inf).exp()
        self.square = self.square * old.square() + w.square().sum(0)
        self.first = self.first * old[:, None] + torch.einsum("kn,knl->nl", w, u)
        self.second = self.second * old[:, None] + torch.einsum("kn,knl->nl", w, u.square())
        self.top = top
        mean = log_w.mean(0)
        shift, total = mean - self.log_mean, self.done + k
        self.log_scatter = self.log_scatter + (log_w - mean).square().sum(0) + shift.square() * self.done * k / total
        self.log_mean = self.log_mean + shift * k / total
        self.own_first, self.own_second = self.own_first + u.sum(0), self.own_second + u.square().sum(0)
        if self.done == 0 or self.done * u.shape[1] < blocks.NUMBERS:
            self.kept.append(log_w)
        self.done = total

    def result(self) -> Weights:
        K = self.K
        counts = torch.bincount(torch.arange(K) * self.groups // K, minlength=self.groups).to(self.log_sums)
        log_evidence, error = log_mean_exp(self.log_sums, counts)
        total = (self.log_sums.logsumexp(0) - self.top).exp()
        centre = self.first.new_zeros(()) if self.centre is None else self.centre
        mean, own = self.first / total[:, None], self.own_first / K
        spread = (self.own_second / K - own.square()) * K / (K - 1)
        return Weights(
            elbo=self.log_mean,
            elbo_error=(self.log_scatter / (K - 1) / K).sqrt(),
            log_evidence=log_evidence,
            log_evidence_error=error,
            ess=total.square() / self.square,
            pareto_k=pareto_k(torch.cat(self.kept)),
            mean=mean + centre,
            std=(self.second / total[:, None] - mean.square()).clamp_min(0).sqrt(),
            own_mean=own + centre,
            own_std=spread.clamp_min(0).sqrt(),
            num_samples=K,
        )


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


def pareto_k(log_weights: Tensor) -> Tensor:
    """Shape of a generalised Pareto distribution fitted to the largest weights, ``(N,)``, by ArviZ.

    Weights that are constant to 1e-3 nats (q is the posterior, up to rounding) have no tail: 0.

    Source: Vehtari, Simpson, Gelman, Yao & Gabry 2024, "Pareto smoothed importance sampling".

    Args:
        log_weights: ``(K, N)``.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> u = torch.distributions.Exponential(1.0).sample((40000, 1))  # exp(u / 2) has a Pareto tail, k = 1/2
        >>> bool((pareto_k(0.5 * u) - 0.5).abs() < 0.2)
        True
    """
    with warnings.catch_warnings():  # ArviZ 0.23 announces version 1 on import
        warnings.simplefilter("ignore", FutureWarning)
        import arviz

    constant = log_weights.amax(0) - log_weights.amin(0) < 1e-3
    values = log_weights.detach().double().cpu().T.contiguous().numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a k above 0.7 is a result here
        _, k = arviz.psislw(values)
    found = torch.as_tensor(k, dtype=torch.float64, device=log_weights.device).reshape(-1)
    return torch.where(constant, 0.0, found)
