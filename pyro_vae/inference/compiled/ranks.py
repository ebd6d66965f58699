"""Compiled steps on several processes: what they exchange between the gradient and Adam, and what they agree on.

Every process takes the same steps in the same order, by its graph or by Pyro, and each step has one exchange. With the
gradient goes how many warnings of each kind a process has had since the last: that a program is refused, that a graph
was wrong, that Inductor fails. So all hear of it in that very step, and follow: no process runs a graph that another
has found wrong, none waits for an answer, and none gives up alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from pyro_vae.distributed import everyones
from pyro_vae.inference.compiled.backend import Run, compiled, outputs
from pyro_vae.inference.compiled.graphs import Graphs, LeftToPyro, NotCompiled, Retraced
from pyro_vae.inference.compiled.parallel import Parallel

__all__ = ["Ranks", "SharedStep"]

_KINDS: tuple[type[Warning], ...] = (LeftToPyro, Retraced, NotCompiled)


class Ranks:
    """This process among those that take steps together.

    Args:
        parallel: talks to the others.
        warn: takes each warning, once all processes know of it.
    """

    def __init__(self, parallel: Parallel, warn: Callable[[Warning], None]) -> None:
        self.parallel = parallel
        self._warn = warn
        self._waiting: list[Warning] = []
        self._passed: set[str] = set()
        self._told = [0.0] * len(_KINDS)

    def hear(self, warning: Warning) -> None:
        """Keep a warning until the others know of it."""
        self._waiting.append(warning)

    def exchange(
        self, loss: Tensor, leaves: Sequence[Tensor], grads: Sequence[Tensor | None]
    ) -> tuple[Tensor, Tensor, list[Tensor | None]]:
        """Return the loss of this share, the loss of all, and the gradients of all, see :class:`Parallel`."""
        counts = [sum(isinstance(warning, kind) for warning in self._waiting) for kind in _KINDS]
        own, total, summed, self._told = self.parallel.exchange(loss, leaves, grads, counts)
        return own, total, summed

    def settle(self, graphs: Graphs) -> bool:
        """After a step: follow the others in what they had to say, and pass warnings on; return whether any had."""
        if not any(self._told):
            return False
        own, self._waiting, self._told = self._waiting, [], [0.0] * len(_KINDS)
        told = everyones([(_kind(warning), str(warning)) for warning in own])
        heard = {_kind(warning) for warning in own}
        for number, said in enumerate(told):
            for kind, text in said:
                if kind not in heard:
                    heard.add(kind)
                    own.append(_KINDS[kind](f"on process {number}, {text}"))
                    graphs.follow(own[-1])
        for warning in own:
            if str(warning) not in self._passed:
                self._passed.add(str(warning))
                self._warn(warning)
        return True


def _kind(warning: Warning) -> int:
    return next(i for i, kind in enumerate(_KINDS) if isinstance(warning, kind))


@dataclass(frozen=True)
class SharedStep:
    """One step: the gradient of this process's share, the exchange, and Adam on the gradient of all.

    Attributes:
        ranks: this process among the others.
        leaves: the parameters that are moved.
        gradient: of the graph's inputs, loss and gradients by ``leaves``.
        move: of loss, gradients and ``rest``, the gradient's norm; moves parameters and moments.
        rest: of all inputs, what Adam reads.
    """

    ranks: Ranks
    leaves: list[Tensor]
    gradient: Run
    move: Run
    rest: Callable[[list[Tensor]], list[Tensor]]

    def __call__(self, inputs: list[Tensor]) -> list[Tensor]:
        """Return the loss of this process's share, and the norm of the whole gradient."""
        loss, *grads = self.gradient(inputs)
        own, total, summed = self.ranks.exchange(loss, self.leaves, grads)
        return [own, *self.move([total, *(grad for grad in summed if grad is not None), *self.rest(inputs)])]

    def compiled(self, inputs: list[Tensor]) -> SharedStep:
        """The same with two graphs of Inductor's; the exchange lies between them."""
        found = outputs(self.gradient, inputs)
        moved = [found[0].to(self.ranks.parallel.dtype), *found[1:], *self.rest(inputs)]
        return replace(self, gradient=compiled(self.gradient, inputs), move=compiled(self.move, moved))
