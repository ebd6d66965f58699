"""What mini-batches ask of model and guide: rows that are the same in both, and parameters that are any row's."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from pyro import poutine

from pyro_vae.checks import say
from pyro_vae.inference.target.modules import evaluating
from pyro_vae.inference.target.program import Imputing, Program, frame_of
from pyro_vae.inference.variational.steppers import Data
from pyro_vae.randomness import fork_rng

__all__ = ["check_batches", "imputing", "of_the_batch"]

_Rows = tuple[int, torch.Tensor]  # a plate's full size, and which of its rows are taken


def check_batches(model: Program, guide: Program, train: Data, *, batch_size: int, plate: str) -> int | None:
    """Check that batches of the data mean the same rows to model and guide; return a sub-sampled plate's size.

    A plate that is sub-sampled by the rows of the batch, ``pyro.plate("data", N, subsample=index)`` with index among
    the data, makes of each batch's densities an estimate of all data's. Its latent sites may lie outside the plate.

    Raises:
        ValueError: if the guide's rows are others than the model's (an automatic guide draws its own unless it is given
            ``create_plates``, Pyro's issue 3468); if the guide has parameters of each datum's own that a batch does not
            choose among; if the plate is not of all data.
    """
    N = len(train[0])
    if batch_size == N:
        return None
    ends = [tuple(part[rows] for part in train) for rows in (slice(batch_size), slice(N - batch_size, N))]
    own = [_rows(model, batch, plate) for batch in ends]
    if own[0] is None:
        _check_any_size(model, guide, train, batch_size, plate)
        return None
    full_size = own[0][0]
    if full_size != N:
        remedy = f"pyro.plate({plate!r}, {N}, subsample=index); validation=None keeps all rows"
        raise ValueError(say(f"plate {plate!r} of the {N} training data", f"{full_size}", remedy))
    chosen = _same(own[0], _rows(model, ends[0], plate))  # else the model draws its rows, in training the guide's
    if chosen and not all(_same(rows, _rows(guide, batch, plate)) for rows, batch in zip(own, ends, strict=True)):
        plates = f"pyro.plate({plate!r}, {N}, subsample=index, dim=-1)"
        remedy = f"create_plates=lambda *batch: {plates} in an automatic guide, or that plate in any other"
        raise ValueError(say(f"the batch's rows of plate {plate!r} in the guide", "rows that it draws itself", remedy))
    return full_size


def _same(a: _Rows | None, b: _Rows | None) -> bool:
    """Whether two programs take the same rows; one that has no such plate takes those of the other."""
    return a is None or b is None or torch.equal(a[1], b[1])


def of_the_batch(program: Program, full_size: int | None) -> Program:
    """The program whose log densities are the batch's share of all data's, where they are an estimate of these."""
    return program if full_size is None else _Share(program, full_size)


class _Share:
    def __init__(self, program: Callable[..., Any], full_size: int) -> None:
        self.program = program
        self.full_size = full_size

    def __call__(self, *batch: Any) -> Any:
        with poutine.scale(scale=len(batch[0]) / self.full_size):
            return self.program(*batch)


def imputing(program: Program, names: Iterable[str]) -> Program:
    """The program as it is, or where some of its observed sites have a mask, with the prior of what it takes out."""
    return _Imputing(program) if any(name.endswith("_observed") for name in names) else program


class _Imputing:
    def __init__(self, program: Callable[..., Any]) -> None:
        self.program = program

    def __call__(self, *batch: Any) -> Any:
        with Imputing():
            return self.program(*batch)


def _rows(program: Program, batch: Data, plate: str) -> _Rows | None:
    """The full size of a plate that a program sub-samples, and the rows that it takes; None if it takes all."""
    trace = _trace(program, batch)
    frames = (frame_of(site, plate) for site in trace.nodes.values() if site["type"] == "sample")
    frame = next((frame for frame in frames if frame is not None), None)
    if frame is None or frame.full_size is None or frame.size == frame.full_size:
        return None
    return int(frame.full_size), torch.as_tensor(trace.nodes[plate]["value"])


def _check_any_size(model: Program, guide: Program, train: Data, batch_size: int, plate: str) -> None:
    """Check that a guide takes another number of rows where the model does: else its parameters are rows' own."""
    size = batch_size - 1 or 2
    other = tuple(part[:size] for part in train)
    if not all(_takes(model, other, plate, size)):
        return
    if all(_takes(guide, other, plate, size)):
        return
    remedy = (
        f"batch_size={len(train[0])}, an amortised guide, or pyro.plate({plate!r}, {len(train[0])}, subsample=index) "
        "in model and create_plates, with index = torch.arange(N) among the data"
    )
    raise ValueError(say("a guide whose parameters are not of each datum's own", f"batches of {batch_size}", remedy))


def _takes(program: Program, batch: Data, plate: str, size: int) -> list[bool]:
    """Of each latent site in the plate, whether it has as many rows as the batch; False alone if the program fails."""
    try:
        nodes = _trace(program, batch).nodes
    except (RuntimeError, ValueError, IndexError, AssertionError):
        return [False]
    sites = [site for site in nodes.values() if site["type"] == "sample" and not site["is_observed"]]
    framed = [(site, frame_of(site, plate)) for site in sites if not poutine.util.site_is_subsample(site)]
    return [frame.size == size == site["fn"].batch_shape[frame.dim] for site, frame in framed if frame is not None]


@torch.no_grad()
def _trace(program: Program, batch: Data) -> Any:
    with evaluating(program), fork_rng(), poutine.block(), poutine.trace() as tracer:
        program(*batch)
    return tracer.trace
