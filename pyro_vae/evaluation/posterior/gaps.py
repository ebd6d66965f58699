r"""The ledger of gaps: why the ELBO is below log p(x), datum by datum.

.. math:: \log p(x) - \mathrm{ELBO} = \underbrace{\log p(x) - \mathrm{ELBO}(q^*)}_{\text{approximation}}
   + \underbrace{\mathrm{ELBO}(q^*) - \mathrm{ELBO}(q)}_{\text{amortisation}}

where q* is the best member of the guide's own family for that datum.

Source: Cremer, Li & Duvenaud 2018, "Inference suboptimality in variational autoencoders".
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae.checks import positive_integer
from pyro_vae.evaluation.evidence.evidence import Evidence, evidence
from pyro_vae.evaluation.posterior.families import best_in_family, family_of
from pyro_vae.evaluation.tables import as_text
from pyro_vae.inference.posterior import GuideSampler
from pyro_vae.inference.target.blocks import block_size
from pyro_vae.inference.target.program import Program
from pyro_vae.inference.target.target import Target, as_target
from pyro_vae.randomness import fork_rng

__all__ = ["Ledger", "gaps"]


@dataclass(frozen=True)
class Ledger:
    """The gaps of N data; every tensor is ``(N,)``, nats.

    Attributes:
        log_evidence: log p(x).
        evidence_error: its standard error.
        elbo: of the guide.
        elbo_error: its standard error.
        best_elbo: of the best member of the family.
        best_error: its standard error.
        approximation: what the family cannot reach.
        approximation_error: its standard error.
        amortisation: what the guide's network leaves of what the family can reach.
        amortisation_error: its standard error; smaller than its parts', as both share random numbers.
        family: the family searched.
        evidence_method: where log p(x) comes from.
        resolved: whether log p(x) is resolved; where it is not, neither is the approximation gap.
        seconds: wall time.
    """

    log_evidence: Tensor
    evidence_error: Tensor
    elbo: Tensor
    elbo_error: Tensor
    best_elbo: Tensor
    best_error: Tensor
    approximation: Tensor
    approximation_error: Tensor
    amortisation: Tensor
    amortisation_error: Tensor
    family: str
    evidence_method: str
    resolved: Tensor
    seconds: float = 0.0

    @property
    def gap(self) -> Tensor:
        """Log p(x) less the ELBO, ``(N,)``: KL(q || p(z|x))."""
        return self.log_evidence - self.elbo

    @property
    def gap_error(self) -> Tensor:
        """Standard error of the gap, ``(N,)``."""
        return (self.evidence_error.square() + self.elbo_error.square()).sqrt()

    @property
    def amortisation_share(self) -> float:
        """Mean amortisation gap over mean gap, over resolved data."""
        good = self.resolved
        return float(self.amortisation[good].mean() / self.gap[good].mean())

    def to_dataframe(self) -> Any:
        """Return a pandas DataFrame, one row a datum; what rests on an unresolved evidence is NaN."""
        import pandas as pd

        names = (*_ROWS, *(error for _, error in _ROWS.values()))
        columns = {name: getattr(self, name).double() for name in names}
        for name in ("log_evidence", "gap", "approximation"):
            columns[name] = torch.where(self.resolved, columns[name], math.nan)
        return pd.DataFrame({name: value.cpu().numpy() for name, value in columns.items()})

    def __rich__(self) -> Any:
        from rich.table import Table

        N, good = len(self.elbo), self.resolved
        what = "one posterior" if N == 1 else f"{N} data"
        title = f"{what}, family {self.family}, log p(x) by {self.evidence_method}"
        table = Table("nats" if N == 1 else "nats per datum", title=title, title_justify="left")
        for head in ("value", "error") if N == 1 else ("mean", "error", "10 %", "90 %"):
            table.add_column(head, justify="right")
        rows, shown = _ROWS, good
        if bool(good.any()):
            table.caption = f"amortisation is {100 * self.amortisation_share:.0f} % of the gap"
        else:  # the ELBOs and their difference need no evidence
            rows, shown = {name: _ROWS[name] for name in ("best_elbo", "elbo", "amortisation")}, ~good
            table.caption = "log p(x) is not resolved, and neither is what rests on it"
        for name, (words, error_name) in rows.items():
            value, error = (getattr(self, each).double()[shown] for each in (name, error_name))
            cells = [value.mean(), error.mean() if len(value) == 1 else value.std() / math.sqrt(len(value))]
            cells += [] if N == 1 else [value.quantile(p) for p in (0.1, 0.9)]
            table.add_row(words, *(f"{float(cell):.3f}" for cell in cells))
        return table

    def __str__(self) -> str:
        return as_text(self, width=100)


_ROWS = {  # how a figure is called, and where its error is
    "log_evidence": ("log p(x)", "evidence_error"),
    "best_elbo": ("ELBO of the family's best", "best_error"),
    "elbo": ("ELBO of the guide", "elbo_error"),
    "approximation": ("approximation gap", "approximation_error"),
    "amortisation": ("amortisation gap", "amortisation_error"),
    "gap": ("gap", "gap_error"),
}


def gaps(
    model: Program | Target,
    x: Tensor | tuple[Any, ...] | None = None,
    guide: Any = None,
    *,
    truth: Any = None,
    family: str = "auto",
    num_steps: int = 400,
    num_samples: int = 2000,
    plate: str | None = "data",
) -> Ledger:
    """Split the gap of every datum into what the family cannot reach and what amortisation leaves.

    The best member is found by gradient ascent for all data at once, from the guide's own answer. The two ELBOs are
    then measured on fresh draws made from the same random numbers; where a member found is worse than the guide's,
    as noise may have it, the guide's stands and the amortisation gap is zero.

    Args:
        model: a Pyro program, or a Target in place of it and x.
        x: data ``(N, *D)``, or the program's arguments as a tuple.
        guide: a guide of this package, or a distribution with ``batch_shape (N,)`` over u; where ``family`` is
            "diagonal" or "full", any guide that is a Pyro program.
        truth: what has ``log_evidence``: the result of ``evidence``, ``quadrature``, ``analytic``; ``evidence`` chooses
            if None.
        family: "diagonal" or "full" Gaussian, or "own": all that the guide can say of a datum if its network could
            return anything (for a flow, its shared weights kept). "auto" takes the first that fits the guide.
        num_steps: of the ascent.
        num_samples: draws to measure the ELBOs on.
        plate: the data plate; None for one posterior of the whole program.

    Raises:
        TypeError: if the guide is none, or names no distribution and no Gaussian family is asked for.
        ValueError: if "own" is asked for a guide without a network; if the guide is a point mass.

    Example:
        >>> import pyro_vae as pv
        >>> _ = torch.manual_seed(0)
        >>> model = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Gaussian(torch.nn.Linear(2, 5), scale=1.0))
        >>> guide = pv.guides.FullCovarianceGaussian(torch.nn.Linear(5, 5), latent_dim=2)
        >>> ledger = gaps(model, torch.zeros(3, 5), guide)
        >>> bool((ledger.approximation.abs() < 0.02).all())  # the posterior is Gaussian
        True
    """
    began = time.perf_counter()
    positive_integer(num_samples, "num_samples", minimum=2)
    target = as_target(model, x, plate=plate)
    sampler = GuideSampler(target, guide)
    name, make, parameters = family_of(sampler, family)
    known = evidence(target) if truth is None else Evidence.of(truth, target.num_data)
    best = best_in_family(target, make, parameters, num_steps=num_steps)
    own, found = _paired(sampler, GuideSampler(target, make(best)), num_samples)  # (S, N) each
    gain = found - own
    mean_gain, gain_error = gain.mean(0), gain.std(0) / math.sqrt(num_samples)
    better = mean_gain > 0
    elbo, elbo_error = own.mean(0), own.std(0) / math.sqrt(num_samples)
    best_elbo = torch.where(better, found.mean(0), elbo)
    best_error = torch.where(better, found.std(0) / math.sqrt(num_samples), elbo_error)
    return Ledger(
        log_evidence=known.log_evidence,
        evidence_error=known.standard_error,
        elbo=elbo,
        elbo_error=elbo_error,
        best_elbo=best_elbo,
        best_error=best_error,
        approximation=known.log_evidence - best_elbo,
        approximation_error=(known.standard_error.square() + best_error.square()).sqrt(),
        amortisation=mean_gain.clamp_min(0),
        amortisation_error=gain_error,
        family=name,
        evidence_method=known.method,
        resolved=known.resolved,
        seconds=time.perf_counter() - began,
    )


@torch.no_grad()
def _paired(own: GuideSampler, best: GuideSampler, num_samples: int) -> tuple[Tensor, Tensor]:
    """Log weights ``(S, N)`` of two posteriors on draws made from the same random numbers."""
    first, second = [], []
    for part in torch.arange(num_samples).split(block_size(own.target)):
        with fork_rng():
            first.append(_log_weights(own, len(part)))
        second.append(_log_weights(best, len(part)))
    return torch.cat(first), torch.cat(second)


def _log_weights(sampler: GuideSampler, num_samples: int) -> Tensor:
    u, log_q = sampler.sample(num_samples)
    return sampler.target.log_joint(u) - log_q
