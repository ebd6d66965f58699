r"""The path of annealing, :math:`\log f_\beta(u) = (1 - \beta) \log q_0(u) + \beta \log p(x, u)`, and moves on it."""

from __future__ import annotations

from typing import Any, NamedTuple

import pyro
import torch
from torch import Tensor

from pyro_vae.checks import say
from pyro_vae.inference.mcmc.density import LogDensity
from pyro_vae.inference.mcmc.kernels.base import Metric, State
from pyro_vae.inference.mcmc.kernels.hmc import hmc_transition
from pyro_vae.inference.posterior import GuideSampler
from pyro_vae.inference.target.densities import unvalidated
from pyro_vae.inference.target.discrete import must_have_continuous
from pyro_vae.inference.target.target import Target

__all__ = ["AnnealingPath", "Ends", "Move"]

_JITTER = 0.2


class Ends(NamedTuple):
    """Both ends of the path at a place, ``(C, N)``, and their gradients, ``(C, N, L)``; all temperatures share them."""

    first: Tensor  # log f_0
    slope: Tensor  # log f_1 - log f_0
    first_grad: Tensor
    slope_grad: Tensor

    def at(self, beta: Tensor) -> tuple[Tensor, Tensor]:
        """Return log f_beta and its gradient."""
        return self.first + beta * self.slope, self.first_grad + beta[..., None] * self.slope_grad

    def where(self, taken: Tensor, others: Ends) -> Ends:
        """Return these where ``taken`` ``(C, N)``, the others elsewhere."""
        wide = taken[..., None]
        first, slope = (torch.where(taken, a, b) for a, b in zip(self[:2], others[:2], strict=True))
        return Ends(first, slope, *(torch.where(wide, a, b) for a, b in zip(self[2:], others[2:], strict=True)))


class Move(NamedTuple):
    """A transition at one temperature."""

    beta: Tensor  # broadcasts to (C, N)
    step_size: Tensor  # (1, N), in standard deviations of the metric
    metric: Metric
    num_steps: int


class AnnealingPath:
    """From a start q_0 to the joint.

    Args:
        target: the densities.
        start: q_0: None for the prior, else a guide or distribution with a density.
        compile: whether to compile the gradient of the joint, as in :func:`mcmc`.

    Raises:
        TypeError: if the start has no density function.
    """

    def __init__(self, target: Target, start: Any, *, compile: bool | str = False) -> None:
        must_have_continuous(target)
        self.target = target
        self.density = LogDensity(target, compile=compile)
        self.sampler = None if start is None else GuideSampler(target, start)
        if self.sampler is not None and self.sampler.distribution is None:
            expected = "a start with a density at every u (a distribution, or a guide of this package)"
            raise TypeError(say(expected, "a guide program", "start=None for the prior"))

    def draw(self, num_chains: int) -> Tensor:
        """Draws of the start, ``(C, N, L)``."""
        if self.sampler is None:
            return self.target.sample_prior(num_chains)
        return self.sampler.sample(num_chains)[0]

    def factor(self) -> Tensor | None:
        """The start's triangular factors ``(1, N, L, L)``, if it is a Gaussian that names them."""
        q = None if self.sampler is None else self.sampler.distribution
        if not isinstance(q, torch.distributions.MultivariateNormal):
            return None
        return q.scale_tril.detach().expand(1, *self.target.origin.shape, -1)

    def ends(self, u: Tensor) -> Ends:
        """Both ends at u ``(C, N, L)``."""
        if self.sampler is None:
            return Ends(*self.density.parts_and_grads(u))
        joint, joint_grad = self.density.value_and_grad(u)
        v = u.detach().requires_grad_()
        with torch.enable_grad(), pyro.validation_enabled(False):  # as for the joint: NaN where a chain ran away
            first = unvalidated(self.sampler.distribution).log_prob(v)
            (first_grad,) = torch.autograd.grad(first.sum(), v)
        first = first.detach()
        return Ends(first, joint - first, first_grad, joint_grad - first_grad)

    def move(self, u: Tensor, ends: Ends, by: Move) -> tuple[Tensor, Ends, Tensor]:
        """One HMC transition that leaves f_beta invariant: the new u, both ends there, the acceptance probability."""
        seen = ends

        def value_and_grad(v: Tensor) -> tuple[Tensor, Tensor]:
            nonlocal seen  # the trajectory's last place is kept: the next temperature needs no new gradient
            seen = self.ends(v)
            return seen.at(by.beta)

        jittered = by.step_size * (1 + _JITTER * (2 * torch.rand_like(ends.first) - 1))
        state = State(u, *ends.at(by.beta))
        moved, info = hmc_transition(
            state, value_and_grad, step_size=jittered, num_steps=by.num_steps, metric=by.metric
        )
        taken = (moved.u == info.end[0]).all(-1) if info.end is not None else torch.zeros_like(jittered).bool()
        return moved.u, seen.where(taken, ends), info.acceptance
