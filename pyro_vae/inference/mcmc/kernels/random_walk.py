r"""Random-walk Metropolis-Hastings.

Source: Metropolis et al. 1953; Hastings 1970; the acceptance rates are those of Roberts, Gelman & Gilks 1997.
"""

from __future__ import annotations

from typing import Any

import torch

from pyro_vae.inference.mcmc.kernels.base import (
    Density,
    Info,
    Kernel,
    State,
    Tuning,
    accept,
    check_positive,
    check_probability,
)

__all__ = ["RandomWalk"]


class RandomWalk(Kernel):
    r"""Propose :math:`u' = u + \epsilon F \xi`, :math:`\xi \sim N(0, I)`; accept with :math:`\min(1, p(u') / p(u))`.

    It needs no gradient, and about L times as many steps as HMC does: the simplest kernel, and the wrong choice beyond
    a few dimensions.

    Args:
        model: the Pyro program, in Pyro's manner; leave it out for :func:`pyro_vae.mcmc`.
        step_size: where adaptation starts, in standard deviations of the metric.
        adapt_step_size: adapt the step size during warm-up.
        adapt_mass_matrix: adapt F during warm-up.
        full_mass: a triangular F in place of a diagonal one.
        target_accept_prob: 0.44 is best for L = 1, 0.35 for L = 2, 0.234 for large L.

    Example:
        >>> RandomWalk(target_accept_prob=0.234).target_accept_prob
        0.234
    """

    uses_gradient = False

    def __init__(
        self,
        model: Any = None,
        *,
        step_size: float = 1.0,
        adapt_step_size: bool = True,
        adapt_mass_matrix: bool = True,
        full_mass: bool = False,
        target_accept_prob: float = 0.35,
    ) -> None:
        self.model = model
        self.step_size = check_positive(step_size, "step_size")
        self.adapt_step_size = adapt_step_size
        self.adapt_mass_matrix = adapt_mass_matrix
        self.full_mass = full_mass
        self.target_accept_prob = check_probability(target_accept_prob, "target_accept_prob")

    def step(self, state: State, density: Density, tuning: Tuning) -> tuple[State, Info]:
        """Propose one symmetric move in every chain."""
        noise = tuning.metric.spread(torch.randn_like(state.u))
        proposal = state.u + tuning.step_size[..., None] * noise
        log_density = density.value(proposal)
        moved, info = accept(state, State(proposal, log_density, state.grad), log_density - state.log_density)
        return moved, info._replace(diverging=torch.zeros_like(info.diverging))  # a far proposal is no error here
