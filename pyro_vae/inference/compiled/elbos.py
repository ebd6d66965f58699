"""Pyro ELBOs whose loss and gradient run as one compiled tensor graph."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from pyro.distributions.util import is_identically_zero, scale_and_mask
from pyro.infer import ELBO, JitTrace_ELBO, JitTraceMeanField_ELBO, Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_vae import checks
from pyro_vae.inference.compiled.call import Call
from pyro_vae.inference.compiled.graphs import Graphs
from pyro_vae.inference.compiled.results import (
    Differentiable,
    Results,
    accumulate,
    as_it_is,
    as_number,
    show_parameters,
)
from pyro_vae.inference.compiled.tracing import NotTraceableError

__all__ = ["CompiledTraceMeanField_ELBO", "CompiledTrace_ELBO", "compiled_twin"]


class _Compiled(Trace_ELBO):
    """What compiled ELBOs share; the class beside it says what a particle's ELBO is."""

    def __init__(
        self,
        num_particles: int = 1,
        *,
        backend: str = "inductor",
        warn: Callable[[Warning], None] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_particles=num_particles, **kwargs)
        checks.among(backend, ["inductor", "eager"], "backend")
        self._graphs = Graphs(self._loss_of_call, backend, self._warn if warn is None else warn)

    @property
    def num_graphs(self) -> int:
        """How many graphs have been found right and are in use."""
        return self._graphs.num_checked

    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Return minus the ELBO as a number, in nats, summed over the data."""
        with torch.no_grad():
            value = self.differentiable_loss(model, guide, *args, **kwargs)
        return as_number(value)

    def retrace(self) -> None:
        """Forget all graphs: model or guide have changed in what they read from Python."""
        self._graphs.retrace()

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
        """Return minus the ELBO as a tensor whose ``backward`` gives the parameters their gradient.

        As in Pyro it is a number where neither model nor guide has a site.
        """
        found = self._run(model, guide, args, kwargs, gradient=torch.is_grad_enabled())
        if not isinstance(found, Results):
            return found
        value, *grads = found.outputs
        return Differentiable.apply(value, grads, *found.graph.wanted) if found.graph.wanted else value

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Return minus the ELBO as a number, and add its gradient to the parameters' ``grad``."""
        found = self._run(model, guide, args, kwargs, gradient=True)
        if not isinstance(found, Results):
            if isinstance(found, Tensor) and found.requires_grad:
                found.backward(retain_graph=self.retain_graph)
            return as_number(found)
        value, *grads = found.outputs
        accumulate(found.graph.wanted, grads)
        return as_number(value)

    def _run(
        self, model: Any, guide: Any, args: tuple[Any, ...], kwargs: dict[str, Any], *, gradient: bool
    ) -> Results | Any:
        """Return a graph's results, or, where there is none to trust yet, Pyro's own differentiable loss."""
        call = Call.of(model, guide, args, kwargs, gradient)

        def reference() -> Any:
            inputs = (args, kwargs) if call.key is None else call.arguments(call.leaves)
            return self.eager_loss(model, guide, *inputs[0], **inputs[1])

        graph = self._graphs.find(call, reference, gradient=gradient)
        if graph is None:
            return self._graphs.observe(call, reference, gradient=gradient)
        show_parameters(graph.graph)
        _, outputs = self._graphs.run(call, graph, as_it_is, graph.graph.inputs(call.leaves))
        return Results(graph.graph, outputs)

    def _loss_of_call(self, call: Call, leaves: Sequence[Tensor]) -> Any:
        args, kwargs = call.arguments(leaves)
        return self.traceable_loss(call.model, call.guide, *args, **kwargs)

    def _warn(self, warning: Warning) -> None:
        warnings.warn(type(warning)(f"{type(self).__name__}: {warning}"), stacklevel=7)

    def eager_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
        """Return Pyro's own differentiable loss."""
        return super().differentiable_loss(model, guide, *args, **kwargs)

    def traceable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
        """Return minus the ELBO, computed by tensor operations alone; a number if there is no site.

        Raises:
            NotTraceableError: if a site has no reparametrised sample.
        """
        total: Any = 0.0
        for model_trace, guide_trace in self._get_traces(model, guide, args, kwargs):
            total = total - self._elbo_particle(model_trace, guide_trace) / self.num_particles
        return total

    def _elbo_particle(self, model_trace: Any, guide_trace: Any) -> Tensor:
        raise NotImplementedError


