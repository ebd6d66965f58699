r"""Parallel tempering: chains at several temperatures exchange places, and carry each other between modes.

Source: Geyer 1991; Swendsen & Wang 1986; the alternation of even and odd exchanges is that of Syed, Bouchard-Côté,
Deligiannidis & Doucet 2022, "Non-reversible parallel tempering".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_vae import checks
from pyro_vae.checks import say
from pyro_vae.inference.mcmc.kernels.base import Density, Info, Metric, State, Tuning, accept
from pyro_vae.inference.mcmc.kernels.hmc import HMC, leapfrog

__all__ = ["ParallelTempering"]


class ParallelTempering(HMC):
    r"""HMC at R temperatures of the likelihood at once, with exchanges between neighbours.

    Level k leaves :math:`p(u)\, p(x|u)^{\beta_k}` invariant, from the posterior, :math:`\beta_0 = 1`, to the prior,
    :math:`\beta_{R-1} = 0`, in which no mode is isolated. After each HMC step, neighbours i and j of alternately even
    and odd pairs exchange their points with probability

    .. math:: \min\big(1, \exp\{(\beta_i - \beta_j)(\log p(x|u_j) - \log p(x|u_i))\}\big) .

    Temperatures are one more dimension of the tensor: all R x C x N chains move together, and a step costs R times one
    of :class:`HMC`. Only draws at :math:`\beta = 1` are kept. ``Draws.exchange`` says how often neighbours exchange:
    where that is near zero, points cannot come down from the prior, and more temperatures are needed.

    Args:
        model: the Pyro program, in Pyro's manner; leave it out for :func:`pyro_vae.mcmc`.
        num_temperatures: R; beta falls from 1 to 0 as the cube of an even grid.
        betas: the inverse temperatures themselves, from 1 down, in place of ``num_temperatures``.
        **settings: those of :class:`HMC`.

    Raises:
        ValueError: for temperatures that do not fall from 1.

    Example:
        >>> ParallelTempering(num_temperatures=3).betas
        (1.0, 0.125, 0.0)
    """

    def __init__(
        self,
        model: Any = None,
        *,
        num_temperatures: int = 8,
        betas: Sequence[float] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(model, **settings)
        R = checks.positive_integer(num_temperatures, "num_temperatures", minimum=2)
        self.betas = tuple((1 - k / (R - 1)) ** 3 for k in range(R)) if betas is None else tuple(betas)
        falls = all(0 <= low < high for high, low in zip(self.betas, self.betas[1:], strict=False))
        if len(self.betas) < 2 or self.betas[0] != 1 or not falls:
            raise ValueError(
                say("two betas or more that fall from 1 towards 0", f"{self.betas}", "betas=(1.0, 0.3, 0.1, 0.0)")
            )
        self.replicas = len(self.betas)

    def first_tuning(self, u: Tensor, metric: Metric) -> Tuning:
        """Return a step size and a metric a temperature."""
        R, one = len(self.betas), super().first_tuning(u, metric)
        factor = metric.factor.expand(R, *metric.factor.shape)
        return one.but(step_size=one.step_size.expand(R, 1, -1), metric=Metric(factor, metric.dense))

    def start(self, u: Tensor, density: Density, guide: Any = None, *, given: bool = False) -> State:
        """Start every temperature at the same points; ``State.run`` says whether even pairs exchanged last."""
        u = u.expand(len(self.betas), *u.shape).contiguous()
        log_density, grad, memory = self._evaluate(u, density)
        return State(u, log_density, grad, memory, True)

    def step(self, state: State, density: Density, tuning: Tuning) -> tuple[State, Info]:
        """Move every chain at every temperature, and exchange neighbours."""
        state, info = self._move(state, density, tuning, self.length(tuning, float(torch.rand(()))))
        even = not state.run
        state, exchange = self._exchange(state, first=0 if even else 1)
        return state._replace(run=even), info._replace(exchange=exchange)

    def try_step(self, state: State, density: Density, tuning: Tuning) -> Tensor:
        """Return the acceptance probability of a single leapfrog step, ``(R, C, N)``."""
        return self._move(state, density, tuning, 1)[1].acceptance

    def draw(self, state: State) -> Tensor:
        """Return the points at beta = 1, ``(C, N, L)``."""
        return state.u[0]

    def report(self, info: Info) -> Info:
        """Return what the chains at beta = 1 report."""
        return Info(info.acceptance[0], info.diverging[0], exchange=info.exchange)

    def reported_step_size(self, tuning: Tuning) -> Tensor:
        """Return the step sizes at beta = 1, ``(N,)``."""
        return tuning.step_size[0].reshape(-1)

    def _beta(self, like: Tensor) -> Tensor:
        """Return the inverse temperatures, ``(R, 1, 1)``."""
        return torch.tensor(self.betas, dtype=like.dtype, device=like.device)[:, None, None]

    def _evaluate(self, u: Tensor, density: Density) -> tuple[Tensor, Tensor, Tensor]:
        """The tempered density and gradient at u ``(R, C, N, L)``, and log p(x|u) with its gradient as memory."""
        beta = self._beta(u)
        prior, likelihood, prior_grad, likelihood_grad = density.parts_and_grads(u)
        # at beta = 0 an infinite likelihood must not count as 0 x infinity
        flat = beta == 0
        log_density = prior + torch.where(flat, 0, beta * likelihood)
        grad = prior_grad + torch.where(flat[..., None], 0, beta[..., None] * likelihood_grad)
        return log_density, grad, torch.cat([likelihood[..., None], likelihood_grad], -1)

    def _move(self, state: State, density: Density, tuning: Tuning, num_steps: int) -> tuple[State, Info]:
        """One HMC step at every temperature, whose memory is evaluated along the way."""
        memory = state.memory

        def value_and_grad(u: Tensor) -> tuple[Tensor, Tensor]:
            nonlocal memory
            log_density, grad, memory = self._evaluate(u, density)
            return log_density, grad

        step_size = self.jittered(tuning.step_size, state.log_density)
        r = torch.randn_like(state.u)
        end, r_end = leapfrog(state, r, value_and_grad, step_size=step_size, num_steps=num_steps, metric=tuning.metric)
        log_ratio = end.log_density - state.log_density + 0.5 * (r.square() - r_end.square()).sum(-1)
        return accept(state, end._replace(memory=memory), log_ratio)

    def _exchange(self, state: State, *, first: int) -> tuple[State, Tensor]:
        """Let pairs (first, first + 1), (first + 2, first + 3), ... exchange their points.

        Returns:
            The new state, and the acceptance between neighbours, ``(R - 1, C, N)``; NaN for pairs whose turn it is not.
        """
        level = torch.arange(len(self.betas), device=state.u.device)
        partner = level.clone()
        stop = first + (len(level) - first) // 2 * 2
        partner[first:stop] = partner[first:stop].reshape(-1, 2).flip(-1).flatten()
        paired = (partner != level)[:, None, None]
        log_ratio = self._log_ratio(state, partner)
        draw = -torch.empty_like(log_ratio).exponential_()
        taken = paired & (draw[torch.minimum(partner, level)] < log_ratio)  # one decision a pair
        lower = (partner[:-1] > level[:-1])[:, None, None]
        acceptance = torch.where(lower, log_ratio[:-1].clamp(max=0).exp(), torch.nan)
        return self._swapped(state, partner, taken), acceptance

    def _log_ratio(self, state: State, partner: Tensor) -> Tensor:
        """The log of the acceptance ratio of every level's exchange with its partner, ``(R, C, N)``."""
        beta, likelihood = self._beta(state.u), _memory(state)[..., 0]
        gain = (beta - beta[partner]) * (likelihood[partner] - likelihood)  # the same for both of a pair
        return torch.nan_to_num(gain, nan=-math.inf)

    def _swapped(self, state: State, partner: Tensor, taken: Tensor) -> State:
        """Every level at its partner's point where ``taken``, with the parts there put together at its own beta."""
        beta, now = self._beta(state.u), _memory(state)
        wide, flat = taken[..., None], beta == 0
        prior = state.log_density - torch.where(flat, 0, beta * now[..., 0])
        prior_grad = state.grad - torch.where(flat[..., None], 0, beta[..., None] * now[..., 1:])
        memory = torch.where(wide, now[partner], now)
        return State(
            torch.where(wide, state.u[partner], state.u),
            torch.where(taken, prior[partner], prior) + torch.where(flat, 0, beta * memory[..., 0]),
            torch.where(wide, prior_grad[partner], prior_grad)
            + torch.where(flat[..., None], 0, beta[..., None] * memory[..., 1:]),
            memory,
        )


def _memory(state: State) -> Tensor:
    """Return log p(x|u) and its gradient, ``(R, C, N, 1 + L)``."""
    if state.memory is None:
        raise ValueError(
            say("a state that ParallelTempering.start made", "one without memory", "kernel.start(u, density)")
        )
    return state.memory
