"""Whether data are independent given the latents of each, as N posteriors beside each other need."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.checks import say
from pyro_vae.inference.target.densities import log_prob
from pyro_vae.inference.target.modules import evaluating
from pyro_vae.inference.target.program import Program, Trace, frame_of
from pyro_vae.inference.target.substitution import run_prior

__all__ = ["check_discrete_rows", "rows_are_tied"]

_MOST_ROWS = 10_000  # above which the look costs more memory than routes that go block by block
_FACTORS = (-4.0, -2.0, -1.0, -0.5, 0.5, 1.0, 2.0, 4.0)  # powers of two, which leave no rounding behind


def rows_are_tied(log_joint: Callable[[Tensor], Tensor], u: Tensor) -> bool:
    r"""Say whether the density of one row moves with the latents of another.

    Where none does, the gradient of :math:`\sum_n w_n \log p(x_n, u_n)` by u_n is w_n times that with all weights 1. A
    pair of rows that are tied is overlooked where both have the same of eight weights.

    Args:
        log_joint: of u ``(N, L)``, one value a row.
        u: a point ``(N, L)``.
    """
    if u.numel() == 0 or not 1 < len(u) <= _MOST_ROWS:
        return False
    generator = torch.Generator().manual_seed(0)
    weight = torch.tensor(_FACTORS)[torch.randint(len(_FACTORS), (len(u),), generator=generator)].to(u)
    point = u.detach().clone().requires_grad_()
    try:
        with torch.enable_grad():
            value = log_joint(point)
            (plain,) = torch.autograd.grad(value.sum(), point, retain_graph=True)
            (weighted,) = torch.autograd.grad((weight * value).sum(), point)
    except (RuntimeError, NotImplementedError):  # an operation without a derivative: what needs one will say so
        return False
    expected = weight.unsqueeze(-1) * plain
    rounding = 1e-3 * expected.abs().amax(-1, keepdim=True) + 1e-12 * expected.nan_to_num().abs().max()
    return bool(((weighted - expected).abs() > rounding).any())  # NaN is no difference


@torch.no_grad()
def check_discrete_rows(model: Program, args: tuple[Any, ...], trace: Trace, discrete: Collection[str]) -> None:
    """Check that discrete sites act on their own rows alone, as the plates around them declare: sums rely on it.

    Every other row of a plate gets the next values of their supports; then no density of the rows between may move.

    Raises:
        ValueError: if one does.
    """
    values = {name: site["value"] for name, site in trace.items() if not site["is_observed"]}
    frames = {
        frame.name: frame
        for name in discrete
        for frame in trace[name]["cond_indep_stack"]
        if frame.vectorized and 1 < frame.size <= _MOST_ROWS
    }
    for frame in frames.values():
        inside = [name for name in discrete if frame_of(trace[name], frame.name) is not None]
        moved = {name: _every_other_row(trace[name], frame) for name in inside}
        before, after = (_run_with(model, args, values | changes) for changes in ({}, moved))
        for name in before.keys() & after.keys():
            if _moves_between(before[name], after[name], frame):
                expected = f"rows of plate {frame.name!r} that are independent, as a plate declares"
                got = f"discrete sites {inside}, whose rows act on {name!r} in other rows"
                remedy = "pyro.markov in place of the plate, or a site a row, without it"
                raise ValueError(say(expected, got, remedy))


def _run_with(model: Program, args: tuple[Any, ...], values: dict[str, Tensor]) -> Trace:
    """The sites of one run in evaluation mode at these values."""
    with evaluating(model):
        return run_prior(poutine.condition(model, data=values), args)


def _every_other_row(site: dict[str, Any], frame: Any) -> Tensor:
    """A discrete site's value with the next one in the even rows of a plate."""
    even = torch.arange(frame.size, device=site["value"].device) % 2 == 0
    even = even.reshape(-1, *(1,) * (-frame.dim - 1 + len(site["fn"].event_shape)))
    return torch.where(even, _next_value(site), site["value"])


def _moves_between(before: dict[str, Any], after: dict[str, Any], frame: Any) -> bool:
    """Whether a site's density has moved in the odd rows of a plate, if it lies in the plate."""
    old, new = log_prob(before), log_prob(after)
    apart = frame_of(before, frame.name) is None or old.shape != new.shape or old.dim() < -frame.dim
    if apart or old.shape[frame.dim] != frame.size:
        return False
    odd = torch.arange(1, frame.size, 2, device=old.device)
    old, new = (value.index_select(frame.dim, odd) for value in (old, new))
    return bool(((new - old).abs() > 1e-3 * (1 + old.abs())).any())


def _next_value(site: dict[str, Any]) -> Tensor:
    """The value behind each in its support, the first behind the last."""
    fn, value = site["fn"], site["value"]
    support: Tensor = fn.enumerate_support(expand=False)
    every = support.expand(len(support), *value.shape)
    at = (every == value).to(torch.uint8).argmax(0)
    return every.gather(0, ((at + 1) % len(support)).unsqueeze(0)).squeeze(0)
