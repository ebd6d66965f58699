"""Clipping and Adam as one function of tensors, which a graph may hold, and the state that it moves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae import checks
from pyro_vae.checks import say

__all__ = ["SCHEDULED", "Adam", "AdamState"]

SCHEDULED = ("scale", "lr", "num_steps")  # the numbers that Adam reads, which change from step to step


@dataclass
class AdamState:
    """A parameter, Adam's moments of its gradient, and how many steps had been taken when it appeared."""

    parameter: Tensor
    m: Tensor
    v: Tensor
    first_step: int


class Adam:
    """Adam's settings (see ``CompiledStep``), and its state of each parameter that has had a gradient.

    Attributes:
        lr: the learning rate.
        together: move all parameters side by side in one vector: fewer operations, for steps that no compiler fuses.
        scheduled: the numbers of ``SCHEDULED`` as tensors, so that no graph holds them.

    Raises:
        ValueError: if a setting is out of its range.
    """

    def __init__(
        self,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
        clip_norm: float | None,
        *,
        together: bool = False,
    ) -> None:
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(say("two betas in [0, 1)", f"{betas}", "betas=(0.9, 0.999)"))
        if clip_norm is not None and not clip_norm > 0:
            raise ValueError(say("a positive clip_norm, or None", f"{clip_norm}", "clip_norm=10.0"))
        self.lr = checks.positive_number(lr, "lr", example=1e-3, zero=True)
        self.betas = betas
        self.eps = checks.positive_number(eps, "eps", example=1e-8)
        self.weight_decay = checks.positive_number(weight_decay, "weight_decay", example=1e-2, zero=True)
        self.clip_norm = math.inf if clip_norm is None else float(clip_norm)
        self.together = together
        self.scheduled = {name: torch.zeros((), dtype=torch.float64) for name in SCHEDULED}
        self._numbers: dict[str, float] = {}  # those of the tensors that only `schedule` sets
        self._states: dict[int, AdamState] = {}  # by the parameter's id
        self._waiting: list[tuple[Tensor, Tensor, int]] = []  # of a loaded state, for parameters yet to appear

    @property
    def num_steps(self) -> int:
        """How many steps have been taken."""
        return int(self.scheduled["num_steps"])

    @property
    def parameters(self) -> list[Tensor]:
        """The parameters that have been moved so far, in the order of their first steps."""
        return [state.parameter for state in self._states.values()]

    def schedule(self, device: torch.device, scale: float, lr: float | None) -> None:
        """Set the numbers that change from step to step."""
        if self.scheduled["scale"].device != device:
            self.scheduled = {name: number.to(device) for name, number in self.scheduled.items()}
        if lr is not None and lr != self.lr:
            self.lr = checks.positive_number(lr, "lr", example=1e-3, zero=True)
        for name, number in (("scale", scale), ("lr", self.lr)):
            if self._numbers.get(name) != number:
                self._numbers[name] = number
                self.scheduled[name].fill_(number)

    def adopt(self, leaf: Tensor) -> AdamState:
        """Return a parameter's state, a new one if this is its first step."""
        if id(leaf) not in self._states:
            zeros = (torch.zeros_like(leaf).detach(), torch.zeros_like(leaf).detach(), self.num_steps)
            self._states[id(leaf)] = AdamState(leaf, *(self._waiting.pop(0) if self._waiting else zeros))
        return self._states[id(leaf)]

    def known(self, leaf: Tensor) -> AdamState | None:
        """Return a parameter's state; None if it has had no step."""
        return self._states.get(id(leaf))

    def update(
        self,
        loss: Tensor,
        grads: list[Tensor],
        states: list[AdamState],
        scheduled: dict[str, Tensor],
        go: Tensor | None = None,
    ) -> Tensor:
        """Clip, and move parameters and moments in place unless something is not finite; return the gradient's norm.

        Args:
            loss: looked at only for being finite.
            grads: the gradient, by parameter.
            states: the parameters and their moments.
            scheduled: what changes from step to step.
            go: whether to move at all; None for yes.
        """
        (beta1, beta2), t = self.betas, scheduled["num_steps"]
        groups = _side_by_side(grads, states) if self.together else _each(grads, states)
        norm = scheduled["scale"] * torch.stack([g.pow(2).sum() for g, *_ in groups]).sum().sqrt()
        factor = scheduled["scale"] * (self.clip_norm / (norm + 1e-6)).clamp(max=1.0)
        fine = torch.isfinite(loss) & torch.isfinite(norm)
        fine = fine if go is None else fine & go
        after = torch.where(fine, t + 1, t)
        decay = 1 - scheduled["lr"] * self.weight_decay
        for grad, olds, members in groups:
            dtype, first = grad.dtype, members[0].first_step  # a parameter's steps are counted from its first
            root = (1 - beta2 ** (after - first)).sqrt()  # moved from under sqrt(v) to m: one division fewer
            rate = scheduled["lr"] / (1 - beta1 ** (after - first)) * root
            parameter, m, v = olds
            g = grad * factor.to(dtype)
            new_m = m + (1 - beta1) * (g - m)
            new_v = beta2 * v + (1 - beta2) * g * g
            kept = parameter * decay.to(dtype) if self.weight_decay else parameter
            moved = kept - rate.to(dtype) * new_m / (new_v.sqrt() + (self.eps * root).to(dtype))
            places = zip(*((s.parameter, s.m, s.v) for s in members), strict=True)
            for old, new, own in zip(olds, (moved, new_m, new_v), places, strict=True):
                _put(torch.where(fine, new, old), own)
        t.copy_(after)
        return norm

    def state_dict(self) -> dict[str, Any]:
        """Return steps taken, learning rate, and of each parameter its moments and the steps before its first."""
        states = [(s.m.clone(), s.v.clone(), s.first_step) for s in self._states.values()] + self._waiting
        moments, first_steps = [(m, v) for m, v, _ in states], [first for _, _, first in states]
        return {"num_steps": self.num_steps, "lr": self.lr, "moments": moments, "first_steps": first_steps}

    def load_state_dict(self, state: dict[str, Any]) -> bool:
        """Take up a state; return whether the steps at which known parameters appeared are still the same.

        Raises:
            ValueError: if the moments do not fit the parameters.
        """
        pairs = zip(state["moments"], state["first_steps"], strict=False)
        moments = [(m.clone(), v.clone(), int(first)) for (m, v), first in pairs]
        known = self.parameters
        if known and [p.shape for p in known] != [m.shape for m, _, _ in moments]:
            wanted, got = [tuple(p.shape) for p in known], [tuple(m.shape) for m, _, _ in moments]
            raise ValueError(say(f"moments of shapes {wanted}", f"{got}", "the state of the same model and guide"))
        self.lr = float(state["lr"])
        self.scheduled["num_steps"].fill_(int(state["num_steps"]))
        same = [s.first_step for s in self._states.values()] == [first for _, _, first in moments[: len(known)]]
        for own, (m, v, first) in zip(self._states.values(), moments, strict=False):
            own.m.copy_(m)
            own.v.copy_(v)
            own.first_step = first
        self._waiting = moments[len(known) :]
        return same

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_states": list(self._states.values())}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._states = {id(each.parameter): each for each in state["_states"]}


