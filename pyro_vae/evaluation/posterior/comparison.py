"""How far each route's answer is from the truth, datum by datum and in total."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae import checks
from pyro_vae.checks import positive_integer, say
from pyro_vae.inference.exact.analytic import AnalyticPosterior
from pyro_vae.inference.exact.quadrature import MAX_LATENT_DIM, QuadraturePosterior, quadrature
from pyro_vae.inference.mcmc.draws import Draws
from pyro_vae.inference.posterior import answer
from pyro_vae.inference.target.blocks import log_joint_in_blocks
from pyro_vae.inference.target.program import Program
from pyro_vae.inference.target.target import Target

__all__ = ["Comparison", "RouteScore", "compare"]


@dataclass(frozen=True)
class RouteScore:
    """One route against the truth; every tensor has one value a datum that the route covers, ``(n,)``.

    What a route cannot have is NaN: a bound needs a density, which chains and point masses do not give.

    Attributes:
        rows: the data it covers, by row of x.
        mean_error: error of the mean in posterior standard deviations, root mean square over latent dimensions.
        std_ratio: its standard deviation over the true one, geometric mean over latent dimensions.
        kl: KL(q || p(z|x)) in nats, from q's draws and the two densities.
        kl_error: standard error of ``kl``.
        bound: the evidence bound E_q[log p(x, z) - log q(z)] in nats.
        bound_error: standard error of ``bound``.
        gap: exact log evidence less the bound, in nats; by the identity log p(x) = KL + ELBO the KL again.
        num_samples: draws used.
        ess: effective number of draws, the smallest over latent dimensions.
        seconds: wall time from the data to the posteriors of all of them: one call of an amortised guide, the whole
            run of a chain. Training and draws from a finished posterior are not counted; NaN where nobody measured.
    """

    rows: Tensor
    mean_error: Tensor
    std_ratio: Tensor
    kl: Tensor
    kl_error: Tensor
    bound: Tensor
    bound_error: Tensor
    gap: Tensor
    num_samples: int
    ess: Tensor
    seconds: float


@dataclass(frozen=True)
class Comparison:
    """Every route against the truth. Prints as a table of means over data.

    Attributes:
        scores: by route.
        log_evidence: the exact log p(x), ``(N,)``, nats; NaN without such a truth.
        error_bound: bound on its error, ``(N,)``, nats.
    """

    scores: dict[str, RouteScore]
    log_evidence: Tensor
    error_bound: Tensor

    def to_dataframe(self, *, per_datum: bool = False) -> Any:
        """Return a pandas DataFrame: one row a route (means over data), or one a route and datum."""
        import pandas as pd

        if not per_datum:
            return pd.DataFrame([{"route": name, **_summary(score)} for name, score in self.scores.items()]).set_index(
                "route"
            )
        frames = []
        for name, score in self.scores.items():
            columns = {key: getattr(score, key).cpu().numpy() for key in (*_PER_DATUM, "ess")}
            evidence = self.log_evidence[score.rows].cpu().numpy()
            frames.append(
                pd.DataFrame({"route": name, "row": score.rows.cpu().numpy(), "log_evidence": evidence, **columns})
            )
        return pd.concat(frames, ignore_index=True)

    def __rich__(self) -> Any:
        from rich.table import Table

        caption = "seconds: from the data to their posteriors; training is not counted"
        table = Table(title=self._title(), title_justify="left", caption=caption, caption_justify="left")
        table.add_column("route")
        summaries = {name: _summary(score) for name, score in self.scores.items()}
        known = [key for key in _LABELS if not all(math.isnan(s[key]) for s in summaries.values())]
        for key in known:
            table.add_column(_LABELS[key], justify="right")
        for name, summary in summaries.items():
            table.add_row(name, *(_cell(key, summary[key]) for key in known))
        return table

    def __str__(self) -> str:
        from rich.console import Console

        out = io.StringIO()
        Console(file=out, width=110, no_color=True).print(self)
        return out.getvalue().rstrip()

    def _repr_html_(self) -> str:
        return str(self.to_dataframe().to_html(float_format=lambda value: f"{value:.3g}"))

    def _title(self) -> str:
        N = len(self.log_evidence)
        if bool(self.log_evidence.isnan().all()):
            return "one posterior" if N == 1 else f"{N} posteriors"
        mean, bound = float(self.log_evidence.mean()), float(self.error_bound.max())
        return f"{N} data, exact log evidence {mean:.3f} nats per datum (error at most {bound:.0e} each)"


_PER_DATUM = ("mean_error", "std_ratio", "kl", "kl_error", "bound", "bound_error", "gap")
_LABELS = {
    "data": "data",
    "mean_error": "mean error",
    "std_ratio": "sd ratio",
    "kl": "KL(q||p)",
    "bound": "bound",
    "gap": "gap",
    "num_samples": "samples",
    "ess": "ESS",
    "seconds": "seconds",
}


def compare(
    model: Program,
    x: Tensor | tuple[Any, ...],
    posteriors: Mapping[str, Any],
    *,
    truth: Any = None,
    plate: str = "data",
    num_samples: int = 1000,
) -> Comparison:
    r"""Compare posteriors of the same data, each with the truth.

    :math:`KL(q \| p) = E_q[\log q(u) - \log p(u|x)]` and the bound :math:`E_q[\log p(x, u) - \log q(u)]` are means
    over q's draws; moments are exact where a distribution knows them. All are over the unconstrained vector u (for
    real latents, z itself).

    Args:
        model: a Pyro program.
        x: data ``(N, *D)``, or the program's arguments as a tuple.
        posteriors: by the name to print: a guide (of this package or any Pyro program), a distribution over u with
            ``batch_shape (N,)``, Draws, or a pair ``(posterior, rows)`` of one that covers only those rows of x
            (numbers, or one True or False a datum).
        truth: the result of ``analytic`` or ``quadrature`` (then evidence and KL are exact), or Draws (then moments
            alone); None takes quadrature up to three latent dimensions, else leaves the truth out.
        plate: the data plate.
        num_samples: draws to take of each distribution.

    Raises:
        TypeError: if a posterior is of an unknown kind, a name no string, or rows no whole numbers.
        ValueError: if there is none, or one is of other data or another latent dimension; if a row is no datum's; if
            the truth is that of other data, of another model, or of this one before its weights moved.

    Example:
        >>> from pyro_vae import Model, laplace, likelihoods, networks, priors
        >>> model = Model(priors.StandardNormal(2), likelihoods.Gaussian(networks.mlp(2, 5), scale=0.5))
        >>> x = torch.zeros(3, 5)
        >>> table = compare(model, x, {"Laplace": laplace(model, x)})
        >>> bool(table.scores["Laplace"].kl.abs().max() < 1e-2)
        True
    """
    positive_integer(num_samples, "num_samples", minimum=2)
    if not isinstance(posteriors, Mapping) or not posteriors:
        raise ValueError(say("at least one posterior by name", f"{posteriors!r}", '{"VI": guide}'))
    target = Target(model, x, plate=plate)
    covered = {name: _covered(name, value, target.num_data) for name, value in posteriors.items()}
    if truth is None and target.latent_dim <= MAX_LATENT_DIM:
        truth = quadrature(model, x, plate=plate)
    exact = _truth(target, truth)
    scores = {}
    for name, (posterior, rows) in covered.items():
        every = torch.arange(target.num_data) if rows is None else rows
        some = target if rows is None else target.rows(rows)
        scores[name] = _score(some, posterior, every, exact.rows(every), num_samples=num_samples)
    return Comparison(scores, exact.log_evidence, exact.error_bound)


def _covered(name: Any, value: Any, num_data: int) -> tuple[Any, Tensor | None]:
    """The posterior, and the rows that it covers; None for all."""
    if not isinstance(name, str):
        raise TypeError(say("posteriors by name", f"the name {name!r}", '{"VI": guide}'))
    if not isinstance(value, tuple):
        return value, None
    if len(value) != 2:
        raise ValueError(
            say(f"a posterior, or a pair of it and its rows, for {name!r}", f"{len(value)}", "(draws, [0, 1])")
        )
    return value[0], checks.rows(value[1], num_data, f"rows of {name!r}")


@dataclass(frozen=True)
class _Truth:
    """What is known of the posterior itself; NaN where nothing is."""

    mean: Tensor
    std: Tensor
    log_evidence: Tensor
    error_bound: Tensor
    normal: Any = None  # the posterior's own density, where it has one beside log p(x, u) - log p(x)

    def rows(self, index: Tensor) -> _Truth:
        normal = self.normal and (self.normal[0][index], self.normal[1][index])
        return _Truth(self.mean[index], self.std[index], self.log_evidence[index], self.error_bound[index], normal)

    def log_prob(self, u: Tensor, log_joint: Tensor) -> Tensor:
        """Log p(u|x) at u ``(S, n, L)``, where log p(x, u) is ``log_joint``."""
        if self.normal is not None:
            return dist.MultivariateNormal(self.normal[0], scale_tril=self.normal[1]).log_prob(u)
        return log_joint - self.log_evidence


def _truth(target: Target, truth: Any) -> _Truth:
    nan = torch.full_like(target.origin, math.nan)
    if truth is None:
        return _Truth(nan, nan, nan[:, 0], nan[:, 0])
    if not isinstance(truth, Draws | AnalyticPosterior | QuadraturePosterior):
        expected = "the result of analytic or quadrature, or Draws, as truth"
        raise TypeError(say(expected, type(truth).__name__, "truth=quadrature(model, x)"))
    known = answer(target, truth, num_samples=2)
    _check_truth(target, truth)
    if isinstance(truth, Draws):
        return _Truth(known.mean, known.std, nan[:, 0], nan[:, 0])
    if isinstance(truth, AnalyticPosterior):
        zero = torch.zeros_like(truth.log_evidence)
        return _Truth(known.mean, known.std, truth.log_evidence, zero, (truth.loc, truth.scale_tril))
    return _Truth(known.mean, known.std, truth.log_evidence, truth.error_bound)


@torch.no_grad()
def _check_truth(target: Target, truth: Any) -> None:
    """Check p(x, u) = p(x) p(u|x) at one point of each datum: whose posterior it is, no shape can tell."""
    if isinstance(truth, Draws):
        return
    if isinstance(truth, QuadraturePosterior):
        u, known = truth.peak
    else:
        u, known = truth.mean, truth.log_evidence + truth.log_prob(truth.mean)
    found = target.log_joint(u)
    # rounding moves a sum over the data dimension by some eps of its terms, other data by nats
    off = (found - known).abs() > (1e-3 if u.dtype == torch.float32 else 1e-6) * (1 + known.abs())
    if bool(off.any()):
        row = int(off.nonzero()[0])
        got = f"log p(x, z) = {float(known[row]):.6g} nats in it, {float(found[row]):.6g} here, in row {row}"
        got += f" ({int(off.sum())} such rows)"
        raise ValueError(say("a truth of the same model and data", got, "truth=quadrature(model, x) of this x"))


@torch.no_grad()
def _score(target: Target, posterior: Any, rows: Tensor, truth: _Truth, *, num_samples: int) -> RouteScore:
    q = answer(target, posterior, num_samples=num_samples)
    S = len(q.u)
    nan = torch.full_like(truth.log_evidence, math.nan)
    kl = kl_error = bound = bound_error = nan
    if q.log_q is not None:
        log_joint = log_joint_in_blocks(target, q.u)
        log_ratio = log_joint - q.log_q
        bound, bound_error = log_ratio.mean(0), log_ratio.std(0) / math.sqrt(S)
        log_ratio = q.log_q - truth.log_prob(q.u, log_joint)
        kl, kl_error = log_ratio.mean(0), log_ratio.std(0) / math.sqrt(S)
    return RouteScore(
        rows=rows,
        mean_error=((q.mean - truth.mean) / truth.std).square().mean(-1).sqrt(),
        std_ratio=(q.std / truth.std).log().mean(-1).exp(),
        kl=kl,
        kl_error=kl_error,
        bound=bound,
        bound_error=bound_error,
        gap=truth.log_evidence - bound,
        num_samples=S,
        ess=torch.full_like(nan, float(S) if S > 1 else math.nan) if q.ess is None else q.ess.to(nan),
        seconds=q.seconds,
    )


def _summary(score: RouteScore) -> dict[str, float]:
    return {
        "data": len(score.rows),
        "mean_error": float(score.mean_error.square().mean().sqrt()),
        "std_ratio": float(score.std_ratio.log().mean().exp()),
        "kl": float(score.kl.mean()),
        "bound": float(score.bound.mean()),
        "gap": float(score.gap.mean()),
        "num_samples": score.num_samples,
        "ess": float(score.ess.median()),
        "seconds": score.seconds,
    }


def _cell(key: str, value: float) -> str:
    if math.isnan(value):
        return "-"
    if key in {"data", "num_samples", "ess"}:
        return f"{value:,.0f}"
    if key == "seconds":
        return f"{value:.2f}" if value >= 0.01 else f"{value:.0e}"
    return f"{value:.3f}"
