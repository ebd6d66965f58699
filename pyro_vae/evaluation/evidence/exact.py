"""The evidence without sampling: in closed form, or integrated."""

from __future__ import annotations

from typing import Any

import torch

from pyro_vae.evaluation.evidence.method import Estimate, EvidenceMethod, Settings
from pyro_vae.inference.exact.analytic import analytic
from pyro_vae.inference.exact.quadrature import MAX_LATENT_DIM, quadrature
from pyro_vae.inference.target.target import Target

__all__ = ["Analytic", "Quadrature"]


class Analytic(EvidenceMethod):
    """The closed form of a linear-Gaussian program."""

    name = "analytic"

    def estimate(self, target: Target, posterior: Any, settings: Settings) -> Estimate:
        """Return log p(x), with an error of zero."""
        value = analytic(target).log_evidence
        return Estimate(value, torch.zeros_like(value), "the program is linear-Gaussian")

    def attempt(self, target: Target, posterior: Any, settings: Settings) -> Estimate | None:
        """Return it if the program is linear-Gaussian."""
        try:
            return self.estimate(target, posterior, settings)
        except (ValueError, TypeError, RuntimeError):
            return None


class Quadrature(EvidenceMethod):
    """Integration over a few latent dimensions; its error is a bound."""

    name = "quadrature"

    def estimate(self, target: Target, posterior: Any, settings: Settings) -> Estimate:
        """Return log p(x) with the bound on its error."""
        grid = quadrature(target)
        return Estimate(grid.log_evidence, grid.error_bound, f"integrated over u of L = {target.latent_dim}")

    def attempt(self, target: Target, posterior: Any, settings: Settings) -> Estimate | None:
        """Return it where L <= 3."""
        return self.estimate(target, posterior, settings) if target.latent_dim <= MAX_LATENT_DIM else None
