"""How far two posteriors of the same data are from each other, by several measures, datum by datum."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae.checks import positive_integer, say
from pyro_vae.evaluation.sites import furthest, joined_moments, side_by_side
from pyro_vae.inference.posterior import Answer, answer
from pyro_vae.inference.target.program import Program
from pyro_vae.inference.target.target import Target, as_target

__all__ = ["Agreement", "agreement", "mmd", "nearest_neighbour_test", "sliced_wasserstein"]


@dataclass(frozen=True)
class Agreement:
    """Two posteriors p (the reference) and q of N data; every tensor is ``(N,)``.

    Attributes:
        mean_shift: distance of the means in p's standard deviations, the largest over the numbers of the named sites.
        std_ratio: q's standard deviation over p's, the one furthest from 1 over the same numbers.
        kl: KL(q || p) in nats where both have densities, else NaN.
        kl_error: its standard error.
        sliced_wasserstein: sliced 2-Wasserstein distance over u, in p's standard deviations of u.
        mmd: squared maximum mean discrepancy over u, unbiased, Gaussian kernel of the median distance.
        mmd_p_value: share of relabellings with as large an MMD.
        accuracy: of a nearest-neighbour classifier that tells p's draws from q's; 0.5 if it cannot.
        accuracy_p_value: share of relabellings as well told apart.
        coverage: share of q's central credible intervals of mass ``level``, over the sites' numbers and p's draws, that
            hold p's draws; below the level, q is too narrow or beside p.
        level: nominal mass of those intervals.
    """

    mean_shift: Tensor
    std_ratio: Tensor
    kl: Tensor
    kl_error: Tensor
    sliced_wasserstein: Tensor
    mmd: Tensor
    mmd_p_value: Tensor
    accuracy: Tensor
    accuracy_p_value: Tensor
    coverage: Tensor
    level: float

    def to_dataframe(self) -> Any:
        """Return a pandas DataFrame, one row a datum."""
        import pandas as pd

        names = [name for name in self.__dataclass_fields__ if name != "level"]
        return pd.DataFrame({name: getattr(self, name).cpu().numpy() for name in names})


@torch.no_grad()
def agreement(
    model: Program | Target,
    x: Tensor | tuple[Any, ...] | None = None,
    p: Any = None,
    q: Any = None,
    *,
    num_samples: int = 400,
    num_permutations: int = 200,
    level: float = 0.9,
    plate: str | None = "data",
) -> Agreement:
    """Measure how far q is from p, for every datum.

    The two-sample tests need independent draws: of chains, as many evenly spaced ones are taken as are effective, if
    that is fewer.

    Args:
        model: the Pyro program that both are posteriors of, or a Target in place of it and x.
        x: data ``(N, *D)``, or the program's arguments as a tuple.
        p: the reference: a guide, a distribution over u, or Draws.
        q: the other one.
        num_samples: draws of each to compare.
        num_permutations: relabellings behind a p-value.
        level: mass of the credible intervals.
        plate: the data plate; None for one posterior of the whole program.

    Raises:
        TypeError, ValueError: for what is no posterior of these data.

    Example:
        >>> import pyro_vae as pv
        >>> _ = torch.manual_seed(0)
        >>> model = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Gaussian(torch.nn.Linear(2, 5), scale=1.0))
        >>> exact = pv.analytic(model, torch.zeros(3, 5))
        >>> same = agreement(model, torch.zeros(3, 5), exact, pv.laplace(model, torch.zeros(3, 5)))
        >>> bool((same.mean_shift < 0.01).all())
        True
    """
    S = positive_integer(num_samples, "num_samples", minimum=20)
    if not 0 < level < 1:
        raise ValueError(say("a level between 0 and 1", f"{level}", "level=0.9"))
    target = as_target(model, x, plate=plate)
    first, second = (answer(target, posterior, num_samples=max(S, 1000)) for posterior in (p, q))
    shift, ratio = furthest(*joined_moments(target, second), *joined_moments(target, first))
    kl, kl_error = _kl(first, second)
    a, b = _independent(first, S), _independent(second, S)
    n = min(len(a), len(b))
    a, b = ((part[:n] - first.mean) / first.std for part in (a, b))
    discrepancy, discrepancy_p = mmd(a, b, num_permutations=num_permutations)
    accuracy, accuracy_p = nearest_neighbour_test(a, b, num_permutations=num_permutations)
    tail = (1 - level) / 2
    theirs, ours = side_by_side(target, first.u), side_by_side(target, second.u)
    low, high = (ours.quantile(prob, dim=0) for prob in (tail, 1 - tail))
    inside = ((theirs >= low) & (theirs <= high)).to(shift.dtype).mean((0, -1))
    swd = sliced_wasserstein(a, b)
    return Agreement(
        shift, ratio, kl, kl_error, swd, discrepancy, discrepancy_p, accuracy, accuracy_p, inside, level
    )  # fmt: skip


def _kl(p: Answer, q: Answer) -> tuple[Tensor, Tensor]:
    if p.log_prob is None or q.log_q is None:
        nan = torch.full_like(p.mean[:, 0], math.nan)
        return nan, nan
    log_ratio = q.log_q - p.log_prob(q.u)
    return log_ratio.mean(0), log_ratio.std(0) / math.sqrt(len(log_ratio))


def _independent(seen: Answer, num_samples: int) -> Tensor:
    """At most ``num_samples`` draws, evenly spaced; of chains no more than are effective for the worst datum."""
    count = num_samples if seen.ess is None else min(num_samples, max(20, int(seen.ess.min())))
    count = min(count, len(seen.u))
    return seen.u[torch.linspace(0, len(seen.u) - 1, count).long()]


def sliced_wasserstein(a: Tensor, b: Tensor, *, num_directions: int = 50) -> Tensor:
    r"""Root mean squared 2-Wasserstein distance of projections on random directions.

    .. math:: \left( E_\theta\, W_2^2(\theta^\top a, \theta^\top b) \right)^{1/2}

    Source: Bonneel, Rabin, Peyré & Pfister 2015.

    Args:
        a: draws ``(S, N, L)``.
        b: as many draws.
        num_directions: how many.

    Returns:
        ``(N,)``, in units of the draws; of two samples of one density about the square root of 1 / S, not zero.

    Example:
        >>> a = torch.randn(500, 3, 1)
        >>> torch.allclose(sliced_wasserstein(a, a + 2.0), torch.tensor(2.0), atol=1e-4)
        True
    """
    theta = torch.randn(a.shape[-1], num_directions).to(a)
    theta = theta / theta.norm(dim=0)
    first, second = ((part @ theta).sort(0).values for part in (a, b))
    return (first - second).square().mean((0, -1)).sqrt()


def mmd(a: Tensor, b: Tensor, *, num_permutations: int = 200) -> tuple[Tensor, Tensor]:
    r"""Squared maximum mean discrepancy, unbiased, and its p-value by permutation.

    .. math:: \frac{\sum_{i \ne j} k(a_i, a_j)}{S (S - 1)} + \frac{\sum_{i \ne j} k(b_i, b_j)}{S (S - 1)}
       - \frac{2 \sum_{ij} k(a_i, b_j)}{S^2}, \quad k(u, v) = e^{-\|u - v\|^2 / 2 h^2}

    with h the median distance.

    Source: Gretton, Borgwardt, Rasch, Schölkopf & Smola 2012.

    Args:
        a: draws ``(S, N, L)``.
        b: as many draws.
        num_permutations: relabellings behind the p-value.

    Returns:
        The discrepancy and the p-value, ``(N,)`` each.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> value, p = mmd(torch.randn(100, 3, 2), torch.randn(100, 3, 2) + 2.0)
        >>> bool((p < 0.01).all())
        True
    """
    labels = _labels(len(a), num_permutations).to(a)
    out = [_mmd_of(torch.cat([a[:, n], b[:, n]]), labels) for n in range(a.shape[1])]
    values = torch.stack(out, -1)
    return values[0], _p_value(values)


def _mmd_of(both: Tensor, labels: Tensor) -> Tensor:
    """The discrepancy of one datum under every labelling, ``(B,)``."""
    squared = torch.cdist(both, both).square()
    kernel = (-0.5 * squared / squared.median().clamp_min(1e-30)).exp()
    kernel.fill_diagonal_(0)
    S = len(both) // 2
    signs = 2 * labels - 1
    difference = ((signs @ kernel) * signs).sum(-1)  # within both less twice across
    within = (kernel.sum() + difference) / 2
    across = (kernel.sum() - difference) / 2
    return within / (S * (S - 1)) - across / S**2


def nearest_neighbour_test(
    a: Tensor, b: Tensor, *, num_neighbours: int = 5, num_permutations: int = 200
) -> tuple[Tensor, Tensor]:
    """Try to tell two samples apart by a leave-one-out nearest-neighbour classifier, and test its accuracy.

    A classifier two-sample test whose null distribution is exact: neighbours do not depend on labels, so relabelling
    costs nothing. It sees any difference of the densities, given draws enough.

    Source: Schilling 1986; Lopez-Paz & Oquab 2017.

    Args:
        a: draws ``(S, N, L)``.
        b: as many draws.
        num_neighbours: odd, so that votes decide.
        num_permutations: relabellings behind the p-value.

    Returns:
        Accuracy and p-value, ``(N,)`` each.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> accuracy, p = nearest_neighbour_test(torch.randn(100, 3, 2), torch.randn(100, 3, 2) + 2.0)
        >>> bool((accuracy > 0.8).all()), bool((p < 0.01).all())
        (True, True)
    """
    labels = _labels(len(a), num_permutations).to(a)
    out = []
    for n in range(a.shape[1]):
        both = torch.cat([a[:, n], b[:, n]])
        distance = torch.cdist(both, both).fill_diagonal_(math.inf)
        near = distance.topk(num_neighbours, largest=False).indices
        votes = (labels[:, near].mean(-1) > 0.5).to(labels)
        out.append((votes == labels).to(a.dtype).mean(-1))
    values = torch.stack(out, -1)
    return values[0], _p_value(values)


def _labels(S: int, num_permutations: int) -> Tensor:
    """The true labelling, then random ones, ``(1 + B, 2 S)``."""
    truth = torch.cat([torch.zeros(S), torch.ones(S)])
    return torch.stack([truth, *(truth[torch.randperm(2 * S)] for _ in range(num_permutations))])


def _p_value(values: Tensor) -> Tensor:
    """Share of labellings with a value at least that of the first, itself counted: exact under the null."""
    return (values >= values[0] - 1e-12).to(values.dtype).mean(0)
