"""ELBOs whose loss and gradient run as one compiled tensor graph."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro.infer import ELBO, Trace_ELBO, TraceMeanField_ELBO
from pyro.poutine.runtime import _PYRO_STACK
from pyro.util import warn_if_nan
from torch import Tensor
from torch.autograd.function import once_differentiable

from pyro_vae import checks
from pyro_vae.inference.compiled.backend import Run
from pyro_vae.inference.compiled.call import Call, Scalar
from pyro_vae.inference.compiled.graphs import Graphs
from pyro_vae.inference.compiled.losses import advance, must_be_traceable, weight_of
from pyro_vae.inference.compiled.tracing import Graph

__all__ = ["CompiledELBO", "CompiledTraceMeanField_ELBO", "CompiledTrace_ELBO", "traceable"]


class CompiledELBO(ELBO):
    """Any ELBO of this package or of Pyro's plain ones, with loss and gradient as one compiled graph.

    Args:
        elbo: what to compile; a schedule of its own goes on with it.
        backend: "inductor", or "eager" to run the graph operation by operation, without any compilation.
        warn: takes the warnings; ``warnings.warn`` if None. For all else see :class:`CompiledTrace_ELBO`.

    Raises:
        NotTraceableError: if the ELBO is of another kind.
        ValueError: on an unknown backend.

    Example:
        >>> from pyro_vae.inference.variational.objectives import ImportanceWeightedELBO
        >>> CompiledELBO(ImportanceWeightedELBO(num_particles=5), backend="eager").num_particles
        5
    """

    def __init__(self, elbo: ELBO, *, backend: str = "inductor", warn: Callable[[Warning], None] | None = None) -> None:
        super().__init__(num_particles=elbo.num_particles, retain_graph=elbo.retain_graph)
        checks.among(backend, ["inductor", "eager"], "backend")
        self.elbo = traceable(elbo)
        self._graphs = Graphs(backend, self._warn if warn is None else warn, _as_it_is)
        self._weight = Scalar()

    @property
    def num_graphs(self) -> int:
        """How many graphs have been found right and are in use."""
        return self._graphs.num_checked

    def retrace(self) -> None:
        """Forget all graphs: model or guide have changed in what they read from Python."""
        self._graphs.retrace()

    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Return minus the ELBO as a number, in nats, summed over the data."""
        with torch.no_grad():
            return _as_number(self.differentiable_loss(model, guide, *args, **kwargs))

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
        """Return minus the ELBO, differentiable; as in Pyro a number where neither model nor guide has a site."""
        value, wanted, grads = self._run(model, guide, args, kwargs, gradient=torch.is_grad_enabled())
        return _Differentiable.apply(value, grads, *wanted) if wanted else value

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Return minus the ELBO as a number, and add its gradient to the parameters' ``grad``."""
        value, wanted, grads = self._run(model, guide, args, kwargs, gradient=True)
        if isinstance(value, Tensor) and value.requires_grad:
            value.backward(retain_graph=self.retain_graph)
        for leaf, grad in zip(wanted, grads, strict=True):
            if leaf.grad is None:
                leaf.grad = grad.clone()
            else:
                leaf.grad += grad
        advance(self.elbo)
        return _as_number(value)

    def _run(
        self, model: Any, guide: Any, args: tuple[Any, ...], kwargs: dict[str, Any], *, gradient: bool
    ) -> tuple[Any, list[Tensor], list[Tensor]]:
        """Return a graph's loss, leaves and gradients; where there is none to trust yet, the eager loss alone."""
        weight = self._weight.tensor(weight_of(self.elbo), args)
        call = Call.of((model, guide, self.elbo), weight, args, kwargs, gradient)
        graph = self._graphs.find(call, gradient=gradient)
        if graph is None:
            return self._graphs.observe(call, gradient=gradient), [], []
        if _PYRO_STACK:  # the handlers around see the parameters, as they would if the program ran
            store = pyro.get_param_store()
            for name in graph.graph.parameters.keys() & store.keys():
                pyro.param(name)
        graph, (value, *grads) = self._graphs.run(call, graph, graph.graph.inputs(call.leaves))
        return value, graph.graph.wanted, grads

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Any:
        return self.elbo._get_trace(model, guide, args, kwargs)

    def _warn(self, warning: Warning) -> None:
        warnings.warn(type(warning)(f"{type(self).__name__}: {warning}"), stacklevel=7)


