"""What is known of posteriors without asking the posterior that is to be judged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae.evaluation.evidence.evidence import Evidence, evidence
from pyro_vae.inference.exact.quadrature import MAX_LATENT_DIM
from pyro_vae.inference.mcmc.draws import Draws
from pyro_vae.inference.mcmc.kernels.hmc import HMC
from pyro_vae.inference.mcmc.kernels.nuts import NUTS
from pyro_vae.inference.mcmc.run import mcmc
from pyro_vae.inference.target.program import Program
from pyro_vae.inference.target.target import Target, as_target

__all__ = ["Reference", "independent_reference"]

_CHAINS = 24  # of annealing
_TEMPERATURES = 200
_MAX_RHAT = 1.02


@dataclass(frozen=True)
class Reference:
    """The evidence of N data, and chains where it alone would not do.

    Attributes:
        evidence: log p(x) with its error, ``(N,)``.
        draws: chains of the posteriors at ``rows``; None if there are none.
        rows: which data the chains are of, ``(n,)``.
        converged: whether those chains have converged, ``(n,)``.
    """

    evidence: Evidence
    draws: Draws | None
    rows: Tensor
    converged: Tensor

    @classmethod
    def of(cls, known: Any, num_data: int) -> Reference:
        """Return what a user knows as a Reference: evidence, whatever has ``log_evidence``, Draws, or one already.

        Raises:
            TypeError: if it is none of these.
            ValueError: if it is of another number of data.
        """
        if isinstance(known, cls):
            return known
        if isinstance(known, Draws):
            nothing = torch.full((num_data,), torch.nan, dtype=torch.float64)
            unknown = Evidence(nothing, nothing, known.kernel or "chains", nothing > 0, "chains have no evidence")
            return cls(unknown, known, torch.arange(num_data), known.converged(max_rhat=_MAX_RHAT))
        return cls(Evidence.of(known, num_data), None, torch.arange(0), torch.zeros(0, dtype=torch.bool))

    def __str__(self) -> str:
        chains = "" if self.draws is None else f"{self.draws.kernel or 'chains'} of {len(self.rows)}"
        known = "" if bool(self.evidence.log_evidence.isnan().all()) else self.evidence.method
        return " and ".join(word for word in (known, chains) if word)


def independent_reference(
    model: Program | Target,
    x: Tensor | tuple[Any, ...] | None = None,
    *,
    tolerance: float = 0.1,
    plate: str | None = "data",
) -> Reference:
    """Return what can be known of every posterior without a guide: exactly, or by annealing and chains.

    1. The closed form or quadrature, where there is one: then nothing else is needed.
    2. Else annealed importance sampling from the prior, which reaches all modes; and for data that it leaves
       unresolved, from a Gaussian fitted to chains that were annealed from the prior.
    3. Chains from draws of the prior: of a whole program always, since its moments may be off where hardly any
       evidence is missing (the neck of a funnel), and of those data of a plate that annealing leaves unresolved.

    Args:
        model: a Pyro program, or a Target in place of program and data.
        x: data ``(N, *D)``, or the program's arguments as a tuple.
        tolerance: on the log evidence, nats.
        plate: the data plate; None for one posterior of the whole program.

    Example:
        >>> import pyro_vae as pv
        >>> model = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(pv.networks.mlp(2, 8, 5)))
        >>> str(independent_reference(model, torch.zeros(3, 5)))
        'quadrature'
    """
    target = as_target(model, x, plate=plate)
    known = _exact(target, tolerance)
    exact = known is not None
    if known is None:
        known = _annealed(target, tolerance)
    open_rows = (~known.resolved).nonzero().flatten()
    if not exact and not target.per_datum:
        open_rows = torch.arange(target.num_data)
    if not len(open_rows):
        return Reference.of(known, target.num_data)
    part = target.rows(open_rows) if target.per_datum else target
    draws = _chains(part)
    return Reference(known, draws, open_rows, draws.converged(max_rhat=_MAX_RHAT))


def _exact(target: Target, tolerance: float) -> Evidence | None:
    """The evidence in closed form or by quadrature; None where there is neither."""
    if target.latent_dim <= MAX_LATENT_DIM:
        return evidence(target, tolerance=tolerance)
    try:
        return evidence(target, method="analytic")
    except ValueError:
        return None


def _annealed(target: Target, tolerance: float) -> Evidence:
    """Evidence by annealing, from the prior where it can be drawn from, and again for what that leaves unresolved."""
    settings: dict[str, Any] = {"method": "ais", "num_chains": _CHAINS, "tolerance": 2 * tolerance}
    if target.improper:
        return evidence(target, **settings, start="chains", num_temperatures=2 * _TEMPERATURES)
    known = evidence(target, **settings, start=None, num_temperatures=_TEMPERATURES)
    rows = (~known.resolved).nonzero().flatten()
    if not len(rows):
        return known
    part = target.rows(rows) if target.per_datum else target
    again = evidence(part, **settings, start="chains", num_temperatures=2 * _TEMPERATURES)
    value, error, resolved = known.log_evidence.clone(), known.standard_error.clone(), known.resolved.clone()
    better = again.resolved
    value[rows[better]], error[rows[better]] = again.log_evidence[better], again.standard_error[better]
    resolved[rows[better]] = True
    return Evidence(value, error, known.method, resolved, known.reason)


def _chains(target: Target) -> Draws:
    if target.per_datum:
        return mcmc(target, kernel=HMC(), num_samples=500, warmup_steps=300, num_chains=8)
    return mcmc(target, kernel=NUTS(), num_samples=1000, warmup_steps=500, num_chains=4)
