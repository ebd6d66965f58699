"""The best member of a family by quasi-Newton steps on the mean over fixed draws, more of them until they suffice."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from pyro_vae.inference.optimum.quasi_newton import QuasiNewton
from pyro_vae.inference.target.blocks import block_size
from pyro_vae.inference.target.target import Target
from pyro_vae.inference.variational.whole.families import Family
from pyro_vae.inference.variational.whole.noise import even_noise
from pyro_vae.inference.variational.whole.result import Search

__all__ = ["maximise"]

_ENOUGH = 1e-3  # nats by which q may still move when the draws are quadrupled, by coordinate: 0.05 standard deviations
_MORE = 4
_MOST_STEPS = 300

Objective = Callable[[Tensor], Tensor]


def maximise(target: Target, family: Family, objective: Objective, *, name: str, budget: int, group: int) -> Search:
    r"""Return the member of a family with the highest objective.

    With noise fixed, :math:`\frac1K \sum_k \log w(u_\theta(z_k))` is a function like any other, and L-BFGS finds its
    maximum, which a second, four times larger set of draws then corrects. The search ends when q has moved by less
    than a thousandth of a nat a coordinate, :math:`KL(q_\text{new} \| q_\text{old})`, or the budget is spent.

    Source: Giordano, Ingram & Broderick 2024; Burroni, Domke & Sheldon 2024 (UAI) for growing sets of draws.

    Args:
        target: the densities.
        family: where to search.
        objective: takes log weights ``(K, N)`` to the objective ``(N,)``.
        name: the family's.
        budget: gradient evaluations of log p at one u.
        group: the number of draws is a multiple of it.
    """
    theta, N = family.origin, target.num_data
    K = max(64, 2 ** math.ceil(math.log2(4 * family.noise_dim)), 2 * group)
    spent = sequential = steps = 0
    elbos: list[float] = []
    settled = torch.zeros(N, dtype=torch.bool, device=theta.device)
    topped = torch.zeros_like(settled)
    rounds, reason = 0, ""
    while not bool(settled.all()):
        if spent + 10 * K > budget and rounds:
            reason = f"the budget ran out: {spent} of {budget} gradients were spent, and more draws still move q"
            break
        noise = even_noise(K, family.noise_dim, theta)
        density = _Density(target, family, objective, noise)
        value, grad = density(theta)
        climb = QuasiNewton(theta, value, grad, history=10, tolerance=1e-5 if theta.dtype == torch.float32 else 1e-7)
        climb.ended |= settled
        calls = 1
        while not bool(climb.ended.all()) and spent + (calls + 1) * K <= budget and calls < _MOST_STEPS:
            steps += int(bool(climb.tell(*density(climb.trial)).any()))
            calls += 1
            elbos.append(float(climb.value.mean()))
        spent, sequential, rounds = spent + calls * K, sequential + calls, rounds + 1
        topped = torch.where(settled, topped, climb.ended & (climb.promise < 1e-3))
        moved = _divergence(family, climb.u, theta, noise)
        theta = torch.where(settled.unsqueeze(-1), theta, climb.u)
        if not bool(climb.ended.all()):
            reason = f"the budget ran out: {spent} of {budget} gradients were spent, and the climb had not ended"
            break
        if rounds > 1:
            settled |= moved < _ENOUGH * target.latent_dim
        K *= _MORE
    if not reason:
        reason = f"{K // _MORE} fixed draws give the q that {K // _MORE**2} gave, to {_ENOUGH:g} nats a coordinate"
    with torch.no_grad():
        q = family.distribution(theta)
    return Search(q, name, settled & topped, reason, spent, sequential, steps, elbos)


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


@torch.no_grad()
def _divergence(family: Family, new: Tensor, old: Tensor, noise: Tensor) -> Tensor:
    """KL(new || old) ``(N,)``, over the noise."""
    u, log_q = family.place(new, noise)
    return (log_q - family.distribution(old).log_prob(u)).mean(0)