_Group = tuple[Tensor, tuple[Tensor, ...], list[AdamState]]  # gradient, parameters and moments that move alike


def _each(grads: list[Tensor], states: list[AdamState]) -> list[_Group]:
    return [(grad, (s.parameter, s.m, s.v), [s]) for grad, s in zip(grads, states, strict=True)]


def _side_by_side(grads: list[Tensor], states: list[AdamState]) -> list[_Group]:
    """Those of a kind and of as many steps in one vector."""
    alike: dict[Any, list[tuple[Tensor, AdamState]]] = {}
    for grad, s in zip(grads, states, strict=True):
        alike.setdefault((s.first_step, s.parameter.dtype, s.parameter.device), []).append((grad, s))
    return [
        (
            torch.cat([grad.flatten() for grad, _ in group]),
            tuple(torch.cat([getattr(s, name).flatten() for _, s in group]) for name in ("parameter", "m", "v")),
            [s for _, s in group],
        )
        for group in alike.values()
    ]


def _put(values: Tensor, places: Sequence[Tensor]) -> None:
    """Copy values into one tensor of their shape, or into several one after the other."""
    if len(places) == 1:
        places[0].copy_(values.view_as(places[0]))
        return
    pieces = values.split([place.numel() for place in places])
    torch._foreach_copy_(list(places), [piece.view_as(place) for piece, place in zip(pieces, places, strict=True)])
