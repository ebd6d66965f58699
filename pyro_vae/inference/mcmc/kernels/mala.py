r"""The Metropolis-adjusted Langevin algorithm.

Source: Roberts & Tweedie 1996; the acceptance rate is that of Roberts & Rosenthal 1998.
"""

from __future__ import annotations

import torch

from pyro_vae.inference.mcmc.kernels.base import Density, Info, Kernel, State, Tuning, accept

__all__ = ["MALA"]


class MALA(Kernel):
    r"""Propose a step of the Langevin diffusion and correct it by Metropolis-Hastings.

    With the metric's factor F, gradient g at u and g' at u',

    .. math::
        u' = u + \tfrac{\epsilon^2}{2} F F^\top g + \epsilon F \xi, \qquad
        \log \frac{q(u|u')}{q(u'|u)} = \tfrac12 \|\xi\|^2 - \tfrac12 \|\xi + \tfrac{\epsilon}{2} F^\top (g + g')\|^2 .

    It is HMC with one leapfrog step: one gradient a move, and a random walk between moves.

    Args:
        model, settings: those of :class:`pyro_vae.Kernel`.

    Example:
        >>> MALA(step_size=0.5).step_size
        0.5
    """

    target_accept_prob = 0.6

    def step(self, state: State, density: Density, tuning: Tuning) -> tuple[State, Info]:
        """Propose one Langevin step in every chain."""
        epsilon = tuning.step_size[..., None]
        xi = torch.randn_like(state.u)
        drift = 0.5 * epsilon * tuning.metric.pull(state.grad)
        u = state.u + epsilon * tuning.metric.spread(xi + drift)
        proposal = State(u, *density.value_and_grad(u))
        back = xi + drift + 0.5 * epsilon * tuning.metric.pull(proposal.grad)
        log_ratio = proposal.log_density - state.log_density + 0.5 * (xi.square() - back.square()).sum(-1)
        return accept(state, proposal, log_ratio)
