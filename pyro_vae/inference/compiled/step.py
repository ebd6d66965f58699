"""A whole step of stochastic variational inference as one compiled graph: loss, gradient, clipping and Adam."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence, Set
from typing import Any

import torch
from pyro.infer import ELBO, Trace_ELBO
from torch import Tensor

from pyro_vae import checks
from pyro_vae.checks import say
from pyro_vae.inference.compiled.adam import Adam
from pyro_vae.inference.compiled.elbos import traceable
from pyro_vae.inference.compiled.loop import StepLoop
from pyro_vae.inference.compiled.parallel import Parallel

__all__ = ["CompiledStep"]


class CompiledStep:
    r"""One step of SVI with Adam as one graph, which moves the parameters in place.

    The loss is that of ``loss``, with the log densities of latent sites weighted by ``kl_weight``. Its gradient g is
    multiplied by ``scale``, clipped to the norm ``clip_norm``, and given to Adam (Kingma & Ba 2015) with decoupled
    weight decay (Loshchilov & Hutter 2019), in torch's form:

    .. math:: m \leftarrow \beta_1 m + (1 - \beta_1) g, \quad v \leftarrow \beta_2 v + (1 - \beta_2) g^2, \quad
        \theta \leftarrow (1 - \eta \lambda) \theta
        - \frac{\eta}{1 - \beta_1^t} \, m \Big/ \Big(\sqrt{v / (1 - \beta_2^t)} + \epsilon\Big).

    If the loss or the gradient's norm is not finite, nothing moves. Steps that cannot be compiled, or not yet, run on
    Pyro with the same update. Learned are Pyro's parameters and the parameters of model and guide if they are modules.

    Args:
        model: a Pyro program.
        guide: its guide.
        loss: ``Trace_ELBO``, ``TraceMeanField_ELBO``, ``TraceEnum_ELBO``, an objective of this package, or one of
            these compiled; ``Trace_ELBO()`` if None. A weight that it has of its own multiplies ``kl_weight``.
        lr: the learning rate :math:`\eta`; may be changed at any step.
        betas: Adam's :math:`\beta_1, \beta_2`.
        eps: Adam's :math:`\epsilon`.
        weight_decay: :math:`\lambda`; AdamW's, decoupled from the gradient.
        clip_norm: the largest norm of the scaled gradient; None for no limit.
        backend: "inductor" or "eager", as in ``CompiledTrace_ELBO``.
        steps_per_call: how many steps :meth:`run` puts into one graph. Compilation takes as many times as long, and
            results are those of single steps up to rounding; 4 saves small programs another fifth of the time.
        spared: names of latent sites that ``kl_weight`` leaves alone.
        parallel: this process's part of steps that several processes take together, one after the other, each on its
            share of the data: between the gradient and Adam they exchange gradients.
        warn: takes the warnings, as in ``CompiledTrace_ELBO``.

    Attributes:
        grad_norm: the norm of the scaled gradient at the last step, before clipping.
        reason: the last warning, if there was one.

    Raises:
        NotTraceableError: if ``loss`` is of a kind that has no compiled twin.
        ValueError: if a setting is out of its range, or several processes shall take several steps a call; at a step,
            if model and guide have nothing to learn.

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
        spared: Set[str] = frozenset(),
        parallel: Parallel | None = None,
        warn: Callable[[Warning], None] | None = None,
    ) -> None:
        checks.among(backend, ["inductor", "eager"], "backend")
        self.steps_per_call = checks.positive_integer(steps_per_call, "steps_per_call")
        if parallel is not None and steps_per_call > 1:
            raise ValueError(say("one step a call on several processes", f"{steps_per_call}", "steps_per_call=1"))
        self.reason: str | None = None
        self.grad_norm = torch.tensor(0.0)
        self._warn = warn
        self._adam = Adam(lr, betas, eps, weight_decay, clip_norm, together=backend == "eager")
        elbo = traceable(loss if loss is not None else Trace_ELBO())
        of_loop: Any = {"backend": backend, "warn": self._hear, "spared": spared, "parallel": parallel}
        self._loop = StepLoop(model, guide, elbo, self._adam, **of_loop)

    def __call__(self, *args: Any, kl_weight: float = 1.0, lr: float | None = None, scale: float = 1.0) -> Tensor:
        """Take one step on these arguments, otherwise as :meth:`run`; return the loss before it, a scalar tensor."""
        self._loop.schedule(args, kl_weight, lr, scale)
        loss, self.grad_norm, _ = self._loop.take(args)
        return loss

    def run(
        self, batches: Iterable[Sequence[Any]], *, kl_weight: float = 1.0, lr: float | None = None, scale: float = 1.0
    ) -> Tensor:
        """Take one step on each batch; return the losses before each, in nats summed over the data, ``(num_batches,)``.

        Model and guide are looked at once for all batches of a layout, so they must not be changed meanwhile. A graph
        that has run 750 times since its last check is checked at the start. It ends early, with the step whose loss or
        gradient was not finite.

        Args:
            batches: what model and guide take, batch by batch.
            kl_weight: weight of the latent sites' log densities.
            lr: the learning rate from now on.
            scale: factor of the gradient, 1 / N for a loss in nats per datum.
        """
        losses: list[float] = []  # tensors of some bytes, kept between large ones that go, would break memory up
        loss = torch.empty(0)
        for loss, norm in self._loop.steps(batches, self.steps_per_call, kl_weight, lr, scale):
            losses.append(loss.item())
            self.grad_norm = norm
            if not (math.isfinite(losses[-1]) and math.isfinite(norm.item())):
                break
        return loss.new_tensor(losses)

    def retrace(self) -> None:
        """Forget all graphs: model or guide have changed in what they read from Python."""
        self._loop.graphs.retrace()

    @property
    def parameters(self) -> list[Tensor]:
        """The parameters that have been moved so far, unconstrained."""
        return self._adam.parameters

    @property
    def num_graphs(self) -> int:
        """How many graphs have been found right and are in use."""
        return self._loop.graphs.num_checked

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
        self._loop.graphs.step = self.num_steps

    def _hear(self, warning: Warning) -> None:
        self.reason = str(warning)
        if self._warn is None:
            warnings.warn(type(warning)(f"CompiledStep: {warning}"), stacklevel=6)
        else:
            self._warn(warning)
