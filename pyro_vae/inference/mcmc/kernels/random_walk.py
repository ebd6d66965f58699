r"""Random-walk Metropolis-Hastings.

Source: Metropolis et al. 1953; Hastings 1970; the acceptance rates are those of Roberts, Gelman & Gilks 1997.
"""

from __future__ import annotations

import torch

from pyro_vae.inference.mcmc.kernels.base import Density, Info, Kernel, State, Tuning, accept

__all__ = ["RandomWalk"]


class RandomWalk(Kernel):
    r"""Propose :math:`u' = u + \epsilon F \xi`, :math:`\xi \sim N(0, I)`; accept with :math:`\min(1, p(u') / p(u))`.

    It needs no gradient, and about L times as many steps as HMC does: the simplest kernel, and the wrong choice beyond
    a few dimensions.

    An acceptance of 0.44 is best for L = 1, 0.35 for L = 2, 0.234 for large L.

    Args:
        model, settings: those of :class:`pyro_vae.Kernel`.

    Example:
        >>> RandomWalk(target_accept_prob=0.234).target_accept_prob
        0.234
    """

    uses_gradient = False
    target_accept_prob = 0.35

    def step(self, state: State, density: Density, tuning: Tuning) -> tuple[State, Info]:
        """Propose one symmetric move in every chain."""
        noise = tuning.metric.spread(torch.randn_like(state.u))
        proposal = state.u + tuning.step_size[..., None] * noise
        log_density = density.value(proposal)
        moved, info = accept(state, State(proposal, log_density, state.grad), log_density - state.log_density)
        return moved, info._replace(diverging=torch.zeros_like(info.diverging))  # a far proposal is no error here
