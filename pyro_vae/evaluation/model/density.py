"""Log p(x) of held-out rows by the route that is exact where one is, else by importance sampling."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from pyro_vae.evaluation.evidence.evidence import Evidence, evidence
from pyro_vae.inference.exact.quadrature import MAX_LATENT_DIM
from pyro_vae.inference.mcmc.draws import Draws
from pyro_vae.inference.optimum.mode import laplace
from pyro_vae.inference.target.target import Target

__all__ = ["held_out"]

_STARTS = 2  # of a climb to the mode
_MOST_ROWS = 500  # to climb for


def held_out(target: Target, posterior: Any = None, *, num_samples: int = 1000) -> Evidence:
    r"""Return log p(x) row by row: closed form, quadrature (L <= 3), bridge (chains), else importance sampling.

    Rows that quadrature does not resolve are sampled like the others.

    Rows that a guide is too far off for (a few draws carry all weight, and :math:`\log \hat p(x)` may be thousands of
    nats too low) are sampled again from Laplace's approximation. Of two estimates that are not resolved the higher is
    taken: by Markov's inequality each exceeds log p(x) by t nats in at most a share :math:`e^{-t}` of the cases.

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
    exact = by("quadrature") if target.latent_dim <= MAX_LATENT_DIM else None
    if exact is not None and bool(exact.resolved.all()):
        return exact
    if isinstance(posterior, Draws):
        found = by("bridge")
    else:
        found = by("importance")
        found = found if posterior is None else _from_modes(target, found, num_samples)
    return found if exact is None else _where_exact(exact, found)


def _where_exact(exact: Evidence, sampled: Evidence) -> Evidence:
    """Quadrature's rows where it is resolved, the others by sampling: a coarse grid is not even a bound."""
    rows = exact.resolved
    columns: dict[str, Any] = {}
    for name in ("log_evidence", "standard_error", "resolved"):
        here = getattr(exact, name)
        columns[name] = torch.where(rows, here, getattr(sampled, name).to(here))
    count = int((~rows).sum())
    reason = f"{exact.reason}; of {count} rows that no grid resolves, {sampled.method}: {sampled.reason}"
    return replace(exact, **columns, reason=reason, seconds=exact.seconds + sampled.seconds)


def _from_modes(target: Target, found: Evidence, num_samples: int) -> Evidence:
    """The same with unresolved rows from Laplace's approximation, where that is better."""
    rows = (~found.resolved).nonzero().squeeze(-1)[:_MOST_ROWS]
    if target.plate is None or not len(rows):
        return found
    some = target.rows(rows)
    again = evidence(some, posterior=laplace(some, num_starts=_STARTS), method="importance", num_samples=num_samples)
    better = again.resolved | (again.log_evidence > found.log_evidence[rows])
    rows = rows[better]
    columns = {}
    for name in ("log_evidence", "standard_error", "resolved"):
        columns[name] = getattr(found, name).index_put((rows,), getattr(again, name)[better])
    note = f"of {len(rows)} rows, which it is too far off for, Laplace's approximation"
    return replace(found, **columns, reason=f"{found.reason}; {note}", seconds=found.seconds + again.seconds)
