"""The evidence log p(x) of every datum by the best route there is, with its error, and which route that was."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pyro_vae.checks import among, say
from pyro_vae.evaluation.evidence.annealed import anneal, begun, pilot
from pyro_vae.evaluation.evidence.bridge import bridge
from pyro_vae.evaluation.evidence.importance import importance_weights, log_mean_exp
from pyro_vae.inference.exact.analytic import analytic
from pyro_vae.inference.exact.quadrature import MAX_LATENT_DIM, quadrature
from pyro_vae.inference.mcmc.draws import Draws
from pyro_vae.inference.target.blocks import block_size
from pyro_vae.inference.target.program import Program
from pyro_vae.inference.target.target import Target

__all__ = ["Evidence", "evidence"]

METHODS = ("analytic", "quadrature", "elbo", "importance", "ais", "bridge")


@dataclass(frozen=True)
class Evidence:
    """Log p(x) of N data.

    Attributes:
        log_evidence: ``(N,)``, nats, the estimate whether resolved or not.
        standard_error: ``(N,)``, nats; for quadrature the bound on its error, zero for the closed form.
        method: which route.
        resolved: whether the error is known to be below the tolerance, ``(N,)``.
        reason: why this route, and what its number means.
        seconds: wall time.
        log_weights: of annealing, ``(C, N)``; else None.
        u: final states of annealing, ``(C, N, L)``; else None.
    """

    log_evidence: Tensor
    standard_error: Tensor
    method: str
    resolved: Tensor
    reason: str
    seconds: float = 0.0
    log_weights: Tensor | None = field(default=None, repr=False)
    u: Tensor | None = field(default=None, repr=False)

    def __str__(self) -> str:
        N, good = len(self.resolved), int(self.resolved.sum())
        mean = f"{float(self.log_evidence[self.resolved].mean()):.3f} nats per datum" if good else "unresolved"
        return f"log p(x) by {self.method}: {mean}, {good} of {N} data resolved; {self.reason}"

    def to_dataframe(self) -> Any:
        """Return a pandas DataFrame, one row a datum; an unresolved estimate is NaN there."""
        import pandas as pd

        value = torch.where(self.resolved, self.log_evidence, math.nan)
        columns = {"log_evidence": value, "standard_error": self.standard_error, "resolved": self.resolved}
        return pd.DataFrame({name: column.cpu().numpy() for name, column in columns.items()}).assign(method=self.method)


def evidence(
    model: Program,
    x: Tensor | tuple[Any, ...],
    posterior: Any = None,
    *,
    method: str = "auto",
    num_samples: int = 5000,
    num_chains: int = 16,
    num_temperatures: int = 100,
    num_steps: int = 3,
    start: Any = "chains",
    tolerance: float = 0.1,
    plate: str | None = "data",
) -> Evidence:
    r"""Return log p(x) per datum with its standard error.

    ``"auto"`` takes the first that is possible: ``"analytic"`` (a linear-Gaussian program), ``"quadrature"`` (L <= 3),
    ``"bridge"`` (the posterior is Draws), ``"ais"``. On request also ``"importance"`` and ``"elbo"``.

    The estimates of importance sampling and annealing are unbiased for p(x), so their logarithms are lower bounds in
    expectation: :math:`E[\log \hat p] \le \log p` (Jensen); below a standard error of a tenth the bias, half the
    squared error, is negligible. Their errors are by the jackknife.

    Args:
        model: a Pyro program.
        x: data ``(N, *D)``, or the program's arguments as a tuple.
        posterior: what to draw from: a guide, a distribution over u, Draws; Laplace's approximation if None.
        method: which route.
        num_samples: K of "importance" and "elbo".
        num_chains: C of "ais".
        num_temperatures: T of "ais".
        num_steps: leapfrog steps between temperatures.
        start: where "ais" starts: "chains" for a Gaussian fitted to pilot chains that came from the prior (no guide can
            mislead it); None for the prior itself; or a distribution, or a guide.
        tolerance: the standard error above which a datum counts as unresolved, nats.
        plate: the data plate; None for one posterior of the whole program.

    Raises:
        TypeError, ValueError: as :class:`~pyro_vae.inference.target.target.Target`; for a method
            that the program or the posterior does not allow.

    Example:
        >>> import pyro_vae as pv
        >>> model = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(torch.nn.Linear(2, 8)))
        >>> evidence(model, torch.ones(3, 8)).method
        'quadrature'
    """
    began = time.perf_counter()
    if method != "auto":
        among(method, METHODS, "method")
    if not tolerance > 0:
        raise ValueError(say("a positive tolerance", f"{tolerance}", "tolerance=0.1"))
    target = Target(model, x, plate=plate)
    found = _exact(target, method)
    extra: dict[str, Any] = {}
    if found is None:
        chosen = method if method != "auto" else "bridge" if isinstance(posterior, Draws) else "ais"
        if chosen == "bridge":
            found = _bridge(target, posterior)
        elif chosen == "ais":
            value, error, extra = annealed_evidence(
                target, start, num_chains=num_chains, num_temperatures=num_temperatures, num_steps=num_steps
            )
            origin = {None: "the prior", "chains": "a Gaussian fitted to pilot chains"}
            where = origin[start] if start is None or isinstance(start, str) else "the given start"
            reason = f"{num_chains} chains from {where} over {num_temperatures} temperatures"
            found = "ais", value, error, reason + "; a lower bound in expectation"
        else:
            w = importance_weights(target, posterior, num_samples=num_samples)
            value, error = (w.elbo, w.elbo_error) if chosen == "elbo" else (w.log_evidence, w.log_evidence_error)
            # a heavy tail hides its own error: with k-hat above 0.7 the standard error is not to be believed
            error = torch.where((w.pareto_k > 0.7) & (chosen == "importance"), math.inf, error)
            found = chosen, value, error, f"{num_samples} draws of the posterior; a lower bound in expectation"
    name, value, error, reason = found
    resolved = (error <= tolerance) & value.isfinite() & (name != "elbo")
    return Evidence(value, error, name, resolved, reason, time.perf_counter() - began, **extra)


_Found = tuple[str, Tensor, Tensor, str]


def _exact(target: Target, method: str) -> _Found | None:
    if method in {"auto", "analytic"} and target.plate is not None:
        try:
            closed = analytic(target.model, target.args, plate=target.plate)
        except (ValueError, TypeError, RuntimeError):
            if method == "analytic":
                raise
        else:
            zero = torch.zeros_like(closed.log_evidence)
            return "analytic", closed.log_evidence, zero, "the program is linear-Gaussian"
    if method == "quadrature" or (method == "auto" and target.latent_dim <= MAX_LATENT_DIM):
        grid = quadrature(target.model, target.args, plate=target.plate)
        return "quadrature", grid.log_evidence, grid.error_bound, f"{target.latent_dim} latent dimensions: integrated"
    return None


def _bridge(target: Target, posterior: Any) -> _Found:
    if not isinstance(posterior, Draws):
        raise TypeError(say("Draws for bridge sampling", type(posterior).__name__, "posterior=pv.mcmc(model, x)"))
    samples = posterior.samples
    if not target.per_datum:
        samples = {name: value.squeeze(2) for name, value in samples.items()}
    value, error = bridge(target, target.unconstrain(samples))
    doubtful = ~posterior.converged(max_rhat=1.05, min_ess=100.0)
    reason = f"{int(doubtful.sum())} of {len(doubtful)} posteriors have chains that did not converge"
    return "bridge", value, torch.where(doubtful, math.inf, error), f"from draws of {posterior.kernel}; {reason}"


def annealed_evidence(
    target: Target, start: Any = "chains", *, num_chains: int = 16, num_temperatures: int = 100, num_steps: int = 3
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Return annealing's log p(x), its error, and its weights and final states, in blocks of data that fit.

    A start given as a distribution cannot be cut by rows, so then all data run together.
    """
    size = target.num_data
    if target.per_datum and (start is None or isinstance(start, str)):
        size = max(1, size * 4 * block_size(target) // num_chains)
    chains = []
    for first in range(0, target.num_data, size):
        rows = range(first, min(first + size, target.num_data))
        part = target if len(rows) == target.num_data else target.rows(list(rows))
        origin = begun(part, start)
        plan = pilot(part, origin, num_temperatures=num_temperatures, num_steps=num_steps)
        chains.append(anneal(part, plan, origin, num_chains=num_chains))
    log_weights = torch.cat([run.log_weights for run in chains], -1)
    value, error = log_mean_exp(log_weights)
    return value, error, {"log_weights": log_weights, "u": torch.cat([run.u for run in chains], 1)}
