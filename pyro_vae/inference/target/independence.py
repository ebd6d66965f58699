"""Whether data are independent given the latents of each, as N posteriors beside each other need."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["rows_are_tied"]

_MOST_ROWS = 10_000  # above which the look costs more memory than routes that go block by block
_FACTORS = (-4.0, -2.0, -1.0, -0.5, 0.5, 1.0, 2.0, 4.0)  # powers of two, which leave no rounding behind


def rows_are_tied(log_joint: Callable[[Tensor], Tensor], u: Tensor) -> bool:
    r"""Say whether the density of one row moves with the latents of another.

    Where none does, the gradient of :math:`\sum_n w_n \log p(x_n, u_n)` by u_n is w_n times that with all weights 1. A
    pair of rows that are tied is overlooked where both have the same of eight weights.

    Args:
        log_joint: of u ``(N, L)``, one value a row.
        u: a point ``(N, L)``.
    """
    if u.numel() == 0 or not 1 < len(u) <= _MOST_ROWS:
        return False
    generator = torch.Generator().manual_seed(0)
    weight = torch.tensor(_FACTORS)[torch.randint(len(_FACTORS), (len(u),), generator=generator)].to(u)
    point = u.detach().clone().requires_grad_()
    try:
        with torch.enable_grad():
            value = log_joint(point)
            (plain,) = torch.autograd.grad(value.sum(), point, retain_graph=True)
            (weighted,) = torch.autograd.grad((weight * value).sum(), point)
    except (RuntimeError, NotImplementedError):  # an operation without a derivative: what needs one will say so
        return False
    expected = weight.unsqueeze(-1) * plain
    rounding = 1e-3 * expected.abs().amax(-1, keepdim=True) + 1e-6 * expected.nan_to_num().abs().max()
    return bool(((weighted - expected).abs() > rounding).any())  # NaN is no difference
