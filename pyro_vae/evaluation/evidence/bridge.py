"""Bridge sampling: the evidence from draws of MCMC.

Sources: Meng & Wong 1996, "Simulating ratios of normalizing constants via a simple identity"; Gronau et al. 2017, "A
tutorial on bridge sampling", appendix A for the error.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from pyro_vae.checks import say
from pyro_vae.evaluation.evidence.importance import gaussian_of
from pyro_vae.evaluation.evidence.method import Estimate, EvidenceMethod, Settings
from pyro_vae.inference.mcmc.diagnostics import ess_mean
from pyro_vae.inference.mcmc.draws import Draws
from pyro_vae.inference.posterior import answer
from pyro_vae.inference.target.blocks import log_joint_in_blocks
from pyro_vae.inference.target.target import Target

__all__ = ["Bridge", "bridge"]


class Bridge(EvidenceMethod):
    """Bridge sampling from the draws of chains; unresolved where these are far from having converged."""

    name = "bridge"

    def estimate(self, target: Target, posterior: Any, settings: Settings) -> Estimate:
        """Return the bridge's estimate with its error, infinite where chains are not good enough."""
        if not isinstance(posterior, Draws):
            raise TypeError(say("Draws for bridge sampling", type(posterior).__name__, "posterior=pv.mcmc(model, x)"))
        value, error = bridge(target, answer(target, posterior).u.unflatten(0, (posterior.num_chains, -1)))
        doubtful = ~posterior.converged(max_rhat=1.05, min_ess=100.0)
        limits = "R-hat below 1.05, effective draws above 100"
        reason = f"their chains are good enough for it ({limits})"
        if bool(doubtful.any()):
            reason = f"chains of {int(doubtful.sum())} of {len(doubtful)} posteriors are not good enough ({limits})"
        return Estimate(value, error.masked_fill(doubtful, math.inf), f"from draws of {posterior.kernel}; {reason}")

    def attempt(self, target: Target, posterior: Any, settings: Settings) -> Estimate | None:
        """Return it if the posterior is Draws."""
        return self.estimate(target, posterior, settings) if isinstance(posterior, Draws) else None


@torch.no_grad()
def bridge(target: Target, u: Tensor, *, max_iterations: int = 1000) -> tuple[Tensor, Tensor]:
    r"""Estimate log p(x) from posterior draws, by the optimal bridge to a Gaussian g fitted to half of them.

    With l = p(x, u) / g(u) at the other half of the draws and at as many draws of g, iterate

    .. math:: \hat p(x) \leftarrow
        \frac{\frac1{n_2} \sum_{u \sim g} \frac{l}{s_1 l + s_2 \hat p(x)}}
        {\frac1{n_1} \sum_{u \sim p} \frac{1}{s_1 l + s_2 \hat p(x)}},
        \quad s_i = \frac{n_i}{n_1 + n_2},

    where n_1 counts effective draws. The chains must have converged; a mode that they missed is missing here too.

    Args:
        target: the densities.
        u: draws ``(C, S, N, L)``.
        max_iterations: of the fixed point.

    Returns:
        log p(x) and its standard error (relative error of the evidence, from autocorrelated terms), ``(N,)`` each.

    Raises:
        ValueError: for fewer than 20 draws a chain.

    Example:
        >>> import pyro_vae as pv
        >>> _ = torch.manual_seed(0)
        >>> model = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Gaussian(torch.nn.Linear(2, 5), scale=1.0))
        >>> exact = pv.analytic(model, torch.zeros(3, 5))
        >>> value, error = bridge(Target(model, torch.zeros(3, 5)), exact.sample((4, 500)))
        >>> bool((value - exact.log_evidence).abs().max() < 0.05)
        True
    """
    S = u.shape[1]
    if S < 20:
        raise ValueError(say("at least 20 draws a chain", f"{S}", "num_samples=500"))
    g = gaussian_of(u[:, : S // 2].flatten(0, 1))
    rest = u[:, S // 2 :]
    log_posterior = _log_ratio(target, g, rest.flatten(0, 1)).reshape(*rest.shape[:3])  # (C, S / 2, N) log l
    n = log_posterior.shape[0] * log_posterior.shape[1]
    log_proposal = _log_ratio(target, g, g.sample((n,)))  # (n, N)
    centre = log_posterior.flatten(0, 1).median(0).values  # only differences of logs are exponentiated
    log_posterior, log_proposal = (v.double() - centre for v in (log_posterior, log_proposal))
    n1 = ess_mean(log_posterior).clamp(1, n).nan_to_num(nan=float(n))
    s1, s2 = n1 / (n1 + n), n / (n1 + n)
    log_r = torch.zeros_like(s1)
    for _ in range(max_iterations):
        below = torch.logaddexp(s1.log() + log_proposal, s2.log() + log_r)
        above = torch.logaddexp(s1.log() + log_posterior.flatten(0, 1), s2.log() + log_r)
        new = (log_proposal - below).logsumexp(0) - (-above).logsumexp(0)
        done = bool(((new - log_r).abs() < 1e-10).all())
        log_r = new
        if done:
            break
    return log_r + centre, _error(log_posterior, log_proposal, log_r, s1, s2)


def _log_ratio(target: Target, g: torch.distributions.Distribution, u: Tensor) -> Tensor:
    return log_joint_in_blocks(target, u) - g.log_prob(u)


def _error(log_posterior: Tensor, log_proposal: Tensor, log_r: Tensor, s1: Tensor, s2: Tensor) -> Tensor:
    """Root of the relative mean squared error (Gronau et al. 2017, equation 16)."""
    f1 = (log_proposal - log_r - torch.logaddexp(s1.log() + log_proposal - log_r, s2.log())).exp()
    f2 = (-torch.logaddexp(s1.log() + log_posterior - log_r, s2.log())).exp()
    ess = ess_mean(f2).nan_to_num(nan=float(f2[..., 0].numel()))
    flat = f2.flatten(0, 1)
    first = f1.var(0) / f1.mean(0).square() / len(f1)
    second = flat.var(0) / flat.mean(0).square() / ess
    return (first + second).sqrt()
