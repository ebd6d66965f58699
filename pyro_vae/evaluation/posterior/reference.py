"""What is known of posteriors without asking the posterior that is to be judged."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pyro_vae.evaluation.evidence.evidence import Evidence, evidence
from pyro_vae.evaluation.evidence.importance import importance_weights
from pyro_vae.inference.exact.analytic import AnalyticPosterior, analytic
from pyro_vae.inference.exact.quadrature import MAX_LATENT_DIM, QuadraturePosterior, quadrature
from pyro_vae.inference.mcmc.draws import Draws
from pyro_vae.inference.mcmc.kernels.hmc import HMC
from pyro_vae.inference.mcmc.kernels.nuts import NUTS
from pyro_vae.inference.mcmc.run import mcmc
from pyro_vae.inference.optimum.pathfinder import PathfinderPosterior, pathfinder
from pyro_vae.inference.target.program import Program
from pyro_vae.inference.target.target import Target, as_target

__all__ = ["Reference", "independent_reference"]

_TEMPERATURES = {None: 200, "chains": 300}  # by where it starts; short of what would be compiled
_MAX_RHAT = 1.02
_MAX_K = 0.7
_PATHS = 100  # of one posterior; fewer of many
_NUM_CHAINS = 6
_LENGTHS = ((800, 500), (4000, 1000))  # draws and warm-up of a whole program's chains: tried one after the other
_HOPELESS = 1.1  # an R-hat that more draws do not mend
_STARTS = 100  # draws of the paths, of which chains start from some that lie apart
_DRAWS = 4000  # of the paths, to be weighed


@dataclass(frozen=True)
class Reference:
    """The evidence of N data, and posteriors whose moments are known.

    Attributes:
        evidence: log p(x) with its error, ``(N,)``.
        posterior: of the data at ``rows``: the exact one, a distribution over u, or chains (Draws); None if neither.
        rows: which data, ``(n,)``.
        converged: whether it can be relied on there, ``(n,)``: chains that have converged, a grid that is resolved.
    """

    evidence: Evidence
    posterior: Any
    rows: Tensor
    converged: Tensor

    @classmethod
    def of(cls, known: Any, num_data: int, *, tolerance: float = 0.1) -> Reference:
        """Return what a user knows as a Reference: evidence, whatever has ``log_evidence``, Draws, or one already.

        A grid whose error bound is above the tolerance knows neither evidence nor moments.

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
        found = Evidence.of(known, num_data)
        if isinstance(known, QuadraturePosterior):
            found = replace(found, resolved=found.resolved & (known.error_bound <= tolerance))
        if isinstance(known, AnalyticPosterior | QuadraturePosterior):
            return cls(found, known, torch.arange(num_data), found.resolved)
        return cls(found, None, torch.arange(0), torch.zeros(0, dtype=torch.bool))

    @property
    def exact(self) -> bool:
        """Whether the posterior's moments are known without chains."""
        return self.posterior is not None and not isinstance(self.posterior, Draws)

    def __str__(self) -> str:
        found = self.posterior
        chains = f"{found.kernel or 'chains'} of {len(self.rows)}" if isinstance(found, Draws) else ""
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
    2. Else annealed importance sampling from the prior, which reaches all modes but the narrow ones.
    3. Importance sampling from many of Pathfinder's paths, which find those: taken where it proves more evidence.
       For data that both leave unresolved, annealing from a Gaussian fitted to chains.
    4. Chains that start on those paths: of a whole program always, since its moments may be off where hardly any
       evidence is missing (the neck of a funnel), and of those data of a plate that are still unresolved.

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
    exact = _exact(target, tolerance)
    if exact is not None and bool(exact.converged.all()):
        return exact
    paths = _paths(target)
    known = _without_exact(target, paths, tolerance)
    rows = (~known.resolved).nonzero().flatten() if target.per_datum else torch.arange(target.num_data)
    if not len(rows) or paths is None:
        return Reference.of(known, target.num_data)
    part = target.rows(rows) if target.per_datum else target
    draws = _chains(part, _apart(paths.sample((_STARTS,))[:, rows], _NUM_CHAINS))
    return Reference(known, draws, rows, draws.converged(max_rhat=_MAX_RHAT))


def _exact(target: Target, tolerance: float) -> Reference | None:
    """The posterior in closed form or by quadrature; None where there is neither."""
    if target.latent_dim <= MAX_LATENT_DIM:
        return Reference.of(quadrature(target), target.num_data, tolerance=tolerance)
    try:
        return Reference.of(analytic(target), target.num_data)
    except ValueError:
        return None


