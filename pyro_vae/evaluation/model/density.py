"""Log p(x) of held-out rows by the route that is exact where one is, else by importance sampling."""

from __future__ import annotations

from typing import Any

from pyro_vae.evaluation.evidence.evidence import Evidence, evidence
from pyro_vae.inference.exact.quadrature import MAX_LATENT_DIM
from pyro_vae.inference.mcmc.draws import Draws
from pyro_vae.inference.target.target import Target

__all__ = ["held_out"]


def held_out(target: Target, posterior: Any = None, *, num_samples: int = 1000) -> Evidence:
    """Return log p(x) row by row: closed form, quadrature (L <= 3), bridge (chains), else importance sampling.

    Args:
        target: the model and the rows.
        posterior: where importance sampling draws; Laplace's approximation if None.
        num_samples: K of importance sampling.
    """

    def by(method: str) -> Evidence:
        return evidence(target, posterior=posterior, method=method, num_samples=num_samples)

    if target.plate is not None:
        try:
            return by("analytic")
        except (TypeError, ValueError, RuntimeError):  # no linear-Gaussian program
            pass
    if target.latent_dim <= MAX_LATENT_DIM:
        return by("quadrature")
    return by("bridge" if isinstance(posterior, Draws) else "importance")
