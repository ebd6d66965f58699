r"""Gibbs sampling: one coordinate after the other, from its conditional.

Source: Geman & Geman 1984; Neal 2003, "Slice sampling", for conditionals that are known up to a constant only.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyro_vae import checks
from pyro_vae.checks import say
from pyro_vae.inference.mcmc.kernels.base import Density, Info, Kernel, State, Tuning

__all__ = ["GaussianGibbs", "Gibbs"]


class Gibbs(Kernel):
    r"""Slice sampling within Gibbs: every coordinate in turn is drawn uniformly from a slice of its conditional.

    For a coordinate v at :math:`v_0`: draw the height :math:`y = \log p(v_0) - E`, :math:`E \sim Exp(1)`; place an
    interval of ``width`` standard deviations at random around :math:`v_0`; step it out until both ends lie below y;
    draw from it, shrinking it towards :math:`v_0` after each point that lies below y (Neal 2003, figures 3 and 5). It
    never rejects, needs no gradient and no step size, and suffers from correlation between coordinates.

    One step updates all L coordinates; an evaluation of the batched log joint serves all chains and data, so a step
    costs as many as its slowest chain needs, some 5 to 15 a coordinate.

    Args:
        model: the Pyro program, in Pyro's manner; leave it out for :func:`pyro_vae.mcmc`.
        width: the first interval, in standard deviations of the metric.
        max_steps_out: by how many widths the interval may grow.
        adapt_mass_matrix: adapt the standard deviations during warm-up.

    Example:
        >>> Gibbs(width=2.0).width
        2.0
    """

    uses_gradient = False
    target_accept_prob = None
    adapt_step_size = False

    def __init__(
        self, model: Any = None, *, width: float = 3.0, max_steps_out: int = 16, adapt_mass_matrix: bool = True
    ) -> None:
        super().__init__(model, adapt_mass_matrix=adapt_mass_matrix)
        self.width = checks.positive_number(width, "width", example=3.0)
        self.max_steps_out = checks.positive_integer(max_steps_out, "max_steps_out")

    def step(self, state: State, density: Density, tuning: Tuning) -> tuple[State, Info]:
        """Update every coordinate of every chain."""
        widths = self.width * tuning.metric.scale()
        for column in range(state.u.shape[-1]):
            state = self._update(state, density, column, widths[..., column])
        return state, Info(torch.ones_like(state.log_density), torch.zeros_like(state.log_density, dtype=torch.bool))

    def _update(self, state: State, density: Density, column: int, width: Tensor) -> State:
        """Draw one coordinate of every chain from its slice; chains that are done wait for the others."""
        now = state.u[..., column]
        height = state.log_density - torch.empty_like(now).exponential_()

        def at(v: Tensor) -> Tensor:
            return torch.nan_to_num(density.value(_with(state.u, column, v)), nan=-torch.inf)

        low = now - width * torch.rand_like(now)
        high = low + width
        # the steps out are shared between both sides at random, which keeps the reverse move as likely
        left = (torch.rand_like(now) * self.max_steps_out).floor()
        right = self.max_steps_out - 1 - left
        low = _step_out(low, -width, left, height, at)
        high = _step_out(high, width, right, height, at)
        value, log_density = now, state.log_density
        todo = torch.ones_like(now, dtype=torch.bool)
        while bool(todo.any()):
            point = low + torch.rand_like(now) * (high - low)
            at_point = at(torch.where(todo, point, value))
            inside = todo & (at_point > height)
            value = torch.where(inside, point, value)
            log_density = torch.where(inside, at_point, log_density)
            todo = todo & ~inside
            low = torch.where(todo & (point < now), point, low)
            high = torch.where(todo & (point >= now), point, high)
            todo = todo & (high - low > 1e-6 * width)  # a slice below the numbers' resolution: stay
        return state._replace(u=_with(state.u, column, value), log_density=log_density)


def _step_out(edge: Tensor, width: Tensor, budget: Tensor, height: Tensor, at: Any) -> Tensor:
    """Move an edge of the slice out by widths until it lies below the height, or the budget of steps is spent."""
    out = budget > 0
    while bool(out.any()):
        out = out & (at(edge) > height)
        edge = torch.where(out, edge + width, edge)
        budget = budget - out.to(budget.dtype)
        out = out & (budget > 0)
    return edge


def _with(u: Tensor, column: int, value: Tensor) -> Tensor:
    """Return u with one coordinate replaced."""
    u = u.clone()
    u[..., column] = value
    return u


class GaussianGibbs(Kernel):
    r"""Gibbs sampling of Gaussian posteriors from their exact conditionals, as the linear-Gaussian model has them.

    With precision :math:`\Lambda` and gradient :math:`g = \nabla \log p(u)`, which is linear in u,

    .. math:: u_l \mid u_{-l} \sim N(u_l + g_l / \Lambda_{ll},\; 1 / \Lambda_{ll}) .

    Precisions are read off the gradient once, at the start; a step then costs no evaluation of the program at all.

    Args:
        model: the Pyro program, in Pyro's manner; leave it out for :func:`pyro_vae.mcmc`.

    Raises:
        ValueError: at the start of a run, if the posteriors are not Gaussian.

    Example:
        >>> import pyro_vae as pv
        >>> model = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Gaussian(torch.nn.Linear(2, 5), scale=0.5))
        >>> draws = pv.mcmc(model, torch.zeros(3, 5), kernel=GaussianGibbs(), num_samples=50)
        >>> draws.samples["z"].shape
        torch.Size([4, 50, 3, 2])
    """

    target_accept_prob = None
    adapt_step_size = False
    adapt_mass_matrix = False

    def __init__(self, model: Any = None) -> None:
        super().__init__(model)

    def start(self, u: Tensor, density: Density, guide: Any = None, *, given: bool = False) -> State:
        """Read the precisions ``(N, L, L)`` off the gradient, check that it is linear, and keep them for the run."""
        target, origin = density.target, torch.zeros_like(u[0])
        L = origin.shape[-1]
        at_origin = target.value_and_grad(origin)[1]
        unit = torch.eye(L, dtype=origin.dtype, device=origin.device)[:, None, :]
        precision = (at_origin - target.value_and_grad(origin + unit)[1]).permute(1, 2, 0)  # from (L, N, L)
        away = torch.full_like(origin, 3.0)
        expected = at_origin - (precision @ away[..., None])[..., 0]
        got = target.value_and_grad(away)[1]
        tolerance = 1e-3 if origin.dtype == torch.float32 else 1e-6
        scale = 1 + precision.abs().amax()
        if not bool(((expected - got).abs() < tolerance * scale).all()):
            raise ValueError(
                say("Gaussian posteriors: a gradient that is linear in u", "one that is not", "kernel=pv.Gibbs()")
            )
        return super().start(u, density)._replace(run=precision)

    def step(self, state: State, density: Density, tuning: Tuning) -> tuple[State, Info]:
        """Draw every coordinate of every chain from its conditional."""
        u, log_density, grad, precision = state.u.clone(), state.log_density, state.grad.clone(), state.run
        for column in range(u.shape[-1]):
            own = precision[:, column, column]
            move = grad[..., column] / own + torch.randn_like(log_density) / own.sqrt()
            log_density = log_density + grad[..., column] * move - 0.5 * own * move.square()
            u[..., column] += move
            grad -= precision[:, :, column] * move[..., None]
        return state._replace(u=u, log_density=log_density, grad=grad), Info(
            torch.ones_like(log_density), torch.zeros_like(log_density, dtype=torch.bool)
        )
