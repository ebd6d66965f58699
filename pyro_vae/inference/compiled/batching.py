"""What a traced function does again and again, done once for all: the steps of a Python loop become one operation each.

A loop of T steps is traced as T copies of its body. Of these, equal ones are one, and those that differ only in the
tensors that they work on are one operation on all of them, stacked: some hundred operations, whatever T is.
"""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_flatten, tree_unflatten

__all__ = ["Batched"]

_aten = torch.ops.aten
_ITSELF = {_aten.alias.default, _aten.lift_fresh_copy.default}
_LOOSER = {_aten.view.default: _aten.reshape.default, _aten._unsafe_view.default: _aten.reshape.default}
_JOINS = {_aten.stack.default, _aten.cat.default}
_MOST_PIECES = 6  # that rows are joined of, piece by piece; of more, they are picked out of all

_Place = tuple[int, int]  # which result, and which row of it
_Results = list[Tensor]


class Batched:
    """The first output of a graph without effects, as a function that does at once what the graph repeats.

    Args:
        module: the graph, of one input and constants, made by ``make_fx``.
        constants: what it reads beside its input.
    """

    def __init__(self, module: fx.GraphModule, constants: Sequence[Tensor]) -> None:
        nodes = list(module.graph.nodes)
        first, *given = [node for node in nodes if node.op == "placeholder"]
        self._places: dict[fx.Node, _Place] = {first: (0, 0)}
        self._sizes = [1]  # rows of each result; a single one has no dimension for it
        self._steps: list[Callable[[_Results], Tensor]] = []
        self._forms = {first: _form(first.meta["val"])} | dict(zip(given, map(_form, constants), strict=True))
        self._same = {first: first}
        self._constants = self._stacked(given, constants)
        for kind, alike in self._by_kind(nodes):
            self._add(kind, alike)
        (outputs,) = (node.args[0] for node in nodes if node.op == "output")
        self._out = self._places[self._same[outputs[0]]]

    def __call__(self, x: Tensor) -> Tensor:
        """Return the output at x."""
        results = [x, *self._constants]
        for step in self._steps:
            results.append(step(results))
        return self._rows([self._out], results)

    def _stacked(self, given: Sequence[fx.Node], constants: Sequence[Tensor]) -> list[Tensor]:
        """Constants of one form in one tensor, equal ones once."""
        rows: dict[Any, dict[bytes, tuple[fx.Node, Tensor]]] = defaultdict(dict)
        for node, constant in zip(given, constants, strict=True):
            content = constant.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()
            self._same[node] = rows[_form(constant)].setdefault(content, (node, constant))[0]
        stacked = []
        for chosen in rows.values():
            self._place([node for node, _ in chosen.values()])
            values = [value for _, value in chosen.values()]
            stacked.append(torch.stack(values) if len(values) > 1 else values[0])
        return stacked

    def _place(self, nodes: Sequence[fx.Node]) -> None:
        """Let nodes be the rows of the next result."""
        for row, node in enumerate(nodes):
            self._places[node] = (len(self._sizes), row)
        self._sizes.append(len(nodes))

    def _by_kind(self, nodes: Sequence[fx.Node]) -> list[tuple[Any, list[fx.Node]]]:
        """Operations of one kind that do not need each other, in an order in which they can be done."""
        levels = dict.fromkeys(self._same.values(), 0)
        seen: dict[Hashable, fx.Node] = {}
        found: dict[tuple[int, Hashable], list[fx.Node]] = defaultdict(list)
        for node in nodes:
            if node.op != "call_function" or isinstance(node.meta["val"], (tuple, list)):
                continue
            if node.target in _ITSELF:
                self._same[node] = self._same[node.args[0]]
                continue
            target, tensors, literals = _read(node)
            sources = tuple(self._same[tensor] for tensor in tensors)
            node.meta["sources"] = sources
            self._same[node] = seen.setdefault((target, literals, sources), node)
            if self._same[node] is not node:
                continue
            self._forms[node] = _form(node.meta["val"])
            levels[node] = 1 + max([0, *(levels[source] for source in sources)])
            if target is _aten.select.int:  # of one tensor: rows that are there already
                kind: Hashable = (target, sources, literals[:-1])
            else:
                kind = (target, literals, tuple(self._forms[source] for source in sources))
            found[levels[node], kind].append(node)
        return [(key[1], alike) for key, alike in sorted(found.items(), key=lambda item: item[0][0])]

    def _add(self, kind: Any, nodes: list[fx.Node]) -> None:
        """Note how operations of a kind are done at once."""
        first = nodes[0]
        sources = [
            [self._places[source] for source in rows] for rows in zip(*(n.meta["sources"] for n in nodes), strict=True)
        ]
        if kind[0] is _aten.select.int:
            self._steps.append(_picked(self, sources[0][0], nodes))
        elif kind[0] in _JOINS and len(nodes) == 1 and len({self._forms[s] for s in first.meta["sources"]}) == 1:
            self._steps.append(_joined(self, [source for (source,) in sources], first))
        else:
            self._steps.append(_done(self, sources, first, len(nodes)))
        self._place(nodes)

    def _rows(self, places: Sequence[_Place], results: _Results) -> Tensor:
        """The tensors at some places, stacked; the one where all places are one."""
        if len(set(places)) == 1:
            result, row = places[0]
            return results[result][row] if self._sizes[result] > 1 else results[result]
        runs = _runs(places)
        if len(runs) <= _MOST_PIECES:
            pieces = [self._whole(result, results)[start:stop:step] for result, start, stop, step in runs]
            return torch.cat(pieces) if len(pieces) > 1 else pieces[0]
        used = sorted({result for result, _ in places})
        begins, total = {}, 0
        for result in used:
            begins[result], total = total, total + self._sizes[result]
        pool = [self._whole(result, results) for result in used]
        index = torch.tensor([begins[result] + row for result, row in places])
        return (torch.cat(pool) if len(pool) > 1 else pool[0])[index]

    def _whole(self, result: int, results: _Results) -> Tensor:
        return results[result] if self._sizes[result] > 1 else results[result][None]


