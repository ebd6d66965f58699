"""Objectives as functions of log weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from pyro_vae.checks import among, positive_integer, say

__all__ = ["Objective"]


@dataclass(frozen=True)
class Objective:
    r"""What is raised, of log weights :math:`\log w = \log p(x, u) - \log q(u)` at draws of q, in nats.

    - "elbo": :math:`E[\log w]`;
    - "importance": :math:`E[\log \frac1K \sum_k w_k]`, the importance-weighted bound of K draws;
    - "renyi": :math:`\frac{1}{1 - \alpha} \log E[w^{1 - \alpha}]`, alpha below 1 covers more, above 1 less.

    They are those of :mod:`pyro_vae.objectives`, of a density over u in place of programs.

    Attributes:
        kind: which.
        num_particles: K of the importance-weighted bound.
        alpha: of Renyi's.

    Source:
        Burda, Grosse & Salakhutdinov 2016; Li & Turner 2016, equation 13.

    Example:
        >>> import torch
        >>> Objective("renyi", alpha=0.5)(torch.zeros(8, 3))
        tensor([0., 0., 0.])
    """

    kind: str = "elbo"
    num_particles: int = 16
    alpha: float = 0.5

    def __post_init__(self) -> None:
        among(self.kind, ("elbo", "importance", "renyi"), "objective")
        positive_integer(self.num_particles, "num_particles")
        if self.kind == "renyi" and (self.alpha == 1 or not math.isfinite(self.alpha)):
            raise ValueError(say("an alpha other than 1", f"{self.alpha}", 'objective="elbo" for alpha = 1'))

    @property
    def group(self) -> int:
        """How many draws go together."""
        return self.num_particles if self.kind == "importance" else 1

    def __call__(self, log_w: Tensor) -> Tensor:
        """Return the objective ``(N,)`` of log weights ``(S, N)``; S is a multiple of the group."""
        if self.kind == "elbo":
            return log_w.mean(0)
        if self.kind == "importance":
            groups = log_w.unflatten(0, (-1, self.num_particles))
            return (groups.logsumexp(1) - math.log(self.num_particles)).mean(0)
        power = 1 - self.alpha
        return ((power * log_w).logsumexp(0) - math.log(len(log_w))) / power

    @property
    def has_path(self) -> bool:
        """Whether its gradient can leave out the score of q, whose mean is zero or known."""
        return self.kind != "renyi"

    def surrogate(self, log_w: Tensor) -> Tensor:
        r"""Return a function ``(N,)`` whose gradient is the objective's, where log w depends on q by its draws alone.

        Of the ELBO it is the ELBO; of the importance-weighted bound :math:`\sum_k \tilde w_k^2 \log w_k`, with the
        normalised weights held fixed.

        Source:
            Roeder, Wu & Duvenaud 2017, equation 7; Tucker et al. 2019, equation 8 (doubly reparameterised).
        """
        if self.kind == "elbo":
            return log_w.mean(0)
        groups = log_w.unflatten(0, (-1, self.num_particles))
        return (groups.detach().softmax(1).square() * groups).sum(1).mean(0)
