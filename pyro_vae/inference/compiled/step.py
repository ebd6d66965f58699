"""A whole step of stochastic variational inference as one compiled graph: loss, gradient, clipping and Adam."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from pyro import poutine
from pyro.infer import ELBO, Trace_ELBO
from torch import Tensor, nn

from pyro_vae import checks
from pyro_vae.checks import say
from pyro_vae.inference.compiled.adam import DIALS, Moments, adam, check_adam, rate
from pyro_vae.inference.compiled.elbos import compiled_twin
from pyro_vae.inference.compiled.kl_weight import KLWeight
from pyro_vae.inference.compiled.specialise import Call, Kind, Run, Specialiser
from pyro_vae.inference.compiled.tracing import Graph

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
        tell: is told once, in a clause, why steps are left to Pyro; None keeps it in ``reason`` only.

    Attributes:
        grad_norm: the norm of the scaled gradient at the last step, before clipping.
        reason: why steps are left to Pyro or to an uncompiled graph, if they are.

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
        tell: Callable[[str], None] | None = None,
    ) -> None:
        checks.among(backend, ["inductor", "eager"], "backend")
        check_adam(lr, betas, eps, weight_decay, clip_norm)
        self.model = model
        self.guide = guide
        self.elbo = compiled_twin(loss if loss is not None else Trace_ELBO(), backend=backend)
        self.betas = betas
        self.eps = eps
        self.weight_decay = weight_decay
        self.clip_norm = math.inf if clip_norm is None else float(clip_norm)
        self.reason: str | None = None
        self.grad_norm = torch.tensor(0.0)
        self.steps_per_call = checks.positive_integer(steps_per_call, "steps_per_call")
        self._tell = tell
        self._lr = rate(lr)
        self._dials: dict[str, Tensor] = {}
        self._turned: dict[str, float] = {}
        self._moments: dict[int, Moments] = {}  # by the parameter's id
        self._waiting: list[tuple[Tensor, Tensor, int]] = []  # of a loaded state, for parameters yet to appear
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
        for block in _in_blocks(batches, self.steps_per_call):
            if kind is not None and self.steps_per_call == len(block) > 1 and _alike(block[0], before):
                found, norms = self._take_block(kind, block)
            else:
                found, norms = [], []
                for batch in block:
                    if kind is not None and _alike(batch, before):
                        loss, norm = self._graphs.repeat(kind, self._inputs(kind, batch))
                    else:
                        loss, kind = self._take(tuple(batch), kl_weight, lr, scale)
                        kind, norm = kind if kind is not None and self._graphs.settled(kind) else None, self.grad_norm
                    before = batch
                    found.append(loss)
                    norms.append(norm)
                    if not _finite(loss, norm):
                        break
            fine = [_finite(loss, norm) for loss, norm in zip(found, norms, strict=True)]
            taken = len(fine) if all(fine) else fine.index(False) + 1
            losses += found[:taken]
            self.grad_norm = norms[taken - 1]
            if not all(fine):
                break
        return torch.stack(losses) if losses else torch.empty(0)

    def _inputs(self, kind: Kind, batch: Sequence[Any]) -> list[Tensor]:
        return kind.graph.inputs([self._dials["kl_weight"], *batch]) + self._rest(kind.graph)

    def _take_block(self, kind: Kind, block: list[Sequence[Any]]) -> tuple[list[Tensor], list[Tensor]]:
        """Take several steps in one graph; return their losses and norms. After one not finite nothing moves."""
        graph = kind.graph
        parts = [graph.inputs([self._dials["kl_weight"], *batch]) for batch in block]
        first, last = graph.num_arguments, graph.num_arguments + len(graph.tensors)
        changing = [tensor for part in parts for tensor in part[:first] + part[last:]]
        inputs = changing + parts[0][first:last] + self._rest(graph)
        found = self._graphs.repeat_block(kind, partial(self._compose_block, len(block)), inputs)
        return found[::2], found[1::2]

    def _compose_block(self, size: int, graph: Graph) -> Run:
        """Return so many steps after each other, as one function of each step's arguments and noise, then the rest."""
        step = self._compose(graph)
        first, width = graph.num_arguments, graph.num_inputs - len(graph.tensors)

        def run(inputs: list[Tensor]) -> list[Tensor]:
            parts = [inputs[i * width : (i + 1) * width] for i in range(size)]
            tensors, rest = _cut(inputs[size * width :], len(graph.tensors))
            found: list[Tensor] = []
            go: Tensor | None = None
            for part in parts:
                loss, norm = step([*part[:first], *tensors, *part[first:], *rest], go)
                fine = torch.isfinite(loss) & torch.isfinite(norm)
                go = fine if go is None else go & fine
                found += [loss, norm]
            return found

        return run

    def _take(
        self, args: tuple[Any, ...], kl_weight: float, lr: float | None, scale: float
    ) -> tuple[Tensor, Kind | None]:
        """Take one step; return its loss and the graph that took it, None if Pyro did."""
        if lr is not None:
            self._lr = rate(lr)
        self._turn(args, kl_weight=float(kl_weight), scale=float(scale), lr=self._lr)
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
        return [held.parameter for held in self._moments.values()]

    @property
    def num_graphs(self) -> int:
        """How many graphs have been found right and are in use."""
        return self._graphs.num_checked

    @property
    def num_steps(self) -> int:
        """How many steps have been taken."""
        return int(self._dials["t"]) if self._dials else self._num_steps

    def state_dict(self) -> dict[str, Any]:
        """Return Adam's state: steps taken, learning rate, and of each parameter moments and steps before its first."""
        held = [(h.m.clone(), h.v.clone(), h.born) for h in self._moments.values()] + self._waiting
        moments, born = [(m, v) for m, v, _ in held], [at for _, _, at in held]
        return {"num_steps": self.num_steps, "lr": self._lr, "moments": moments, "born": born}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a state; before the first step, or with the same parameters.

        Raises:
            ValueError: if the moments do not fit the parameters.
        """
        pairs = zip(state["moments"], state["born"], strict=False)
        moments = [(m.clone(), v.clone(), int(born)) for (m, v), born in pairs]
        known = self.parameters
        if known and [p.shape for p in known] != [m.shape for m, _, _ in moments]:
            wanted, got = [tuple(p.shape) for p in known], [tuple(m.shape) for m, _, _ in moments]
            raise ValueError(say(f"moments of shapes {wanted}", f"{got}", "the state of the same model and guide"))
        self._lr, self._num_steps = float(state["lr"]), int(state["num_steps"])
        if self._dials:
            self._dials["t"].fill_(self._num_steps)
        if [held.born for held in self._moments.values()] != [born for _, _, born in moments[: len(known)]]:
            self._graphs.start_again()  # they hold when their parameters appeared
        for held, (m, v, born) in zip(self._moments.values(), moments, strict=False):
            held.m.copy_(m)
            held.v.copy_(v)
            held.born = born
        self._waiting = moments[len(known) :]

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_moments": list(self._moments.values())}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._moments = {id(held.parameter): held for held in state["_moments"]}

    def _turn(self, args: tuple[Any, ...], **values: float) -> None:
        """Set the numbers that change from step to step: tensors, so that no graph holds them."""
        if not self._dials:
            device = next((a.device for a in args if isinstance(a, Tensor)), torch.device("cpu"))
            zeros = torch.zeros(4, dtype=torch.float64, device=device).unbind()
            self._dials = {
                name: zero.clone() for name, zero in zip(("kl_weight", "scale", "lr", "t"), zeros, strict=True)
            }
            self._dials["t"].fill_(self._num_steps)
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
        grads = torch.autograd.grad(loss, leaves, allow_unused=True) if leaves and loss.requires_grad else ()
        if not any(grad is not None for grad in grads):
            raise ValueError(say("a model or guide with parameters to learn", "none", "torch.nn.Parameter, pyro.param"))
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
            zeros = (torch.zeros_like(leaf).detach(), torch.zeros_like(leaf).detach(), self.num_steps)
            self._moments[id(leaf)] = Moments(leaf, *(self._waiting.pop(0) if self._waiting else zeros))

    def _held(self, graph: Graph) -> list[Moments]:
        return [self._moments[id(leaf)] for leaf in graph.wanted if id(leaf) in self._moments]

    def _rest(self, graph: Graph) -> list[Tensor]:
        """What the composed graph takes after the graph's own inputs."""
        held = self._held(graph)
        return [*(h.m for h in held), *(h.v for h in held), *(self._dials[name] for name in DIALS)]

    def _compose(self, graph: Graph) -> Callable[..., list[Tensor]]:
        """Return the graph followed by clipping and Adam, which write parameters and moments in place."""
        moved = [i for i, leaf in enumerate(graph.wanted) if id(leaf) in self._moments]
        born = [held.born for held in self._held(graph)]
        place = {id(tensor): i for i, tensor in enumerate(graph.tensors)}
        places = [place[id(graph.wanted[i])] for i in moved]
        k, num_inputs = len(moved), graph.num_inputs

        def run(inputs: list[Tensor], go: Tensor | None = None) -> list[Tensor]:
            loss, *grads = graph.module(*inputs[:num_inputs])
            parameters = [inputs[graph.num_arguments + i] for i in places]
            rest = inputs[num_inputs:]
            held = [Moments(*each) for each in zip(parameters, rest[:k], rest[k : 2 * k], born, strict=True)]
            dials = dict(zip(DIALS, rest[2 * k :], strict=True))
            return [loss, self._update(loss, [grads[i] for i in moved], held, dials, go)]

        return run

    def _update(
        self,
        loss: Tensor,
        grads: list[Tensor],
        held: list[Moments],
        dials: dict[str, Tensor],
        go: Tensor | None = None,
    ) -> Tensor:
        settings = {"eps": self.eps, "weight_decay": self.weight_decay, "clip_norm": self.clip_norm}
        return adam(loss, grads, held, dials, go, betas=self.betas, **settings)

    def _hear(self, message: str) -> None:
        self.reason = message
        if self._tell is not None:
            self._tell(message)


def _finite(loss: Tensor, norm: Tensor) -> bool:
    return math.isfinite(loss.item()) and math.isfinite(norm.item())


def _cut(tensors: list[Tensor], at: int) -> tuple[list[Tensor], list[Tensor]]:
    return tensors[:at], tensors[at:]


def _in_blocks(batches: Iterable[Sequence[Any]], size: int) -> Iterator[list[Sequence[Any]]]:
    """Put neighbouring batches of one layout together, up to so many; none is asked for before it is needed."""
    block: list[Sequence[Any]] = []
    for batch in batches:
        if not isinstance(batch, (tuple, list)):
            got = type(batch).__name__
            raise TypeError(say("batches that are tuples of arguments", got, "run((x,) for x in batches)"))
        if block and not _alike(batch, block[-1]):
            yield block
            block = []
        block.append(batch)
        if len(block) == size:
            yield block
            block = []
    if block:
        yield block


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
