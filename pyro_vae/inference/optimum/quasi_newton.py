"""Climbing many functions at once by L-BFGS, each at its own pace."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["History", "QuasiNewton"]

_SUFFICIENT = 1e-4  # share of the promised rise that a step must bring
_MOST_TRIES = 25  # evaluations along one direction


class History:
    r"""The last m steps and what they taught about the curvature, of a batch ``B`` of functions.

    With steps s and the gradient's decrease y along each, the inverse Hessian of minus the function is estimated by
    the limited-memory formula of Broyden, Fletcher, Goldfarb and Shanno, from a diagonal :math:`\alpha` that learns
    from every pair as Pathfinder's algorithm 3 does.

    Attributes:
        steps: s, oldest first, ``(m, *B, L)``; zero where a place is still empty.
        drops: y, ``(m, *B, L)``.
        products: s'y, ``(m, *B)``; one where a place is empty.
        diagonal: alpha, ``(*B, L)``.

    Source:
        Nocedal & Wright 2006, algorithm 7.4; Zhang, Carpenter, Gelman & Vehtari 2022, algorithm 3.
    """

    def __init__(self, u: Tensor, size: int) -> None:
        self.steps = u.new_zeros(size, *u.shape)
        self.drops = u.new_zeros(size, *u.shape)
        self.products = u.new_ones(size, *u.shape[:-1])
        self.diagonal = torch.ones_like(u)

    def learn(self, step: Tensor, drop: Tensor, accepted: Tensor) -> None:
        """Take a pair ``(*B, L)`` in where it was accepted ``(*B)`` and the function curves downwards along it."""
        product = (step * drop).sum(-1)
        enough = accepted & (product > 1e-10 * drop.square().sum(-1)) & (product > 0)
        safe = torch.where(enough, product, 1.0)
        self.diagonal = torch.where(enough.unsqueeze(-1), self._next_diagonal(step, drop, safe), self.diagonal)
        for name, new in (("steps", step), ("drops", drop), ("products", safe)):
            old = getattr(self, name)
            mask = enough.unsqueeze(-1) if new.dim() == step.dim() else enough
            setattr(self, name, torch.where(mask, torch.cat([old[1:], new.unsqueeze(0)]), old))

    def _next_diagonal(self, s: Tensor, y: Tensor, b: Tensor) -> Tensor:
        """Pathfinder's algorithm 3: the diagonal of the inverse Hessian, corrected by one pair."""
        alpha, b = self.diagonal, b.unsqueeze(-1)
        a = (y.square() * alpha).sum(-1, keepdim=True)
        c = (s.square() / alpha).sum(-1, keepdim=True)
        inverse = a / (b * alpha) + y.square() / b - a * s.square() / (b * c * alpha.square())
        found = 1 / inverse
        return torch.where(found.isfinite() & (found > 0), found, alpha)

    def forget(self, where: Tensor) -> None:
        """Drop the pairs of some functions ``(*B)``."""
        self.steps = self.steps.masked_fill(where.unsqueeze(-1), 0.0)
        self.drops = self.drops.masked_fill(where.unsqueeze(-1), 0.0)
        self.products = self.products.masked_fill(where, 1.0)

    def times(self, vector: Tensor) -> Tensor:
        """Return the inverse Hessian's estimate times a vector ``(*B, L)``, by the two loops over the pairs."""
        weights = []
        for s, y, b in zip(self.steps.flip(0), self.drops.flip(0), self.products.flip(0), strict=True):
            weight = ((s * vector).sum(-1) / b).unsqueeze(-1)
            vector = vector - weight * y
            weights.append(weight)
        vector = self.diagonal * vector
        for s, y, b, weight in zip(self.steps, self.drops, self.products, reversed(weights), strict=True):
            vector = vector + s * (weight - ((y * vector).sum(-1) / b).unsqueeze(-1))
        return vector


