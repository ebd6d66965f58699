"""Clipping and Adam as one function of tensors, which a graph may hold."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae.checks import say

__all__ = ["DIALS", "Moments", "adam", "check_adam", "rate"]

DIALS = ("scale", "lr", "t")  # the numbers that Adam reads, which change from step to step


@dataclass
class Moments:
    """A parameter, Adam's moments of its gradient, and how many steps had been taken when it appeared."""

    parameter: Tensor
    m: Tensor
    v: Tensor
    born: int


def adam(
    loss: Tensor,
    grads: list[Tensor],
    held: list[Moments],
    dials: dict[str, Tensor],
    go: Tensor | None,
    *,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    clip_norm: float,
) -> Tensor:
    """Clip, and move parameters and moments in place unless something is not finite; return the gradient's norm.

    Args:
        loss: looked at only for being finite.
        grads: the gradient, by parameter.
        held: the parameters and their moments.
        dials: what changes from step to step, by the names of ``DIALS``.
        go: whether to move at all; None for yes.
        betas: of Adam.
        eps: of Adam.
        weight_decay: of AdamW.
        clip_norm: the largest norm of the scaled gradient.
    """
    (beta1, beta2), t = betas, dials["t"]
    norm = dials["scale"] * torch.stack([grad.pow(2).sum() for grad in grads]).sum().sqrt()
    factor = dials["scale"] * (clip_norm / (norm + 1e-6)).clamp(max=1.0)
    fine = torch.isfinite(loss) & torch.isfinite(norm)
    fine = fine if go is None else fine & go
    after = torch.where(fine, t + 1, t)
    rates = {}
    for born in {each.born for each in held}:  # a parameter's steps are counted from its first, as torch does
        root = (1 - beta2 ** (after - born)).sqrt()  # moved from under sqrt(v) to m: one division fewer
        rates[born] = dials["lr"] / (1 - beta1 ** (after - born)) * root, eps * root
    decay = 1 - dials["lr"] * weight_decay
    for grad, each in zip(grads, held, strict=True):
        parameter, m, v = each.parameter, each.m, each.v
        dtype = parameter.dtype
        rate, small = rates[each.born]
        g = grad * factor.to(dtype)
        new_m = m + (1 - beta1) * (g - m)
        new_v = beta2 * v + (1 - beta2) * g * g
        kept = parameter * decay.to(dtype) if weight_decay else parameter
        moved = kept - rate.to(dtype) * new_m / (new_v.sqrt() + small.to(dtype))
        for old, new in ((parameter, moved), (m, new_m), (v, new_v)):
            old.copy_(torch.where(fine, new, old))
    t.copy_(after)
    return norm


def rate(lr: Any) -> float:
    """Check a learning rate.

    Raises:
        ValueError: if it is negative or not finite.
    """
    value = float(lr)
    if not 0 <= value < math.inf:
        raise ValueError(say("a finite, non-negative lr", f"{lr}", "lr=1e-3"))
    return value


def check_adam(lr: float, betas: tuple[float, float], eps: float, weight_decay: float, clip_norm: float | None) -> None:
    """Check Adam's settings.

    Raises:
        ValueError: if one is out of its range.
    """
    rate(lr)
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise ValueError(say("two betas in [0, 1)", f"{betas}", "betas=(0.9, 0.999)"))
    if not 0 < eps < math.inf:
        raise ValueError(say("a positive eps", f"{eps}", "eps=1e-8"))
    if not 0 <= weight_decay < math.inf:
        raise ValueError(say("a non-negative weight_decay", f"{weight_decay}", "weight_decay=0.0"))
    if clip_norm is not None and not clip_norm > 0:
        raise ValueError(say("a positive clip_norm, or None", f"{clip_norm}", "clip_norm=10.0"))
