"""How far each route's answer is from the truth, datum by datum and in total."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae import checks
from pyro_vae.checks import positive_integer, say
from pyro_vae.evaluation.posterior.scores import Comparison, RouteScore, SiteScore
from pyro_vae.evaluation.sites import distances, site_moments
from pyro_vae.inference.exact.analytic import AnalyticPosterior
from pyro_vae.inference.exact.quadrature import MAX_LATENT_DIM, QuadraturePosterior, quadrature
from pyro_vae.inference.mcmc.draws import Draws
from pyro_vae.inference.posterior import answer
from pyro_vae.inference.target.blocks import log_joint_in_blocks
from pyro_vae.inference.target.discrete import must_have_continuous
from pyro_vae.inference.target.program import Program
from pyro_vae.inference.target.target import Target, as_target

__all__ = ["Comparison", "RouteScore", "compare"]

_DRAWS_OF_TRUTH = 4000  # for moments of sites that are not real numbers


def compare(
    model: Program | Target,
    x: Tensor | tuple[Any, ...] | None = None,
    posteriors: Mapping[str, Any] | None = None,
    *,
    truth: Any = None,
    plate: str | None = "data",
    num_samples: int = 1000,
) -> Comparison:
    r"""Compare posteriors of the same data, each with the truth.

    :math:`KL(q \| p) = E_q[\log q(u) - \log p(u|x)]` and the bound :math:`E_q[\log p(x, u) - \log q(u)]` are means
    over q's draws, and the same on every scale. Means and standard deviations are of the named sites on the program's
    own scale: at sites of real numbers exact where a distribution knows them, elsewhere those of draws.

    Args:
        model: a Pyro program, or a Target in place of it and x.
        x: data ``(N, *D)``, or the program's arguments as a tuple.
        posteriors: by the name to print: a guide (of this package or any Pyro program), a distribution over u with
            ``batch_shape (N,)``, Draws, or a pair ``(posterior, rows)`` of one that covers only those rows of x
            (numbers, or one True or False a datum).
        truth: the result of ``analytic`` or ``quadrature`` (then evidence and KL are exact), or Draws (then moments
            alone); None takes quadrature up to three latent dimensions, else leaves the truth out.
        plate: the data plate; None for one posterior of the whole program.
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
    target = as_target(model, x, plate=plate)
    must_have_continuous(target)
    covered = {name: _covered(name, value, target.num_data) for name, value in posteriors.items()}
    if truth is None and target.latent_dim <= MAX_LATENT_DIM:
        truth = quadrature(target)
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

    sites: dict[str, tuple[Tensor, Tensor]]  # mean and standard deviation, (N, m) each; empty where nothing is known
    log_evidence: Tensor
    error_bound: Tensor
    normal: Any = None  # the posterior's own density, where it has one beside log p(x, u) - log p(x)

    def rows(self, index: Tensor) -> _Truth:
        normal = self.normal and (self.normal[0][index], self.normal[1][index])
        sites = {name: (mean[index], std[index]) for name, (mean, std) in self.sites.items()}
        return _Truth(sites, self.log_evidence[index], self.error_bound[index], normal)

    def log_prob(self, u: Tensor, log_joint: Tensor) -> Tensor:
        """Log p(u|x) at u ``(S, n, L)``, where log p(x, u) is ``log_joint``."""
        if self.normal is not None:
            return dist.MultivariateNormal(self.normal[0], scale_tril=self.normal[1]).log_prob(u)
        return log_joint - self.log_evidence


def _truth(target: Target, truth: Any) -> _Truth:
    nan = torch.full_like(target.origin[:, 0], math.nan)
    if truth is None:
        return _Truth({}, nan, nan)
    if not isinstance(truth, Draws | AnalyticPosterior | QuadraturePosterior):
        expected = "the result of analytic or quadrature, or Draws, as truth"
        raise TypeError(say(expected, type(truth).__name__, "truth=quadrature(model, x)"))
    seen = answer(target, truth, num_samples=2 if target.plain else _DRAWS_OF_TRUTH)
    _check_truth(target, truth)
    sites = site_moments(target, seen)
    if isinstance(truth, Draws):
        return _Truth(sites, nan, nan)
    if isinstance(truth, AnalyticPosterior):
        return _Truth(sites, truth.log_evidence, torch.zeros_like(truth.log_evidence), (truth.loc, truth.scale_tril))
    return _Truth(sites, truth.log_evidence, truth.error_bound)


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
    errors = {}
    if truth.sites:
        errors = {name: distances(*own, *truth.sites[name]) for name, own in site_moments(target, q).items()}
    shifts, ratios = zip(*errors.values(), strict=True) if errors else ([nan[:, None]], [nan[:, None]])
    return RouteScore(
        rows=rows,
        mean_error=_root_mean_square(torch.cat(shifts, -1)),
        std_ratio=_geometric_mean(torch.cat(ratios, -1)),
        kl=kl,
        kl_error=kl_error,
        bound=bound,
        bound_error=bound_error,
        gap=truth.log_evidence - bound,
        num_samples=S,
        ess=torch.full_like(nan, float(S) if S > 1 else math.nan) if q.ess is None else q.ess.to(nan),
        seconds=q.seconds,
        sites={
            name: SiteScore(_root_mean_square(shift), _geometric_mean(ratio)) for name, (shift, ratio) in errors.items()
        },
    )


def _root_mean_square(shift: Tensor) -> Tensor:
    return shift.square().mean(-1).sqrt()


def _geometric_mean(ratio: Tensor) -> Tensor:
    return ratio.log().mean(-1).exp()
