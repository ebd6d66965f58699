r"""The No-U-Turn Sampler: iterative, and masked so that every chain grows a tree of its own.

Source: Hoffman & Gelman 2014; multinomial draws from the trajectory and the turning criterion of Betancourt 2017,
"A conceptual introduction to Hamiltonian Monte Carlo", appendix A; the recursion is unrolled as in Phan, Pradhan &
Jankowiak 2019 and Lao & Dillon 2019.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_vae import checks
from pyro_vae.inference.mcmc.kernels.base import Density, Info, Kernel, State, Tuning
from pyro_vae.inference.mcmc.kernels.hmc import leapfrog, single_leapfrog

__all__ = ["NUTS"]

_DIVERGENCE = 1000.0  # nats of energy error


class NUTS(Kernel):
    r"""The No-U-Turn Sampler: a trajectory doubles until it turns back, and the draw comes from all of its points.

    All chains of all posteriors take leapfrog steps together, each in its own tree; a chain whose tree is complete
    waits for the longest tree. That makes NUTS safe where trajectories of different posteriors must differ in length,
    and slower than :class:`HMC` where they need not.

    Args:
        model: the Pyro program, in Pyro's manner; leave it out for :func:`pyro_vae.mcmc`.
        max_tree_depth: a trajectory has at most 2 to this power leapfrog steps.
        engine: "torch" moves all chains as one tensor; "nutpie" samples the posterior of a whole program by nutpie
            (``pip install pyro_vae[nutpie]``), each chain for itself in Rust, from the program's log density compiled
            to a C function. "auto" takes nutpie for such a posterior in runs of 300 steps or more, where it is
            installed and the program can be compiled so; ``engine`` of the draws says what it was.
        **settings: those of :class:`pyro_vae.Kernel`; the acceptance probability is the mean over a trajectory.

    Raises:
        TypeError, ValueError: for numbers outside their range.

    Example:
        >>> NUTS(target_accept_prob=0.9).max_tree_depth
        10
    """

    has_momentum = True

    def __init__(self, model: Any = None, *, max_tree_depth: int = 10, engine: str = "auto", **settings: Any) -> None:
        super().__init__(model, **settings)
        self.max_tree_depth = checks.positive_integer(max_tree_depth, "max_tree_depth")
        self.engine = checks.among(engine, ["auto", "torch", "nutpie"], "engine")

    def step(self, state: State, density: Density, tuning: Tuning) -> tuple[State, Info]:
        """Grow a tree in every chain, and draw from it."""
        tree, subtree, totals = _planted(_Point(state, torch.randn_like(state.u)))
        leaves = 0
        while bool(tree.growing.any()):
            leaves += 1
            subtree = _opened(_with_room(subtree, leaves), tree)
            subtree, log_weight = _extended(subtree, tree.energy, density, tuning)
            diverging = log_weight < -_DIVERGENCE
            totals = totals.with_leaf(log_weight, diverging, tree.growing)
            subtree, turned = _marked(subtree)
            tree, subtree = _joined(tree, subtree, diverging | turned, self.max_tree_depth)
        info = Info(totals.acceptance / totals.leaves.clamp(min=1), totals.diverging)
        return tree.proposal, info._replace(energy=-tree.energy, tree_depth=tree.depth)

    def try_step(self, state: State, density: Density, tuning: Tuning) -> Tensor:
        """Return the acceptance probability of a single leapfrog step, ``(..., C, N)``."""
        return single_leapfrog(state, density, tuning)


# Every chain has a tree of its own: vectors are (..., C, N, L), numbers (..., C, N); r is the whitened momentum.


class _Point(NamedTuple):
    """A point of a trajectory."""

    state: State
    r: Tensor


class _Tree(NamedTuple):
    """The trajectory so far, 2**depth points."""

    energy: Tensor  # log p(u) - |r|^2 / 2 at the root
    first: _Point  # in time
    last: _Point
    r_sum: Tensor  # over all points
    proposal: State
    log_weight: Tensor  # of all points, relative to the root
    depth: Tensor  # completed doublings
    growing: Tensor


class _Subtree(NamedTuple):
    """The doubling that is under way: as many leaves again as the tree has, in one direction of time."""

    forward: Tensor
    leaf: Tensor  # how many leaves it has
    end: _Point
    r_sum: Tensor
    proposal: State
    log_weight: Tensor
    marks: Tensor  # momenta at the left ends of the balanced subtrees that are not yet complete, (levels, ...)
    mark_sums: Tensor  # r_sum there
    ones: Tensor  # how many ones the binary forms of 0, 1, 2, ... have


class _Totals(NamedTuple):
    """What a step reports, summed over leaves."""

    acceptance: Tensor
    leaves: Tensor
    diverging: Tensor

    def with_leaf(self, log_weight: Tensor, diverging: Tensor, growing: Tensor) -> _Totals:
        """Count a leaf in the chains that grow."""
        return _Totals(
            self.acceptance + torch.where(growing, log_weight.clamp(max=0).exp(), 0),
            self.leaves + growing.long(),
            self.diverging | (diverging & growing),
        )


def _planted(root: _Point) -> tuple[_Tree, _Subtree, _Totals]:
    """A tree of one point, an empty subtree and nothing counted."""
    state, r = root
    zero, none = torch.zeros_like(state.log_density), torch.zeros_like(r)
    no, whole = torch.zeros_like(zero, dtype=torch.bool), torch.zeros_like(zero, dtype=torch.long)
    marks = r.new_zeros(1, *r.shape)
    energy = state.log_density - 0.5 * r.square().sum(-1)
    empty = torch.full_like(zero, -torch.inf)
    return (
        _Tree(energy, root, root, r, state, zero, whole, ~no),
        _Subtree(no, whole, root, none, state, empty, marks, marks, _ones(1, r.device)),
        _Totals(zero, whole, no),
    )


def _with_room(subtree: _Subtree, leaves: int) -> _Subtree:
    """Make room for one more level of subtrees each time that the longest tree can have doubled."""
    if leaves < 2 ** len(subtree.marks):  # a tree of that many leaves has subtrees of at most half as many
        return subtree
    more = torch.zeros_like(subtree.marks[:1])
    return subtree._replace(
        marks=torch.cat([subtree.marks, more]),
        mark_sums=torch.cat([subtree.mark_sums, more]),
        ones=_ones(2 * leaves, more.device),
    )


def _opened(subtree: _Subtree, tree: _Tree) -> _Subtree:
    """Where a doubling begins, choose a direction of time, and go on from the tree's end on that side."""
    fresh = subtree.leaf == 0
    forward = torch.where(fresh, torch.rand_like(tree.energy) < 0.5, subtree.forward)
    return subtree._replace(
        forward=forward,
        end=_choose(fresh, _choose(forward, tree.last, tree.first), subtree.end),
        r_sum=torch.where(fresh[..., None], 0, subtree.r_sum),
        log_weight=torch.where(fresh, -torch.inf, subtree.log_weight),
    )


