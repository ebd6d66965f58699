"""What a comparison found: every route's scores, and the table that it prints as."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from pyro_vae.evaluation.tables import as_text

__all__ = ["Comparison", "RouteScore", "SiteScore"]


@dataclass(frozen=True)
class SiteScore:
    """One named site of a route against the truth, on the program's own scale; ``(n,)`` each.

    Attributes:
        mean_error: error of the mean in posterior standard deviations, root mean square over the site's numbers.
        std_ratio: its standard deviation over the true one, geometric mean over the site's numbers.
    """

    mean_error: Tensor
    std_ratio: Tensor


@dataclass(frozen=True)
class RouteScore:
    """One route against the truth; every tensor has one value a datum that the route covers, ``(n,)``.

    What a route cannot have is NaN: a bound needs a density, which chains and point masses do not give.

    Attributes:
        rows: the data it covers, by row of x.
        mean_error: error of the mean in posterior standard deviations, root mean square over the numbers of all named
            sites, on the program's own scale.
        std_ratio: its standard deviation over the true one, geometric mean over the same numbers.
        kl: KL(q || p(z|x)) in nats, from q's draws and the two densities.
        kl_error: standard error of ``kl``.
        bound: the evidence bound E_q[log p(x, z) - log q(z)] in nats.
        bound_error: standard error of ``bound``.
        gap: exact log evidence less the bound, in nats; by the identity log p(x) = KL + ELBO the KL again.
        num_samples: draws used.
        ess: effective number of draws, the smallest over latent dimensions.
        seconds: wall time from the data to the posteriors of all of them: one call of an amortised guide, the whole
            run of a chain. Training and draws from a finished posterior are not counted; NaN where nobody measured.
        sites: ``mean_error`` and ``std_ratio`` of each named site by itself; empty without a truth.
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
    sites: dict[str, SiteScore] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """Every route against the truth. Prints as a table of means over data, with a line a site where there are several.

    Attributes:
        scores: by route.
        log_evidence: the exact log p(x), ``(N,)``, nats; NaN without such a truth.
        error_bound: bound on its error, ``(N,)``, nats.
    """

    scores: dict[str, RouteScore]
    log_evidence: Tensor
    error_bound: Tensor

    @classmethod
    def joined(cls, parts: Sequence[Comparison]) -> Comparison:
        """Return comparisons of the same routes on further and further data as one; ``seconds`` are the slowest's.

        Example:
            >>> from pyro_vae import Model, compare, laplace, likelihoods, networks, priors
            >>> model = Model(priors.StandardNormal(2), likelihoods.Gaussian(networks.mlp(2, 5), scale=0.5))
            >>> parts = [compare(model, x, {"Laplace": laplace(model, x)}) for x in torch.zeros(3, 5).split(2)]
            >>> Comparison.joined(parts).scores["Laplace"].rows.tolist()
            [0, 1, 2]
        """
        firsts = [sum(len(before.log_evidence) for before in parts[:i]) for i in range(len(parts))]
        scores = {name: _joined([part.scores[name] for part in parts], firsts) for name in parts[0].scores}
        log_evidence, error_bound = (torch.cat([getattr(part, name) for part in parts]) for name in _OF_TRUTH)
        return cls(scores, log_evidence, error_bound)

    def to_dataframe(self, *, per_datum: bool = False) -> Any:
        """Return a pandas DataFrame: one row a route (means over data), or one a route and datum.

        Means and standard deviations are of the named sites. Of several sites, each has columns of its own beside
        those of all: ``mean_error_theta``, ``std_ratio_theta``.
        """
        import pandas as pd

        if not per_datum:
            rows = [
                {"route": name, **_summary(score), **_summary_of_sites(score)} for name, score in self.scores.items()
            ]
            return pd.DataFrame(rows).set_index("route")
        frames = []
        for name, score in self.scores.items():
            columns = {key: getattr(score, key) for key in (*_PER_DATUM, "ess")}
            columns = {"row": score.rows, "log_evidence": self.log_evidence[score.rows], **columns}
            for site, part in _apart(score).items():
                columns |= {f"mean_error_{site}": part.mean_error, f"std_ratio_{site}": part.std_ratio}
            frames.append(pd.DataFrame({"route": name, **{k: v.cpu().numpy() for k, v in columns.items()}}))
        return pd.concat(frames, ignore_index=True)

    def __rich__(self) -> Any:
        from rich.table import Table

        caption = "seconds: from the data to their posteriors; training is not counted"
        table = Table(title=self._title(), title_justify="left", caption=caption, caption_justify="left")
        table.add_column("route")
        summaries = {name: _summary(score) for name, score in self.scores.items()}
        known = [key for key in _LABELS if not all(math.isnan(s[key]) for s in summaries.values())]
        if len(self.log_evidence) == 1:
            known.remove("data")
        for key in known:
            table.add_column(_LABELS[key], justify="right")
        for name, summary in summaries.items():
            table.add_row(name, *(_cell(key, summary[key]) for key in known))
            for site, part in _apart(self.scores[name]).items():
                moments = _moments(part)
                table.add_row(f"  {site}", *(_cell(key, moments[key]) if key in moments else "" for key in known))
        return table

    def __str__(self) -> str:
        return as_text(self)

    def _repr_html_(self) -> str:
        return str(self.to_dataframe().to_html(float_format=lambda value: f"{value:.3g}"))

    def _title(self) -> str:
        N = len(self.log_evidence)
        what = "one posterior" if N == 1 else f"{N} posteriors"
        if bool(self.log_evidence.isnan().all()):
            return what
        mean, bound = float(self.log_evidence.mean()), float(self.error_bound.max())
        if N == 1:
            return f"{what}, exact log evidence {mean:.3f} nats (error at most {bound:.0e})"
        return f"{N} data, exact log evidence {mean:.3f} nats per datum (error at most {bound:.0e} each)"


