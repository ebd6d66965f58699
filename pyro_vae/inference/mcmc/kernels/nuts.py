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
from pyro_vae.inference.mcmc.kernels.base import Density, Info, Kernel, State, Tuning, check_positive, check_probability
from pyro_vae.inference.mcmc.kernels.hmc import hmc_transition, leapfrog

__all__ = ["NUTS"]

_DIVERGENCE = 1000.0  # nats of energy error


class NUTS(Kernel):
    r"""The No-U-Turn Sampler: a trajectory doubles until it turns back, and the draw comes from all of its points.

    All chains of all posteriors take leapfrog steps together, each in its own tree; a chain whose tree is complete
    waits for the longest tree. That makes NUTS safe where trajectories of different posteriors must differ in length,
    and slower than :class:`HMC` where they need not.

    Args:
        model: the Pyro program, in Pyro's manner; leave it out for :func:`pyro_vae.mcmc`.
        step_size: where adaptation starts, in standard deviations of the metric.
        adapt_step_size: adapt the step size during warm-up.
        adapt_mass_matrix: adapt the mass matrix during warm-up.
        full_mass: a dense mass matrix.
        target_accept_prob: the mean acceptance probability over a trajectory to aim at.
        max_tree_depth: a trajectory has at most 2 to this power leapfrog steps.

    Raises:
        ValueError: for numbers outside their range.

    Example:
        >>> NUTS(target_accept_prob=0.9).max_tree_depth
        10
    """

    def __init__(
        self,
        model: Any = None,
        *,
        step_size: float = 1.0,
        adapt_step_size: bool = True,
        adapt_mass_matrix: bool = True,
        full_mass: bool = False,
        target_accept_prob: float = 0.8,
        max_tree_depth: int = 10,
    ) -> None:
        self.model = model
        self.step_size = check_positive(step_size, "step_size")
        self.adapt_step_size = adapt_step_size
        self.adapt_mass_matrix = adapt_mass_matrix
        self.full_mass = full_mass
        self.target_accept_prob = check_probability(target_accept_prob, "target_accept_prob")
        self.max_tree_depth = checks.positive_integer(max_tree_depth, "max_tree_depth")

    def step(self, state: State, density: Density, tuning: Tuning) -> tuple[State, Info]:
        """Grow a tree in every chain, and draw from it."""
        tree = _root(state, torch.randn_like(state.u))
        leaves = 0
        while bool(tree.growing.any()):
            leaves += 1
            tree = _grow(_with_room(tree, leaves), density, tuning, self.max_tree_depth)
        acceptance = tree.acceptance / tree.leaves.clamp(min=1)
        return tree.proposal, Info(acceptance, tree.diverging)

    def try_step(self, state: State, density: Density, tuning: Tuning) -> Tensor:
        """Return the acceptance probability of a single leapfrog step, ``(..., C, N)``."""
        transition = hmc_transition(
            state, density.value_and_grad, step_size=tuning.step_size, num_steps=1, metric=tuning.metric
        )
        return transition[1].acceptance


class _Tree(NamedTuple):
    """Every chain's tree. Vectors are ``(..., C, N, L)``, numbers ``(..., C, N)``; r is the whitened momentum."""

    energy: Tensor  # log p(u) - |r|^2 / 2 at the root
    ends: tuple[State, State]  # first and last point in time
    r_ends: tuple[Tensor, Tensor]
    r_sum: Tensor  # over all points of the tree
    proposal: State
    log_weight: Tensor  # of all points, relative to the root
    depth: Tensor  # completed doublings
    # the subtree that is under way: 2**depth leaves in one direction of time
    forward: Tensor
    leaf: Tensor  # leaves it has
    frontier: State
    r_frontier: Tensor
    sub_sum: Tensor
    sub_proposal: State
    sub_weight: Tensor
    marks: Tensor  # momenta at the left ends of the balanced subtrees that are not yet complete, (levels, ...)
    mark_sums: Tensor  # sub_sum there
    ones: Tensor  # how many ones the binary forms of 0, 1, 2, ... have
    # statistics
    acceptance: Tensor
    leaves: Tensor
    diverging: Tensor
    growing: Tensor


def _root(state: State, r: Tensor) -> _Tree:
    zero = torch.zeros_like(state.log_density)
    no = torch.zeros_like(zero, dtype=torch.bool)
    whole = torch.zeros_like(zero, dtype=torch.long)
    marks = r.new_zeros(1, *r.shape)
    return _Tree(
        energy=state.log_density - 0.5 * r.square().sum(-1),
        ends=(state, state),
        r_ends=(r, r),
        r_sum=r,
        proposal=state,
        log_weight=zero,
        depth=whole,
        forward=no,
        leaf=whole,
        frontier=state,
        r_frontier=r,
        sub_sum=torch.zeros_like(r),
        sub_proposal=state,
        sub_weight=torch.full_like(zero, -torch.inf),
        marks=marks,
        mark_sums=marks,
        ones=_ones(1, r.device),
        acceptance=zero,
        leaves=whole,
        diverging=no,
        growing=~no,
    )


def _with_room(tree: _Tree, leaves: int) -> _Tree:
    """Make room for one more level of subtrees each time that the longest tree can have doubled."""
    if leaves < 2 ** len(tree.marks):  # a tree of that many leaves has subtrees of at most half as many
        return tree
    more = torch.zeros_like(tree.marks[:1])
    return tree._replace(
        marks=torch.cat([tree.marks, more]),
        mark_sums=torch.cat([tree.mark_sums, more]),
        ones=_ones(2 * leaves, more.device),
    )


