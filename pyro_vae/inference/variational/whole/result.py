"""What variational inference returns: a distribution over u that says how it was found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_vae.arviz_import import pareto_k
from pyro_vae.inference.target.blocks import log_joint_in_blocks
from pyro_vae.inference.target.target import Target

__all__ = ["Search", "VIPosterior"]

_CHECKS = 1000  # draws of the last bound and of k-hat


@dataclass
class Search:
    """How a search for q went.

    Attributes:
        q: the distribution found.
        guide: the family's name.
        converged: whether it ended where the objective has its maximum, ``(N,)``.
        reason: how it ended, a sentence.
        num_gradients: gradient evaluations of log p at one u.
        num_sequential: those one after another.
        num_steps: steps of the optimiser.
        elbos: the objective along the way, mean over data.
    """

    q: Any
    guide: str
    converged: Tensor
    reason: str
    num_gradients: int
    num_sequential: int
    num_steps: int
    elbos: list[float] = field(default_factory=list)


class VIPosterior(dist.TorchDistribution):
    """A variational posterior, ``batch_shape (N,)``, ``event_shape (L,)``, over the unconstrained vector u.

    Attributes:
        base_dist: the member of the family.
        guide: the family's name.
        elbo: by a thousand fresh draws, ``(N,)``, nats.
        elbo_error: its standard error, ``(N,)``.
        pareto_k: shape of the tail of the weights p / q, ``(N,)``; above 0.7 q cannot be mended by re-weighting.
        converged: whether the search ended where its objective has its maximum, ``(N,)``.
        reason: how it ended, a sentence.
        num_gradients: gradient evaluations of log p at one u, all particles counted, the start's too.
        num_sequential: gradient evaluations one after another.
        num_steps: steps of the optimiser.
        elbos: the objective along the way, mean over data, nats.
        seconds: wall time.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012  torch's own convention
    support = constraints.real_vector
    seconds: float
    num_checks = _CHECKS  # draws of the bound

    def __init__(self, target: Target, search: Search) -> None:
        self.base_dist = search.q
        self.guide, self.reason, self.converged = search.guide, search.reason, search.converged
        self.num_gradients, self.num_sequential = search.num_gradients, search.num_sequential
        self.num_steps, self.elbos = search.num_steps, search.elbos
        super().__init__(target.origin.shape[:1], target.origin.shape[1:], validate_args=False)
        self._judge(target)

    def __repr__(self) -> str:
        N, L = self.batch_shape.numel(), self.event_shape.numel()
        told = f"ELBO {float(self.elbo.mean()):.3f} nats, Pareto k at most {float(self.pareto_k.max()):.2f}"
        return f"VIPosterior({self.guide}, {N} posteriors of {L} numbers; {told}; {self.reason})"

    @torch.no_grad()
    def _judge(self, target: Target) -> None:
        u = self.sample((_CHECKS,))
        log_w = (log_joint_in_blocks(target, u) - self.log_prob(u)).double()
        self.elbo = log_w.mean(0)
        self.elbo_error = log_w.std(0) / _CHECKS**0.5
        self.pareto_k = pareto_k(log_w)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw u."""
        with torch.no_grad():
            return self.base_dist.sample(torch.Size(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log q(u), nats."""
        return self.base_dist.log_prob(value)

    @property
    def mean(self) -> Tensor:
        """The mean, ``(N, L)``."""
        return self.base_dist.mean

    @property
    def variance(self) -> Tensor:
        """The variances, ``(N, L)``."""
        return self.base_dist.variance
