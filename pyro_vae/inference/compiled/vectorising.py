"""A traced program over several runs at once: what it reads, whether it can be, and its graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyro_vae.inference.compiled.backend import NotTraceableError
from pyro_vae.inference.compiled.call import Call
from pyro_vae.inference.compiled.recording import Recording, record
from pyro_vae.inference.compiled.states import CHANGES
from pyro_vae.inference.compiled.values import noting_values
from pyro_vae.inference.compiled.watch import Watch
from pyro_vae.randomness import fork_rng

__all__ = ["draws_noise", "recorded", "vectorised"]


def recorded(call: Call) -> tuple[Recording, Watch]:
    """What the program reads from outside, of torch and of Python; twice, for it may be others every time."""
    with fork_rng():
        call.reference()  # parameters that appear at the first run
        before: Watch | None = None
        for _ in range(2):
            with record(call.leaves) as recording:
                call.reference()
            if before is not None and not before.holds():
                raise NotTraceableError(CHANGES)
            before = watch = Watch(call.programs, recording.tensors, recording.parameters)
    if recording.obstacle or recording.written or watch.generator:
        raise NotTraceableError(recording.obstacle or "it writes to tensors from outside, or has a random generator")
    return recording, watch


def draws_noise(node: Any) -> bool:
    """Whether a node of a graph draws random numbers."""
    operation = node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload)
    return operation and torch.Tag.nondeterministic_seeded in node.target.tags


def vectorised(module: Any, in_dims: Any, inputs: list[Tensor]) -> Callable[..., list[Tensor]]:
    """The graph over all runs as one graph: the sum of the losses, and the stacked gradients."""
    from torch.fx.experimental.proxy_tensor import make_fx

    def run(*tensors: Tensor) -> list[Tensor]:
        losses, *grads = torch.vmap(lambda *each: tuple(module(*each)), in_dims=in_dims)(*tensors)
        return [losses.sum(), *grads]

    try:
        with torch.no_grad(), noting_values():
            found: Callable[..., list[Tensor]] = make_fx(run)(*[tensor.detach() for tensor in inputs])
    except Exception as error:  # whatever vmap cannot take, each run is trained alone
        raise NotTraceableError(f"it cannot be vectorised: {str(error).partition(chr(10))[0]}") from error
    return found
