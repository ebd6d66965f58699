r"""The Barker proposal: a gradient that only says which way, and so does no harm where it is wrong.

Source: Livingstone & Zanella 2022, "The Barker proposal: combining robustness and efficiency in gradient-based MCMC",
algorithms 1 and 2; the acceptance rate is that of their section 6.
"""

from __future__ import annotations

import torch
from torch.nn.functional import softplus

from pyro_vae.inference.mcmc.kernels.base import Density, Info, Kernel, State, Tuning, accept

__all__ = ["Barker"]


class Barker(Kernel):
    r"""Propose a symmetric step in every coordinate, with a sign that leans uphill; correct by Metropolis-Hastings.

    With the metric's factor F, :math:`\xi \sim N(0, I)`, whitened gradients :math:`c = F^\top \nabla \log p(u)` and
    c' at u', and signs :math:`b_l = \pm 1`,

    .. math::
        P(b_l = 1) = \frac{1}{1 + e^{-\epsilon \xi_l c_l}}, \quad w_l = \epsilon\, b_l \xi_l, \quad u' = u + F w, \quad
        \log \frac{q(u|u')}{q(u'|u)} = \sum_l \log \frac{1 + e^{-w_l c_l}}{1 + e^{w_l c'_l}} .

    The length of a step does not depend on the gradient, so that steep densities do not throw it far out as they do
    :class:`pyro_vae.MALA`: it bears a step size that is too long, and adapts sooner, for a little less efficiency.

    Args:
        model, settings: those of :class:`pyro_vae.Kernel`.

    Example:
        >>> Barker(step_size=0.5).target_accept_prob
        0.4
    """

    target_accept_prob = 0.4

    def step(self, state: State, density: Density, tuning: Tuning) -> tuple[State, Info]:
        """Propose one step, with a sign of its own in every coordinate of every chain."""
        w = tuning.step_size[..., None] * torch.randn_like(state.u)
        uphill = w * tuning.metric.pull(state.grad)
        w = torch.where(torch.rand_like(w) < torch.sigmoid(uphill), w, -w)
        u = state.u + tuning.metric.spread(w)
        proposal = State(u, *density.value_and_grad(u))
        there, back = w * tuning.metric.pull(state.grad), w * tuning.metric.pull(proposal.grad)
        log_ratio = proposal.log_density - state.log_density + (softplus(-there) - softplus(back)).sum(-1)
        return accept(state, proposal, log_ratio)
