"""The best member of a family by quasi-Newton steps on the mean over fixed draws, more of them until they suffice."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_vae.inference.optimum.quasi_newton import QuasiNewton
from pyro_vae.inference.target.blocks import block_size
from pyro_vae.inference.target.target import Target
from pyro_vae.inference.variational.whole.families import Family
from pyro_vae.inference.variational.whole.noise import even_noise
from pyro_vae.inference.variational.whole.objective import Objective
from pyro_vae.inference.variational.whole.result import Search

__all__ = ["maximise"]

_STILL = 1e-3  # nats a coordinate that fresh draws may add to the objective: of a mean, 0.05 standard deviations
_FLAT = 1e-3  # nats that the next step of a climb that has ended may promise
_PROMISE = 1e-5  # nats: where the next step promises less a climb has ended
_MORE = 4
_LEAST_CALLS = 8  # evaluations that a larger set of draws should have before it is begun
_MOST_CALLS = 400


def maximise(target: Target, family: Family, objective: Objective, *, name: str, budget: int) -> Search:
    r"""Return the member of a family with the highest objective.

    With noise fixed, :math:`\frac1K \sum_k \log w(u_\theta(z_k))` is a function like any other, and L-BFGS finds its
    maximum, which a second, four times larger set of draws then corrects. The search ends when fresh draws can raise
    the objective by less than a thousandth of a nat a coordinate, or the budget is spent.

    Source: Giordano, Ingram & Broderick 2024; Burroni, Domke & Sheldon 2024 (UAI) for growing sets of draws.

    Args:
        target: the densities.
        family: where to search.
        objective: of log weights ``(K, N)``.
        name: the family's.
        budget: gradient evaluations of log p at one u.
    """
    theta, K = family.origin, _first_draws(family, objective)
    found = Search(None, name, torch.zeros_like(theta[:, 0], dtype=torch.bool), "", 0, 0, 0)
    done = torch.zeros_like(found.converged)  # settled, or lost
    if budget < K:
        found.reason = f"the budget ran out before the search: {K} gradients a step, and {max(0, budget)} are left"
    while not found.reason:
        noise = even_noise(K, family.noise_dim, theta)
        most = min(_MOST_CALLS, (budget - found.num_gradients) // K)
        density = _Density(target, family, objective, noise)
        climb, rise = _climb(density, theta, ~done, most, found)
        theta = torch.where(done.unsqueeze(-1), theta, climb.u)
        still = ~done & climb.ended & (rise < _STILL * target.latent_dim)
        found.converged |= still & (climb.promise < _FLAT)
        done = done | still | ~rise.isfinite()
        found.reason = _ending(found, done, climb.ended, K, budget)
        K *= _MORE
    with torch.no_grad():
        found.q = family.distribution(theta)
    return found


def _first_draws(family: Family, objective: Objective) -> int:
    """A number of draws that fixes every parameter of a Gaussian, in whole groups, and even."""
    unit = 2 * objective.group
    return -(-max(64, 4 * family.noise_dim, 4 * objective.group) // unit) * unit


def _climb(density: _Density, theta: Tensor, going: Tensor, most: int, found: Search) -> tuple[QuasiNewton, Tensor]:
    """Climb over one set of draws; return where that ended, and how much higher, NaN where draws have no density."""
    value, grad = density(theta)
    lost = ~(value.isfinite() & grad.isfinite().all(-1))
    value, grad = torch.where(lost, 0.0, value), torch.where(lost.unsqueeze(-1), 0.0, grad)
    climb = QuasiNewton(theta, value, grad, history=10, tolerance=_PROMISE, flatter=0.9)
    climb.ended |= ~going | lost
    calls = 1
    while calls < most and not bool(climb.ended.all()):
        found.num_steps += int(bool(climb.tell(*density(climb.trial)).any()))
        found.elbos.append(float(climb.value.mean()))
        calls += 1
    found.num_gradients += calls * len(density.noise)
    found.num_sequential += calls
    return climb, torch.where(lost, torch.nan, climb.value - value)


def _ending(found: Search, done: Tensor, ended: Tensor, K: int, budget: int) -> str:
    """How the search ended, a sentence; empty where it goes on."""
    spent = f"{found.num_gradients} of {budget} gradients were spent"
    if bool(done.all()):
        if bool(found.converged.all()):
            return f"{K} fresh draws, then held fixed, raise the bound by less than {_STILL:g} nats a coordinate"
        return (
            "for some posteriors draws of q have an infinite density, or the climb over fixed draws came to no summit"
        )
    if not bool((ended | done).all()):
        budget_left = budget - found.num_gradients >= K
        why = f"its {_MOST_CALLS} evaluations were spent" if budget_left else f"the budget ran out: {spent}"
        return f"the climb over {K} fixed draws had not ended when {why}"
    if found.num_gradients + _LEAST_CALLS * _MORE * K > budget:
        return f"the budget ran out: {spent}, and more draws than {K} would still move q"
    return ""


class _Density:
    """The objective at theta with its gradient, over fixed noise, in blocks that fit."""

    def __init__(self, target: Target, family: Family, objective: Objective, noise: Tensor) -> None:
        self.target, self.family, self.objective, self.noise = target, family, objective, noise

    def __call__(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        theta = theta.detach().requires_grad_()
        with torch.enable_grad():
            u, log_q = self.family.place(theta, self.noise)
            parts = [self.target.value_and_grad(v) for v in u.detach().split(block_size(self.target))]
            log_p, grad = (torch.cat(part) for part in zip(*parts, strict=True))
            log_p = log_p + (grad * (u - u.detach())).sum(-1)  # its value, and its derivative by way of u
            value = self.objective(log_p - log_q)
            (slope,) = torch.autograd.grad(value.sum(), theta)
        return value.detach(), slope
