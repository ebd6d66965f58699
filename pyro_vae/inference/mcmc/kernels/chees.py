r"""HMC whose trajectory length maximises the ChEES criterion.

Source: Hoffman, Radul & Sountsov 2021, "An adaptive-MCMC scheme for setting trajectory lengths in Hamiltonian Monte
Carlo".
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from pyro_vae.checks import say
from pyro_vae.inference.mcmc.kernels.base import Info, Metric, State, Tuning
from pyro_vae.inference.mcmc.kernels.hmc import HMC

__all__ = ["ChEES"]


class ChEES(HMC):
    r"""HMC with jittered trajectories whose mean length T is adapted during warm-up.

    T climbs the change in the estimator of the expected square,

    .. math:: \mathrm{ChEES} = \tfrac14 E\big[(\|w' - \bar w\|^2 - \|w - \bar w\|^2)^2\big],

    by Adam on log T, along the gradient :math:`t\, (\|w' - \bar w\|^2 - \|w - \bar w\|^2) \langle w' - \bar w, r'
    \rangle` of a trajectory of length t from w to w', weighted by its acceptance. Here w is the position in standard
    deviations of the metric, which lets all posteriors share one length; :math:`\bar w` is the mean over a posterior's
    chains, so at least 4 chains are needed, and a single posterior wants 16 or more.

    Args:
        model: the Pyro program, in Pyro's manner; leave it out for :func:`pyro_vae.mcmc`.
        trajectory_length: where T starts.
        learning_rate: Adam's.
        **arguments: those of :class:`HMC`, but for ``num_steps``.

    Example:
        >>> ChEES(trajectory_length=1.0).trajectory
        1.0
    """

    def __init__(
        self, model: Any = None, *, trajectory_length: float = 1.0, learning_rate: float = 0.05, **arguments: Any
    ) -> None:
        super().__init__(model, trajectory_length=trajectory_length, **arguments)
        self.learning_rate = learning_rate
        self.begin(None, None)

    def begin(self, target: Any, guide: Any) -> None:
        """Forget the moments of Adam."""
        self._t, self._first, self._second = 0, 0.0, 0.0

    def first_tuning(self, u: Tensor, metric: Metric) -> Tuning:
        """Refuse a single chain, whose mean over chains says nothing.

        Raises:
            ValueError: if there is only one chain.
        """
        if u.shape[-3] < 2:
            raise ValueError(
                say("two chains or more, better four, for ChEES", "one", "num_chains=4, or kernel=pv.HMC()")
            )
        return super().first_tuning(u, metric)

    def adapt(self, tuning: Tuning, before: State, info: Info) -> Tuning:
        """Take one step of Adam on log T."""
        if info.end is None:
            return tuning
        u, r = info.end
        start, end = tuning.metric.whiten(before.u), tuning.metric.whiten(u)
        finite = torch.isfinite(end).all(-1) & torch.isfinite(r).all(-1)
        end = torch.where(finite[..., None], end, start)
        r = torch.where(finite[..., None], r, 0)
        weight = torch.where(finite, info.acceptance, 0)
        centre_before = start.mean(-3, keepdim=True)
        total = weight.sum(-2, keepdim=True).clamp(min=1e-6)[..., None]
        centre_after = (weight[..., None] * end).sum(-3, keepdim=True) / total
        gain = (end - centre_after).square().sum(-1) - (start - centre_before).square().sum(-1)
        slope = gain * ((end - centre_after) * r).sum(-1)
        gradient = float((weight * slope).sum() / weight.sum().clamp(min=1e-6)) * tuning.trajectory
        return tuning.but(trajectory=self._climb(tuning.trajectory, gradient))

    def _climb(self, trajectory: float, gradient: float, beta: tuple[float, float] = (0.5, 0.95)) -> float:
        """Adam, ascending on log T; the moments' weights are short, since a warm-up is."""
        if not math.isfinite(gradient):
            return trajectory
        self._t += 1
        self._first = beta[0] * self._first + (1 - beta[0]) * gradient
        self._second = beta[1] * self._second + (1 - beta[1]) * gradient**2
        first = self._first / (1 - beta[0] ** self._t)
        second = self._second / (1 - beta[1] ** self._t)
        step = self.learning_rate * first / (math.sqrt(second) + 1e-8)
        return min(max(trajectory * math.exp(step), 0.1), 1000.0)
