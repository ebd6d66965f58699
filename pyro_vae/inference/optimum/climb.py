"""Climbing many densities at once, by damped Newton steps."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["ascend", "decrement", "flat"]


def flat(u: Tensor) -> float:
    """The most that a last Newton step may still promise, in nats, where a climb counts as ended."""
    return 1e-5 if u.dtype == torch.float32 else 1e-12


def decrement(gradient: Tensor, hessian: Tensor) -> Tensor:
    """Half the squared Newton decrement, g' |H|^-1 g / 2: the rise that the next step promises, ``(..., N)``, nats."""
    values, vectors = torch.linalg.eigh(-hessian)
    along = (vectors.mT @ gradient.unsqueeze(-1)).squeeze(-1)
    return 0.5 * (along.square() / values.abs().clamp_min(torch.finfo(values.dtype).tiny)).sum(-1)


def ascend(density: Callable[[Tensor], Tensor], u: Tensor, max_steps: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Climb from every u ``(..., L)``; return the ends, with the density's value, gradient and Hessian there.

    Source: Nocedal & Wright 2006, Numerical Optimization, section 3.4 (modified Newton).
    """
    value, gradient, hessian = _quadratic(density, u)
    damping = torch.full_like(value, 1e-3)
    for _ in range(max_steps):
        if bool((decrement(gradient, hessian) < 1e-4 * flat(u)).all()) or bool((damping > 1e8).all()):
            break
        eigenvalues, vectors = torch.linalg.eigh(-hessian)
        # |curvature| makes every direction one of ascent; the damping shortens what the quadratic overshoots
        curvature = eigenvalues.abs() + damping.unsqueeze(-1) * eigenvalues.abs().amax(-1, keepdim=True)
        step = vectors @ ((vectors.mT @ gradient.unsqueeze(-1)) / curvature.unsqueeze(-1))
        with torch.no_grad():
            better = density(u + step.squeeze(-1)) > value
        u = torch.where(better.unsqueeze(-1), u + step.squeeze(-1), u)
        damping = torch.where(better, damping / 5, damping * 5).clamp_min(1e-12)
        value, gradient, hessian = _quadratic(density, u)
    return _polish(density, u, gradient, hessian)


def _polish(
    density: Callable[[Tensor], Tensor], u: Tensor, gradient: Tensor, hessian: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One plain Newton step more where the climb has ended at a maximum.

    There a rise drowns in the rounding of the value, some 1e-3 standard deviations from the top in single precision,
    long before the step drowns in that of the gradient.
    """
    curvature, vectors = torch.linalg.eigh(-hessian)
    top = (curvature > 0).all(-1) & (decrement(gradient, hessian) < flat(u))
    step = vectors @ ((vectors.mT @ gradient.unsqueeze(-1)) / curvature.unsqueeze(-1))
    u = torch.where(top.unsqueeze(-1), u + step.squeeze(-1), u)
    return u, *_quadratic(density, u)


def _quadratic(density: Callable[[Tensor], Tensor], u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Value ``(..., N)``, gradient ``(..., N, L)`` and Hessian ``(..., N, L, L)`` at u.

    Where a Hessian has overflowed it is the identity, as of no maximum: a climb that starts there does not get away.
    """
    u = u.detach().requires_grad_()
    with torch.enable_grad():
        value = density(u)
        (gradient,) = torch.autograd.grad(value.sum(), u, create_graph=True)
        rows = [
            torch.autograd.grad(gradient[..., i].sum(), u, retain_graph=True)[0]
            if gradient.requires_grad
            else torch.zeros_like(u)
            for i in range(u.shape[-1])
        ]
    hessian = torch.stack(rows, -2)
    usable = (hessian.abs() < torch.finfo(u.dtype).max ** 0.5).all(-1).all(-1)  # false of NaN
    hessian = torch.where(usable[..., None, None], hessian, torch.eye(u.shape[-1]).to(u))
    return value.detach(), gradient.detach(), hessian