def _grow(tree: _Tree, density: Density, tuning: Tuning, max_depth: int) -> _Tree:
    """Take one leapfrog step in every chain that still grows."""
    growing = tree.growing
    # a new doubling starts in a random direction of time, from the tree's end on that side
    fresh = tree.leaf == 0
    forward = torch.where(fresh, torch.rand_like(tree.energy) < 0.5, tree.forward)
    start = _where(forward, tree.ends[1], tree.ends[0])
    frontier = _where(fresh, start, tree.frontier)
    r = torch.where(fresh[..., None], torch.where(forward[..., None], tree.r_ends[1], tree.r_ends[0]), tree.r_frontier)
    sub_sum = torch.where(fresh[..., None], 0, tree.sub_sum)
    sub_weight = torch.where(fresh, -torch.inf, tree.sub_weight)

    signed = torch.where(forward, tuning.step_size, -tuning.step_size)
    moved, r = leapfrog(frontier, r, density.value_and_grad, step_size=signed, num_steps=1, metric=tuning.metric)
    log_weight = moved.log_density - 0.5 * r.square().sum(-1) - tree.energy
    log_weight = torch.nan_to_num(log_weight, nan=-torch.inf)
    diverging = log_weight < -_DIVERGENCE
    sub_sum = sub_sum + r
    sub_weight = torch.logaddexp(sub_weight, log_weight)
    picked = _log_uniform(log_weight) < log_weight - sub_weight  # one point of the subtree, by weight
    sub_proposal = _where(picked, moved, tree.sub_proposal)

    turned, marks, mark_sums = _turned_within(tree, r, sub_sum)
    complete = tree.leaf + 1 == 2**tree.depth
    broken = diverging | turned
    whole = complete & ~broken

    # a complete subtree joins the tree; the draw prefers it by its weight (biased progressive sampling)
    joins = whole & growing
    taken = joins & (_log_uniform(log_weight) < sub_weight - tree.log_weight)
    first = joins & ~forward
    last = joins & forward
    r_ends = (
        torch.where(first[..., None], r, tree.r_ends[0]),
        torch.where(last[..., None], r, tree.r_ends[1]),
    )
    r_sum = torch.where(joins[..., None], tree.r_sum + sub_sum, tree.r_sum)
    depth = tree.depth + joins.long()
    stops = broken | (whole & (_turning(r_ends[0], r_ends[1], r_sum) | (depth >= max_depth)))
    return _Tree(
        energy=tree.energy,
        ends=(_where(first, moved, tree.ends[0]), _where(last, moved, tree.ends[1])),
        r_ends=r_ends,
        r_sum=r_sum,
        proposal=_where(taken, sub_proposal, tree.proposal),
        log_weight=torch.where(joins, torch.logaddexp(tree.log_weight, sub_weight), tree.log_weight),
        depth=depth,
        forward=forward,
        leaf=torch.where(complete, 0, tree.leaf + 1),
        frontier=moved,
        r_frontier=r,
        sub_sum=sub_sum,
        sub_proposal=sub_proposal,
        sub_weight=sub_weight,
        marks=marks,
        mark_sums=mark_sums,
        ones=tree.ones,
        acceptance=tree.acceptance + torch.where(growing, log_weight.clamp(max=0).exp(), 0),
        leaves=tree.leaves + growing.long(),
        diverging=tree.diverging | (diverging & growing),
        growing=growing & ~stops,
    )


def _turned_within(tree: _Tree, r: Tensor, sub_sum: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Check every balanced subtree that ends in the new leaf, and mark the leaf if some begin there.

    Leaf n, counted from 0, opens subtrees if n is even; their left end is kept at level (number of ones in n // 2).
    If n is odd, as many subtrees end in it as its binary form has trailing ones, and their left ends are at the last
    levels. So the momenta of log2 as many leaves are enough.
    """
    levels = torch.arange(len(tree.marks), device=r.device).reshape(-1, *([1] * tree.leaf.dim()))
    top = tree.ones[tree.leaf // 2]
    opens = (tree.leaf % 2 == 0) & (levels == top)
    marks = torch.where(opens[..., None], r, tree.marks)
    mark_sums = torch.where(opens[..., None], sub_sum, tree.mark_sums)
    trailing = tree.ones[tree.leaf ^ (tree.leaf + 1)] - 1
    ends = (levels <= top) & (levels > top - trailing)
    turned = (ends & _turning(marks, r, sub_sum - mark_sums + marks)).any(0)
    return turned, marks, mark_sums


def _turning(r_first: Tensor, r_last: Tensor, r_sum: Tensor) -> Tensor:
    """Whether a trajectory turns back at either end; half of each end is left out, as in a trapezoid."""
    inner = r_sum - 0.5 * (r_first + r_last)
    return ((r_first * inner).sum(-1) <= 0) | ((r_last * inner).sum(-1) <= 0)


def _ones(most: int, device: torch.device) -> Tensor:
    """How many ones the binary forms of 0, 1, ..., ``most`` have."""
    return torch.tensor([n.bit_count() for n in range(most + 1)], device=device)


def _where(condition: Tensor, a: State, b: State) -> State:
    wide = condition[..., None]
    return State(
        torch.where(wide, a.u, b.u),
        torch.where(condition, a.log_density, b.log_density),
        torch.where(wide, a.grad, b.grad),
    )


def _log_uniform(like: Tensor) -> Tensor:
    return -torch.empty_like(like).exponential_()
