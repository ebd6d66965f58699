"""A whole step of stochastic variational inference as one compiled graph: loss, gradient, clipping and Adam."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from pyro import poutine
from pyro.infer import ELBO, Trace_ELBO
from torch import Tensor

from pyro_vae import checks
from pyro_vae.checks import say
from pyro_vae.inference.compiled.adam import Adam
from pyro_vae.inference.compiled.blocks import alike, in_blocks
from pyro_vae.inference.compiled.call import Call
from pyro_vae.inference.compiled.composition import Composition, learnable, weighted_loss
from pyro_vae.inference.compiled.elbos import compiled_twin
from pyro_vae.inference.compiled.graphs import Graphs
from pyro_vae.inference.compiled.recording import parameters_of
from pyro_vae.inference.compiled.states import Checked

__all__ = ["CompiledStep"]


class CompiledStep:
    r"""One step of SVI with Adam as one graph, which moves the parameters in place.

    The loss is that of ``elbo``, with the log densities of latent sites weighted by ``kl_weight``. Its gradient g is
    multiplied by ``scale``, clipped to the norm ``clip_norm``, and given to Adam (Kingma & Ba 2015) with decoupled
    weight decay (Loshchilov & Hutter 2019), in torch's form:

    .. math:: m \leftarrow \beta_1 m + (1 - \beta_1) g, \quad v \leftarrow \beta_2 v + (1 - \beta_2) g^2, \quad
        \theta \leftarrow (1 - \eta \lambda) \theta
        - \frac{\eta}{1 - \beta_1^t} \, m \Big/ \Big(\sqrt{v / (1 - \beta_2^t)} + \epsilon\Big).

    If the loss or the gradient's norm is not finite, nothing moves. Steps that cannot be compiled, or not yet (see
    :class:`~pyro_vae.infer.CompiledTrace_ELBO`), run on Pyro with the same update, so the results are the same up to
    rounding. Learned are Pyro's parameters and the parameters of model and guide if they are modules.

    Args:
        model: a Pyro program.
        guide: its guide.
        loss: ``Trace_ELBO`` or ``TraceMeanField_ELBO``, or a compiled one; ``Trace_ELBO()`` if None.
        lr: the learning rate :math:`\eta`; may be changed at any step.
        betas: Adam's :math:`\beta_1, \beta_2`.
        eps: Adam's :math:`\epsilon`.
        weight_decay: :math:`\lambda`; AdamW's, decoupled from the gradient.
        clip_norm: the largest norm of the scaled gradient; None for no limit.
        backend: "inductor" or "eager", as in ``CompiledTrace_ELBO``.
        steps_per_call: how many steps :meth:`run` puts into one graph. Compilation takes as many times as long, and
            results are those of single steps up to rounding; 4 saves small programs another fifth of the time.
        warn: takes the warnings, of what is left to Pyro, why, and since when a graph may have been wrong;
            ``warnings.warn`` if None.

    Attributes:
        grad_norm: the norm of the scaled gradient at the last step, before clipping.
        reason: the last warning, if there was one.

    Raises:
        NotTraceableError: if ``loss`` is of a kind that has no compiled twin.
        ValueError: if a setting is out of its range; at a step, if model and guide have nothing to learn.

    Example:
        >>> from pyro_vae import Model, guides, likelihoods, networks, priors
        >>> model = Model(priors.StandardNormal(2), likelihoods.Bernoulli(networks.mlp(2, 16, 20)))
        >>> guide = guides.DiagonalGaussian(networks.mlp(20, 16, 4))
        >>> step = CompiledStep(model, guide, lr=1e-2, backend="eager")
        >>> losses = [step(torch.ones(8, 20), scale=1 / 8) for _ in range(20)]
        >>> bool(losses[-1] < losses[0])
        True
    """

    def __init__(
        self,
        model: Any,
        guide: Any,
        loss: ELBO | None = None,
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
        backend: str = "inductor",
        steps_per_call: int = 1,
        warn: Callable[[Warning], None] | None = None,
    ) -> None:
        checks.among(backend, ["inductor", "eager"], "backend")
        self.model = model
        self.guide = guide
        self.elbo = compiled_twin(loss if loss is not None else Trace_ELBO(), backend=backend)
        self.steps_per_call = checks.positive_integer(steps_per_call, "steps_per_call")
        self.reason: str | None = None
        self.grad_norm = torch.tensor(0.0)
        self._warn = warn
        self._adam = Adam(lr, betas, eps, weight_decay, clip_norm)
        self._composition = Composition(self._adam)
        self._kl_weight = torch.ones((), dtype=torch.float64)
        self._kl_number = 1.0
        self._graphs = Graphs(partial(weighted_loss, self.elbo.traceable_loss), backend, self._hear)

    def __call__(self, *args: Any, kl_weight: float = 1.0, lr: float | None = None, scale: float = 1.0) -> Tensor:
        """Take one step; return the loss before it, a tensor without dimensions, in nats summed over the data.

        Args:
            args: what model and guide take.
            kl_weight: weight of the latent sites' log densities.
            lr: the learning rate from now on.
            scale: factor of the gradient, 1 / N for a loss in nats per datum.
        """
        self._schedule(args, kl_weight, lr, scale)
        loss, self.grad_norm, _ = self._take(args)
        return loss

    def run(
        self, batches: Iterable[Sequence[Any]], *, kl_weight: float = 1.0, lr: float | None = None, scale: float = 1.0
    ) -> Tensor:
        """Take one step on each batch; return the losses before each, ``(num_batches,)``.

        The same as one call after the other, but model and guide are looked at once for all batches of a layout
        rather than at every step, so they must not be changed meanwhile (by an iterator that makes the batches, say).
        A graph that has run 250 times since its last check is checked at the start. It ends early, with the step
        whose loss or gradient was not finite.

        Args:
            batches: what model and guide take, batch by batch.
            kl_weight: weight of the latent sites' log densities.
            lr: the learning rate from now on.
            scale: factor of the gradient, 1 / N for a loss in nats per datum.
        """
        losses: list[Tensor] = []
        graph: Checked | None = None
        before: Sequence[Any] = ()
        for block in in_blocks(batches, self.steps_per_call):
            if not losses:
                self._schedule(block[0], kl_weight, lr, scale)
            at_once = self.steps_per_call == len(block) > 1
            if at_once and graph is not None and alike(block[0], before) and not graph.is_due(len(block)):
                found = self._take_block(graph, block)
            else:
                found = []
                for batch in block:
                    if graph is not None and alike(batch, before) and not graph.is_due():
                        loss, norm = self._graphs.repeat(graph, self._inputs(graph, batch))
                    else:
                        loss, norm, graph = self._take(tuple(batch), epoch=not (losses or found))
                    before = batch
                    found.append((loss, norm))
                    if not _finite(loss, norm):
                        break
            fine = [_finite(loss, norm) for loss, norm in found]
            found = found if all(fine) else found[: fine.index(False) + 1]
            losses += [loss for loss, _ in found]
            self.grad_norm = found[-1][1]
            if not all(fine):
                break
        return torch.stack(losses) if losses else torch.empty(0)

    def retrace(self) -> None:
        """Forget all graphs: model or guide have changed in what they read from Python."""
        self._graphs.retrace()

    @property
    def parameters(self) -> list[Tensor]:
        """The parameters that have been moved so far, unconstrained."""
        return self._adam.parameters

    @property
    def num_graphs(self) -> int:
        """How many graphs have been found right and are in use."""
        return self._graphs.num_checked

    @property
    def num_steps(self) -> int:
        """How many steps have been taken."""
        return self._adam.num_steps

    def state_dict(self) -> dict[str, Any]:
        """Return Adam's state: steps taken, learning rate, and of each parameter moments and steps before its first."""
        return self._adam.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a state; before the first step, or with the same parameters.

        Raises:
            ValueError: if the moments do not fit the parameters.
        """
        if not self._adam.load_state_dict(state):
            self.retrace()  # graphs hold when their parameters appeared
        self._graphs.step = self.num_steps

    def _schedule(self, args: Sequence[Any], kl_weight: float, lr: float | None, scale: float) -> None:
        """Set the numbers that change from step to step: tensors, so that no graph holds them."""
        device = next((a.device for a in args if isinstance(a, Tensor)), self._kl_weight.device)
        if self._kl_weight.device != device:
            self._kl_weight = self._kl_weight.to(device)
        if self._kl_number != float(kl_weight):
            self._kl_number = float(kl_weight)
            self._kl_weight.fill_(self._kl_number)
        self._adam.schedule(device, float(scale), lr)

    def _take(self, args: tuple[Any, ...], *, epoch: bool = False) -> tuple[Tensor, Tensor, Checked | None]:
        """Take one step; return its loss, the gradient's norm, and the graph that may be repeated for the next."""
        call = Call.of(self.model, self.guide, (self._kl_weight, *args), {}, "step")
        reference = partial(weighted_loss, self.elbo.eager_loss, call, call.leaves)
        graph = self._graphs.find(call, reference, gradient=True, epoch=epoch)
        if graph is None:
            return (*self._eager_step(call, reference), None)
        inputs = graph.graph.inputs(call.leaves) + self._composition.rest(graph.graph)
        graph, (loss, norm) = self._graphs.run(call, graph, self._composition.step, inputs)
        return loss, norm, graph if self._graphs.is_final(graph) else None

    def _inputs(self, graph: Checked, batch: Sequence[Any]) -> list[Tensor]:
        return graph.graph.inputs([self._kl_weight, *batch]) + self._composition.rest(graph.graph)

    def _take_block(self, graph: Checked, block: list[Sequence[Any]]) -> list[tuple[Tensor, Tensor]]:
        """Take several steps in one graph; return their losses and norms. After one not finite nothing moves."""
        leaves = [[self._kl_weight, *batch] for batch in block]
        compose = partial(self._composition.block, len(block))
        inputs = self._composition.block_inputs(graph.graph, leaves)
        found = self._graphs.repeat_block(graph, compose, inputs, len(block))
        return list(zip(found[::2], found[1::2], strict=True))

    def _eager_step(self, call: Call, reference: Callable[[], Any]) -> tuple[Tensor, Tensor]:
        """Take one step by Pyro's loss and the same update."""
        with torch.enable_grad(), poutine.trace(param_only=True) as sites:
            loss = self._graphs.observe(call, reference, gradient=True)
        leaves = learnable(parameters_of(sites.trace).values(), (self.model, self.guide))
        learns = leaves and isinstance(loss, Tensor) and loss.requires_grad
        grads = torch.autograd.grad(loss, leaves, allow_unused=True) if learns else ()
        used = [(leaf, grad) for leaf, grad in zip(leaves, grads, strict=False) if grad is not None]
        if not used:
            raise ValueError(say("a model or guide with parameters to learn", "none", "torch.nn.Parameter, pyro.param"))
        states = [self._adam.adopt(leaf) for leaf, _ in used]
        with torch.no_grad():
            loss = loss.detach()
            return loss, self._adam.update(loss, [grad for _, grad in used], states, self._adam.scheduled)

    def _hear(self, warning: Warning) -> None:
        self.reason = str(warning)
        if self._warn is None:
            warnings.warn(type(warning)(f"CompiledStep: {warning}"), stacklevel=6)
        else:
            self._warn(warning)


def _finite(loss: Tensor, norm: Tensor) -> bool:
    return math.isfinite(loss.item()) and math.isfinite(norm.item())