def _paths(target: Target) -> PathfinderPosterior | None:
    """Pathfinder's paths, many of one posterior; None where no start near the origin has a finite density."""
    try:
        return pathfinder(target, num_paths=max(4, min(_PATHS, 4096 // target.num_data)))
    except ValueError:
        return None


def _annealed(target: Target, start: Any, tolerance: float) -> Evidence:
    """Evidence by annealing from the prior (``start=None``), or from a Gaussian fitted to pilot chains ("chains")."""
    num_chains = max(24, min(96, 4800 // target.num_data))
    settings: dict[str, Any] = {"num_chains": num_chains, "num_temperatures": _TEMPERATURES[start]}
    return evidence(target, method="ais", start=start, tolerance=2 * tolerance, **settings)


def _without_exact(target: Target, paths: PathfinderPosterior | None, tolerance: float) -> Evidence:
    """Annealing and climbing; and annealing from near the posterior for what these leave unresolved."""
    known = _annealed(target, "chains" if target.improper else None, tolerance)
    if paths is not None:
        known = _climbed(target, known, paths, tolerance)
    rows = (~known.resolved).nonzero().flatten()
    if not len(rows) or target.improper:
        return known
    again = _annealed(target.rows(rows) if target.per_datum else target, "chains", tolerance)
    return _replaced(
        known, rows[again.resolved], again.log_evidence[again.resolved], again.standard_error[again.resolved]
    )


def _replaced(known: Evidence, rows: Tensor, value: Tensor, error: Tensor, *, by: str = "") -> Evidence:
    """The evidence with that of some data known better: values and errors ``(n,)`` of the data at ``rows``."""
    if not len(rows):
        return known
    where = (rows,)
    return replace(
        known,
        log_evidence=known.log_evidence.index_put(where, value.to(known.log_evidence)),
        standard_error=known.standard_error.index_put(where, error.to(known.standard_error)),
        resolved=known.resolved.index_put(where, torch.ones_like(rows, dtype=torch.bool)),
        method=f"{known.method} and {by}" if by else known.method,
    )


def _climbed(target: Target, known: Evidence, paths: PathfinderPosterior, tolerance: float) -> Evidence:
    """The evidence by Pathfinder's weights where it is surely larger, or no smaller and known more closely.

    Both estimates are lower bounds in expectation. Annealing from the prior misses a mode that is too narrow to be
    noticed before the last temperatures; a climb finds it.
    """
    w = importance_weights(target, paths, num_samples=_DRAWS)
    error = (w.log_evidence_error.square() + known.standard_error.square()).sqrt()
    even = (w.pareto_k <= _MAX_K) | (w.ess > w.num_samples / 2)  # a lump of equal weights has no tail to be fitted
    sure = even & (w.log_evidence_error < 2 * tolerance)
    more = w.log_evidence - known.log_evidence
    closer = ~known.resolved | (w.log_evidence_error < known.standard_error)
    taken = (sure & ((more > 3 * error) | (closer & (more > -error)))).nonzero().flatten()
    return _replaced(known, taken, w.log_evidence[taken], w.log_evidence_error[taken], by="Pathfinder")


def _apart(u: Tensor, count: int) -> Tensor:
    """Of the draws u ``(S, N, L)`` of each posterior so many that lie apart: each the furthest from those before."""
    scaled = (u - u.mean(0)) / u.std(0).clamp_min(1e-12)
    every = torch.arange(u.shape[1], device=u.device)
    chosen = [scaled.norm(dim=-1).argmin(0)]  # (N,)
    nearest = torch.full(u.shape[:2], torch.inf, dtype=u.dtype, device=u.device)
    for _ in range(count - 1):
        nearest = torch.minimum(nearest, (scaled - scaled[chosen[-1], every]).norm(dim=-1))
        chosen.append(nearest.argmax(0))
    return u[torch.stack(chosen), every]


def _chains(target: Target, u: Tensor) -> Draws:
    """Chains that start from draws of the paths u ``(C, N, L)``, in as many modes as these have found.

    Those of a whole program run again for longer where they agree and are merely short.
    """
    if target.per_datum:
        return mcmc(target, kernel=HMC(), num_samples=500, warmup_steps=300, num_chains=len(u), initial=u)
    for num_samples, warmup_steps in _LENGTHS:
        draws = mcmc(
            target, kernel=NUTS(), num_samples=num_samples, warmup_steps=warmup_steps, num_chains=len(u), initial=u
        )
        worst = max(float(rhat.nan_to_num(1.0).max()) for rhat in draws.rhat.values())
        if worst > _HOPELESS or bool(draws.converged(max_rhat=_MAX_RHAT).all()):
            break
    return draws
