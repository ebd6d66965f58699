"""ELBOs with a weight on the KL term: beta and free bits."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from pyro_vae.checks import say
from pyro_vae.inference.target.program import Program
from pyro_vae.inference.variational.objectives.base import Objective, _sample, latent_sites

__all__ = ["BetaELBO", "FreeBitsELBO"]


class BetaELBO(Objective):
    r"""The ELBO with a weight on its KL term, :math:`E_q[\log p(x|z)] - \beta\, KL(q(z|x) \| p(z))`.

    Above 1 it disentangles and compresses, and stays a lower bound; below 1 it is none.

    Args:
        beta: a number, or a schedule: a function of the gradient step (from 0), such as :func:`objectives.warm_up`
            or :func:`objectives.cyclical`. Every loss with gradients counts as one step; without gradients the weight
            is the last.
        particles: as of :class:`Objective`.

    Raises:
        ValueError: if beta is negative.

    Source:
        Higgins et al. 2017, equation 4; Bowman et al. 2016 for the warm-up.

    Example:
        >>> from pyro_vae.inference.variational.objectives import warm_up
        >>> BetaELBO(4.0).weight, BetaELBO(warm_up(100)).weight
        (4.0, 0.01)
    """

    def __init__(self, beta: float | Callable[[int], float] = 1.0, **particles: Any) -> None:
        super().__init__(**particles)
        if not callable(beta) and not (isinstance(beta, (int, float)) and beta >= 0 and math.isfinite(beta)):
            raise ValueError(say("a beta of at least 0, or a schedule", f"{beta!r}", "beta=1.0"))
        self.beta = beta
        self._steps = [0]  # in a list: what graphs watch for changes are scalars

    @property
    def step(self) -> int:
        """How many steps have been taken."""
        return self._steps[0]

    @step.setter
    def step(self, step: int) -> None:
        self._steps[0] = step

    @property
    def weight(self) -> float:  # type: ignore[override]
        """The weight at the present step."""
        return float(self.beta(self.step)) if callable(self.beta) else float(self.beta)

    def estimate(
        self, model: Program, guide: Program, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """Return the ELBO, of programs that have the weight already, twice: autograd does the rest."""
        log_p, log_q = self._log_densities(model, guide, args, kwargs)
        elbo = (log_p.sum() - log_q.sum()) / self.num_particles
        return elbo, elbo

    def advance(self) -> None:
        """Count a step of the schedule."""
        self.step += 1


class FreeBitsELBO(Objective):
    r"""The ELBO whose KL term is not pushed below a floor, :math:`E_q[\log p(x|z)] - N \sum_g \max(\lambda, KL_g)`.

    KL_g is the batch's mean KL a datum of group g: of each latent dimension where both guide and prior have
    independent dimensions with a known divergence (in closed form), otherwise of a whole latent site (by draws).
    A datum counts with the scale and the mask of the guide's site, in the KL and in the floor alike.

    Args:
        free_bits: lambda, in nats a datum and group.
        particles: as of :class:`Objective`.

    Raises:
        ValueError: if ``free_bits`` is negative.

    Source:
        Kingma et al. 2016, equation 15.

    Example:
        >>> FreeBitsELBO(0.1).free_bits
        0.1
    """

    def __init__(self, free_bits: float = 0.1, **particles: Any) -> None:
        super().__init__(**particles)
        if not (free_bits >= 0 and math.isfinite(free_bits)):
            raise ValueError(say("free_bits of at least 0 nats", f"{free_bits}", "free_bits=0.1"))
        self.free_bits = float(free_bits)

    def estimate(
        self, model: Program, guide: Program, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """Return the ELBO with its floors twice: autograd does the rest."""
        total = torch.zeros(())
        for model_trace, guide_trace in self._get_traces(model, guide, args, kwargs):
            self._check(guide_trace)
            sites = _sample(model_trace)
            total = total + sum(site["log_prob"].sum() for site in sites.values() if site["is_observed"])
            for name, site in latent_sites(guide_trace).items():
                total = total - self._floored_kl(site, sites[name])
        elbo = total / self.num_particles
        return elbo, elbo

    def _floored_kl(self, q: dict[str, Any], p: dict[str, Any]) -> Tensor:
        """Return the sum over groups of max(lambda, KL_g) times the data, each datum with its scale and mask."""
        kl = kl_per_dimension(q["fn"], p["fn"])
        if kl is None:
            kl = (q["unscaled_log_prob"] - p["unscaled_log_prob"]).unsqueeze(-1)
        per_group = kl.movedim(-1, 0)  # (L or 1, [K,] *plates)
        found, least = (
            scale_and_mask(x, q["scale"], q["mask"]).flatten(1).sum(1)
            for x in (per_group[:, None], torch.full_like(per_group, self.free_bits)[:, None])
        )
        return found.clamp(min=least).sum()


def kl_per_dimension(q: Any, p: Any) -> Tensor | None:
    """Return KL(q || p) of every latent dimension ``(..., L)``, or None where it has no closed form."""
    for fn in (q, p):
        if not isinstance(fn, torch.distributions.Independent) or fn.reinterpreted_batch_ndims != 1:
            return None
    try:
        return torch.distributions.kl_divergence(q.base_dist, p.base_dist)
    except NotImplementedError:
        return None
