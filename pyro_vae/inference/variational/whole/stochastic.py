"""Adam on fresh draws, with a step that shrinks where the bound no longer rises, and the mean of the last steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pyro_vae.inference.target.blocks import log_joint_in_blocks
from pyro_vae.inference.target.target import Target
from pyro_vae.inference.variational.whole.families import Family
from pyro_vae.inference.variational.whole.noise import even_noise
from pyro_vae.inference.variational.whole.objective import Objective
from pyro_vae.inference.variational.whole.result import Search

__all__ = ["Ascent", "ascend", "train"]

_WINDOW = 50  # steps whose bounds are averaged before the step size is judged
_STEP_SIZES = (1e-2, 3e-3, 1e-3)
_PATIENCE = (2, 1, 1)  # windows that may stand still
_PARTICLES = 64
_JUDGES = 512  # draws that compare the end with the start
_SLACK = 0.05  # nats by which the end may seem lower

Drawn = tuple[Tensor, Tensor, bool]  # u, log q, and whether log q depends on the parameters by way of u alone


@dataclass
class Ascent:
    """How an ascent went.

    Attributes:
        converged: whether the bound stood still at every step size.
        num_steps: steps, each of ``particles`` gradients.
        particles: K.
        elbos: the bound of every step, mean over data.
        reason: how it ended, a sentence.
    """

    converged: bool
    num_steps: int
    particles: int
    elbos: list[float] = field(default_factory=list)
    reason: str = ""


def ascend(
    target: Target,
    parameters: list[Tensor],
    draw: Callable[[int, bool], Drawn],
    objective: Objective,
    *,
    budget: int,
) -> Ascent:
    """Raise the objective by Adam; the parameters end at the mean of the last steps.

    The bound is averaged over windows of steps. Windows that do not exceed the best before them by two standard errors
    end a step size; the next is about a third of it.

    Source: Welandawe, Andersen, Vehtari & Huggins 2022, arXiv 2203.15945, for constant steps in turn and averaged
    iterates; Agrawal & Domke 2024, arXiv 2412.08824, for many draws and small steps.

    Args:
        target: the densities.
        parameters: what to change, in place.
        draw: gives K draws u ``(K, N, L)`` that depend on the parameters, log q ``(K, N)``, or ``(K, 1)`` where it is
            that of all data together, and whether that depends on them by way of u alone. It is told whether the
            ascent is in its last steps.
        objective: of log weights.
        budget: gradient evaluations of log p at one u.
    """
    optimiser = torch.optim.Adam(parameters, lr=_STEP_SIZES[0])
    K = -(-_PARTICLES // objective.group) * objective.group
    found = Ascent(False, 0, K)
    averaged = [p.detach().clone() for p in parameters]
    for size, patience in zip(_STEP_SIZES, _PATIENCE, strict=True):
        optimiser.param_groups[0]["lr"] = size
        best, error, still = -math.inf, 0.0, 0
        while still < patience and K * (found.num_steps + _WINDOW) <= budget:
            last = size < _STEP_SIZES[0]
            means = [torch.zeros_like(p) for p in parameters]
            for _ in range(_WINDOW):
                found.elbos.append(_step(target, optimiser, draw(K, last), objective))
                means = [mean + p.detach() / _WINDOW for mean, p in zip(means, parameters, strict=True)]
            found.num_steps += _WINDOW
            averaged = means
            window = torch.tensor(found.elbos[-_WINDOW:])
            height, own = float(window.mean()), float(window.std()) / _WINDOW**0.5
            still = 0 if height > best + 2 * math.hypot(own, error) else still + 1
            if height > best:
                best, error = height, own
    found.converged = still >= patience
    found.reason = (
        f"the bound stands still, to its noise, over {_WINDOW} steps of Adam at the smallest of its step sizes"
    )
    if not found.converged:
        found.reason = (
            f"the budget ran out after {found.num_steps} steps of {K} gradients, and the bound may still rise"
        )
    with torch.no_grad():
        for p, mean in zip(parameters, averaged, strict=True):
            p.copy_(mean)
    return found


def _step(target: Target, optimiser: torch.optim.Optimizer, drawn: Drawn, objective: Objective) -> float:
    """One step; draws whose density is not finite take no part in it."""
    u, log_q, path = drawn
    log_p, grad = target.value_and_grad(u)
    fine = log_p.isfinite() & grad.isfinite().all(-1)
    grad = torch.where(fine.unsqueeze(-1), grad, 0.0)
    log_p = torch.where(fine, log_p, 0.0) + (grad * (u - u.detach())).sum(-1)
    if log_q.shape[-1] != log_p.shape[-1]:
        log_p = log_p.sum(-1, keepdim=True)
    log_w = log_p - log_q
    raised = objective.surrogate(log_w) if path else objective(log_w)
    optimiser.zero_grad()
    (-raised.sum()).backward()
    optimiser.step()
    return float(objective(log_w.detach()).sum()) / target.num_data


def train(target: Target, family: Family, objective: Objective, *, name: str, budget: int) -> Search:
    r"""Return the member of a family that :func:`ascend` finds.

    In its last steps the gradient of the ELBO leaves out the score of q ("sticking the landing"), whose mean is zero:
    where q is the posterior, every draw's gradient then is.

    Source: Roeder, Wu & Duvenaud 2017, equation 7.
    """
    theta = family.origin.requires_grad_()

    def draw(K: int, last: bool) -> Drawn:
        u, log_q = family.place(theta, even_noise(K, family.noise_dim, theta))
        path = objective.has_path and (last or objective.kind == "importance")
        return u, family.distribution(theta.detach()).log_prob(u) if path else log_q, path

    went = ascend(target, [theta], draw, objective, budget=budget)
    converged = torch.full((target.num_data,), went.converged, device=theta.device)
    spent = went.num_steps * went.particles
    theta, worse = theta.detach(), _worse_than_start(target, family, theta.detach(), objective)
    if bool(worse.any()):
        theta, converged = torch.where(worse.unsqueeze(-1), 0.0, theta), converged & ~worse
        went.reason = (
            f"{went.reason}; {int(worse.sum())} of {len(worse)} ended below their start, and are put back there"
        )
    q = family.distribution(theta)
    return Search(q, name, converged, went.reason, spent, went.num_steps, went.num_steps, went.elbos)


@torch.no_grad()
def _worse_than_start(target: Target, family: Family, theta: Tensor, objective: Objective) -> Tensor:
    """Where the objective over fresh draws is lower than the start's over the same noise, or undefined, ``(N,)``."""
    unit = 2 * objective.group
    noise = even_noise(-(-_JUDGES // unit) * unit, family.noise_dim, theta)
    heights = []
    for each in (theta, torch.zeros_like(theta)):
        u, log_q = family.place(each, noise)
        heights.append(objective(log_joint_in_blocks(target, u) - log_q))
    return ~(heights[0] >= heights[1] - _SLACK)
