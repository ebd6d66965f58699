"""The tensors of several runs of one program as one tensor each, of which the runs' parameters are views."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from pyro_vae.inference.compiled.backend import NotTraceableError

__all__ = ["StackedTensors"]


class StackedTensors:
    """What R runs read from outside, stacked where it differs from run to run.

    Args:
        parameters: what each run learns.

    Raises:
        NotTraceableError: if runs share a parameter, or two parameters share memory.
    """

    def __init__(self, parameters: Sequence[Sequence[Tensor]]) -> None:
        self._learnt = [{id(p) for p in own} for own in parameters]
        places = [p.untyped_storage().data_ptr() for own in parameters for p in own if p.numel()]
        if len({*places}) < len(places):
            raise NotTraceableError("runs share a parameter, or parameters of one share memory")
        self._stacked: dict[int, Tensor] = {}  # by the id of the first run's tensor
        self._own: dict[int, Sequence[Tensor]] = {}  # by the id of the stacked tensor

    def of(self, first: Tensor) -> Tensor:
        """Return the stacked tensor of which this is the first run's."""
        return self._stacked[id(first)]

    def of_run(self, run: int, stacked: Tensor) -> Tensor:
        """Return a run's own tensor in a stacked one."""
        return self._own[id(stacked)][run]

    def stack(self, read: Sequence[Sequence[Tensor]], frozen: Collection[int]) -> tuple[list[Tensor], list[int | None]]:
        """Return the tensors that the runs read, one for all, and in which dimension each is stacked, if so.

        Args:
            read: by run, in the same order.
            frozen: ids of those of the first run whose values a graph holds.

        Raises:
            NotTraceableError: if they do not correspond.
        """
        found: list[Tensor] = []
        dims: list[int | None] = []
        if len({len(tensors) for tensors in read}) > 1:
            raise NotTraceableError("the runs read different numbers of tensors")
        for each in zip(*read, strict=True):
            first = each[0]
            if any(
                (t.shape, t.dtype, t.requires_grad) != (first.shape, first.dtype, first.requires_grad) for t in each
            ):
                raise NotTraceableError("the runs' tensors differ in shape or kind")
            if not first.requires_grad and all(t is first or torch.equal(t, first) for t in each):
                found.append(first)
                dims.append(None)
                continue
            if id(first) in frozen:
                raise NotTraceableError("the runs have masks of their own")
            if id(first) not in self._stacked:
                if first.requires_grad and any(id(t) not in own for t, own in zip(each, self._learnt, strict=True)):
                    raise NotTraceableError("it reads parameters that are not its own")
                self._stacked[id(first)] = self._joined(each)
            found.append(self._stacked[id(first)])
            dims.append(0)
        return found, dims

    def _joined(self, each: Sequence[Tensor]) -> Tensor:
        """The runs' tensors as one, of which they become views if they are learnt."""
        with torch.no_grad():
            stacked = torch.stack([t.detach() for t in each])
        if each[0].requires_grad:
            stacked.requires_grad_()
            self._own[id(stacked)] = each
            for run, tensor in enumerate(each):
                tensor.data = stacked.data[run]
        return stacked

    def release(self) -> None:
        """Give every run's parameters memory of their own."""
        for own in self._own.values():
            for view in own:
                view.data = view.detach().clone()