class CompiledTrace_ELBO(_Compiled):  # noqa: N801  named as Pyro names its ELBOs
    r"""``Trace_ELBO`` at the speed of compiled torch.

    The estimator is Pyro's: the mean over particles of :math:`\log p(x, z) - \log q(z)`, z drawn from the guide, with
    its reparametrised gradient. It goes wherever ``Trace_ELBO`` or ``JitTrace_ELBO`` goes. The first four calls of
    each kind of input are Pyro's own; meanwhile model and guide are traced to one graph of tensor operations, which is
    compared with Pyro under the same noise and, only if they agree, compiled with Inductor and used from then on. A
    seed gives the same noise as in Pyro, call for call.

    A new graph is made for other shapes, dtypes or devices of the arguments, other values of arguments that are no
    tensors, another training mode, and other numbers or flags that stand directly in attributes, closures or globals
    of model and guide. What they read from elsewhere in Python is frozen: a graph is run beside Pyro again at steps 2,
    4, 8, ... and then at every thousandth, and dropped with a warning if they differ. What cannot be traced is left to
    Pyro, with one warning that says why: latents without a reparametrised sample, control flow that depends on the
    values of tensors, tensors that leave torch.

    Pyro validates distributions and sites in its own four calls; the graph does not.

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

    def _elbo_particle(self, model_trace: Any, guide_trace: Any) -> Tensor:
        elbo = _log_joint(model_trace)
        for name, site in _samples(guide_trace):
            elbo = elbo - _entropy_term(name, site)
        return elbo


class CompiledTraceMeanField_ELBO(_Compiled, TraceMeanField_ELBO):  # noqa: N801  named as Pyro names its ELBOs
    r"""``TraceMeanField_ELBO`` at the speed of compiled torch: KL terms in closed form where there is one.

    :math:`E_{q(z)}[\log p(x|z)] - KL(q(z) \| p(z))`, site by site, for guides that factorise over sites; a site
    without a closed form is sampled. All else is as in :class:`CompiledTrace_ELBO`.

    Args:
        num_particles: as in ``TraceMeanField_ELBO``.
        backend: "inductor", or "eager" to run the graph operation by operation, without any compilation.
        warn: takes the warnings, of what is left to Pyro, why, and since when a graph may have been wrong;
            ``warnings.warn`` if None.
        kwargs: what else ``TraceMeanField_ELBO`` takes.

    Raises:
        ValueError: on an unknown backend.

    Example:
        >>> CompiledTraceMeanField_ELBO(num_particles=2, backend="eager").num_graphs
        0
    """

    def _elbo_particle(self, model_trace: Any, guide_trace: Any) -> Tensor:
        elbo: Any = 0.0
        for name, site in _samples(model_trace):
            elbo = elbo + (site["log_prob_sum"] if site["is_observed"] else -_kl(name, site, guide_trace.nodes[name]))
        for name, site in _samples(guide_trace):
            if name not in model_trace.nodes:
                elbo = elbo - _entropy_term(name, site)
        return elbo


def compiled_twin(
    elbo: ELBO, *, backend: str = "inductor", warn: Callable[[Warning], None] | None = None
) -> CompiledTrace_ELBO | CompiledTraceMeanField_ELBO:
    """Return the compiled ELBO that gives what one of Pyro's gives.

    Raises:
        NotTraceableError: if there is none.
    """
    twins: dict[type[ELBO], type[CompiledTrace_ELBO] | type[CompiledTraceMeanField_ELBO]] = {
        Trace_ELBO: CompiledTrace_ELBO,
        JitTrace_ELBO: CompiledTrace_ELBO,
        TraceMeanField_ELBO: CompiledTraceMeanField_ELBO,
        JitTraceMeanField_ELBO: CompiledTraceMeanField_ELBO,
    }
    if isinstance(elbo, (CompiledTrace_ELBO, CompiledTraceMeanField_ELBO)):
        return elbo
    if type(elbo) not in twins:
        raise NotTraceableError(f"{type(elbo).__name__} has no compiled twin")
    twin = twins[type(elbo)](
        elbo.num_particles, backend=backend, warn=warn, vectorize_particles=elbo.vectorize_particles
    )
    twin.max_plate_nesting, twin.retain_graph = elbo.max_plate_nesting, elbo.retain_graph
    return twin


def _samples(trace: Any) -> list[tuple[str, Any]]:
    return [(name, site) for name, site in trace.nodes.items() if site["type"] == "sample"]


def _log_joint(trace: Any) -> Any:
    total: Any = 0.0
    for _, site in _samples(trace):
        total = total + site["log_prob_sum"]
    return total


def _entropy_term(name: str, site: Any) -> Tensor:
    """Return log q of a guide's site, whose gradient runs through the sample alone."""
    _, score_function_term, entropy_term = site["score_parts"]
    if not is_identically_zero(score_function_term):
        raise NotTraceableError(f"site {name!r} has no reparametrised sample")
    return entropy_term.sum()


def _kl(name: str, prior: Any, posterior: Any) -> Any:
    entropy = _entropy_term(name, posterior)
    try:
        kl = scale_and_mask(
            kl_divergence(posterior["fn"], prior["fn"]), scale=posterior["scale"], mask=posterior["mask"]
        )
    except NotImplementedError:
        return entropy - prior["log_prob_sum"]
    return kl.sum() if isinstance(kl, Tensor) else kl * torch.Size(posterior["fn"].batch_shape).numel()
