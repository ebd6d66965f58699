"""The evidence log p(x) of every datum by the best route there is, with its error, and which route that was."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pyro_vae.checks import among, positive_number, say
from pyro_vae.evaluation.evidence.annealed import Annealing
from pyro_vae.evaluation.evidence.bridge import Bridge
from pyro_vae.evaluation.evidence.exact import Analytic, Quadrature
from pyro_vae.evaluation.evidence.importance import Elbo, Importance
from pyro_vae.evaluation.evidence.method import EvidenceMethod, Settings
from pyro_vae.inference.target.program import Program
from pyro_vae.inference.target.target import Target, as_target

__all__ = ["METHODS", "Evidence", "evidence"]

# In the order in which "auto" asks them; EvidenceMethod's docstring says how to write another.
_CLASSES: tuple[type[EvidenceMethod], ...] = (Analytic, Quadrature, Bridge, Annealing, Importance, Elbo)
METHODS = {method.name: method() for method in _CLASSES}


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

    @classmethod
    def of(cls, known: Any, num_data: int) -> Evidence:
        """Return what knows log p(x) of so many data as an Evidence: one, or the result of ``quadrature``, say.

        Raises:
            TypeError: if it has no ``log_evidence``.
            ValueError: if it is of another number of data.
        """
        value = getattr(known, "log_evidence", None)
        if not isinstance(value, Tensor):
            raise TypeError(say("what has log_evidence", type(known).__name__, "the result of pv.evidence(model, x)"))
        if value.shape != (num_data,):
            got = f"{tuple(value.shape)}"
            raise ValueError(say(f"the evidence of {num_data} data", got, "pv.evidence(model, x) of this x"))
        if isinstance(known, cls):
            return known
        name = type(known).__name__.removesuffix("Posterior").lower()
        error = getattr(known, "error_bound", torch.zeros_like(value))
        return cls(value, error, name, value.isfinite(), "given")

    def __str__(self) -> str:
        N, good = len(self.resolved), int(self.resolved.sum())
        mean = f"{float(self.log_evidence[self.resolved].mean()):.3f} nats" if good else "unresolved"
        count = f" per datum on average over the {good} of {N} data resolved" if N > 1 else ""
        text = f"log p(x) by {self.method}: {mean}{count}; {self.reason}"
        if self.method == "ais" and good < N:
            text += "; for the rest try posterior=pv.mcmc(model, x), or method='importance' with "
            text += "posterior=pv.vi(model, x)"
        return text

    def to_dataframe(self) -> Any:
        """Return a pandas DataFrame, one row a datum; an unresolved estimate is NaN there."""
        import pandas as pd

        value = torch.where(self.resolved, self.log_evidence, math.nan)
        columns = {"log_evidence": value, "standard_error": self.standard_error, "resolved": self.resolved}
        return pd.DataFrame({name: column.cpu().numpy() for name, column in columns.items()}).assign(method=self.method)


def evidence(
    model: Program | Target,
    x: Tensor | tuple[Any, ...] | None = None,
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
        model: a Pyro program, or a Target in place of it and x.
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
    positive_number(tolerance, "tolerance", example=0.1)
    target = as_target(model, x, plate=plate)
    settings = Settings(num_samples, num_chains, num_temperatures, num_steps, start)
    if method == "auto":
        tried = ((how, how.attempt(target, posterior, settings)) for how in METHODS.values())
        how, found = next((how, found) for how, found in tried if found is not None)
    else:
        how = METHODS[method]
        found = how.estimate(target, posterior, settings)
    value, error = found.log_evidence, found.standard_error
    resolved = (error <= tolerance) & value.isfinite() & (not how.bound)
    seconds = time.perf_counter() - began
    return Evidence(value, error, how.name, resolved, found.reason, seconds, found.log_weights, found.u)
