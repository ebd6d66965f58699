"""Values of latent sites by name, their single numbers, and maps under which a posterior is the same."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae.checks import say

__all__ = ["Symmetry", "Values", "number", "numbers"]

Values = dict[str, Tensor]


@dataclass(frozen=True)
class Symmetry:
    """Maps of the latent sites under which a posterior is the same, such as the labels of a mixture.

    The posterior is the even mixture of the images of its restriction to one representative of each orbit. So chains
    that each sit in one labelling know all of it: fold every draw to its representative, judge the chains there, and
    spread the folded draws over all images.

    Attributes:
        fold: from draws by site, ``(..., *site shape)``, to the representative of each.
        images: the maps from representatives to all equivalent values, the identity among them.
    """

    fold: Callable[[Values], Values]
    images: tuple[Callable[[Values], Values], ...]


def numbers(values: Values, *, lead: int = 0) -> Iterator[tuple[str, Tensor]]:
    """Walk over the scalar numbers of all sites: "tau", "theta[0]", "W[1,2]", each ``(*lead dimensions,)``.

    Args:
        values: by site, ``(*lead, *site shape)``.
        lead: how many dimensions stand before the site's own.

    Example:
        >>> [name for name, _ in numbers({"tau": torch.tensor(1.0), "W": torch.zeros(1, 2)})]
        ['tau', 'W[0,0]', 'W[0,1]']
    """
    for name, value in values.items():
        shape = value.shape[lead:]
        if not shape:
            yield name, value
            continue
        for place, column in zip(
            torch.cartesian_prod(*map(torch.arange, shape)).reshape(-1, len(shape)).tolist(),
            value.flatten(lead).unbind(-1),
            strict=True,
        ):
            yield f"{name}[{','.join(map(str, place))}]", column


def number(values: Values, name: str) -> Tensor:
    """Return one scalar number of the sites by its name, "tau" or "theta[0]", with the dimensions before the site's.

    Raises:
        ValueError: if there is no such number.

    Example:
        >>> number({"theta": torch.tensor([[1.0, 2.0], [3.0, 4.0]])}, "theta[1]")
        tensor([2., 4.])
    """
    found = re.fullmatch(r"(.+?)(?:\[([\d,]+)\])?", name)
    site, place = (found[1], found[2]) if found else (name, None)
    try:
        value = values[site]
        index: Any = (..., *(int(part) for part in place.split(","))) if place else ...
        chosen: Tensor = value[index]
        return chosen
    except (KeyError, IndexError) as error:
        remedy = f"{min(values)!r}, or {min(values)}[0] of a vector"
        raise ValueError(say(f"a number of the sites {sorted(values)}", repr(name), remedy)) from error
