"""One training run: its steps, its scores, and its state at the end of an epoch."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn

from pyro_vae.checks import say
from pyro_vae.distributed import Parallel
from pyro_vae.inference.engine import Engine
from pyro_vae.inference.kl_weight import KLWeight
from pyro_vae.inference.program import Program, sample_sites
from pyro_vae.inference.training_state import TrainingState, load_optimiser, load_random, save_optimiser, save_random

__all__ = ["Data", "Scores", "TrainingRun"]

Data = tuple[Tensor, ...]


class Scores:
    """The ELBO of every epoch, the best of them, and when patience has run out."""

    def __init__(self, kl_warmup: int, patience: int | None) -> None:
        self.kl_warmup = kl_warmup
        self.patience = patience
        self.train: list[float] = []
        self.validation: list[float] = []
        self.best_epoch = 0
        self.stopped = False
        self.num_steps = 0
        self._best = -math.inf

    @property
    def latest(self) -> float:
        """The score that patience looks at."""
        return (self.validation or self.train)[-1]

    def add(self, epoch: int, train: float, validation: float | None) -> bool:
        """Note an epoch; return whether it is the best since the warm-up ended."""
        self.train.append(train)
        if validation is not None:
            self.validation.append(validation)
        if epoch + 1 < self.kl_warmup or self.latest <= self._best:
            return False
        self._best, self.best_epoch = self.latest, epoch
        return True

    def save(self) -> dict[str, Any]:
        """Return everything noted so far, as JSON knows it."""
        best = None if self._best == -math.inf else self._best
        lists = {"train": self.train, "validation": self.validation}
        return {
            **lists,
            "best": best,
            "best_epoch": self.best_epoch,
            "stopped": self.stopped,
            "num_steps": self.num_steps,
        }

    def load(self, saved: dict[str, Any]) -> None:
        """Take up what :meth:`save` returned."""
        self.train, self.validation = list(saved["train"]), list(saved["validation"])
        self._best = -math.inf if saved["best"] is None else saved["best"]
        self.best_epoch, self.stopped, self.num_steps = saved["best_epoch"], saved["stopped"], saved["num_steps"]

    def exhausted(self, epoch: int) -> bool:
        """Say whether patience has run out."""
        waited = epoch - max(self.best_epoch, self.kl_warmup - 1)
        self.stopped = self.patience is not None and waited >= self.patience
        return self.stopped


class TrainingRun:
    """One model, guide and loss, and what a training loop does with them."""

    optimiser: torch.optim.Optimizer
    engine: Engine
    clip_norm: float
    lr: float

    def __init__(self, model: Program, guide: Program, loss: Any, *, binary: bool) -> None:
        self.loss = loss  # Pyro types its ELBOs' loss and loss_and_grads nowhere
        self.binary = binary
        self.modules = [part for part in (model, guide) if isinstance(part, nn.Module)]
        self.kl_weight = 1.0
        self.programs = (model, guide)
        self.model = self._weighted(model)
        self.guide = self._weighted(guide)
        self._parameters: list[Tensor] = []
        self.parallel: Parallel | None = None

    def _weighted(self, program: Program) -> Program:
        def run(*args: Any, **kwargs: Any) -> Any:
            if self.kl_weight == 1.0:
                return program(*args, **kwargs)
            with KLWeight(self.kl_weight):
                return program(*args, **kwargs)

        return run

    def parameters(self, batch: Data) -> list[Tensor]:
        """The unconstrained parameters that the loss depends on; runs it once, so that lazy ones appear."""
        with pyro.validation_enabled(False), torch.random.fork_rng(), poutine.trace(param_only=True) as seen:
            self.loss.loss(self.model, self.guide, *(self.binarise(batch) if self.binary else batch))
        values: list[Any] = [site["value"] for site in seen.trace.nodes.values()]
        found = {id(p): p for p in (value.unconstrained() for value in values if value is not None)}
        found |= {id(p): p for module in self.modules for p in module.parameters() if p.requires_grad}
        if not found:
            raise ValueError(say("a model or guide with parameters to learn", "none", "torch.nn.Parameter, pyro.param"))
        self._parameters = list(found.values())
        self.parallel = Parallel.of(self.modules, self._differentiable)
        return self._parameters

    def epoch(self, data: Data, batch_size: int) -> float:
        """One pass over the data; return the mean objective a datum, nats."""
        for module in self.modules:
            module.train()
        if self.parallel is None:
            total = sum(self.step(batch) for batch in _batches(data, batch_size, shuffle=True))
        else:
            own = sum(self.shared_step(*share) for share in self.parallel.batches(data, batch_size))
            total = self.parallel.sum(own, data[0])
        for module in self.modules:
            module.eval()
        return -total / len(data[0])

    def shared_step(self, share: Data, total: int) -> float:
        """One gradient step together with the other processes; return the loss of this one's share."""
        together = self.parallel
        if together is None:
            return self.step(share)
        self.optimiser.zero_grad()
        with pyro.validation_enabled(False):
            value = together.backward(share, total)
        return self._move(value, share)

    def _differentiable(self, *batch: Tensor) -> Tensor:
        loss: Tensor = self.loss.differentiable_loss(self.model, self.guide, *batch)
        return loss

    def step(self, batch: Data) -> float:
        """One gradient step; return the batch's loss.

        Raises:
            FloatingPointError: if the loss or its gradient is not finite, before the weights have moved.
        """
        if self.engine.step is not None:
            with pyro.validation_enabled(False):
                loss = self.engine.step(*batch, kl_weight=self.kl_weight, scale=1 / len(batch[0]))
            value, norm = float(loss), self.engine.step.grad_norm
            if not (math.isfinite(value) and bool(norm.isfinite())):
                raise FloatingPointError(self.broken_site(batch))
            return value
        self.optimiser.zero_grad()
        with pyro.validation_enabled(False), warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", "Encountered (NaN|\\+inf|-inf|inf)", UserWarning
            )  # said below, with the site
            value = float(self.loss.loss_and_grads(self.model, self.guide, *batch))
        for p in self._parameters:
            if p.grad is not None:
                p.grad /= len(batch[0])
        return self._move(value, batch)

    def _move(self, value: float, batch: Data) -> float:
        """Clip the gradient and take the optimiser's step, if all is finite; return the loss."""
        norm = nn.utils.clip_grad_norm_(self._parameters, self.clip_norm)
        if not (math.isfinite(value) and bool(norm.isfinite())):
            raise FloatingPointError(self.broken_site(batch))
        self.optimiser.step()
        return value

    @torch.no_grad()
    def elbo(self, data: Data, batch_size: int) -> float:
        """The mean ELBO a datum in nats, under the same noise at every call."""
        everything = len(data[0])
        if self.parallel is not None:
            data = self.parallel.share(data)
        with torch.random.fork_rng(), pyro.validation_enabled(False):
            torch.manual_seed(0)
            loss: Any = self.engine.evaluation
            losses = [loss.loss(*self.programs, *batch) for batch in _batches(data, batch_size, shuffle=False)]
        total = float(sum(losses))
        return -(total if self.parallel is None else self.parallel.sum(total, data[0])) / everything

    def binarise(self, data: Data) -> Data:
        """Draw binary data from the probabilities in the first tensor."""
        return (torch.bernoulli(data[0]), *data[1:])

    def broken_site(self, batch: Data) -> str:
        """Name the first site whose density is not finite at the present weights."""
        with torch.no_grad(), pyro.validation_enabled(False):
            guide = poutine.trace(self.guide).get_trace(*batch)
            model = poutine.trace(poutine.replay(self.model, trace=guide)).get_trace(*batch)
            for trace, side in ((guide, "guide"), (model, "model")):
                for name, site in sample_sites(trace).items():
                    density = site["fn"].log_prob(site["value"])
                    if not bool(torch.isfinite(density).all()):
                        kind = "NaN" if bool(density.isnan().any()) else "infinite"
                        return f"a {kind} log density at site {name!r} of the {side}"
        last = list(sample_sites(model))[-1]
        return f"a gradient that is not finite, with finite densities up to site {last!r}"

    def state(self) -> list[Tensor]:
        """Copies of the parameters and of the modules' buffers."""
        return [tensor.detach().clone() for tensor in self._tensors()]

    @torch.no_grad()
    def restore(self, state: list[Tensor]) -> None:
        """Put copies back, and the modules into evaluation mode."""
        for tensor, saved in zip(self._tensors(), state, strict=True):
            tensor.copy_(saved)
        for module in self.modules:
            module.eval()

    def save(self, best: list[Tensor], **numbers: Any) -> TrainingState:
        """Return where the run stands, with ``best`` weights and further numbers."""
        state = TrainingState({}, numbers)
        for name, tensors in (("now", self.state()), ("best", best)):
            state.tensors |= {f"{name}.{i}": tensor for i, tensor in enumerate(tensors)}
        if self.engine.step is None:
            save_optimiser(self.optimiser, state)
        else:
            adam = self.engine.step.state_dict()
            state.numbers["adam"] = {"num_steps": adam["num_steps"], "lr": adam["lr"]}
            state.tensors |= {f"adam.{i}.{k}": t for i, pair in enumerate(adam["moments"]) for k, t in enumerate(pair)}
        state.numbers["loss_step"] = getattr(self.loss, "step", None)
        save_random(state)
        return state

    def load(self, state: TrainingState) -> list[Tensor]:
        """Take up a state; return its best weights.

        Raises:
            ValueError: if it is of another model, guide or optimiser.
        """
        wanted = [tuple(tensor.shape) for tensor in self._tensors()]
        now, best = (_numbered(state.tensors, name) for name in ("now", "best"))
        got = [tuple(tensor.shape) for tensor in now]
        if got != wanted or ("adam" in state.numbers) != (self.engine.step is not None):
            remedy = "the model, guide and settings of the run that saved it"
            raise ValueError(say(f"a state of parameters {wanted}", f"{got}", remedy))
        self.restore(now)
        if self.engine.step is None:
            load_optimiser(self.optimiser, state)
        else:
            flat = _numbered(state.tensors, "adam")
            moments = list(zip(flat[::2], flat[1::2], strict=True))
            self.engine.step.load_state_dict({**state.numbers["adam"], "moments": moments})
        if state.numbers["loss_step"] is not None:
            self.loss.step = state.numbers["loss_step"]
        load_random(state)
        return [tensor.to(own.device) for tensor, own in zip(best, self._tensors(), strict=True)]

    def rehearse(self, train: Data, held_out: Data | None, batch_size: int, *, epochs: int, kl_warmup: int) -> None:
        """Bring the compiled steps to where they were after so many epochs; weights and moments move, and are lost.

        A kind of batch runs on Pyro a few times before its graph is trusted, and the two differ in the last bit. So
        the first epochs are gone through again, on enough batches of each size to settle.
        """
        if self.engine.step is None:
            return
        train = _few_batches(train, batch_size)
        held_out = None if held_out is None else _few_batches(held_out, batch_size)
        for epoch in range(min(epochs, _EPOCHS_TO_SETTLE)):
            rows = self.binarise(train) if self.binary else train
            self.kl_weight = min(1.0, (epoch + 1) / kl_warmup) if kl_warmup else 1.0
            self.epoch(rows, batch_size)
            if self.kl_weight < 1.0:
                self.kl_weight = 1.0
                self.elbo(rows, batch_size)
            if held_out is not None:
                self.elbo(held_out, batch_size)

    def _tensors(self) -> list[Tensor]:
        return [*self._parameters, *(buffer for module in self.modules for buffer in module.buffers())]