def _joined(parts: Sequence[RouteScore], firsts: Sequence[int]) -> RouteScore:
    """One route's scores on further and further data, whose first rows are these."""

    def cat(of: Any) -> Tensor:
        return torch.cat([of(part) for part in parts])

    own: dict[str, Any] = {name: cat(attrgetter(name)) for name in (*_PER_DATUM, "ess")}
    own["rows"] = torch.cat([part.rows + first for part, first in zip(parts, firsts, strict=True)])
    sites = {
        site: SiteScore(*(cat(lambda part, at=(site, name): getattr(part.sites[at[0]], at[1])) for name in _OF_SITE))
        for site in parts[0].sites
    }
    return replace(parts[0], **own, sites=sites, seconds=max(part.seconds for part in parts))


_OF_TRUTH = ("log_evidence", "error_bound")
_OF_SITE = ("mean_error", "std_ratio")
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


def _summary(score: RouteScore) -> dict[str, float]:
    return {
        "data": len(score.rows),
        **_moments(score),
        "kl": float(score.kl.mean()),
        "bound": float(score.bound.mean()),
        "gap": float(score.gap.mean()),
        "num_samples": score.num_samples,
        "ess": float(score.ess.median()),
        "seconds": score.seconds,
    }


def _moments(score: RouteScore | SiteScore) -> dict[str, float]:
    """Root mean square and geometric mean over data."""
    return {
        "mean_error": float(score.mean_error.square().mean().sqrt()),
        "std_ratio": float(score.std_ratio.log().mean().exp()),
    }


def _apart(score: RouteScore) -> dict[str, SiteScore]:
    """The sites' own scores where there are several; of a single one they are the route's."""
    return score.sites if len(score.sites) > 1 else {}


def _summary_of_sites(score: RouteScore) -> dict[str, float]:
    return {f"{key}_{site}": value for site, part in _apart(score).items() for key, value in _moments(part).items()}


def _cell(key: str, value: float) -> str:
    if math.isnan(value):
        return "-"
    if key in {"data", "num_samples", "ess"}:
        return f"{value:,.0f}"
    if key == "seconds":
        return f"{value:.2f}" if value >= 0.01 else f"{value:.0e}"
    return f"{value:.3f}"
