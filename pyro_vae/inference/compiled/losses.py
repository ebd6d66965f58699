"""The seam between an ELBO and a graph: its loss as a traceable function of parameters, data, noise and one weight.

The weight multiplies the log densities of latent sites. It is an input of every graph, so that it may change from step
to step. An ELBO of another kind than Pyro's is traceable if it defines ``unweighted_loss(model, guide, *args,
**kwargs)``: its differentiable loss at weight 1, by tensor operations alone. It may have a ``weight`` of the present
step, a number, and ``advance()``, which counts a step with gradients.
"""

from __future__ import annotations

from typing import Any

from pyro.distributions.util import is_identically_zero
from pyro.infer import (
    ELBO,
    JitTrace_ELBO,
    JitTraceMeanField_ELBO,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceMeanField_ELBO,
)
from pyro.infer.traceenum_elbo import _compute_dice_elbo
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes

from pyro_vae.inference.compiled.backend import NotTraceableError

__all__ = ["advance", "eager_loss", "must_be_traceable", "traceable_loss", "weight_of"]

_PYROS = (Trace_ELBO, JitTrace_ELBO, TraceMeanField_ELBO, JitTraceMeanField_ELBO, TraceEnum_ELBO)
_LOSSES = ("loss", "differentiable_loss", "loss_and_grads")


def must_be_traceable(elbo: ELBO) -> None:
    """See that the loss of this kind of ELBO is what the functions here take it for.

    Raises:
        NotTraceableError: if it is of an unknown kind, or a subclass has a loss of its own beside what is traced.
    """
    kind = type(elbo)
    known = (cls for cls in kind.__mro__ if cls in _PYROS or "unweighted_loss" in vars(cls))
    owner = next(known, None)
    if owner is None or any(getattr(kind, name) is not getattr(owner, name) for name in _LOSSES):
        raise NotTraceableError(f"{kind.__name__} has no compiled twin")


def weight_of(elbo: ELBO) -> float:
    """The weight that the ELBO itself gives latent sites at the present step."""
    return float(getattr(elbo, "weight", 1.0))


def advance(elbo: ELBO) -> None:
    """Count a step with gradients, where the ELBO's weight follows a schedule."""
    if hasattr(elbo, "advance"):
        elbo.advance()


def eager_loss(elbo: Any, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
    """Return the ELBO's own differentiable loss at weight 1; a number if there is no site."""
    if isinstance(elbo, TraceEnum_ELBO):
        return _enumerated(elbo, elbo._get_traces(model, guide, args, kwargs))
    if isinstance(elbo, Trace_ELBO):
        return Trace_ELBO.differentiable_loss(elbo, model, guide, *args, **kwargs)
    return elbo.unweighted_loss(model, guide, *args, **kwargs)


def traceable_loss(elbo: Any, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
    """Return the same, computed by tensor operations alone.

    Raises:
        NotTraceableError: if a site has no reparametrised sample, and the gradient needs one.
    """
    if not isinstance(elbo, (Trace_ELBO, TraceEnum_ELBO)):
        return elbo.unweighted_loss(model, guide, *args, **kwargs)
    traces = list(elbo._get_traces(model, guide, args, kwargs))
    for _, guide_trace in traces:
        for name, site in guide_trace.nodes.items():
            if site["type"] == "sample" and not is_identically_zero(site["score_parts"].score_function):
                raise NotTraceableError(f"site {name!r} has no reparametrised sample")
    with _NoNumbersOfPyros():
        if isinstance(elbo, TraceEnum_ELBO):
            return _enumerated(elbo, traces)
        # without score functions Pyro's surrogate has the value of the loss
        return sum(elbo._differentiable_loss_particle(*pair)[1] for pair in traces) / elbo.num_particles


def _enumerated(elbo: TraceEnum_ELBO, traces: Any) -> Any:
    """``TraceEnum_ELBO.differentiable_loss``, which refuses to be evaluated without a gradient."""
    return -sum(_compute_dice_elbo(*pair) for pair in traces) / elbo.num_particles


class _NoNumbersOfPyros(TorchFunctionMode):
    """Spares Pyro's own code from making numbers of tensors, which a tracer would refuse; no graph takes them here.

    Its questions get true answers: whether the scales in a sum are the same, and whether no probability is 0, which
    none is where the guide samples nothing discrete.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in (Tensor.__float__, Tensor.__bool__):
            with _disable_current_modes():
                return func(*args)
        return 0.0 if func is Tensor.item else func(*args, **(kwargs or {}))
