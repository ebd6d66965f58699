r"""Hamiltonian Monte Carlo with jittered trajectories.

Source: Duane, Kennedy, Pendleton & Roweth 1987; Neal 2011, "MCMC using Hamiltonian dynamics".
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyro_vae import checks
from pyro_vae.checks import say
from pyro_vae.inference.mcmc.kernels.base import (
    Density,
    Info,
    Kernel,
    Metric,
    State,
    Tuning,
    ValueAndGrad,
    accept,
)

__all__ = ["HMC", "hmc_transition", "leapfrog", "single_leapfrog"]


def leapfrog(
    state: State, r: Tensor, value_and_grad: ValueAndGrad, *, step_size: Tensor, num_steps: int, metric: Metric
) -> tuple[State, Tensor]:
    r"""Follow the Hamiltonian flow by ``num_steps`` leapfrog steps, in the whitened momentum r.

    .. math::
        r \leftarrow r + \tfrac{\epsilon}{2} F^\top \nabla \log p(u), \quad
        u \leftarrow u + \epsilon F r, \quad
        r \leftarrow r + \tfrac{\epsilon}{2} F^\top \nabla \log p(u)

    The map keeps volume, is its own inverse after a flip of r, and errs by :math:`O(\epsilon^2)` in energy.

    Args:
        state: where the flow starts, with its gradient.
        r: whitened momentum, ``(..., C, N, L)``.
        value_and_grad: the log density and its gradient.
        step_size: broadcasts to ``(..., C, N)``.
        num_steps: how many steps.
        metric: F.

    Returns:
        The state and the momentum at the end.
    """
    u, log_density, grad = state[:3]
    epsilon = step_size[..., None]
    r = r + 0.5 * epsilon * metric.pull(grad)
    for step in range(num_steps):
        u = u + epsilon * metric.spread(r)
        log_density, grad = value_and_grad(u)
        r = r + (0.5 if step == num_steps - 1 else 1.0) * epsilon * metric.pull(grad)
    return State(u, log_density, grad), r


def hmc_transition(
    state: State, value_and_grad: ValueAndGrad, *, step_size: Tensor, num_steps: int, metric: Metric | None = None
) -> tuple[State, Info]:
    r"""One HMC step as a fixed kernel: a fresh momentum, a trajectory, a Metropolis decision on the energy.

    A pure function of tensors and of torch's random numbers: it adapts nothing, so that annealed importance sampling
    can use it on ``lambda u: target.value_and_grad(u, beta=beta)``.

    Args:
        state: ``State(u, *value_and_grad(u))``.
        value_and_grad: the log density to leave invariant, and its gradient.
        step_size: broadcasts to ``(..., C, N)``, in standard deviations of the metric.
        num_steps: leapfrog steps.
        metric: the believed covariances; the identity if not given.

    Returns:
        The new state, and what the step reports.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> normal = lambda u: (-0.5 * u.square().sum(-1), -u)  # two chains of three standard normals in 2 dimensions
        >>> u = torch.zeros(2, 3, 2)
        >>> state, info = hmc_transition(State(u, *normal(u)), normal, step_size=torch.tensor(0.1), num_steps=8)
        >>> state.u.shape, bool((info.acceptance > 0.99).all())
        (torch.Size([2, 3, 2]), True)
    """
    metric = metric or Metric(torch.ones_like(state.u[..., :1, :, :]))
    r = torch.randn_like(state.u)
    end, r_end = leapfrog(state, r, value_and_grad, step_size=step_size, num_steps=num_steps, metric=metric)
    energy = 0.5 * r.square().sum(-1) - state.log_density
    moved, info = accept(state, end, end.log_density - 0.5 * r_end.square().sum(-1) + energy)
    return moved, info._replace(end=(end.u, r_end), energy=energy)


def single_leapfrog(state: State, density: Density, tuning: Tuning) -> Tensor:
    """Return the acceptance probability ``(..., C, N)`` of a trajectory of one leapfrog step."""
    moves = hmc_transition(state, density.value_and_grad, step_size=tuning.step_size, num_steps=1, metric=tuning.metric)
    return moves[1].acceptance


class HMC(Kernel):
    r"""Hamiltonian Monte Carlo, one trajectory length a step for all chains and data, drawn anew at every step.

    Step sizes and mass matrices are one a posterior; the number of leapfrog steps is common, so no chain waits for
    another. It is :math:`t / \bar\epsilon`, rounded, with t uniform between half and one and a half trajectory lengths
    T and :math:`\bar\epsilon` the posteriors' median step size. Randomness in the length, and in the step size, breaks
    the periods on which a fixed trajectory comes back to where it began (Neal 2011, section 5.4.2).

    Args:
        model: the Pyro program, in Pyro's manner; leave it out for :func:`pyro_vae.mcmc`.
        trajectory_length: T, the mean length of a trajectory in standard deviations; 2 if not given (pi / 2
            decorrelates a Gaussian, and a little more makes up for the jitter).
        num_steps: a fixed number of leapfrog steps in place of T.
        jitter: the step size varies uniformly by this fraction to both sides, from step to step and chain to chain; a
            fixed number of steps wants 0.3.
        **settings: ``step_size``, ``full_mass``, ``target_accept_prob``...: those of :class:`pyro_vae.Kernel`.

    Raises:
        ValueError: for numbers outside their range, or both a trajectory length and a number of steps.

    Example:
        >>> HMC(trajectory_length=2.0, full_mass=True).full_mass
        True
    """

    has_momentum = True

    def __init__(
        self,
        model: Any = None,
        *,
        trajectory_length: float | None = None,
        num_steps: int | None = None,
        jitter: float = 0.2,
        **settings: Any,
    ) -> None:
        super().__init__(model, **settings)
        if trajectory_length is not None and num_steps is not None:
            raise ValueError(say("trajectory_length or num_steps", "both", "leaving one out"))
        if not 0 <= jitter < 1:
            raise ValueError(say("a jitter of at least 0 and below 1", f"{jitter}", "jitter=0.2"))
        length = 2.0 if trajectory_length is None else trajectory_length
        self.trajectory = checks.positive_number(length, "trajectory_length", example=2.0)
        self.num_steps = None if num_steps is None else checks.positive_integer(num_steps, "num_steps")
        self.jitter = jitter

    def step(self, state: State, density: Density, tuning: Tuning) -> tuple[State, Info]:
        """Move every chain along one trajectory."""
        return hmc_transition(
            state,
            density.value_and_grad,
            step_size=self.jittered(tuning.step_size, state.log_density),
            num_steps=self.length(tuning, float(torch.rand(()))),
            metric=tuning.metric,
        )

    def try_step(self, state: State, density: Density, tuning: Tuning) -> Tensor:
        """Return the acceptance probability of a single leapfrog step, ``(..., C, N)``."""
        return single_leapfrog(state, density, tuning)

    def jittered(self, step_size: Tensor, like: Tensor) -> Tensor:
        """Return step sizes varied at random, ``(..., C, N)``."""
        return step_size * (1 + self.jitter * (2 * torch.rand_like(like) - 1)) if self.jitter else step_size

    def length(self, tuning: Tuning, fraction: float, most: int = 1024) -> int:
        """Return the number of leapfrog steps for a ``fraction`` in (0, 1), at least 1."""
        if self.num_steps is not None:
            return self.num_steps
        steps = (0.5 + fraction) * tuning.trajectory / max(float(tuning.step_size.median()), 1e-6)
        return max(1, min(most, round(steps)))
