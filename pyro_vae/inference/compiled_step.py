"""A whole step of stochastic variational inference as one compiled graph: loss, gradient, clipping and Adam."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from pyro import poutine
from pyro.infer import ELBO, Trace_ELBO
from torch import Tensor, nn

from pyro_vae import checks
from pyro_vae.checks import say
from pyro_vae.inference.compiled import compiled_twin
from pyro_vae.inference.kl_weight import KLWeight
from pyro_vae.inference.specialise import Call, Kind, Run, Specialiser
from pyro_vae.inference.tracing import Graph

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
        tell: is told once, in a clause, why steps are left to Pyro; None keeps it in ``reason`` only.

    Attributes:
        grad_norm: the norm of the scaled gradient at the last step, before clipping.
        reason: why steps are left to Pyro or to an uncompiled graph, if they are.

    Raises:
        NotTraceableError: if ``loss`` is of a kind that has no compiled twin.

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
        tell: Callable[[str], None] | None = None,
    ) -> None:
        checks.among(backend, ["inductor", "eager"], "backend")
        self.model = model
        self.guide = guide
        self.elbo = compiled_twin(loss if loss is not None else Trace_ELBO(), backend=backend)
        self.betas = betas
        self.eps = eps
        self.weight_decay = weight_decay
        self.clip_norm = math.inf if clip_norm is None else float(clip_norm)
        self.reason: str | None = None
        self.grad_norm = torch.tensor(0.0)
        self._tell = tell
        self._lr = lr
        self._dials: dict[str, Tensor] = {}
        self._moments: dict[int, tuple[Tensor, Tensor, Tensor]] = {}  # by id: parameter, m, v
        self._waiting: list[tuple[Tensor, Tensor]] = []  # moments of a loaded state, for parameters yet to appear
        self._num_steps = 0
        self._graphs = Specialiser(self._loss_of_call, backend, self._hear)

    def __call__(self, *args: Any, kl_weight: float = 1.0, lr: float | None = None, scale: float = 1.0) -> Tensor:
        """Take one step; return the loss before it, a tensor without dimensions, in nats summed over the data.

        Args:
            args: what model and guide take.
            kl_weight: weight of the latent sites' log densities.
            lr: the learning rate from now on.
            scale: factor of the gradient, 1 / N for a loss in nats per datum.
        """
        return self._take(args, kl_weight, lr, scale)[0]

    def run(
        self, batches: Iterable[Sequence[Any]], *, kl_weight: float = 1.0, lr: float | None = None, scale: float = 1.0
    ) -> Tensor:
        """Take one step on each batch; return the losses before each, ``(num_batches,)``.

        The same as one call after the other, but Python looks over model and guide once for all batches of a kind
        rather than at every step, so they must not be changed meanwhile (by an iterator that makes the batches, say).
        Small programs gain a fifth by it. It ends early, with the step whose loss or gradient was not finite.

        Args:
            batches: what model and guide take, batch by batch.
            kl_weight: weight of the latent sites' log densities.
            lr: the learning rate from now on.
            scale: factor of the gradient, 1 / N for a loss in nats per datum.
        """
        losses: list[Tensor] = []
        kind: Kind | None = None
        before: Sequence[Any] = ()
        rest: list[Tensor] = []
        for batch in batches:
            if kind is not None and _alike(batch, before):
                inputs = kind.graph.inputs([self._dials["kl_weight"], *batch])
                loss, self.grad_norm = self._graphs.repeat(kind, inputs + rest)
            else:
                loss, kind = self._take(tuple(batch), kl_weight, lr, scale)
                kind = kind if kind is not None and self._graphs.settled(kind) else None
                rest = [] if kind is None else self._rest(kind.graph)
            losses.append(loss)
            before = batch
            if not (math.isfinite(loss.item()) and math.isfinite(self.grad_norm.item())):
                break
        return torch.stack(losses) if losses else torch.empty(0)

    def _take(
        self, args: tuple[Any, ...], kl_weight: float, lr: float | None, scale: float
    ) -> tuple[Tensor, Kind | None]:
        """Take one step; return its loss and the graph that took it, None if Pyro did."""
        if lr is not None:
            self._lr = lr
        self._turn(args, kl_weight=kl_weight, scale=scale, lr=self._lr)
        call = Call.of(self.model, self.guide, (self._dials["kl_weight"], *args), {}, "step")
        kind = None if call.kind is None else self._graphs.find(call)
        if kind is None:
            return self._eager_step(call), None
        rest = self._rest(kind.graph)
        loss, self.grad_norm = self._graphs.run(call, kind, self._compose, kind.graph.inputs(call.leaves) + rest)
        return loss, kind

    @property
    def parameters(self) -> list[Tensor]:
        """The parameters that have been moved so far, unconstrained."""
        return [parameter for parameter, _, _ in self._moments.values()]

    @property
    def num_graphs(self) -> int:
        """How many graphs have been found right and are in use."""
        return self._graphs.num_checked

    @property
    def num_steps(self) -> int:
        """How many steps have been taken."""
        return int(self._dials["t"]) if self._dials else self._num_steps

    def state_dict(self) -> dict[str, Any]:
        """Return Adam's state: the step count, the learning rate and the two moments of each parameter, in order."""
        moments = [(m.clone(), v.clone()) for _, m, v in self._moments.values()] + self._waiting
        return {"num_steps": self.num_steps, "lr": self._lr, "moments": moments}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a state; before the first step, or with the same parameters.

        Raises:
            ValueError: if the moments do not fit the parameters.
        """
        moments = [(m.clone(), v.clone()) for m, v in state["moments"]]
        known = self.parameters
        if known and [p.shape for p in known] != [m.shape for m, _ in moments]:
            wanted, got = [tuple(p.shape) for p in known], [tuple(m.shape) for m, _ in moments]
            raise ValueError(say(f"moments of shapes {wanted}", f"{got}", "the state of the same model and guide"))
        self._lr, self._num_steps = float(state["lr"]), int(state["num_steps"])
        if self._dials:
            self._dials["t"].fill_(self._num_steps)
        for (_, m, v), (new_m, new_v) in zip(self._moments.values(), moments, strict=False):
            m.copy_(new_m)
            v.copy_(new_v)
        self._waiting = moments[len(known) :]

    def _turn(self, args: tuple[Any, ...], **values: float) -> None:
        """Set the numbers that change from step to step: tensors, so that no graph holds them."""
        if not self._dials:
            device = next((a.device for a in args if isinstance(a, Tensor)), torch.device("cpu"))
            zeros = torch.zeros(4, dtype=torch.float64, device=device).unbind()
            self._dials = {
                name: zero.clone() for name, zero in zip(("kl_weight", "scale", "lr", "t"), zeros, strict=True)
            }
            self._dials["t"].fill_(self._num_steps)
            self._turned: dict[str, float] = {}
        for name, value in values.items():
            if self._turned.get(name) != value:
                self._turned[name] = value
                self._dials[name].fill_(value)

    def _loss_of_call(self, call: Call, leaves: Sequence[Tensor]) -> Tensor:
        return self._weighted_loss(self.elbo.traceable_loss, call, leaves)

    def _weighted_loss(self, loss: Callable[..., Tensor], call: Call, leaves: Sequence[Tensor]) -> Tensor:
        (weight, *args), _ = call.arguments(leaves)

        def weighted(program: Any) -> Any:
            def run(*args: Any) -> Any:
                with KLWeight(weight):
                    return program(*args)

            return run

        return loss(weighted(call.model), weighted(call.guide), *args)

    def _eager_step(self, call: Call) -> Tensor:
        with torch.enable_grad(), poutine.trace(param_only=True) as sites:
            reference = partial(self._weighted_loss, self.elbo.eager_loss, call, call.leaves)
            loss = self._graphs.observe(call, reference, gradient=True)
        leaves = self._learnable([site["value"] for site in sites.trace.nodes.values()])
        grads = torch.autograd.grad(loss, leaves, allow_unused=True)
        used = [(leaf, grad) for leaf, grad in zip(leaves, grads, strict=True) if grad is not None]
        for leaf, _ in used:
            self._adopt(leaf)
        held = [self._moments[id(leaf)] for leaf, _ in used]
        with torch.no_grad():
            loss = loss.detach()
            self.grad_norm = self._update(loss, [grad for _, grad in used], held, self._dials)
        return loss

    def _learnable(self, values: Sequence[Any]) -> list[Tensor]:
        found = {id(p): p for p in (value.unconstrained() for value in values if value is not None)}
        for module in (self.model, self.guide):
            if isinstance(module, nn.Module):
                found |= {id(p): p for p in module.parameters() if p.requires_grad}
        return list(found.values())

    def _adopt(self, leaf: Tensor) -> None:
        """Give a parameter its moments."""
        if id(leaf) not in self._moments:
            zeros = (torch.zeros_like(leaf).detach(), torch.zeros_like(leaf).detach())
            self._moments[id(leaf)] = (leaf, *(self._waiting.pop(0) if self._waiting else zeros))

    def _held(self, graph: Graph) -> list[tuple[Tensor, Tensor, Tensor]]:
        return [self._moments[id(leaf)] for leaf in graph.wanted if id(leaf) in self._moments]

    def _rest(self, graph: Graph) -> list[Tensor]:
        """What the composed graph takes after the graph's own inputs."""
        held = self._held(graph)
        return [*(m for _, m, _ in held), *(v for _, _, v in held), *(self._dials[name] for name in _UPDATE_DIALS)]

    def _compose(self, graph: Graph) -> Run:
        """Return the graph followed by clipping and Adam, which write parameters and moments in place."""
        held = {id(leaf) for leaf, _, _ in self._held(graph)}
        moved = [i for i, leaf in enumerate(graph.wanted) if id(leaf) in held]
        place = {id(tensor): i for i, tensor in enumerate(graph.tensors)}
        places = [place[id(graph.wanted[i])] for i in moved]
        k, num_inputs = len(moved), graph.num_inputs

        def run(inputs: list[Tensor]) -> list[Tensor]:
            loss, *grads = graph.module(*inputs[:num_inputs])
            parameters = [inputs[graph.num_arguments + i] for i in places]
            rest = inputs[num_inputs:]
            triples = list(zip(parameters, rest[:k], rest[k : 2 * k], strict=True))
            dials = dict(zip(_UPDATE_DIALS, rest[2 * k :], strict=True))
            return [loss, self._update(loss, [grads[i] for i in moved], triples, dials)]

        return run

    def _update(
        self, loss: Tensor, grads: list[Tensor], held: list[tuple[Tensor, Tensor, Tensor]], dials: dict[str, Tensor]
    ) -> Tensor:
        """Clip, and move parameters and moments in place unless something is not finite; return the gradient's norm."""
        (beta1, beta2), t = self.betas, dials["t"]
        norm = dials["scale"] * torch.stack([grad.pow(2).sum() for grad in grads]).sum().sqrt()
        factor = dials["scale"] * (self.clip_norm / (norm + 1e-6)).clamp(max=1.0)
        fine = torch.isfinite(loss) & torch.isfinite(norm)
        after = torch.where(fine, t + 1, t)
        root = (1 - beta2**after).sqrt()
        rate = dials["lr"] / (1 - beta1**after) * root  # the root moved from under sqrt(v): one division fewer
        eps = self.eps * root
        decay = 1 - dials["lr"] * self.weight_decay
        for grad, (parameter, m, v) in zip(grads, held, strict=True):
            dtype = parameter.dtype
            g = grad * factor.to(dtype)
            new_m = m + (1 - beta1) * (g - m)
            new_v = beta2 * v + (1 - beta2) * g * g
            kept = parameter * decay.to(dtype) if self.weight_decay else parameter
            moved = kept - rate.to(dtype) * new_m / (new_v.sqrt() + eps.to(dtype))
            for old, new in ((parameter, moved), (m, new_m), (v, new_v)):
                old.copy_(torch.where(fine, new, old))
        t.copy_(after)
        return norm

    def _hear(self, message: str) -> None:
        self.reason = message
        if self._tell is not None:
            self._tell(message)


def _alike(batch: Sequence[Any], other: Sequence[Any]) -> bool:
    """Whether two batches are plain tensors of one layout, so that one graph serves both."""
    return len(batch) == len(other) and all(
        type(a) is Tensor
        and type(b) is Tensor
        and a.shape == b.shape
        and a.stride() == b.stride()
        and a.dtype == b.dtype
        and a.device == b.device
        and not a.requires_grad
        for a, b in zip(batch, other, strict=True)
    )


_UPDATE_DIALS = ("scale", "lr", "t")  # the numbers that Adam reads, which change from step to step
