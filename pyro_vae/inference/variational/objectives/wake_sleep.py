"""Reweighted wake-sleep: an objective that needs no reparameterised draws."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.checks import say
from pyro_vae.inference.target.program import Program
from pyro_vae.inference.variational.objectives.base import latent_sites, root
from pyro_vae.inference.variational.objectives.importance import ImportanceWeightedELBO, _log_mean_exp

__all__ = ["ReweightedWakeSleep"]


class ReweightedWakeSleep(ImportanceWeightedELBO):
    r"""The model climbs the importance-weighted bound; the guide climbs :math:`\sum_k \tilde w_k \log q(z_k|x)`.

    The guide's objective is the inclusive KL(p(z|x) || q(z|x)), estimated with the normalised weights of its own draws
    (wake-phi). Draws carry no gradient, so any guide with a density will do. Weights are normalised for every datum,
    where Pyro's own ``pyro.infer.ReweightedWakeSleep`` normalises them over the whole batch. The value is the bound.

    Args:
        num_particles: K, at least 2.
        vectorize_particles: draw all K in one run of the programs.
        max_plate_nesting: how many plates the programs nest; found by a first run if not given.

    Raises:
        TypeError: if ``num_particles`` is no whole number.
        ValueError: if it is below 2; when used, if the guide is a point mass.

    Source:
        Bornschein & Bengio 2015; Le et al. 2019, algorithm 1 with wake-phi alone.

    Example:
        >>> ReweightedWakeSleep(num_particles=10).num_particles
        10
    """

    min_particles = 2

    def estimate(
        self, model: Program, guide: Program, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """Return the bound and the surrogate of both gradients."""
        _, log_p, log_q = self._at_leaves(model, guide, args, kwargs, through=False)
        log_w = (log_p - log_q).detach()
        weight = torch.softmax(log_w, 0)
        return _log_mean_exp(log_w).sum(), (weight * (log_p + log_q)).sum()

    def _check(self, guide_trace: Any) -> None:
        """Any guide with a density will do."""
        for name, site in latent_sites(guide_trace).items():
            if isinstance(root(site["fn"]), dist.Delta):
                remedy = "pyro.infer.Trace_ELBO, with which a point mass finds the mode"
                got = f"a point mass at site {name!r}, whose log density is 0 wherever it lies"
                raise ValueError(say("a guide with a density for ReweightedWakeSleep", got, remedy))
