"""Distances to nearest neighbours: precision and recall of samples, and whether samples are copies."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_vae.checks import positive_integer, same_width, say

__all__ = ["copying", "precision_recall"]


def precision_recall(real: Tensor, generated: Tensor, *, num_neighbours: int = 3) -> tuple[float, float]:
    r"""Return the share of generated rows that look real, and the share of real rows that the generator can make.

    A set is spread out to the balls around its rows that reach to their k-th neighbour in it. Precision is the share
    of generated rows inside the real balls, recall that of real rows inside the generated ones; for two sets of one
    law they are equal, and below 1.

    Args:
        real: features ``(N, F)``.
        generated: features ``(S, F)``; as many as real ones, or the two shares do not compare.
        num_neighbours: k.

    Raises:
        ValueError: if the widths differ, or a set has no more than k rows.

    Source:
        Kynkaanniemi, Karras, Laine, Lehtinen & Aila 2019, equations 1 and 2.

    Example:
        >>> x = torch.randn(50, 2)
        >>> precision_recall(x, x + 100)
        (0.0, 0.0)
    """
    same_width(real, generated, "real", "generated")
    k = positive_integer(num_neighbours, "num_neighbours")
    if min(len(real), len(generated)) <= k:
        got = f"{len(real)} and {len(generated)}"
        raise ValueError(say(f"more than {k} rows in each set", got, "more rows, or a smaller num_neighbours"))
    real, generated = real.flatten(1).double(), generated.flatten(1).double()
    return _inside(generated, real, k), _inside(real, generated, k)


def copying(generated: Tensor, train: Tensor, held_out: Tensor) -> tuple[float, float]:
    r"""Return how often a generated row is nearer to the training rows than a held-out one, and a p-value.

    :math:`P(d(x_g) < d(x_h))`, d the distance to the nearest training row: 1/2 of a generator whose law is the data's,
    towards 1 if it repeats training rows, towards 0 if it is off the data. The p-value is Mann and Whitney's,
    one-sided, of "no nearer than held-out rows".

    Args:
        generated: ``(S, D)``.
        train: the rows that the generator learned from, ``(N, D)``.
        held_out: others of the same source, ``(M, D)``.

    Raises:
        ValueError: if the widths differ.

    Source:
        Meehan, Chaudhuri & Dasgupta 2020, A non-parametric test to detect data-copying in generative models, section 3.

    Example:
        >>> x = torch.randn(100, 3)
        >>> copying(x[:40], x[:80], x[80:])[0]
        1.0
    """
    from scipy.stats import mannwhitneyu

    same_width(generated, train, "generated", "train")
    same_width(held_out, train, "held_out", "train")
    train = train.flatten(1).double()
    near, far = (_nearest(rows.flatten(1).double(), train) for rows in (generated, held_out))
    found = mannwhitneyu(far.cpu().numpy(), near.cpu().numpy(), alternative="greater")
    return float(found.statistic) / (len(near) * len(far)), float(found.pvalue)


def _inside(points: Tensor, centres: Tensor, k: int) -> float:
    """The share of points in the balls around centres that reach to the k-th other centre."""
    radius = torch.cat([torch.cdist(c, centres).kthvalue(k + 1, -1).values for c in centres.split(_BLOCK)])
    inside = [(torch.cdist(p, centres) <= radius).any(-1) for p in points.split(_BLOCK)]
    return float(torch.cat(inside).double().mean())


def _nearest(points: Tensor, centres: Tensor) -> Tensor:
    return torch.cat([torch.cdist(p, centres).min(-1).values for p in points.split(_BLOCK)])


_BLOCK = 500  # rows at once
