"""Sums over discrete sites by message passing in log space, which can be read backwards as exact draws."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from functools import reduce
from typing import Any, NamedTuple

import torch
from pyro.ops import packed
from pyro.ops.contract import contract_to_tensor
from pyro.ops.rings import LogRing
from torch import Tensor

from pyro_vae.checks import say

__all__ = ["LARGEST", "Factor", "aligned", "backward_draws", "eliminate", "named", "size_error"]

_MOST_IN_ROUND = 512  # numbers in the product of a step that is one of many at once
_LEAST_IN_ROUND = 8  # symbols from which on that is worth it
LARGEST = 2**26  # numbers in one tensor, beyond which a sum over discrete sites is refused: half a gigabyte


class Factor(NamedTuple):
    """One site's log density over the enumerated values that it depends on.

    Attributes:
        name: the site's.
        plates: the symbols of the plates around it.
        log_prob: packed as Pyro packs: one dimension a symbol of ``_pyro_dims``, an enumerated site's or a plate's.
        is_observed: whether the site is.
    """

    name: str
    plates: frozenset[str]
    log_prob: Any
    is_observed: bool


class _Elimination(LogRing):
    """Pyro's ring of log-sum-exp, with sums that ``torch.vmap`` takes and twice differentiable, and their record.

    Each symbol in turn, that of the smallest product first, is summed out of the product of all terms that have it.
    In a chain that is the forward algorithm, from an end.

    Attributes:
        steps: of each symbol in the order of elimination the product that it was summed out of.
    """

    def __init__(self, sizes: dict[str, int]) -> None:
        super().__init__(cache={}, dim_to_size=sizes)
        self.sizes = sizes
        self.steps: list[tuple[str, Any]] = []

    def sumproduct(self, terms: Iterable[Any], dims: Iterable[str]) -> Any:
        """Multiply the terms and sum the symbols out, each as early as the terms allow."""
        alive = {id(term): term for term in terms}
        owners = {dim: [key for key, term in alive.items() if dim in term._pyro_dims] for dim in sorted(dims)}
        owners = {dim: keys for dim, keys in owners.items() if keys}

        def size(dim: str) -> int:
            return self._size(alive[key] for key in owners[dim])

        cost = {dim: size(dim) for dim in owners}
        order: list[str] = []
        long = len(owners) > _LEAST_IN_ROUND
        while owners:
            if not order:
                order = self._round(owners, alive, cost) if long else [min(owners, key=cost.__getitem__)]
            dim = order.pop(0)
            joined = owners.pop(dim)
            product = self._product([alive.pop(key) for key in joined])
            self.steps.append((dim, product))
            dims_left = product._pyro_dims.replace(dim, "")
            term = named(_log_sum_exp(product, product._pyro_dims.index(dim)), dims_left)
            alive[id(term)] = term
            for other in set(term._pyro_dims) & set(owners):
                owners[other] = [key for key in owners[other] if key not in joined] + [id(term)]
                cost[other] = size(other)
        return self._product(list(alive.values()))

    def _round(self, owners: dict[str, list[int]], alive: dict[int, Any], cost: dict[str, int]) -> list[str]:
        """The symbols to sum out next: the cheapest; in a long chain, where it costs little, each second one.

        These do not need each other, and the chain is half as long then: in log2 T rounds all is summed, each of which
        is one step of a graph that does alike things at once (``Batched``).
        """
        cheap = [dim for dim in owners if cost[dim] <= min(_MOST_IN_ROUND, LARGEST)]
        chosen: list[str] = []
        for dim in cheap:
            around = set().union(*(alive[key]._pyro_dims for key in owners[dim]))
            if not around & set(chosen):
                chosen.append(dim)
        return chosen or [min(owners, key=cost.__getitem__)]

    def _size(self, terms: Iterable[Any]) -> int:
        return math.prod(self.sizes[dim] for dim in set().union(*(term._pyro_dims for term in terms)))

    def _product(self, terms: Sequence[Any]) -> Any:
        """The terms' product, a dimension for each symbol of any, in order."""
        size = self._size(terms)
        if size > LARGEST:
            raise size_error(size)
        dims = "".join(sorted(set().union(*(term._pyro_dims for term in terms))))
        return named(reduce(torch.add, [aligned(term, dims) for term in terms]), dims)


def eliminate(factors: Sequence[Factor], sizes: dict[str, int], keep: frozenset[str]) -> tuple[Tensor, Any]:
    """Sum the product of factors over all enumerated values, plates but ``keep`` multiplied over.

    Args:
        factors: the log densities.
        sizes: of each symbol, plates' and enumerated sites'.
        keep: plates' symbols that stay, the result's one dimension, or none.

    Returns:
        The log of the sum, ``(N,)`` or ``()``; the steps of the elimination.

    Raises:
        ValueError: if a tensor of more than 2^26 numbers would be needed, or plates cross.
    """
    tree: OrderedDict[frozenset[str], list[Any]] = OrderedDict()
    plates = frozenset().union(*(factor.plates for factor in factors))
    for factor in factors:
        tree.setdefault(factor.plates, []).append(factor.log_prob)
    dims = set().union(*(factor.log_prob._pyro_dims for factor in factors)) - plates
    ring = _Elimination(sizes)
    try:
        total = contract_to_tensor(tree, dims, target_ordinal=keep, ring=ring)
    except NotImplementedError as error:
        got = f"sites of one plate and of another that meet in a third one: {str(error).split('. ')[0]}"
        remedy = "for i in range(...) in place of one of the plates, where that is short"
        raise ValueError(say("plates of discrete sites that form a tree", got, remedy)) from error
    return total, ring.steps


def backward_draws(steps: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Draw a value of every symbol given those eliminated after it, last ones first: an exact draw of all of them.

    Returns:
        By symbol the index of the value, packed: one dimension a plate.
    """
    drawn: dict[str, Any] = {}
    for dim, product in reversed(steps):
        logits = product
        for other in product._pyro_dims:
            if other in drawn:
                logits = packed.gather(logits, drawn[other], other)
        axis = logits._pyro_dims.index(dim)
        noise = -torch.rand_like(logits).log()
        index = (logits - noise.log()).argmax(axis)  # Gumbel's trick
        drawn[dim] = named(index, logits._pyro_dims.replace(dim, ""))
    return drawn


def size_error(size: int) -> ValueError:
    """What to say of a sum that is too large."""
    remedy = "pyro.plate around independent sites, pyro.markov around a chain, or fewer values"
    return ValueError(
        say(f"a sum over discrete sites in tensors of at most {LARGEST:,} numbers", f"one of {size:.2g}", remedy)
    )


def named(value: Tensor, dims: str) -> Any:
    """The tensor with a symbol for each of its dimensions, as Pyro packs."""
    view: Any = value[...]
    view._pyro_dims = dims
    return view


def aligned(term: Any, dims: str) -> Tensor:
    """A packed tensor with a dimension for each of ``dims``, of length 1 where it has none."""
    own = [dim for dim in dims if dim in term._pyro_dims]
    value = term.permute(tuple(term._pyro_dims.index(dim) for dim in own))
    sizes = iter(value.shape)
    return value.reshape([next(sizes) if dim in own else 1 for dim in dims])


def _log_sum_exp(x: Tensor, dim: int) -> Tensor:
    """The same as torch's, with a gradient of 0 in place of NaN where every term is zero."""
    nothing = (x == -math.inf).all(dim)
    total = torch.where(nothing.unsqueeze(dim), 0.0, x).logsumexp(dim)
    return torch.where(nothing, -math.inf, total)
