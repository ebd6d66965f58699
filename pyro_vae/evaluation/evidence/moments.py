"""Running moments of values that come in blocks, each with its weight."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["WeightedMoments"]

_TINY = torch.finfo(torch.float64).tiny


class WeightedMoments:
    r"""Mean and scatter of values under weights, block by block, in float64, without cancellation.

    Weights are kept relative to the largest so far, :math:`w_k = e^{\log w_k - \max \log w}`; blocks are merged by
    their means and scatters about them (Chan, Golub & LeVeque 1979, with weights).

    Attributes:
        top: largest log weight so far, ``(N,)``.
        total: sum of weights relative to it, ``(N,)``.
        square: sum of their squares, ``(N,)``.
        mean: weighted mean, ``(N, D)``.
        scatter: weighted sum of squares about the mean, ``(N, D)``.

    Example:
        >>> moments, x = WeightedMoments(), torch.arange(6.0).reshape(6, 1, 1)
        >>> for part in x.split(4):
        ...     moments.add(part)
        >>> float(moments.mean), float(moments.scatter / 6)
        (2.5, 2.9166666666666665)
    """

    top: Tensor
    total: Tensor
    square: Tensor
    mean: Tensor
    scatter: Tensor

    def __init__(self) -> None:
        self._empty = True

    def add(self, value: Tensor, log_w: Tensor | None = None) -> None:
        """Take a block ``(K, N, D)`` with its log weights ``(K, N)``; weights of one if not given."""
        value = value.double()
        log_w = torch.zeros_like(value[..., 0]) if log_w is None else log_w.double()
        if self._empty:
            none = torch.zeros_like(log_w[0])
            self.top, self.total, self.square = none - math.inf, none, none
            self.mean = self.scatter = torch.zeros_like(value[0])
            self._empty = False
        top = torch.maximum(self.top, log_w.amax(0))
        shrink = (self.top - top).nan_to_num(nan=0.0).exp()
        w = (log_w - top).nan_to_num(nan=-math.inf).exp()
        within = w.sum(0)
        before = self.total * shrink
        after = before + within
        centre = torch.einsum("kn,knd->nd", w, value) / within.clamp_min(_TINY)[:, None]
        shift, share = centre - self.mean, (within / after.clamp_min(_TINY))[:, None]
        scatter = torch.einsum("kn,knd->nd", w, (value - centre).square())
        self.scatter = self.scatter * shrink[:, None] + scatter + before[:, None] * share * shift.square()
        self.mean = self.mean + share * shift
        self.square = self.square * shrink.square() + w.square().sum(0)
        self.total, self.top = after, top
