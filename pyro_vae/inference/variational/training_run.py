"""One training run: its passes over the data, and its state at the end of an epoch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn

from pyro_vae.checks import say
from pyro_vae.datasets.shards import Shards
from pyro_vae.inference.compiled.kl_weight import KLWeight
from pyro_vae.inference.compiled.parallel import Parallel
from pyro_vae.inference.target.modules import TrainingModes
from pyro_vae.inference.target.program import Program, sample_sites
from pyro_vae.inference.variational.mini_batches import imputing, of_the_batch
from pyro_vae.inference.variational.steppers import Data, Stepper, batches
from pyro_vae.inference.variational.training_state import TrainingState, load_random, numbered, save_random
from pyro_vae.randomness import fork_rng

__all__ = ["TrainingRun"]

_EPOCHS_TO_CONVERGE = 6  # a batch size that comes once an epoch has its graph, or none, by then
_BATCHES_TO_CONVERGE = 40  # of one size in a row: the compiler gives later graphs their turn within so many
_SHARED_DRAWS = 16
_WIDER = 4  # times a batch of training is one of evaluation, which keeps nothing for gradients


class TrainingRun:
    """One model, guide and loss, and what a training loop does with them.

    Args:
        model: a Pyro program.
        guide: its guide.
        loss: a Pyro ELBO.
        binary: whether the data are probabilities, from which binary data are drawn.
        full_size: of a data plate that the batches sub-sample.
        observed: the model's observed sites.
        spared: latent sites that the KL weight leaves alone.

    Attributes:
        modes: training and evaluation mode of the modules.
        parallel: this process's part, where there are several; known once the parameters are.
        stepper: takes the steps; to be set before the first.
        evaluation: the loss to evaluate with.
        kl_weight: the weight of the KL term at the present step.
    """

    stepper: Stepper

    def __init__(
        self,
        model: Program,
        guide: Program,
        loss: Any,
        *,
        binary: bool,
        full_size: int | None = None,
        observed: Iterable[str] = (),
        spared: Set[str] = frozenset(),
    ) -> None:
        self.loss = loss  # Pyro types its ELBOs' loss and loss_and_grads nowhere
        self.evaluation = loss
        self.binary = binary
        self.programs = of_the_batch(imputing(model, observed), full_size), of_the_batch(guide, full_size)
        self.modes = TrainingModes((model, guide))
        self._learnt_whole = [part for part in (model, guide) if isinstance(part, nn.Module)]
        self.kl_weight = KLWeight(1.0, spared)
        self.parallel: Parallel | None = None
        self._parameters: list[Tensor] = []
        self._good: list[Tensor] = []
        self._num_draws: int | None = None  # to evaluate with; known from the first evaluation on

    def parameters(self, batch: Data) -> list[Tensor]:
        """The unconstrained parameters that the loss depends on; runs it once, so that lazy ones appear."""
        with self.modes.measuring(), pyro.validation_enabled(False), fork_rng(), poutine.trace(param_only=True) as seen:
            self.loss.loss(*self.programs, *(self.binarise(batch) if self.binary else batch))
        values: list[Any] = [site["value"] for site in seen.trace.nodes.values()]
        found = {id(p): p for p in (value.unconstrained() for value in values if value is not None)}
        found |= {id(p): p for module in self._learnt_whole for p in module.parameters() if p.requires_grad}
        if not found:
            raise ValueError(say("a model or guide with parameters to learn", "none", "torch.nn.Parameter, pyro.param"))
        self._parameters = list(found.values())
        self.parallel = Parallel.of(self._parameters, self._buffers)
        return self._parameters

    # -- passes over the data ------------------------------------------------------------------------------------

    def epoch(self, data: Data, batch_size: int, *, kl_weight: float = 1.0) -> float:
        """One pass over the data with a weight on the KL term; return the mean ELBO a datum at full weight, nats."""
        self.modes.train()
        self.kl_weight.weight = kl_weight
        own = self.stepper.steps(self.stepper.batches(data, batch_size))
        self.kl_weight.weight = 1.0
        self.modes.eval()
        if self.parallel is not None:  # running means follow each process's own share
            self.parallel.same(self._buffers)
        if kl_weight < 1.0:  # the objective of a warm-up epoch is no ELBO: measure it
            return self.elbo(data, batch_size)
        return -self.stepper.sum(own, data[0]) / len(data[0])

    @torch.no_grad()
    def elbo(self, data: Data, batch_size: int) -> float:
        """The mean ELBO a datum in nats, under the same noise at every call.

        A latent that all data share has one draw for all of them, whose luck no number of rows evens out; then several
        draws do.
        """
        own = self.stepper.share(data)
        if self._num_draws is None:
            self._num_draws = _SHARED_DRAWS if self._shares_latents(own, batch_size) else 1
        with fork_rng(seed=0), pyro.validation_enabled(False):
            losses = [
                self.evaluation.loss(*self.programs, *batch)
                for _ in range(self._num_draws)
                for batch in batches(own, _WIDER * batch_size, shuffle=False)
                if len(batch[0])
            ]
        return -self.stepper.sum(float(sum(losses)) / self._num_draws, data[0]) / len(data[0])

    def _shares_latents(self, data: Data, batch_size: int) -> bool:
        """Whether the guide draws a latent site outside every plate."""
        with fork_rng(), pyro.validation_enabled(False), poutine.trace() as seen:
            self.programs[1](*next(iter(batches(data, batch_size, shuffle=False))))
        sites = sample_sites(seen.trace).values()
        return any(not site["is_observed"] and not site["cond_indep_stack"] for site in sites)

    def binarise(self, data: Data) -> Data:
        """Draw binary data from the probabilities in the first tensor."""
        return (torch.bernoulli(data[0]), *data[1:])

    def rehearse(self, train: Data, held_out: Data | None, batch_size: int, kl_weights: list[float]) -> None:
        """Bring a graph to where it was after epochs of these KL weights; weights and moments move, and are lost.

        Batches of a size run on Pyro a few times before their graph is trusted, and the two differ in the last bit. So
        the first epochs are gone through again, on enough batches of each size for its graph to be in use.
        """
        train = _few_batches(train, batch_size)
        held_out = None if held_out is None else _few_batches(held_out, _WIDER * batch_size)
        for kl_weight in kl_weights[:_EPOCHS_TO_CONVERGE]:
            self.epoch(self.binarise(train) if self.binary else train, batch_size, kl_weight=kl_weight)
            if held_out is not None:
                self.elbo(held_out, batch_size)

    # -- state ---------------------------------------------------------------------------------------------------

    @contextmanager
    def whole_epochs(self) -> Iterator[None]:
        """However training inside ends, leave no gradient and modules in their last mode; on an error, good weights."""
        self.keep()
        try:
            with self.modes.measuring():
                yield
        except BaseException:  # an interrupt too may come between two parameters' steps
            self.restore(self._good)
            raise
        finally:
            for parameter in self._parameters:
                parameter.grad = None  # a gradient left behind would add to the user's next one

    def keep(self) -> list[Tensor]:
        """Call the present weights good; return copies of them."""
        self._good = [tensor.detach().clone() for tensor in self._tensors()]
        return self._good

    @torch.no_grad()
    def restore(self, state: list[Tensor]) -> None:
        """Put copies back."""
        for tensor, saved in zip(self._tensors(), state, strict=True):
            tensor.copy_(saved)

    def save(self, best: list[Tensor], **numbers: Any) -> TrainingState:
        """Return where the run stands, with ``best`` weights and further numbers."""
        state = TrainingState({}, numbers)
        for name, tensors in (("now", self._tensors()), ("best", best)):
            state.tensors |= {f"{name}.{i}": tensor.detach().clone() for i, tensor in enumerate(tensors)}
        self.stepper.save(state)
        state.numbers["loss_step"] = getattr(self.loss, "step", None)
        save_random(state)
        return state

    def load(self, state: TrainingState) -> list[Tensor]:
        """Take up a state; return its best weights.

        Raises:
            ValueError: if it is of another model, guide or optimiser.
        """
        wanted = [tuple(tensor.shape) for tensor in self._tensors()]
        now, best = (numbered(state.tensors, name) for name in ("now", "best"))
        got = [tuple(tensor.shape) for tensor in now]
        if got != wanted:
            remedy = "the model, guide and settings of the run that saved it"
            raise ValueError(say(f"a state of parameters {wanted}", f"{got}", remedy))
        self.stepper.load(state)
        self.restore(now)
        if state.numbers["loss_step"] is not None:
            self.loss.step = state.numbers["loss_step"]
        load_random(state)
        self.keep()
        return [tensor.to(own.device) for tensor, own in zip(best, self._tensors(), strict=True)]

    def _tensors(self) -> list[Tensor]:
        """Parameters and buffers: all that training moves."""
        return [*self._parameters, *self._buffers]

    @property
    def _buffers(self) -> list[Tensor]:
        return self.modes.buffers()


def _few_batches(data: Data, batch_size: int) -> Data:
    """As many rows as make a few full batches, and the smaller last one."""
    if isinstance(data[0], Shards):
        return (data[0].few(_BATCHES_TO_CONVERGE),)
    full, rest = divmod(len(data[0]), batch_size)
    return tuple(part[: min(full, _BATCHES_TO_CONVERGE) * batch_size + rest] for part in data)
