"""Whether each datum's posterior can be trusted, and why, in words."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae.checks import positive_number, say
from pyro_vae.evaluation.evidence.importance import Weights, importance_weights
from pyro_vae.evaluation.posterior.reference import Reference, independent_reference
from pyro_vae.evaluation.sites import furthest, joined_moments
from pyro_vae.inference.exact.analytic import AnalyticPosterior
from pyro_vae.inference.exact.quadrature import QuadraturePosterior
from pyro_vae.inference.mcmc.draws import Draws
from pyro_vae.inference.posterior import answer
from pyro_vae.inference.target.program import Program
from pyro_vae.inference.target.target import Target, as_target

__all__ = ["DO_NOT_TRUST", "MAX_MEAN_SHIFT", "MAX_STD_RATIO", "REWEIGHT", "TRUST", "UNDECIDED", "Verdict", "verdict"]

TRUST = "trust"
REWEIGHT = "trust after re-weighting"
DO_NOT_TRUST = "do not trust"
UNDECIDED = "undecided"

MAX_MEAN_SHIFT = 0.25  # posterior standard deviations by which a mean may be off
MAX_STD_RATIO = 1.25  # and the factor by which a standard deviation may

_MAX_K = 0.7  # Vehtari et al. 2024: beyond it importance sampling with any feasible K is unreliable
_NUMBERS = 4_000_000  # drawn of a reference for its moments
_MIN_ESS = 200.0  # re-weighted means then err by at most 0.07 posterior standard deviations


@dataclass(frozen=True)
class Verdict:
    """A verdict for every datum.

    Attributes:
        decision: one of ``"trust"``, ``"trust after re-weighting"``, ``"do not trust"``, ``"undecided"`` a datum.
        reasons: why, in words, one a datum.
        gap: log p(x) of the reference less the ELBO, nats, ``(N,)``: KL(q || p(z|x)).
        missing: log p(x) of the reference less the importance-weighted one, nats, ``(N,)``: what no re-weighting mends.
        mean_shift: largest distance of q's mean from the re-weighted one (or the chains'), in its standard deviations,
            over the numbers of the named sites, ``(N,)``.
        std_ratio: q's standard deviation over the re-weighted one (or the chains'), the one furthest from 1, ``(N,)``.
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
    model: Program | Target,
    x: Tensor | tuple[Any, ...] | None = None,
    posterior: Any = None,
    *,
    reference: Any = None,
    num_samples: int = 4000,
    max_mean_shift: float = MAX_MEAN_SHIFT,
    max_std_ratio: float = MAX_STD_RATIO,
    tolerance: float = 0.1,
    plate: str | None = "data",
) -> Verdict:
    """Say of every datum whether its posterior can be trusted.

    The posterior's own draws are weighed; what they cannot see (a mode that q misses) must come from a reference that
    does not depend on q: the exact evidence, annealing from the prior, or chains, see
    :func:`~pyro_vae.evaluation.posterior.reference.independent_reference`. The rules, in this order:

    1. *undecided*: the reference has not converged (its error is above the tolerance, and chains' R-hat and ESS
       fail), or is itself below what the weights prove, and so has missed something;
    2. *do not trust*: the reference finds mass that the weights do not, by more than the tolerance and three errors;
    3. where the posterior's moments are known (exactly, or by chains that have converged): *trust* if q's mean is
       within ``max_mean_shift`` standard deviations of it in every latent number and its standard deviation within a
       factor ``max_std_ratio``; *trust after re-weighting* if k-hat is at most 0.7, 200 draws are effective, and the
       re-weighted moments, in ``weights.mean`` and ``weights.std``, are; else *do not trust*;
    4. where they are not: *do not trust* if k-hat is above 0.7 or fewer than 200 draws are effective; *undecided* if
       the reference finds more evidence by the tolerance and one error; *trust* if q's moments are as near to the
       re-weighted ones; else *trust after re-weighting*.

    Rule 2 is left out where the moments are known exactly.

    Args:
        model: a Pyro program, or a Target in place of it and x.
        x: data ``(N, *D)``, or the program's arguments as a tuple.
        posterior: a guide or a distribution over u with ``batch_shape (N,)``.
        reference: what knows the posterior independently: the result of ``evidence``, whatever has ``log_evidence``
            such as ``quadrature``, Draws (then moments are compared, too), or what ``independent_reference`` found,
            which is asked if None.
        num_samples: K, draws of the posterior to weigh.
        max_mean_shift: in posterior standard deviations.
        max_std_ratio: largest factor between standard deviations, at least 1.
        tolerance: on the log evidence, nats.
        plate: the data plate; None for one posterior of the whole program.

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
    if posterior is None or isinstance(posterior, Draws):
        got, remedy = type(posterior).__name__, "draws.verdict of chains, which serve as reference here"
        raise TypeError(say("a guide or a distribution to judge", got, remedy))
    limits = _Limits(max_mean_shift, max_std_ratio, tolerance)
    target = as_target(model, x, plate=plate)
    w = importance_weights(target, posterior, num_samples=num_samples)
    if reference is None:
        reference = independent_reference(target, tolerance=tolerance)
    known = Reference.of(reference, target.num_data, tolerance=tolerance)
    facts = _facts(target, w, known)
    judged = [_judge(fact, limits) for fact in facts.by_datum()]
    decision, reasons = [given for given, _ in judged], [reason for _, reason in judged]
    seconds = time.perf_counter() - began
    return Verdict(decision, reasons, facts.gap, facts.missing, facts.shift, facts.ratio, w, str(known), seconds)


@dataclass(frozen=True)
class _Limits:
    mean_shift: float
    std_ratio: float
    tolerance: float

    def __post_init__(self) -> None:
        positive_number(self.mean_shift, "max_mean_shift", example=0.25)
        positive_number(self.tolerance, "tolerance", example=0.1)
        if not self.std_ratio > 1:
            raise ValueError(say("max_std_ratio above 1", f"{self.std_ratio}", "max_std_ratio=1.25"))

    def allow(self, shift: float, ratio: float, *, noise: float = 0.0) -> bool:
        """Whether errors of a mean and a standard deviation are within the limits, and three standard errors."""
        widest = self.std_ratio * (1 + 3 * noise)
        return shift <= self.mean_shift + 3 * noise and 1 / widest <= ratio <= widest


@dataclass(frozen=True)
class _Facts:
    """What the verdict rests on, ``(N,)`` each; errors of moments are against known moments where there are some."""

    ready: Tensor  # whether evidence or moments are known
    by_moments: Tensor  # whether the moments are
    exact: Tensor  # whether without chains
    gap: Tensor
    missing: Tensor
    missing_error: Tensor
    shift: Tensor  # of q's mean, from the known or else the re-weighted one
    ratio: Tensor  # of q's standard deviation to it
    mended_shift: Tensor  # of the re-weighted mean from the known one
    mended_ratio: Tensor
    k: Tensor
    ess: Tensor
    noise: Tensor  # standard error of known or re-weighted means, in posterior standard deviations

    def by_datum(self) -> Iterator[dict[str, float]]:
        """Yield one datum's facts after the other's."""
        columns = {name: value.tolist() for name, value in vars(self).items()}
        for row in zip(*columns.values(), strict=True):
            yield dict(zip(columns, row, strict=True))


def _facts(target: Target, w: Weights, reference: Reference) -> _Facts:
    """Compare q with its own weights and with the reference."""
    known = reference.evidence
    mean, std, noise = w.mean.clone(), w.std.clone(), w.ess.rsqrt()
    by_moments = torch.zeros_like(w.ess, dtype=torch.bool)
    if reference.posterior is not None and bool(reference.converged.any()):
        rows, good = reference.rows, reference.converged
        part = target.rows(rows) if len(rows) < target.num_data else target
        S = max(100, min(4000, _NUMBERS // (len(rows) * target.latent_dim)))
        if target.plain and isinstance(reference.posterior, AnalyticPosterior | QuadraturePosterior):
            S = 2  # it knows its moments; each of its draws would cost evaluations of the program
        seen = answer(part, reference.posterior, num_samples=S)
        taken = rows[good]
        mean[taken], std[taken] = (moment[good].to(mean) for moment in joined_moments(part, seen))
        own = 0.0 * w.ess[taken] if target.plain else torch.full_like(w.ess[taken], S**-0.5)
        noise[taken] = own if seen.ess is None else seen.ess[good].rsqrt().to(noise)
        by_moments[taken] = True
    shift, ratio = furthest(w.own_mean, w.own_std, mean, std)
    mended_shift, mended_ratio = furthest(w.mean, w.std, mean, std)
    ready = known.resolved | by_moments
    missing = known.log_evidence - w.log_evidence
    missing = missing.masked_fill(ready & ~known.resolved, math.nan)  # the moments alone decide there
    error = (known.standard_error.square() + w.log_evidence_error.square()).sqrt()
    exact = by_moments & reference.exact
    return _Facts(
        *(ready, by_moments, exact, known.log_evidence - w.elbo, missing, error, shift, ratio),
        *(mended_shift, mended_ratio, w.pareto_k, w.ess, noise),
    )


def _judge(f: dict[str, float], limits: _Limits) -> tuple[str, str]:
    """The verdict of one datum, and why: by the reference, then by the moments that are known, or by the weights."""
    reliable = f["k"] <= _MAX_K and f["ess"] >= _MIN_ESS
    sure = limits.tolerance + 3 * f["missing_error"]
    if not f["ready"]:
        return UNDECIDED, "the reference itself has not converged"
    if reliable and f["missing"] < -sure and not f["exact"]:
        return UNDECIDED, f"the weights prove {-f['missing']:.2f} nats more evidence than the reference found"
    if f["missing"] > sure and not f["exact"]:
        return DO_NOT_TRUST, f"q misses mass: the reference finds {f['missing']:.2f} nats more than q's draws can"
    return _by_moments(f, limits, reliable) if f["by_moments"] else _by_weights(f, limits)


def _by_moments(f: dict[str, float], limits: _Limits, reliable: bool) -> tuple[str, str]:
    """The verdict where the posterior's moments are known: q's own are right, or its weights mend them, or neither."""
    said = f"mean off by {f['shift']:.2f} sd, sd by a factor {f['ratio']:.2f}"
    if limits.allow(f["shift"], f["ratio"]):
        return TRUST, f"{said}, k-hat {f['k']:.2f}"
    if reliable and limits.allow(f["mended_shift"], f["mended_ratio"], noise=f["noise"]):
        return REWEIGHT, f"{said}; k-hat is {f['k']:.2f}, and re-weighting mends it"
    after = f"re-weighted still by {f['mended_shift']:.2f} sd and a factor {f['mended_ratio']:.2f}"
    if not reliable:
        after = f"its weights mend nothing (k-hat {f['k']:.2f}, {f['ess']:.0f} effective draws)"
    return DO_NOT_TRUST, f"{said}; {after}"


def _by_weights(f: dict[str, float], limits: _Limits) -> tuple[str, str]:
    """The verdict where only the evidence is known, and q's own weights must say the rest."""
    said = f"mean off by {f['shift']:.2f} sd, sd by a factor {f['ratio']:.2f}"
    if not f["k"] <= _MAX_K:
        return DO_NOT_TRUST, f"k-hat is {f['k']:.2f}: q's tails are too light to say how wrong it is"
    if not f["ess"] >= _MIN_ESS:
        return DO_NOT_TRUST, f"only {f['ess']:.0f} of q's draws are effective"
    if f["missing"] > limits.tolerance + f["missing_error"]:
        found = f"{f['missing']:.2f} +- {f['missing_error']:.2f} nats"
        return UNDECIDED, f"the reference finds {found} more than q's draws can"
    if limits.allow(f["shift"], f["ratio"]):
        return TRUST, f"{said}, k-hat {f['k']:.2f}"
    return REWEIGHT, f"{said}; k-hat is {f['k']:.2f}, so re-weighting mends it"
