r"""What every Markov kernel shares: the state of the chains, what a step reports, the metric, and the recipe.

A kernel moves C chains of N posteriors at once: the state is u ``(..., C, N, L)``, and nothing in it mixes chains or
data. Leading dimensions, where there are any, are temperatures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from pyro_vae import checks
from pyro_vae.checks import say

__all__ = ["Density", "Info", "Kernel", "Metric", "State", "Tuning", "ValueAndGrad", "accept"]

ValueAndGrad = Callable[[Tensor], tuple[Tensor, Tensor]]


class Density(Protocol):
    """The log density that a kernel leaves invariant; see :class:`pyro_vae.inference.mcmc.density.LogDensity`.

    Attributes:
        target: the :class:`pyro_vae.Target` that it is of.
    """

    target: Any

    def value(self, u: Tensor) -> Tensor:
        """Return log p(u), ``(..., N)`` for u ``(..., N, L)``."""
        ...

    def value_and_grad(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return log p(u) ``(..., N)`` and its gradient ``(..., N, L)``."""
        ...

    def parts_and_grads(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return log p(u) and log p(x|u), each ``(..., N)``, and their gradients, for tempering."""
        ...


class State(NamedTuple):
    """Where the chains are, and what else belongs to one run of a kernel.

    Attributes:
        u: ``(..., C, N, L)``, unconstrained.
        log_density: log p(u), ``(..., C, N)``, in nats.
        grad: its gradient, ``(..., C, N, L)``; zero-sized for a kernel without gradients.
        memory: what else a kernel carries along with u, ``(..., C, N, any)``.
        run: what a kernel keeps of the run for all chains together, of any type; ``accept`` passes it on.
    """

    u: Tensor
    log_density: Tensor
    grad: Tensor
    memory: Tensor | None = None
    run: Any = None


class Info(NamedTuple):
    """What a step reports.

    Attributes:
        acceptance: acceptance probability, ``(..., C, N)``.
        diverging: whether the move diverged, ``(..., C, N)``.
        end: where HMC's trajectory ended and the whitened velocity there, ``(..., C, N, L)`` each; ChEES adapts on it.
        exchange: acceptance probability of exchanges between neighbouring temperatures, ``(R - 1, C, N)``; NaN where
            none was tried.
        energy: the Hamiltonian where the trajectory began, ``(C, N)``, in nats; for kernels with a momentum.
        tree_depth: doublings of the trajectory, ``(C, N)``, of NUTS.
    """

    acceptance: Tensor
    diverging: Tensor
    end: tuple[Tensor, Tensor] | None = None
    exchange: Tensor | None = None
    energy: Tensor | None = None
    tree_depth: Tensor | None = None


@dataclass(frozen=True)
class Metric:
    r"""A factor F of the covariance that each posterior is believed to have, :math:`\Sigma_n = F_n F_n^\top`.

    HMC with mass matrix :math:`\Sigma^{-1}` and momentum p is written in the whitened momentum
    :math:`r = F^\top p \sim N(0, I)`: the velocity is :math:`\Sigma p = F r`, the kinetic energy
    :math:`\tfrac12 \|r\|^2`, and the force on r is :math:`F^\top \nabla \log p(u)`.

    Attributes:
        factor: ``(..., 1, N, L)`` standard deviations, or ``(..., 1, N, L, L)`` lower triangular.
        dense: which of the two.
    """

    factor: Tensor
    dense: bool = False

    def spread(self, r: Tensor) -> Tensor:
        """Return F r for r ``(..., N, L)``."""
        return (self.factor @ r[..., None])[..., 0] if self.dense else self.factor * r

    def pull(self, gradient: Tensor) -> Tensor:
        r"""Return :math:`F^\top g` for g ``(..., N, L)``."""
        return (self.factor.mT @ gradient[..., None])[..., 0] if self.dense else self.factor * gradient

    def whiten(self, u: Tensor) -> Tensor:
        r"""Return :math:`F^{-1} u` for u ``(..., N, L)``."""
        if not self.dense:
            return u / self.factor
        return torch.linalg.solve_triangular(self.factor, u[..., None], upper=False)[..., 0]

    def scale(self) -> Tensor:
        """Return the standard deviations, ``(..., 1, N, L)``."""
        return self.factor.square().sum(-1).sqrt() if self.dense else self.factor


@dataclass(frozen=True)
class Tuning:
    """What warm-up sets, and what stays fixed while draws are kept.

    Attributes:
        step_size: one a posterior, pooled over its chains, ``(..., 1, N)``.
        metric: the believed covariances.
        trajectory: length of HMC's trajectories in whitened units (standard deviations).
        optimiser: the state of the optimiser of what the kernel adapts itself, if it has one.
    """

    step_size: Tensor
    metric: Metric
    trajectory: float = 0.0
    optimiser: Any = None

    def but(self, **changes: Any) -> Tuning:
        """Return a copy with some fields changed."""
        return replace(self, **changes)


class Kernel:
    """Base class of Markov kernels that leave p(u) invariant.

    To write one, subclass it and define ``step``, in pure tensor code over ``(..., C, N, L)``; set the class's defaults
    of the settings below. The run loop starts the chains, adapts ``tuning.step_size`` towards ``target_accept_prob``
    and ``tuning.metric`` to the posteriors' covariances during warm-up, and keeps both fixed afterwards:

        >>> class RandomWalk(Kernel):
        ...     uses_gradient = False
        ...     target_accept_prob = 0.35
        ...     def step(self, state, density, tuning):
        ...         noise = tuning.metric.spread(torch.randn_like(state.u))
        ...         proposal = state.u + tuning.step_size[..., None] * noise
        ...         log_density = density.value(proposal)  # with the gradient: *density.value_and_grad(proposal)
        ...         moved = State(proposal, log_density, state.grad)
        ...         return accept(state, moved, log_density - state.log_density)
        >>> import pyro_vae as pv
        >>> model = pv.Model(pv.priors.StandardNormal(1), pv.likelihoods.Bernoulli(torch.nn.Linear(1, 3)))
        >>> pv.mcmc(model, torch.ones(2, 3), kernel=RandomWalk(), num_samples=50, warmup_steps=50, compile=False)
        Draws(z: (4, 50, 2, 1); 4 chains of 50 draws)

    A kernel object is settings alone: any number of runs may use it at once. What a run needs beyond u is made by
    ``start`` and handed on in the state (``memory`` for each chain, ``run`` for all), or in the tuning where warm-up
    adapts it (``adapt``). An ``__init__`` of one's own passes ``model`` and settings on to this one.

    To test it, add one line to ``tests/table_of_kernels.py``; to name it for everyone, one to ``pyro_vae/__init__.py``
    and ``pyro_vae/runs/parts.py``.

    Args:
        model: the Pyro program, in Pyro's manner; leave it out for :func:`pyro_vae.mcmc`.
        step_size: where adaptation starts, in standard deviations of the metric; this and the others: the class's
            default if not given.
        adapt_step_size: adapt the step size during warm-up.
        adapt_mass_matrix: adapt the metric during warm-up.
        full_mass: a dense metric in place of a diagonal one; worth it for correlated posteriors and small L.
        target_accept_prob: the acceptance probability to aim at.

    Attributes:
        uses_gradient: whether the state carries the gradient.
        has_momentum: whether it follows the gradient along trajectories; its metric on a whole program is then fitted
            to gradients too.
        target_accept_prob: None for a kernel without step size.
        trajectory: HMC's first trajectory length.
        replicas: how many copies of a chain move with it, such as temperatures.

    Raises:
        TypeError, ValueError: for numbers outside their range.
    """

    model: Any = None
    uses_gradient: bool = True
    has_momentum: bool = False
    target_accept_prob: float | None = 0.8
    step_size: float = 1.0
    adapt_step_size: bool = True
    adapt_mass_matrix: bool = True
    full_mass: bool = False
    trajectory: float = 0.0
    replicas: int = 1

    def __init__(
        self,
        model: Any = None,
        *,
        step_size: float | None = None,
        adapt_step_size: bool | None = None,
        adapt_mass_matrix: bool | None = None,
        full_mass: bool | None = None,
        target_accept_prob: float | None = None,
    ) -> None:
        self.model = model
        if step_size is not None:
            self.step_size = checks.positive_number(step_size, "step_size")
        if target_accept_prob is not None:
            if not 0 < target_accept_prob < 1:
                got, remedy = f"{target_accept_prob}", "target_accept_prob=0.8"
                raise ValueError(say("target_accept_prob between 0 and 1", got, remedy))
            self.target_accept_prob = target_accept_prob
        switches = {
            "adapt_step_size": adapt_step_size, "adapt_mass_matrix": adapt_mass_matrix, "full_mass": full_mass
        }  # fmt: skip
        vars(self).update({name: value for name, value in switches.items() if value is not None})

    def start(self, u: Tensor, density: Density, guide: Any = None, *, given: bool = False) -> State:
        """Return the state at u, with all that a run of this kernel needs.

        Args:
            u: ``(C, N, L)``.
            density: the log density of the run.
            guide: draws of the run's guide with their density, if there is one.
            given: whether the user chose these points; else a kernel may start elsewhere.
        """
        if self.uses_gradient:
            return State(u, *density.value_and_grad(u))
        return State(u, density.value(u), u.new_zeros(0))

    def step(self, state: State, density: Density, tuning: Tuning) -> tuple[State, Info]:
        """Move every chain once."""
        raise NotImplementedError(f"{type(self).__name__} must define step(self, state, density, tuning)")

    def try_step(self, state: State, density: Density, tuning: Tuning) -> Tensor:
        """Return the acceptance probability ``(..., C, N)`` of one short step, for finding a first step size."""
        return self.step(state, density, tuning)[1].acceptance

    def first_tuning(self, u: Tensor, metric: Metric) -> Tuning:
        """Return the tuning to start from, for chains at u ``(C, N, L)``."""
        step_size = torch.full((1, u.shape[-2]), float(self.step_size), dtype=u.dtype, device=u.device)
        return Tuning(step_size, metric, self.trajectory)

    def adapt(self, tuning: Tuning, before: State, info: Info) -> Tuning:
        """Adapt what is the kernel's own, after a step of warm-up; the step size and metric are adapted elsewhere."""
        return tuning

    def report(self, info: Info) -> Info:
        """Return the part of what a step reports that ``Draws`` shows, ``(C, N)``."""
        return info

    def reported_step_size(self, tuning: Tuning) -> Tensor:
        """Return the step sizes that ``Draws`` shows, ``(N,)``."""
        return tuning.step_size.reshape(-1)

    def draw(self, state: State) -> Tensor:
        """Return the draw ``(C, N, L)`` that the state stands for."""
        return state.u


def accept(state: State, proposal: State, log_ratio: Tensor, *, threshold: float = 1000.0) -> tuple[State, Info]:
    r"""The Metropolis-Hastings decision: take the proposal with probability :math:`\min(1, e^{\text{log_ratio}})`.

    Args:
        state: where the chains are.
        proposal: where they would go.
        log_ratio: log of the acceptance ratio, ``(..., C, N)``; NaN rejects.
        threshold: a ratio below ``exp(-threshold)`` counts as a divergence, in nats.
    """
    log_ratio = torch.nan_to_num(log_ratio, nan=-torch.inf)
    taken = -torch.empty_like(log_ratio).exponential_() < log_ratio  # log of a uniform number, never -inf
    wide = taken[..., None]
    moved = State(
        torch.where(wide, proposal.u, state.u),
        torch.where(taken, proposal.log_density, state.log_density),
        torch.where(wide, proposal.grad, state.grad) if state.grad.numel() else state.grad,
        None if proposal.memory is None or state.memory is None else torch.where(wide, proposal.memory, state.memory),
        state.run,
    )
    return moved, Info(log_ratio.clamp(max=0).exp(), log_ratio < -threshold)