def _form(value: Tensor) -> Hashable:
    return tuple(value.shape), value.dtype


def _read(node: fx.Node) -> tuple[Any, list[fx.Node], tuple[Any, ...]]:
    """An operation, its tensors, and all else that it is given; of several results, which one it is."""
    if node.target is operator.getitem:
        source, row = node.args
        target, tensors, literals = _read(source)  # type: ignore[arg-type]
        return target, tensors, (row, *literals)
    leaves, spec = tree_flatten((node.args, node.kwargs))
    if node.target is _aten.select.int:
        base, dim, index = node.args
        size = base.meta["val"].shape[dim] if "val" in base.meta else None  # type: ignore[union-attr]
        index = index + size if size and index < 0 else index  # type: ignore[operator]
        return node.target, [base], (dim, index)  # type: ignore[list-item]
    literals = tuple(None if isinstance(leaf, fx.Node) else _frozen(leaf) for leaf in leaves)
    return node.target, [leaf for leaf in leaves if isinstance(leaf, fx.Node)], (None, str(spec), *literals)


def _frozen(leaf: Any) -> Hashable:
    return (type(leaf).__name__, str(leaf))


def _done(batched: Batched, sources: list[list[_Place]], node: fx.Node, size: int) -> Callable[[_Results], Tensor]:
    """One operation on the stacked tensors of all rows."""
    row = None
    if node.target is operator.getitem:
        node, row = node.args  # type: ignore[assignment]
    leaves, spec = tree_flatten((node.args, node.kwargs))
    given: Any = node.target
    target: Any = _LOOSER.get(given, given)

    def call(*tensors: Tensor) -> Tensor:
        rest = iter(tensors)
        args, kwargs = tree_unflatten([next(rest) if isinstance(leaf, fx.Node) else leaf for leaf in leaves], spec)
        found = target(*args, **kwargs)
        return found if row is None else found[row]

    def step(results: _Results) -> Tensor:
        arguments = [batched._rows(places, results) for places in sources]
        if size == 1:
            return call(*arguments)
        dims = tuple(0 if len(set(places)) > 1 else None for places in sources)
        return torch.vmap(call, in_dims=dims)(*arguments)

    return step


def _picked(batched: Batched, source: _Place, nodes: list[fx.Node]) -> Callable[[_Results], Tensor]:
    """Parts of one tensor along a dimension."""
    read = [_read(node)[2] for node in nodes]
    dim, index = read[0][0], [row for _, row in read]

    def step(results: _Results) -> Tensor:
        value = batched._rows([source], results)
        if len(index) == 1:
            return value.select(dim, index[0])
        rows = value.movedim(dim, 0)
        return rows if index == list(range(len(rows))) else rows[torch.tensor(index)]

    return step


def _joined(batched: Batched, places: list[_Place], node: fx.Node) -> Callable[[_Results], Tensor]:
    """Tensors of one shape, stacked or one behind the other."""
    dim: int = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)  # type: ignore[assignment]

    def step(results: _Results) -> Tensor:
        if len(set(places)) == 1:
            one = batched._rows(places[:1], results)
            rows = one.expand(len(places), *one.shape)
        else:
            rows = batched._rows(places, results)
        if node.target is _aten.stack.default:
            return rows.movedim(0, dim)
        at = dim % (rows.dim() - 1)
        return rows.movedim(0, at).flatten(at, at + 1)

    return step


def _runs(places: Sequence[_Place]) -> list[tuple[int, int, int, int]]:
    """Places as slices: result, start, stop and step of each."""
    runs: list[list[_Place]] = []
    for place in places:
        last = runs[-1] if runs else []
        if last and last[-1][0] == place[0]:
            step = place[1] - last[-1][1]
            if step > 0 and (len(last) == 1 or step == last[-1][1] - last[-2][1]):
                last.append(place)
                continue
        runs.append([place])
    return [(r[0][0], r[0][1], r[-1][1] + 1, r[1][1] - r[0][1] if len(r) > 1 else 1) for r in runs]