class CompiledTrace_ELBO(CompiledELBO):  # noqa: N801  named as Pyro names its ELBOs
    r"""``Trace_ELBO`` at the speed of compiled torch.

    The estimator is Pyro's: the mean over particles of :math:`\log p(x, z) - \log q(z)`, z drawn from the guide, with
    its reparametrised gradient. It goes wherever ``Trace_ELBO`` or ``JitTrace_ELBO`` goes. The first four calls of
    each kind of input are Pyro's own; meanwhile model and guide are traced to one graph of tensor operations, which is
    compared with Pyro under the same noise and, only if they agree, compiled with Inductor and used from then on. A
    seed gives the same noise as in Pyro, call for call.

    Numbers and flags that stand directly in attributes, closures or globals of model and guide are followed; what they
    read from elsewhere in Python is frozen: a graph is run beside Pyro again at steps 2, 4, 8, ... and then at every
    thousandth, and dropped with a warning if they differ. What cannot be traced is left to Pyro, with one warning that
    says why. Pyro validates distributions and sites in its own four calls; the graph does not.

    Args:
        num_particles: as in ``Trace_ELBO``.
        backend: "inductor", or "eager" to run the graph operation by operation, without any compilation.
        warn: takes the warnings, of what is left to Pyro, why, and since when a graph may have been wrong;
            ``warnings.warn`` if None.
        kwargs: what else ``Trace_ELBO`` takes (``vectorize_particles``, ``max_plate_nesting``).

    Raises:
        ValueError: on an unknown backend.

    Example:
        >>> import pyro
        >>> from pyro_vae import Model, guides, likelihoods, networks, priors
        >>> model = Model(priors.StandardNormal(2), likelihoods.Bernoulli(networks.mlp(2, 16, 20)))
        >>> guide = guides.DiagonalGaussian(networks.mlp(20, 16, 4))
        >>> elbo = CompiledTrace_ELBO(backend="eager")
        >>> svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), elbo)
        >>> losses = [svi.step(torch.ones(8, 20)) for _ in range(5)]
        >>> elbo.num_graphs
        1
    """

    _kind: type[ELBO] = Trace_ELBO

    def __init__(
        self,
        num_particles: int = 1,
        *,
        backend: str = "inductor",
        warn: Callable[[Warning], None] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(self._kind(num_particles, **kwargs), backend=backend, warn=warn)


class CompiledTraceMeanField_ELBO(CompiledTrace_ELBO):  # noqa: N801  named as Pyro names its ELBOs
    r"""``TraceMeanField_ELBO`` at the speed of compiled torch: KL terms in closed form where there is one.

    :math:`E_{q(z)}[\log p(x|z)] - KL(q(z) \| p(z))`, site by site, for guides that factorise over sites; a site
    without a closed form is sampled. All else, arguments included, is as in :class:`CompiledTrace_ELBO`.

    Example:
        >>> CompiledTraceMeanField_ELBO(num_particles=2, backend="eager").num_graphs
        0
    """

    _kind = TraceMeanField_ELBO


def traceable(elbo: ELBO) -> ELBO:
    """Return the ELBO whose graphs give what this one gives: that behind a compiled one, or itself.

    Raises:
        NotTraceableError: if its loss cannot be traced.
    """
    if isinstance(elbo, CompiledELBO):
        return elbo.elbo
    must_be_traceable(elbo)
    return elbo


class _Differentiable(torch.autograd.Function):
    """A loss with a gradient that is known already."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, grads: list[Tensor], *wanted: Tensor) -> Tensor:
        """Keep the gradients; return the loss."""
        ctx.grads = grads
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients that were kept, times the one from above."""
        return (None, None, *(above * grad for grad in ctx.grads))


def _as_it_is(graph: Graph) -> Run:
    """The graph as a function of its inputs, composed with nothing."""
    return lambda inputs: list(graph.module(*inputs))


def _as_number(value: Any) -> float:
    """Warn as Pyro does if it is NaN."""
    value = value.detach() if isinstance(value, Tensor) else value
    warn_if_nan(value, "loss")
    return float(value)
