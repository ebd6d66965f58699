"""One game being played: two optimisers taking turns, the averaged generator, and a state to go on from."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

from pyro_vae.checks import say
from pyro_vae.inference.variational.training_state import (
    TrainingState,
    load_optimiser,
    load_random,
    save_optimiser,
    save_random,
)
from pyro_vae.systems.adversaries.game import Game

__all__ = ["Contest"]

_PLAYERS = ("discriminator", "generator")
_BETAS = (0.5, 0.99)  # a momentum of 0.9 makes the players circle each other: Radford et al. 2016, section 3


class Contest:
    """A game, its data, and where its training stands.

    Args:
        game: what is played.
        data: data and conditions, over the same rows.
        whole: the system that the game is a stage of, whose weights are kept.
        batch_size: data a step.
        lr: Adam's learning rates, the discriminator's and the generator's.
        average: how much of the averaged generator a step keeps.

    Attributes:
        step: steps taken.
        losses: every term of both losses, one value a step.
    """

    def __init__(
        self,
        game: Game,
        data: tuple[Tensor, ...],
        *,
        whole: Game,
        batch_size: int,
        lr: tuple[float, float],
        average: float,
    ) -> None:
        self.game, self.data, self.whole = game, data, whole
        self.batch_size, self.average = batch_size, average
        self.step = 0
        self.losses: dict[str, list[float]] = defaultdict(list)
        self.players = game.players()
        pairs = zip(self.players, lr, strict=True)
        self.optimisers = {
            name: torch.optim.Adam(player, lr=rate, betas=_BETAS, fused=True)
            for name, (player, rate) in zip(_PLAYERS, pairs, strict=True)
            if player  # a game may have no discriminator to train
        }
        self._moving = [*self.players[1], *game.generator_statistics()]
        self.averaged = [tensor.detach().clone() for tensor in self._moving]
        self._order = torch.empty(0, dtype=torch.int64)
        self._good = self._weights()

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in the data; the rows that are left over change from epoch to epoch."""
        return len(self.data[0]) // self.batch_size

    def epoch(self, last_step: int) -> None:
        """Go on to the end of the pass over the data, or to the last step if it comes before.

        Raises:
            FloatingPointError: if a loss becomes NaN or infinite; the weights are then those before this pass.
        """
        first = self.step
        if first % self.steps_per_epoch == 0:
            self._order = torch.randperm(len(self.data[0]))
        end = min(last_step, first - first % self.steps_per_epoch + self.steps_per_epoch)
        found: dict[str, list[Tensor]] = defaultdict(list)
        self.game.train()
        try:
            while self.step < end:
                for name, value in self._take_step().items():
                    found[name].append(value)
        except BaseException:  # an interrupt may come between the two players' steps
            self._restore()
            raise
        finally:
            self.game.eval()
        self._record({name: torch.stack(values).tolist() for name, values in found.items()}, first)
        self._good = self._weights()

    def finish(self) -> None:
        """Put the averaged weights in the generator, and leave no gradients."""
        with torch.no_grad():
            for parameter, mean in zip(self._moving, self.averaged, strict=True):
                parameter.copy_(mean)
        self._drop_gradients()

    def _take_step(self) -> dict[str, Tensor]:
        """The discriminator's turn, then the generator's, on the same images; return the terms of both losses."""
        start = self.step % self.steps_per_epoch * self.batch_size
        rows = self._order[start : start + self.batch_size].to(self.data[0].device)
        batch = tuple(part[rows] for part in self.data)
        move = self.game.play(*batch)
        shown = {name: value.detach() for name, value in move.items()}
        judged = self.game.discriminator_loss(shown, *batch)
        self._turn("discriminator", judged)
        for parameter in self.players[0]:
            parameter.requires_grad_(False)
        try:
            made = self.game.generator_loss(move, *batch)
            self._turn("generator", made)
        finally:
            for parameter in self.players[0]:
                parameter.requires_grad_(True)
        self.step += 1
        keep = min(self.average, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.averaged, [tensor.detach() for tensor in self._moving], 1 - keep)
        return {name: value.detach() for name, value in {**made, **judged}.items()}

    def _turn(self, player: str, terms: dict[str, Tensor]) -> None:
        if player not in self.optimisers:
            return
        self.optimisers[player].zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward()
        self.optimisers[player].step()

    def _record(self, found: dict[str, list[float]], first: int) -> None:
        """Keep a pass's losses, unless one of them is no number."""
        values = torch.tensor(list(found.values()))
        bad = (~values.isfinite()).nonzero().tolist()
        if bad:
            self._restore()
            term, step = min(bad, key=lambda pair: pair[1])
            got = f"{values[term][step]:g} in the term {list(found)[term]!r} at step {first + step}"
            rates = ", ".join(f"{optimiser.param_groups[0]['lr']:g}" for optimiser in self.optimisers.values())
            raise FloatingPointError(
                say("finite losses", got, f"a smaller lr than {rates}, a larger penalty, or data on the scale of 1")
            )
        for name, own in found.items():
            self.losses[name] += own

    # -- state -------------------------------------------------------------------------------------------------------

    def save(self, **numbers: Any) -> TrainingState:
        """Return where the contest stands, with further numbers."""
        state = TrainingState({}, {**numbers, "step": self.step, "terms": list(self.losses)})
        state.tensors |= {f"weights.{name}": value for name, value in self._weights().items()}
        state.tensors |= {f"averaged.{i}": value.clone() for i, value in enumerate(self.averaged)}
        state.tensors["order"] = self._order.clone()
        for name, values in self.losses.items():
            state.tensors[f"losses.{name}"] = torch.tensor(values, dtype=torch.float64)
        for player, optimiser in self.optimisers.items():
            own = TrainingState()
            save_optimiser(optimiser, own)
            state.tensors |= {f"{player}.{name}": value for name, value in own.tensors.items()}
            state.numbers[player] = own.numbers
        save_random(state)
        return state

    def load(self, state: TrainingState) -> None:
        """Take up a state.

        Raises:
            ValueError: if it is of another system.
        """
        weights = _named(state, "weights")
        own = self._weights()
        if {name: w.shape for name, w in weights.items()} != {name: w.shape for name, w in own.items()}:
            remedy = "the system and networks of the run that saved it, or another folder"
            raise ValueError(say(f"a state of {len(own)} tensors of this system", "one of another", remedy))
        self.whole.load_state_dict(weights)
        for i, mean in enumerate(self.averaged):
            mean.copy_(state.tensors[f"averaged.{i}"])
        self._order, self.step = state.tensors["order"], state.numbers["step"]
        kept = _named(state, "losses")
        self.losses = defaultdict(list, {name: kept[name].tolist() for name in state.numbers["terms"]})
        for player, optimiser in self.optimisers.items():
            load_optimiser(optimiser, TrainingState(_named(state, player), state.numbers[player]))
        load_random(state)
        self._good = self._weights()

    def _weights(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self.whole.state_dict().items()}

    def _restore(self) -> None:
        self.whole.load_state_dict(self._good)
        self._drop_gradients()

    def _drop_gradients(self) -> None:
        """A gradient left behind would add to the user's next one."""
        for optimiser in self.optimisers.values():
            optimiser.zero_grad(set_to_none=True)


def _named(state: TrainingState, group: str) -> dict[str, Tensor]:
    """The tensors of a group, by the rest of their names."""
    return {n.removeprefix(f"{group}."): t for n, t in state.tensors.items() if n.startswith(f"{group}.")}