class QuasiNewton:
    """L-BFGS with a line search by Wolfe's conditions, of a batch ``B`` of functions in step with their evaluations.

    It does not call the functions: :attr:`trial` says where they are to be evaluated next, all at once, and
    :meth:`tell` takes values and gradients there. Each function steps on, or tries another length, by itself.

    Args:
        u: where to start, ``(*B, L)``.
        value: the functions there, ``(*B)``, finite.
        grad: their gradients, ``(*B, L)``, finite.
        history: m, pairs to keep.
        tolerance: a climb has ended where a step promises a smaller rise.
        flatter: share of the old slope that may be left along a step.

    Attributes:
        u: where each function stands, ``(*B, L)``.
        value: its value there, ``(*B)``.
        grad: its gradient there, ``(*B, L)``.
        trial: where to evaluate next, ``(*B, L)``.
        history: the pairs.
        ended: whether a climb has ended, ``(*B)``: at the top, or because no step brings a rise.
        promise: the rise that the next step promises by the quadratic model, ``(*B)``.

    Source:
        Nocedal & Wright 2006, algorithms 7.5 and 3.5; Lewis & Overton 2013 for the bracket.

    Example:
        >>> climb = QuasiNewton(torch.ones(3, 2), -torch.ones(3), -torch.ones(3, 2), history=4)  # of -|u|^2 / 2
        >>> while not climb.ended.all():
        ...     _ = climb.tell(-0.5 * climb.trial.square().sum(-1), -climb.trial)
        >>> bool(climb.u.abs().max() < 1e-3)
        True
    """

    def __init__(
        self,
        u: Tensor,
        value: Tensor,
        grad: Tensor,
        *,
        history: int = 6,
        tolerance: float | None = None,
        flatter: float = 0.5,
    ) -> None:
        self.u, self.value, self.grad = u, value.to(u), grad
        self.history = History(u, history)
        self.tolerance = (1e-6 if u.dtype == torch.float32 else 1e-11) if tolerance is None else tolerance
        self.flatter = flatter
        self.ended = torch.zeros_like(value, dtype=torch.bool)
        self._fresh = torch.ones_like(self.ended)  # no pair learnt since the start, or since a search failed
        nothing = torch.zeros_like(self.value)
        self._direction, self._length, self._slope = torch.zeros_like(u), nothing, nothing
        self._low, self._low_slope, self._high, self._tries = nothing, nothing, nothing, nothing
        self._turn(torch.ones_like(self.ended))

    def _turn(self, where: Tensor) -> None:
        """Take a new direction, and begin to search along it, of the functions ``where``."""
        found = self.history.times(self.grad)
        slope = (found * self.grad).sum(-1)
        lost = ~(slope > 0) | ~slope.isfinite()
        found = torch.where(lost.unsqueeze(-1), self.grad, found)
        slope = torch.where(lost, self.grad.square().sum(-1), slope)
        first = torch.rsqrt(found.square().sum(-1).clamp_min(1e-30)).clamp_max(1.0)
        length = torch.where(self._fresh, first, 1.0)
        self._direction = torch.where(where.unsqueeze(-1), found, self._direction)
        self._slope = torch.where(where, slope, self._slope)
        self.promise = 0.5 * self._slope
        self._length = torch.where(where, length, self._length)
        self._low = self._low.masked_fill(where, 0.0)
        self._low_slope = torch.where(where, slope, self._low_slope)
        self._high = self._high.masked_fill(where, math.inf)
        self._tries = self._tries.masked_fill(where, 0.0)
        self.ended |= where & ~self._fresh & (self.promise < self.tolerance)
        self.ended |= where & (self.promise < 1e-3 * self.tolerance)
        self._aim()

    def _aim(self) -> None:
        length = torch.where(self.ended, 0.0, self._length)
        self.trial = self.u + length.unsqueeze(-1) * self._direction

    def tell(self, value: Tensor, grad: Tensor) -> Tensor:
        """Take the functions' values ``(*B)`` and gradients ``(*B, L)`` at the trial; return which moved, ``(*B)``."""
        value, grad = value.to(self.u), grad.to(self.u)
        finite = value.isfinite() & grad.isfinite().all(-1)
        value = torch.where(finite, value, -math.inf)
        grad = torch.where(finite.unsqueeze(-1), grad, 0.0)
        noise = 4 * torch.finfo(value.dtype).eps * self.value.abs()  # rounding is no fall
        rises = finite & (value >= self.value + _SUFFICIENT * self._length * self._slope - noise)
        slope = (grad * self._direction).sum(-1)
        moved = ~self.ended & rises & (slope.abs() <= self.flatter * self._slope)
        last = ~self.ended & ~moved & (self._tries >= _MOST_TRIES)
        moved |= last & rises & (value > self.value)  # the search failed, but it is higher here
        failed = last & ~moved
        self._narrow(finite, rises & (slope > 0), slope)
        self._step(value, grad, moved)
        self.ended |= failed & self._fresh
        again = failed & ~self._fresh
        self.history.forget(again)
        self._fresh |= again
        self._turn(moved | again)
        return moved

    def _narrow(self, finite: Tensor, near: Tensor, slope: Tensor) -> None:
        """Shrink the bracket around a length that satisfies both conditions, and choose the next one in it."""
        t = self._length
        curve = (self._low_slope - slope) / (t - self._low).clamp_min(1e-30)
        guess = self._low + self._low_slope / curve.clamp_min(1e-30)  # where the slope's secant vanishes
        self._low_slope = torch.where(near, slope, self._low_slope)
        self._low = torch.where(near, t, self._low)
        self._high = torch.where(near, self._high, t)
        open_end = self._high.isinf()
        width = torch.where(open_end, 9 * self._low, self._high - self._low)
        bottom, top = self._low + 0.1 * width, self._low + 0.9 * width
        guess = torch.where(finite & (curve > 0), guess, self._low + torch.where(open_end, 0.3, 0.5) * width)
        halved = self._low + 0.5 * width
        self._length = torch.where((self._tries % 3 == 2) & ~open_end, halved, guess.clamp(bottom, top))
        self._tries = self._tries + 1

    def _step(self, value: Tensor, grad: Tensor, moved: Tensor) -> None:
        step = torch.where(moved.unsqueeze(-1), self.trial - self.u, 0.0)
        drop = torch.where(moved.unsqueeze(-1), self.grad - grad, 0.0)
        self.history.learn(step, drop, moved)
        self._fresh = self._fresh & ~moved
        self.u = torch.where(moved.unsqueeze(-1), self.trial, self.u)
        self.value = torch.where(moved, value, self.value)
        self.grad = torch.where(moved.unsqueeze(-1), grad, self.grad)
