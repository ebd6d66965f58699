r"""Warm-up: dual averaging of the step size and windowed estimates of the metric, one a posterior.

Both are pooled over the posterior's chains, which makes each step of adaptation C times as informative as in a single
chain. Everything stops at the end of warm-up. The metric is the draws' covariance; where there is one posterior, of a
whole program, and a kernel with a momentum, it is fitted to draws and gradients (:mod:`fisher`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vae.inference.mcmc.fisher import DrawsAndGradients, growing_windows
from pyro_vae.inference.mcmc.kernels.base import Density, Info, Kernel, Metric, State, Tuning

__all__ = ["DualAveraging", "Moments", "Warmup", "reasonable_step_size", "windows"]


class DualAveraging:
    r"""Nesterov's dual averaging of :math:`\log \epsilon` towards a target acceptance, for all posteriors at once.

    With :math:`h_t` the target less the acceptance at step t,

    .. math::
        \log \epsilon_{t+1} = \mu - \frac{\sqrt t}{\gamma} \bar h_t, \qquad
        \bar h_t = (1 - \tfrac{1}{t + t_0}) \bar h_{t-1} + \tfrac{1}{t + t_0} h_t,

    and the answer is the running mean of :math:`\log \epsilon_t` with weights :math:`t^{-\kappa}`.

    Source: Hoffman & Gelman 2014, section 3.2, with their t_0 and kappa. Their gamma of 0.05 lets one chain explore;
    the mean over several chains is less noisy, and 0.2 comes closer to the target in a short warm-up.

    Args:
        step_size: the step sizes to start from, any shape.
        target: the acceptance probability to aim at.

    Example:
        >>> averaging = DualAveraging(torch.ones(3), 0.8)
        >>> for _ in range(2000):  # an acceptance that falls with the step size as exp(-step size)
        ...     averaging.update(torch.exp(-averaging.step_size))
        >>> bool((averaging.averaged - 0.2231).abs().max() < 0.01)  # -log 0.8
        True
    """

    def __init__(
        self, step_size: Tensor, target: float, *, gamma: float = 0.2, t0: float = 10.0, kappa: float = 0.75
    ) -> None:
        self.target, self.gamma, self.t0, self.kappa = target, gamma, t0, kappa
        self.mu = step_size.log()
        self.log_step = self.mu
        self.log_average = self.mu
        self.h = torch.zeros_like(step_size)
        self.t = 0

    def update(self, acceptance: Tensor) -> None:
        """Take one step's acceptance probability, of the step sizes' shape."""
        self.t += 1
        self.h = torch.lerp(self.h, self.target - acceptance, 1 / (self.t + self.t0))
        self.log_step = self.mu - math.sqrt(self.t) / self.gamma * self.h
        self.log_average = torch.lerp(self.log_average, self.log_step, self.t**-self.kappa)

    @property
    def step_size(self) -> Tensor:
        """The step size to explore with."""
        return self.log_step.exp()

    @property
    def averaged(self) -> Tensor:
        """The step size to keep."""
        return self.log_average.exp()


class Moments:
    """Running mean and (co)variance of draws ``(..., C, N, L)``, pooled over chains (Chan, Golub & LeVeque 1979)."""

    def __init__(self, like: Tensor, *, dense: bool) -> None:
        L = like.shape[-1]
        self.dense = dense
        self.count = 0
        self.mean = torch.zeros_like(like[..., :1, :, :])  # (..., 1, N, L)
        self.scatter = self.mean.new_zeros(*self.mean.shape, L) if dense else torch.zeros_like(self.mean)

    def update(self, u: Tensor, grad: Tensor | None = None) -> None:
        """Take one draw of every chain; gradients are no concern of this estimate."""
        n = u.shape[-3]
        centre = u.mean(-3, keepdim=True)
        total = self.count + n
        away, shift = u - centre, centre - self.mean
        weight = self.count * n / total
        if self.dense:
            within = torch.einsum("...cnl,...cnk->...nlk", away, away).unsqueeze(-4)
            self.scatter += within + weight * shift[..., :, None] * shift[..., None, :]
        else:
            self.scatter += away.square().sum(-3, keepdim=True) + weight * shift.square()
        self.mean += shift * n / total
        self.count = total

    def metric(self) -> Metric:
        """The metric: a little shrunk, as in Stan, and towards the diagonal if it is dense."""
        n = self.count
        covariance = self.scatter / max(1, n - 1)
        keep = n / (n + 5)
        if not self.dense:
            return Metric((keep * covariance + 1e-3 * (1 - keep)).sqrt())
        # towards the diagonal, so that few draws of many dimensions still give a positive definite matrix
        diagonal = covariance.diagonal(dim1=-2, dim2=-1)
        strength = n / (n + 5 + covariance.shape[-1])
        shrunk = strength * covariance + torch.diag_embed((1 - strength) * diagonal + 1e-3 * (1 - keep))
        factor, failed = torch.linalg.cholesky_ex(shrunk)
        safe = torch.diag_embed((diagonal + 1e-3 * (1 - keep)).sqrt())
        return Metric(torch.where(failed[..., None, None] > 0, safe, factor), dense=True)


def windows(num_steps: int) -> list[int]:
    """Return the steps after which the metric is renewed: Stan's doubling windows, scaled to ``num_steps``.

    The first 15 % (at most 75) steps only find the posterior; the last 10 % (at most 50) only tune the step size.

    Example:
        >>> windows(1000), windows(300), windows(10)
        ([100, 150, 250, 450, 950], [70, 120, 270], [])
    """
    if num_steps < 20:
        return []
    start = min(75, max(1, round(0.15 * num_steps)))
    stop = num_steps - min(50, max(1, round(0.1 * num_steps)))
    width, ends = min(25, stop - start), [start]
    while ends[-1] < stop:
        last = ends[-1] + width + 2 * width > stop  # no room for this window and the next, twice as wide
        ends.append(stop if last else ends[-1] + width)
        width *= 2
    return ends[1:]


def pooled(acceptance: Tensor, *, harmonic: bool) -> Tensor:
    """Return the mean acceptance ``(..., 1, N)`` over chains, arithmetic or harmonic.

    The harmonic mean is small where one chain is stuck, however well the others move (Hoffman, Radul & Sountsov 2021).

    Example:
        >>> stuck = torch.tensor([[1.0], [1.0], [1.0], [0.0]])
        >>> float(pooled(stuck, harmonic=False)), float(pooled(stuck, harmonic=True)) < 0.01
        (0.75, True)
    """
    return (
        1 / (1 / acceptance.clamp(min=1e-3)).mean(-2, keepdim=True) if harmonic else acceptance.mean(-2, keepdim=True)
    )


def reasonable_step_size(
    state: State, density: Density, kernel: Kernel, tuning: Tuning, most: int = 30, *, harmonic: bool = False
) -> Tensor:
    """Double or halve each posterior's step size until the acceptance of one step crosses the target.

    Source: Hoffman & Gelman 2014, algorithm 4, for all posteriors at once.

    Returns:
        Step sizes, of the shape of ``tuning.step_size``.
    """
    step_size = tuning.step_size
    goal = kernel.target_accept_prob or 0.5
    direction: Tensor | None = None
    crossed = torch.zeros_like(step_size, dtype=torch.bool)
    for _ in range(most):
        acceptance = pooled(kernel.try_step(state, density, tuning.but(step_size=step_size)), harmonic=harmonic)
        upward = acceptance > goal
        if direction is None:
            direction = upward
        crossed = crossed | (upward != direction)
        if bool(crossed.all()):
            break
        step_size = torch.where(crossed, step_size, torch.where(direction, 2 * step_size, 0.5 * step_size))
    return step_size


@dataclass
class Warmup:
    """The adaptation of one run: what to do after each step of warm-up.

    Args:
        kernel: the kernel that is adapted.
        density: the density, for finding step sizes.
        num_steps: how many steps the warm-up has.
        tuning: where to start.
    """

    kernel: Kernel
    density: Density
    num_steps: int
    tuning: Tuning

    def __post_init__(self) -> None:
        self._by_gradient = self.kernel.has_momentum and not self.density.target.per_datum
        ends = growing_windows(self.num_steps) if self._by_gradient else windows(self.num_steps)
        self._ends = set(ends) if self.kernel.adapt_mass_matrix else set()
        self._first = 0 if self._by_gradient else min(75, max(1, round(0.15 * self.num_steps)))
        self._moments: Moments | DrawsAndGradients | None = None
        self._averaging: DualAveraging | None = None

    @property
    def _tunes_step(self) -> bool:
        """Whether the kernel has a step size that may be adapted."""
        return self.kernel.adapt_step_size and self.kernel.target_accept_prob is not None

    def begin(self, state: State) -> Tuning:
        """Find step sizes to start from."""
        if self._tunes_step and self.num_steps:
            self._restart(state)
        return self.tuning

    def update(self, step: int, before: State, state: State, info: Info) -> Tuning:
        """Take the outcome of warm-up step ``step`` = 1, 2, ... and return the tuning of the next."""
        self.tuning = self.kernel.adapt(self.tuning, before, info)
        if self._averaging is not None:
            self._averaging.update(pooled(info.acceptance, harmonic=self._by_gradient and 2 * step < self.num_steps))
            self.tuning = self.tuning.but(step_size=self._averaging.step_size)
        if self._ends and step > self._first:
            dense = self.kernel.full_mass
            if self._moments is None:
                self._moments = DrawsAndGradients(dense=dense) if self._by_gradient else Moments(state.u, dense=dense)
            self._moments.update(state.u, state.grad)
        if step in self._ends and self._moments is not None:
            self.tuning = self.tuning.but(metric=self._moments.metric())
            self._moments = None
            if self._tunes_step:
                self._restart(state)
        return self.tuning

    def end(self) -> Tuning:
        """Return the tuning to keep."""
        if self._averaging is not None and self._averaging.t:
            self.tuning = self.tuning.but(step_size=self._averaging.averaged)
        return self.tuning

    def _restart(self, state: State) -> None:
        """Look for a step size under the present metric, and average anew from there."""
        size = reasonable_step_size(state, self.density, self.kernel, self.tuning, harmonic=self._by_gradient)
        self.tuning = self.tuning.but(step_size=size)
        self._averaging = DualAveraging(size, self.kernel.target_accept_prob or 0.8)
