"""Whether each datum's posterior can be trusted, and why, in words."""

from __future__ import annotations

import math
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae.checks import say
from pyro_vae.evaluation.evidence.evidence import Evidence, evidence
from pyro_vae.evaluation.evidence.importance import Weights, importance_weights
from pyro_vae.inference.mcmc.draws import Draws
from pyro_vae.inference.posterior import answer
from pyro_vae.inference.target.program import Program
from pyro_vae.inference.target.target import Target

__all__ = ["DO_NOT_TRUST", "REWEIGHT", "TRUST", "UNDECIDED", "Verdict", "verdict"]

TRUST = "trust"
REWEIGHT = "trust after re-weighting"
DO_NOT_TRUST = "do not trust"
UNDECIDED = "undecided"

_MAX_K = 0.7  # Vehtari et al. 2024: beyond it importance sampling with any feasible K is unreliable
_MIN_ESS = 200.0  # re-weighted means then err by at most 0.07 posterior standard deviations


@dataclass(frozen=True)
class Verdict:
    """A verdict for every datum.

    Attributes:
        decision: one of ``"trust"``, ``"trust after re-weighting"``, ``"do not trust"``, ``"undecided"`` a datum.
        reasons: why, in words, one a datum.
        gap: log p(x) of the reference less the ELBO, nats, ``(N,)``: KL(q || p(z|x)).
        missing: log p(x) of the reference less the importance-weighted one, nats, ``(N,)``: what no re-weighting mends.
        mean_shift: largest distance of q's mean from the re-weighted one, in re-weighted standard deviations, ``(N,)``.
        std_ratio: q's standard deviation over the re-weighted one, the one furthest from 1, ``(N,)``.
        weights: the importance weights' summary: k-hat, effective draws, and the re-weighted ``mean`` and ``std``.
        reference: how the reference came about.
        seconds: wall time.
    """

    decision: list[str]
    reasons: list[str]
    gap: Tensor
    missing: Tensor
    mean_shift: Tensor
    std_ratio: Tensor
    weights: Weights
    reference: str
    seconds: float = 0.0

    def counts(self) -> dict[str, int]:
        """How many data got each verdict."""
        found = Counter(self.decision)
        return {name: found[name] for name in (TRUST, REWEIGHT, DO_NOT_TRUST, UNDECIDED)}

    def rows(self, decision: str) -> list[int]:
        """Which data got a verdict."""
        return [row for row, given in enumerate(self.decision) if given == decision]

    def __str__(self) -> str:
        return (
            ", ".join(f"{number} {name}" for name, number in self.counts().items()) + f" (reference: {self.reference})"
        )

    def to_dataframe(self) -> Any:
        """Return a pandas DataFrame, one row a datum."""
        import pandas as pd

        columns = {
            "gap": self.gap,
            "missing": self.missing,
            "pareto_k": self.weights.pareto_k,
            "ess": self.weights.ess,
            "mean_shift": self.mean_shift,
            "std_ratio": self.std_ratio,
        }
        frame = pd.DataFrame({name: value.cpu().numpy() for name, value in columns.items()})
        frame.insert(0, "decision", self.decision)
        return frame.assign(reason=self.reasons)


