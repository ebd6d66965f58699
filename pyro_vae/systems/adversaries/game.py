"""The base class of adversarial systems: the recipe for writing one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae import checks
from pyro_vae.checks import say

__all__ = ["Game", "features_of", "in_unit_interval", "one_number", "rows_of_generator"]


class Game(nn.Module):
    """Base class of games between a generator and a discriminator, which :func:`fit_adversarial` plays.

    To write one, subclass it, set ``generator`` and ``discriminator``, and define three methods. ``play`` makes what
    the generator puts on the table for a batch; both losses are dictionaries of terms, in nats a datum, whose sum the
    player minimises, its own loss first:

        >>> class Toy(Game):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.generator, self.discriminator = nn.Linear(2, 1), nn.Linear(1, 1)
        ...     def play(self, x):
        ...         return {"fake": self.generator(torch.randn(len(x), 2))}
        ...     def discriminator_loss(self, move, x):
        ...         return {"discriminator": self.discriminator(move["fake"]).mean() - self.discriminator(x).mean()}
        ...     def generator_loss(self, move, x):
        ...         return {"generator": -self.discriminator(move["fake"]).mean()}
        >>> sorted(Toy().play(torch.zeros(3, 1)))
        ['fake']

    A system of several games, one after the other, overrides ``stages``; one that takes conditions or checks its data
    overrides ``prepare``. ``play`` draws from torch's random stream only, and ``"fake"`` is what diversity is read off.
    """

    generator: nn.Module
    discriminator: nn.Module

    def stages(self) -> tuple[Game, ...]:
        """The games that are played one after the other; one, unless overridden."""
        return (self,)

    def players(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """The parameters of the discriminator, and those of the generator."""
        return list(self.discriminator.parameters()), list(self.generator.parameters())

    def generator_statistics(self) -> list[Tensor]:
        """What the generator keeps of its batches, such as means of batch normalisation: averaged with its weights."""
        return [buffer for buffer in self.generator.buffers() if buffer.is_floating_point()]

    def prepare(self, x: Any, *conditions: Any) -> tuple[Tensor, ...]:
        """Return data and conditions as checked tensors over the same rows.

        Raises:
            TypeError: if something is no tensor.
            ValueError: if something does not fit.
        """
        data = tuple(checks.finite(checks.tensor(part, "x")) for part in (x, *conditions))
        for part in data[1:]:
            checks.same_length(data[0], part, "x", "conditions")
        return data

    def play(self, *batch: Tensor) -> dict[str, Tensor]:
        """Return what the generator makes for a batch, with its gradient: ``"fake"`` and whatever the losses need."""
        raise NotImplementedError(f"{type(self).__name__} must define play(self, *batch) -> dict with 'fake'")

    def discriminator_loss(self, move: dict[str, Tensor], *batch: Tensor) -> dict[str, Tensor]:
        """Return the terms of the discriminator's loss; the move comes without a gradient."""
        raise NotImplementedError(f"{type(self).__name__} must define discriminator_loss(self, move, *batch)")

    def generator_loss(self, move: dict[str, Tensor], *batch: Tensor) -> dict[str, Tensor]:
        """Return the terms of the generator's loss."""
        raise NotImplementedError(f"{type(self).__name__} must define generator_loss(self, move, *batch)")

    def real(self, *batch: Tensor) -> Tensor:
        """What the generator's images are to look like, of a batch: the data, unless overridden."""
        return batch[0]


def in_unit_interval(x: Tensor, generator: nn.Module) -> None:
    """Check that data lie where the generator can reach: in [0, 1] if it ends in a sigmoid.

    Raises:
        ValueError: if they do not.
    """
    *_, last = generator.modules()
    low, high = float(x.min()), float(x.max())
    if isinstance(last, nn.Sigmoid) and (low < 0 or high > 1):
        remedy = "x / x.max(), or a generator= of your own that ends in no sigmoid"
        raise ValueError(say("data in [0, 1], which a sigmoid reaches", f"values from {low:g} to {high:g}", remedy))


@torch.no_grad()
def rows_of_generator(generator: nn.Module, latent_dim: int, data_dim: int) -> None:
    """Check that a generator makes ``(..., D)`` of ``(..., L)``.

    Raises:
        ValueError: if it does not.
    """
    z = torch.zeros(2, latent_dim, **_like(generator))
    got = _output(generator, z, "the generator", "z")
    if got != (2, data_dim):
        remedy = f"a last layer of {data_dim}, or data_dim={got[-1] if got else 1}"
        raise ValueError(say(f"a generator that makes (2, {data_dim}) of z (2, {latent_dim})", f"{got}", remedy))


@torch.no_grad()
def one_number(discriminator: nn.Module, *widths: int) -> None:
    """Check that a discriminator gives one logit ``(..., 1)`` a datum.

    Raises:
        ValueError: if it does not.
    """
    x = torch.zeros(2, sum(widths), **_like(discriminator))
    got = _output(discriminator, x, "the discriminator", "x")
    if got != (2, 1):
        expected = f"a discriminator that makes one logit (2, 1) of x (2, {sum(widths)})"
        raise ValueError(say(expected, f"{got}", "a last layer of 1 without a sigmoid"))


@torch.no_grad()
def features_of(trunk: nn.Module, data_dim: int) -> int:
    """Return how many features F a trunk makes of x ``(N, D)``.

    Raises:
        ValueError: if it does not take x, or gives no rows.
    """
    x = torch.zeros(2, data_dim, **_like(trunk))
    got = _output(trunk, x, "the trunk", "x")
    if len(got) != 2 or got[0] != 2:
        raise ValueError(say(f"a trunk that makes (2, F) of x (2, {data_dim})", f"{got}", "nn.Flatten() at its end"))
    return int(got[-1])


def _like(module: nn.Module) -> dict[str, Any]:
    """Where a module's parameters live, and in which precision."""
    one = next(module.parameters(), None)
    return {} if one is None else {"dtype": one.dtype, "device": one.device}


def _output(module: nn.Module, value: Tensor, what: str, name: str) -> tuple[int, ...]:
    """The shape a network gives, without moving its statistics; an error of its own in this package's words."""
    mode = module.training
    try:
        return tuple(module.eval()(value).shape)
    except (RuntimeError, ValueError) as error:
        raise checks.misfit(error, module, value, what=what, name=name) from error
    finally:
        module.train(mode)
