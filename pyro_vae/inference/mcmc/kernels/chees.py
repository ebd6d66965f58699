r"""HMC whose trajectory length maximises the ChEES criterion.

Source: Hoffman, Radul & Sountsov 2021, "An adaptive-MCMC scheme for setting trajectory lengths in Hamiltonian Monte
Carlo".
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_vae import checks
from pyro_vae.checks import say
from pyro_vae.inference.mcmc.kernels.base import Info, Metric, State, Tuning
from pyro_vae.inference.mcmc.kernels.hmc import HMC

__all__ = ["Adam", "ChEES"]


class Adam(NamedTuple):
    """The moments of a gradient that Adam keeps (Kingma & Ba 2015), of one number.

    Attributes:
        t: steps taken.
        first: running mean of the gradient.
        second: running mean of its square.

    Example:
        >>> step, _ = Adam().climb(3.0, learning_rate=0.1)
        >>> round(step, 6)  # the first step is as long as the learning rate
        0.1
    """

    t: int = 0
    first: float = 0.0
    second: float = 0.0

    def climb(
        self, gradient: float, *, learning_rate: float, betas: tuple[float, float] = (0.5, 0.95)
    ) -> tuple[float, Adam]:
        """Return the step up and the next moments; the moments' weights are short, since a warm-up is."""
        t = self.t + 1
        first = betas[0] * self.first + (1 - betas[0]) * gradient
        second = betas[1] * self.second + (1 - betas[1]) * gradient**2
        scale = math.sqrt(second / (1 - betas[1] ** t)) + 1e-8
        return learning_rate * first / (1 - betas[0] ** t) / scale, Adam(t, first, second)


class ChEES(HMC):
    r"""HMC with jittered trajectories whose mean length T is adapted during warm-up.

    T climbs the change in the estimator of the expected square,

    .. math:: \mathrm{ChEES} = \tfrac14 E\big[(\|w' - \bar w\|^2 - \|w - \bar w\|^2)^2\big],

    by Adam on log T, along the gradient :math:`T\, (\|w' - \bar w\|^2 - \|w - \bar w\|^2) \langle w' - \bar w, r'
    \rangle`, weighted by the acceptance of the trajectory from w to w', where it arrives with momentum r'. (The paper
    has the trajectory's own length in place of its mean T.) Here w is the position in standard deviations of the
    metric, which lets all posteriors share one length; :math:`\bar w` is the mean over a posterior's chains, so at
    least 4 chains are needed, and a single posterior wants 16 or more.

    Args:
        model: the Pyro program, in Pyro's manner; leave it out for :func:`pyro_vae.mcmc`.
        trajectory_length: where T starts.
        learning_rate: Adam's.
        **settings: those of :class:`HMC`, but for ``num_steps``.

    Raises:
        ValueError: for numbers outside their range.

    Example:
        >>> ChEES(trajectory_length=1.0).trajectory
        1.0
    """

    def __init__(
        self, model: Any = None, *, trajectory_length: float = 1.0, learning_rate: float = 0.05, **settings: Any
    ) -> None:
        super().__init__(model, trajectory_length=trajectory_length, **settings)
        self.learning_rate = checks.positive_number(learning_rate, "learning_rate", example=0.05)

    def first_tuning(self, u: Tensor, metric: Metric) -> Tuning:
        """Refuse a single chain, whose mean over chains says nothing.

        Raises:
            ValueError: if there is only one chain.
        """
        if u.shape[-3] < 2:
            raise ValueError(
                say("two chains or more, better four, for ChEES", "one", "num_chains=4, or kernel=pv.HMC()")
            )
        return super().first_tuning(u, metric).but(optimiser=Adam())

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
        if not math.isfinite(gradient):
            return tuning
        step, optimiser = tuning.optimiser.climb(gradient, learning_rate=self.learning_rate)
        return tuning.but(trajectory=min(max(tuning.trajectory * math.exp(step), 0.1), 1000.0), optimiser=optimiser)
