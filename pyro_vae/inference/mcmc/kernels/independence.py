r"""Independence Metropolis-Hastings with a guide as proposal.

Source: Tierney 1994, section 2.3.3; Mengersen & Tweedie 1996 on when it fails.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyro_vae.checks import say
from pyro_vae.inference.mcmc.kernels.base import Density, Info, Kernel, State, Tuning, accept
from pyro_vae.inference.posterior import GuideSampler

__all__ = ["IndependenceMH"]


class IndependenceMH(Kernel):
    r"""Propose u' from the guide, whatever u is; accept with :math:`\min(1, w(u') / w(u))`, :math:`w = p(u, x) / q(u)`.

    With q equal to the posterior every proposal is accepted and all draws are independent. With a q that is narrower
    than the posterior the weights are unbounded, and chains stick where w is large: a low acceptance, or an R-hat
    above one, then shows the guide's error. The acceptance is a measure of the guide in its own right.

    The proposal is the ``guide=`` of :func:`pyro_vae.mcmc`, or one given here.

    Args:
        model: the Pyro program, in Pyro's manner; leave it out for :func:`pyro_vae.mcmc`.
        proposal: a Pyro program over the latent sites, or a distribution of ``batch_shape (N,)``.

    Raises:
        ValueError: at the start of a run, if there is neither a guide nor a proposal; or if points to start from are
            given at which the proposal has no density.

    Example:
        >>> import pyro_vae as pv, pyro.distributions as dist
        >>> model = pv.Model(pv.priors.StandardNormal(1), pv.likelihoods.Bernoulli(torch.nn.Linear(1, 3)))
        >>> guide = dist.Normal(torch.zeros(2, 1), 1.0).to_event(1)
        >>> pv.mcmc(model, torch.ones(2, 3), kernel=IndependenceMH(proposal=guide), num_samples=50)
        Draws(z: (4, 50, 2, 1); 4 chains of 50 draws)
    """

    uses_gradient = False
    target_accept_prob = None
    adapt_step_size = False
    adapt_mass_matrix = False

    def __init__(self, model: Any = None, *, proposal: Any = None) -> None:
        super().__init__(model)
        self.proposal = proposal

    def start(self, u: Tensor, density: Density, guide: Any = None, *, given: bool = False) -> State:
        """Start every chain from the proposal, or from the points that were given; log q is the state's memory."""
        sampler = guide if self.proposal is None else GuideSampler(density.target, self.proposal)
        if sampler is None:
            raise ValueError(
                say("a guide to propose from", "none", "mcmc(..., guide=guide) or IndependenceMH(proposal=)")
            )
        u, log_q = (u, sampler.log_prob(u)) if given else sampler.sample(len(u))
        if not bool(torch.isfinite(log_q).all()):
            got = "one at which its density is zero or undefined"
            raise ValueError(say("initial points that the guide can propose", got, "initial=None"))
        return State(u, density.value(u), u.new_zeros(0), log_q[..., None], sampler)

    def step(self, state: State, density: Density, tuning: Tuning) -> tuple[State, Info]:
        """Propose one point of the guide to every chain."""
        u, log_q = state.run.sample(len(state.u))
        proposal = State(u, density.value(u), state.grad, log_q[..., None])
        before = log_q if state.memory is None else state.memory[..., 0]
        log_ratio = proposal.log_density - log_q - (state.log_density - before)
        moved, info = accept(state, proposal, log_ratio)
        return moved, info._replace(diverging=torch.zeros_like(info.diverging))