_EPOCHS_TO_SETTLE = 6  # a kind of batch that comes once an epoch has its graph, or none, by then
_BATCHES_TO_SETTLE = 40  # of one size in a row: the compiler gives later graphs their turn within so many


def _few_batches(data: Data, batch_size: int) -> Data:
    """As many rows as make a few full batches, and the smaller last one."""
    full, rest = divmod(len(data[0]), batch_size)
    return tuple(part[: min(full, _BATCHES_TO_SETTLE) * batch_size + rest] for part in data)


def _numbered(tensors: dict[str, Tensor], name: str) -> list[Tensor]:
    """The tensors ``name.0``, ``name.1``, ... or ``name.0.0``, ``name.0.1``, ... in order."""
    found = [key for key in tensors if key.startswith(f"{name}.")]
    return [tensors[key] for key in sorted(found, key=lambda key: [int(part) for part in key.split(".")[1:]])]


def _batches(data: Data, batch_size: int, *, shuffle: bool) -> Iterator[Data]:
    N = len(data[0])
    shuffle = shuffle and batch_size < N  # one batch keeps its order: a guide may have parameters of each datum's own
    order = torch.randperm(N).to(data[0].device) if shuffle else torch.arange(N, device=data[0].device)
    for rows in order.split(batch_size):
        yield tuple(part[rows] for part in data)