def verdict(
    model: Program,
    x: Tensor | tuple[Any, ...],
    posterior: Any,
    *,
    reference: Any = None,
    num_samples: int = 4000,
    max_mean_shift: float = 0.25,
    max_std_ratio: float = 1.25,
    tolerance: float = 0.1,
    plate: str = "data",
) -> Verdict:
    """Say of every datum whether its posterior can be trusted.

    The posterior's own draws are weighed; what they cannot see (a mode that q misses) must come from a reference that
    does not depend on q: annealing from the prior, or chains. The rules, in this order:

    1. *undecided*: the reference has not converged (its error is above the tolerance, or the chains' R-hat and ESS
       fail), or is itself below what the weights prove, and so has missed something;
    2. *do not trust*: the reference finds mass that the weights do not (more than the tolerance and three errors), or
       k-hat is above 0.7, or fewer than 200 draws are effective;
    3. *trust*: q's mean is within ``max_mean_shift`` standard deviations of the re-weighted one in every latent number
       and its standard deviation within a factor ``max_std_ratio``;
    4. *trust after re-weighting*: otherwise; the re-weighted moments are in ``weights.mean`` and ``weights.std``.

    Args:
        model: a Pyro program.
        x: data ``(N, *D)``, or the program's arguments as a tuple.
        posterior: a guide or a distribution over u with ``batch_shape (N,)``.
        reference: what knows the posterior independently: the result of ``evidence`` (annealing from the prior if
            None), whatever has ``log_evidence`` such as ``quadrature``, or Draws (then moments are compared, too).
        num_samples: K, draws of the posterior to weigh.
        max_mean_shift: in posterior standard deviations.
        max_std_ratio: largest factor between standard deviations, at least 1.
        tolerance: on the log evidence, nats.
        plate: the data plate.

    Raises:
        TypeError: if the posterior is Draws (whose verdict is ``draws.verdict``) or the reference no reference.
        ValueError: if a limit is outside its range.

    Example:
        >>> import pyro_vae as pv
        >>> _ = torch.manual_seed(0)
        >>> model = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Gaussian(torch.nn.Linear(2, 5), scale=1.0))
        >>> x = torch.zeros(3, 5)
        >>> verdict(model, x, pv.laplace(model, x), reference=pv.analytic(model, x)).decision
        ['trust', 'trust', 'trust']
    """
    began = time.perf_counter()
    if isinstance(posterior, Draws):
        raise TypeError(say("a guide or a distribution to judge", "Draws", "draws.verdict, and draws as reference"))
    if not max_std_ratio > 1 or not max_mean_shift > 0 or not tolerance > 0:
        got = f"{max_mean_shift}, {max_std_ratio}, {tolerance}"
        raise ValueError(say("max_mean_shift > 0, max_std_ratio > 1, tolerance > 0", got, "leaving them out"))
    target = Target(model, x, plate=plate)
    w = importance_weights(target, posterior, num_samples=num_samples)
    if reference is None:
        settings: dict[str, Any] = {"method": "ais", "start": None, "num_chains": 24, "num_temperatures": 200}
        reference = evidence(model, x, **settings, tolerance=2 * tolerance, plate=plate)  # the prior reaches all modes
    value, error, ready, words = _judge_reference(target, reference)
    chains = answer(target, reference) if isinstance(reference, Draws) else None
    mean, std = (w.mean, w.std) if chains is None else (chains.mean, chains.std)
    noise = w.ess.rsqrt() if chains is None else chains.ess.rsqrt() if chains.ess is not None else 0 * w.ess
    shift = ((w.own_mean - mean).abs() / std).amax(-1)
    ratio = (w.own_std / std).log()
    ratio = ratio.gather(-1, ratio.abs().argmax(-1, keepdim=True)).squeeze(-1).exp()
    missing = value - w.log_evidence
    facts = _Facts(
        ready=ready,
        gap=value - w.elbo,
        missing=missing,
        missing_error=(error.square() + w.log_evidence_error.square()).sqrt(),
        shift=shift,
        shift_of_weights=0 * shift if chains is None else ((w.mean - chains.mean).abs() / chains.std).amax(-1),
        ratio=ratio,
        k=w.pareto_k,
        ess=w.ess,
        noise=noise,
    )
    limits = _Limits(max_mean_shift, max_std_ratio, tolerance)
    decision, reasons = [], []
    for row in range(target.num_data):
        f = {name: float(getattr(facts, name)[row]) for name in facts.__dataclass_fields__}
        doubt = _doubt(f, limits)
        given, reason = _settled(f, limits) if doubt is None else doubt
        decision.append(given)
        reasons.append(reason)
    seconds = time.perf_counter() - began
    return Verdict(decision, reasons, facts.gap, missing, shift, ratio, w, words, seconds)


@dataclass(frozen=True)
class _Limits:
    mean_shift: float
    std_ratio: float
    tolerance: float


@dataclass(frozen=True)
class _Facts:
    ready: Tensor
    gap: Tensor
    missing: Tensor
    missing_error: Tensor
    shift: Tensor
    shift_of_weights: Tensor
    ratio: Tensor
    k: Tensor
    ess: Tensor
    noise: Tensor


def _judge_reference(target: Target, reference: Any) -> tuple[Tensor, Tensor, Tensor, str]:
    """Log p(x) ``(N,)`` of the reference (NaN of chains), its error, whether it can be relied on, and its name."""
    nan = torch.full_like(target.origin[:, 0], math.nan)
    if isinstance(reference, Draws):
        return nan, 0 * nan, reference.converged(max_rhat=1.02), f"{reference.kernel or 'chains'}"
    if isinstance(reference, Evidence):
        return reference.log_evidence, reference.standard_error, reference.resolved, reference.method
    value = getattr(reference, "log_evidence", None)
    if not isinstance(value, Tensor):
        raise TypeError(say("a reference with log_evidence, or Draws", type(reference).__name__, "reference=None"))
    error = getattr(reference, "error_bound", torch.zeros_like(value))
    return value, error, value.isfinite(), type(reference).__name__.removesuffix("Posterior").lower()


def _doubt(f: dict[str, float], limits: _Limits) -> tuple[str, str] | None:
    """Why a datum's posterior is not to be trusted even re-weighted, or not to be judged; None if neither."""
    sure = limits.tolerance + 3 * f["missing_error"]
    if not f["ready"]:
        return UNDECIDED, "the reference itself has not converged"
    if f["missing"] < -sure and f["k"] <= _MAX_K and f["ess"] >= _MIN_ESS:
        return UNDECIDED, f"the weights prove {-f['missing']:.2f} nats more evidence than the reference found"
    rules = (
        (f["missing"] > sure, f"q misses mass: the reference finds {f['missing']:.2f} nats more than q's draws can"),
        (not f["k"] <= _MAX_K, f"k-hat is {f['k']:.2f}: q's tails are too light to tell how wrong it is"),
        (not f["ess"] >= _MIN_ESS, f"only {f['ess']:.0f} of q's draws are effective"),
        (
            f["shift_of_weights"] > limits.mean_shift + 3 * f["noise"],
            f"re-weighted, q's mean is still {f['shift_of_weights']:.2f} sd from the chains'",
        ),
    )
    return next(((DO_NOT_TRUST, words) for broken, words in rules if broken), None)


def _settled(f: dict[str, float], limits: _Limits) -> tuple[str, str]:
    moments = f"mean off by {f['shift']:.2f} sd, sd by a factor {f['ratio']:.2f}"
    if f["shift"] <= limits.mean_shift and 1 / limits.std_ratio <= f["ratio"] <= limits.std_ratio:
        return TRUST, f"{moments}, k-hat {f['k']:.2f}"
    return REWEIGHT, f"{moments}; k-hat is {f['k']:.2f}, so re-weighting mends it"
