"""Germinating seeds: binomial counts that scatter more than binomial ones."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.atlas.archive import Stored
from pyro_vae.atlas.chains import LongChains
from pyro_vae.atlas.problem import Problem

__all__ = ["problem"]


def program(design: Tensor, n: Tensor, y: Tensor) -> None:
    """Centred: a logit a plate of seeds around what its kind and its extract say."""
    beta, spread = _top(design)
    with pyro.plate("plates", len(y)):
        logit = pyro.sample("logit", dist.Normal(design @ beta, spread))
        pyro.sample("y", dist.Binomial(n, logits=logit), obs=y)


def noncentred(design: Tensor, n: Tensor, y: Tensor) -> None:
    """The same posterior, over standardised deviations."""
    beta, spread = _top(design)
    with pyro.plate("plates", len(y)):
        deviation = pyro.sample("deviation", dist.Normal(y.new_tensor(0.0), 1.0))
        logit = pyro.deterministic("logit", design @ beta + spread * deviation)
        pyro.sample("y", dist.Binomial(n, logits=logit), obs=y)


def _top(design: Tensor) -> tuple[Tensor, Tensor]:
    beta = pyro.sample("beta", dist.Normal(design.new_zeros(4), 2.0).to_event(1))
    return beta, pyro.sample("spread", dist.HalfNormal(design.new_tensor(1.0)))


def data() -> tuple[Tensor, Tensor, Tensor]:
    """Seeds that germinated, of how many, on 21 plates: two kinds of seed and two root extracts, crossed."""
    y = [10, 23, 23, 26, 17, 5, 53, 55, 32, 46, 10, 8, 10, 8, 23, 0, 3, 22, 15, 32, 3]
    n = [39, 62, 81, 51, 39, 6, 74, 72, 51, 79, 13, 16, 30, 28, 45, 4, 12, 41, 30, 51, 7]
    kind = torch.tensor([0.0] * 11 + [1.0] * 10, dtype=torch.float64)
    extract = torch.tensor([0.0] * 5 + [1.0] * 6 + [0.0] * 5 + [1.0] * 5, dtype=torch.float64)
    design = torch.stack([torch.ones_like(kind), kind, extract, kind * extract], -1)
    return design, torch.tensor(n, dtype=torch.float64), torch.tensor(y, dtype=torch.float64)


def problem() -> Problem:
    """The posterior of four coefficients, the spread and 21 logits."""
    return Problem(
        name="seeds",
        title="Seeds, overdispersed counts",
        model=program,
        args=data(),
        why=(
            "The scatter beyond the binomial is small and hardly known: spread near zero is possible, and there all 21 "
            "logits must lie on what the design says. A funnel with correlations between coefficients on top: mean "
            "field is wrong about the spread and too narrow about all coefficients, full rank about the spread alone."
        ),
        telling=("spread", "beta[3]"),
        source="Counts from Crowder 1978, Beta-binomial Anova for proportions, Applied Statistics 27, table 3, as in "
        "Breslow & Clayton 1993, JASA 88; priors of our own.",
        find_truth=Stored("seeds", LongChains(program=noncentred)),
    )
