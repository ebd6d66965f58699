"""Natural-gradient steps of a Gaussian, by gradients of log p alone."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.inference.target.target import Target
from pyro_vae.inference.variational.whole.noise import even_noise

__all__ = ["natural_steps", "num_natural_draws"]

_SHARES = (1.0, 0.5, 0.25, 0.125, 0.0625)  # of a step, tried one after another until the bound rises
_RISE = 0.02  # nats a step, below which others do better
_WIDEST = 0.05  # the least curvature believed, in units of the Gaussian's own


@torch.no_grad()
def natural_steps(
    target: Target, start: dist.MultivariateNormal, *, max_steps: int
) -> tuple[dist.MultivariateNormal, int, int]:
    r"""Return the start, moved by natural-gradient steps while they raise the bound, and what that cost.

    The best Gaussian satisfies :math:`E_q[\nabla \log p] = 0` and :math:`\Sigma^{-1} = -E_q[\nabla^2 \log p]`, where
    by Stein's identity :math:`T^\top E_q[\nabla^2 \log p]\, T = E[T^\top \nabla \log p\; z^\top]` for u = mu + T z. A
    step of the natural gradient with length one puts both equations' right sides in place of the left: on a Gaussian
    posterior it is the answer. A shorter one mixes the precisions.

    Source: Khan & Rue 2023, "The Bayesian learning rule", equations 10 and 11; Opper & Archambeau 2009.

    Args:
        target: the densities.
        start: a Gaussian over u, ``batch_shape (N,)``.
        max_steps: the most evaluations.

    Returns:
        The Gaussian, gradient evaluations at one u, and those one after another.
    """
    loc, tril = start.loc, start.scale_tril
    L = loc.shape[-1]
    noise = even_noise(num_natural_draws(L), L, loc)
    best, slope, curvature = _moments(target, loc, tril, noise)
    share = torch.zeros_like(best, dtype=torch.long)  # which share each posterior tries next
    shares = torch.tensor(_SHARES).to(loc)
    calls = 1
    while calls < max_steps and bool((share < len(_SHARES)).any()):
        going = share < len(_SHARES)
        part = shares[share.clamp_max(len(_SHARES) - 1)][:, None]
        values, vectors = torch.linalg.eigh(curvature)
        values = (1 - part) + part * values.abs().clamp_min(_WIDEST)
        along = (vectors.mT @ (part * slope).unsqueeze(-1)) / values.unsqueeze(-1)
        new_loc = loc + (tril @ (vectors @ along)).squeeze(-1)
        root = tril @ (vectors / values.sqrt().unsqueeze(-2))
        new_tril = _triangle(root)
        value, new_slope, new_curvature = _moments(target, new_loc, new_tril, noise)
        calls += 1
        better = going & (value > best)
        small = better & (value < best + _RISE)
        loc, slope = (torch.where(better[:, None], a, b) for a, b in ((new_loc, loc), (new_slope, slope)))
        tril, curvature = (
            torch.where(better[:, None, None], a, b) for a, b in ((new_tril, tril), (new_curvature, curvature))
        )
        best = torch.where(better, value, best)
        share = torch.where(better, (share - 1).clamp_min(0), share + 1).masked_fill(small | ~going, len(_SHARES))
    return dist.MultivariateNormal(loc, scale_tril=tril, validate_args=False), calls * len(noise), calls


def num_natural_draws(latent_dim: int) -> int:
    """How many draws, and so gradients, one evaluation of :func:`natural_steps` takes."""
    return max(32, 4 * latent_dim)


def _moments(target: Target, loc: Tensor, tril: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The bound ``(N,)`` but for a constant, mean slope ``(N, L)`` and curvature ``(N, L, L)``, in units of T."""
    u = loc + (tril @ noise.movedim(0, -1)).movedim(-1, 0)
    value, grad = target.value_and_grad(u)
    bound = value.mean(0) + tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    grad = (tril.mT @ grad.movedim(0, -1)).movedim(-1, 0)
    curvature = -torch.einsum("knl,kj->nlj", grad, noise.squeeze(1)) / len(noise)
    curvature = ((curvature + curvature.mT) / 2).nan_to_num(0.0, 0.0, 0.0)
    return torch.where(bound.isfinite(), bound, -torch.inf), grad.mean(0).nan_to_num(0.0, 0.0, 0.0), curvature


def _triangle(root: Tensor) -> Tensor:
    """The triangular factor, with positive diagonal, of root times its transpose."""
    upper = torch.linalg.qr(root.mT).R
    return upper.mT * upper.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)
