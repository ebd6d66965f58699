"""Truths of programs that are linear and Gaussian given a few scales: scales by quadrature, the rest exactly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.atlas.truth import Truth, grid_moments
from pyro_vae.atlas.values import Values
from pyro_vae.inference.exact.quadrature import quadrature
from pyro_vae.inference.target.target import Target

__all__ = ["GivenScales", "gaussian_given"]


@dataclass(frozen=True, eq=False)
class GivenScales:
    r"""A program whose other sites z are Gaussian given scales s, and whose data are linear in them.

    .. math:: z \mid s \sim N(0, F_s F_s^\top), \quad y \mid z, s \sim N(A z, \mathrm{diag}(n_s^2))

    So :math:`y \mid s \sim N(0, A F_s F_s^\top A^\top + \mathrm{diag}(n_s^2))`: the posterior of s and the evidence
    are integrals over one to three numbers, and z given s and y is drawn exactly. Called with a target, it
    returns its truth.

    Attributes:
        scales: the part of the program that samples s, called with the program's arguments; returns s by site.
        factor: F ``(..., M, M')`` from s, each ``(...)``.
        noise: n ``(..., D)`` from s.
        design: A ``(D, M)``.
        y: the data ``(D,)``, less what is known of their mean.
        split: from z ``(n, M)`` and s to the other latent sites.
    """

    scales: Callable[..., Values]
    factor: Callable[[Values], Tensor]
    noise: Callable[[Values], Tensor]
    design: Tensor
    y: Tensor
    split: Callable[[Tensor, Values], Values]

    def marginal(self, *args: Any) -> None:
        """The program over s alone, z integrated out."""
        s = self.scales(*args)
        loaded = self.design @ self.factor(s)
        zero, variance = torch.zeros_like(self.y), self.noise(s).square()
        if loaded.shape[-1] < len(self.y):
            pyro.sample("y", dist.LowRankMultivariateNormal(zero, loaded, variance), obs=self.y)
        else:  # where z could explain the data whole, the low-rank form cancels as the noise goes to zero
            covariance = loaded @ loaded.mT + torch.diag_embed(variance)
            pyro.sample("y", dist.MultivariateNormal(zero, covariance), obs=self.y)

    def __call__(self, target: Target) -> Truth:
        """Return the truth of the whole program."""
        marginal = Target(self.marginal, target.args, plate=None)
        posterior = quadrature(marginal, plate=None)

        def sample(n: int) -> Values:
            s = marginal.constrain(posterior.sample((n,)))
            z = gaussian_given(self.factor(s), self.noise(s), self.design, self.y)
            return {name: (s | self.split(z, s))[name] for name in target.sites}

        return Truth.of_sampler(
            sample,
            how="quadrature",
            **grid_moments(marginal, posterior),
            log_evidence=float(posterior.log_evidence),
            log_evidence_error=float(posterior.error_bound),
        )


def gaussian_given(factor: Tensor, noise: Tensor, design: Tensor, y: Tensor) -> Tensor:
    r"""Draw z given y = A z + n e, where z = F w, and w and e are standard normal.

    .. math:: w \mid y \sim N(\Lambda^{-1} B^\top y / n^2, \; \Lambda^{-1}), \quad
        \Lambda = I + B^\top \mathrm{diag}(n^{-2}) B, \quad B = A F

    Source: Bishop 2006, Pattern Recognition and Machine Learning, section 2.3.3.

    Args:
        factor: F ``(n, M, M')``, one a draw.
        noise: n ``(n, D)``.
        design: A ``(D, M)``.
        y: ``(D,)``.

    Returns:
        Draws ``(n, M)``.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> z = gaussian_given(torch.ones(20000, 1, 1), torch.ones(20000, 1), torch.ones(1, 1), torch.ones(1))
        >>> bool((z.mean() - 0.5).abs() < 0.02), bool((z.var() - 0.5).abs() < 0.02)
        (True, True)
    """
    loaded = design @ factor / noise.unsqueeze(-1)  # (n, D, M'), in units of the noise
    root = torch.linalg.cholesky(loaded.mT @ loaded + torch.eye(factor.shape[-1]).to(factor))
    shift = torch.linalg.solve_triangular(root, loaded.mT @ (y / noise).unsqueeze(-1), upper=False)
    w = torch.linalg.solve_triangular(root.mT, shift + torch.randn(shift.shape, dtype=shift.dtype), upper=True)
    return (factor @ w).squeeze(-1)