def _extended(subtree: _Subtree, energy: Tensor, density: Density, tuning: Tuning) -> tuple[_Subtree, Tensor]:
    """Take one leapfrog step, whose end is the subtree's next leaf; return the leaf's log weight too."""
    signed = torch.where(subtree.forward, tuning.step_size, -tuning.step_size)
    end = _Point(*leapfrog(*subtree.end, density.value_and_grad, step_size=signed, num_steps=1, metric=tuning.metric))
    log_weight = end.state.log_density - 0.5 * end.r.square().sum(-1) - energy
    log_weight = torch.nan_to_num(log_weight, nan=-torch.inf)
    total = torch.logaddexp(subtree.log_weight, log_weight)
    picked = _log_uniform(log_weight) < log_weight - total  # one point of the subtree, by weight
    extended = subtree._replace(
        end=end,
        r_sum=subtree.r_sum + end.r,
        proposal=_where(picked, end.state, subtree.proposal),
        log_weight=total,
    )
    return extended, log_weight


def _marked(subtree: _Subtree) -> tuple[_Subtree, Tensor]:
    """Mark the new leaf if balanced subtrees begin there; say whether one that ends there turns back.

    Leaf n, counted from 0, opens subtrees if n is even; their left end is kept at level (number of ones in n // 2).
    If n is odd, as many subtrees end in it as its binary form has trailing ones, and their left ends are at the last
    levels. So the momenta of log2 as many leaves are enough.
    """
    leaf, ones, r = subtree.leaf, subtree.ones, subtree.end.r
    levels = torch.arange(len(subtree.marks), device=r.device).reshape(-1, *([1] * leaf.dim()))
    top = ones[leaf // 2]
    opens = (leaf % 2 == 0) & (levels == top)
    marks = torch.where(opens[..., None], r, subtree.marks)
    mark_sums = torch.where(opens[..., None], subtree.r_sum, subtree.mark_sums)
    trailing = ones[leaf ^ (leaf + 1)] - 1
    ends = (levels <= top) & (levels > top - trailing)
    turned = (ends & _turning(marks, r, subtree.r_sum - mark_sums + marks)).any(0)
    return subtree._replace(marks=marks, mark_sums=mark_sums), turned


def _joined(tree: _Tree, subtree: _Subtree, broken: Tensor, max_depth: int) -> tuple[_Tree, _Subtree]:
    """Let complete subtrees join their trees; the draw prefers them by weight (biased progressive sampling)."""
    complete = subtree.leaf + 1 == 2**tree.depth
    whole = complete & ~broken
    joins = whole & tree.growing
    taken = joins & (_log_uniform(tree.log_weight) < subtree.log_weight - tree.log_weight)
    first = _choose(joins & ~subtree.forward, subtree.end, tree.first)
    last = _choose(joins & subtree.forward, subtree.end, tree.last)
    r_sum = torch.where(joins[..., None], tree.r_sum + subtree.r_sum, tree.r_sum)
    depth = tree.depth + joins.long()
    stops = broken | (whole & (_turning(first.r, last.r, r_sum) | (depth >= max_depth)))
    joined = _Tree(
        energy=tree.energy,
        first=first,
        last=last,
        r_sum=r_sum,
        proposal=_where(taken, subtree.proposal, tree.proposal),
        log_weight=torch.where(joins, torch.logaddexp(tree.log_weight, subtree.log_weight), tree.log_weight),
        depth=depth,
        growing=tree.growing & ~stops,
    )
    return joined, subtree._replace(leaf=torch.where(complete, 0, subtree.leaf + 1))


def _turning(r_first: Tensor, r_last: Tensor, r_sum: Tensor) -> Tensor:
    """Whether a trajectory turns back at either end; half of each end is left out, as in a trapezoid."""
    inner = r_sum - 0.5 * (r_first + r_last)
    return ((r_first * inner).sum(-1) <= 0) | ((r_last * inner).sum(-1) <= 0)


def _ones(most: int, device: torch.device) -> Tensor:
    """How many ones the binary forms of 0, 1, ..., ``most`` have."""
    return torch.tensor([n.bit_count() for n in range(most + 1)], device=device)


def _where(condition: Tensor, a: State, b: State) -> State:
    """State a where the condition ``(..., C, N)`` holds, else b."""
    wide = condition[..., None]
    return State(
        torch.where(wide, a.u, b.u),
        torch.where(condition, a.log_density, b.log_density),
        torch.where(wide, a.grad, b.grad),
    )


def _choose(condition: Tensor, a: _Point, b: _Point) -> _Point:
    """Point a where the condition ``(..., C, N)`` holds, else b."""
    return _Point(_where(condition, a.state, b.state), torch.where(condition[..., None], a.r, b.r))


def _log_uniform(like: Tensor) -> Tensor:
    """The log of a uniform number, never -inf."""
    return -torch.empty_like(like).exponential_()
