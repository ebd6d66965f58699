"""One posterior of the atlas: a program, its data, why it is there, and its truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pyro_vae.atlas.truth import Truth
from pyro_vae.inference.target.program import Program
from pyro_vae.inference.target.target import Target

__all__ = ["Problem"]


@dataclass(frozen=True, eq=False, repr=False)
class Problem:
    """One posterior of a whole program, and what is known of it.

    To write one, put a file into ``pyro_vae/atlas/programs`` with a Pyro program and a function ``problem()`` that
    returns this, and its name into the list there. The data are float64 tensors of the program's own, and
    ``find_truth`` is a function that finds the truth in a moment, or :class:`~pyro_vae.atlas.archive.Stored`
    around one that takes long.

    Attributes:
        name: what :func:`pyro_vae.atlas.load` calls it.
        title: the same for a heading.
        model: the Pyro program, called as ``model(*args)``.
        args: its data.
        why: one paragraph: why it is here, and what should go wrong, for which route.
        telling: the two most telling scalar numbers, as "tau" or "theta[0]".
        source: where program and data come from, and under which terms.
        find_truth: from the target to its truth; raises ValueError, with the reason, where there is none.
        plate: the data plate; None, as everywhere in the atlas, for one posterior of the whole program.
    """

    name: str
    title: str
    model: Program
    args: tuple[Any, ...]
    why: str
    telling: tuple[str, str]
    source: str
    find_truth: Callable[[Target], Truth]
    plate: str | None = None

    @cached_property
    def target(self) -> Target:
        """The program and its data as a density over u ``(..., 1, L)``."""
        return Target(self.model, self.args, plate=self.plate)

    @cached_property
    def truth(self) -> Truth:
        """What is known of the posterior; found or read when first asked for.

        Raises:
            ValueError: if nothing is known; it says why.
        """
        return self.find_truth(self.target)

    def __repr__(self) -> str:
        return f"Problem({self.name!r}, L={self.target.latent_dim})"
