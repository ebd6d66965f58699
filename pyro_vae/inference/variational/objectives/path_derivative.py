"""The ELBO with the path-derivative gradient ("sticking the landing")."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pyro_vae.inference.target.program import Program
from pyro_vae.inference.variational.objectives.base import Objective
from pyro_vae.inference.variational.objectives.importance import pull_back

__all__ = ["PathDerivativeELBO"]


class PathDerivativeELBO(Objective):
    r"""The ELBO, without the part of its gradient whose mean is zero.

    The guide's gradient is :math:`\partial_z \log w\; \partial_\phi z`, without the score
    :math:`\partial_\phi \log q(z|x)` at fixed z. Where q equals the posterior, log w is constant in z, and the
    gradient is zero for every draw: its variance vanishes at the optimum.

    Args:
        num_particles: K, how many draws are averaged.
        vectorize_particles: draw all K in one run of the programs.
        max_plate_nesting: how many plates the programs nest; found by a first run if not given.

    Source:
        Roeder, Wu & Duvenaud 2017, equation 7.

    Example:
        >>> PathDerivativeELBO(num_particles=2).num_particles
        2
    """

    def estimate(
        self, model: Program, guide: Program, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """Return the ELBO and the surrogate of its gradient."""
        draws, log_p, log_q = self._at_leaves(model, guide, args, kwargs, through=True)
        K = self.num_particles
        return (log_p - log_q).sum() / K, log_p.sum() / K - pull_back(log_q.sum() / K, draws)
