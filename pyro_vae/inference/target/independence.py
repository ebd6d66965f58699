"""Whether data are independent given the latents of each, as N posteriors beside each other need."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.checks import say
from pyro_vae.inference.target.densities import log_prob
from pyro_vae.inference.target.program import Program, Trace
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
def check_discrete_rows(model: Program, args: tuple[Any, ...], trace: Trace, discrete: Iterable[str]) -> None:
    """Check that discrete sites act on their own rows alone, as the plates around them declare: sums rely on it.

    Every other row of a plate gets the next value of its support; then no density of the rows between may move.

    Raises:
        ValueError: if one does.
    """
    latent = {name: site["value"] for name, site in trace.items() if not site["is_observed"]}
    before: Trace | None = None
    for name in discrete:
        frames = [frame for frame in trace[name]["cond_indep_stack"] if frame.vectorized and frame.size > 1]
        for frame in frames if trace[name]["value"].numel() <= _MOST_ROWS else ():
            before = before or run_prior(poutine.condition(model, data=latent), args)
            site = before[name]
            rest = len(site["fn"].event_shape)
            even = torch.arange(frame.size, device=site["value"].device) % 2 == 0
            even = even.reshape(-1, *(1,) * (-frame.dim - 1 + rest))
            changed = {**latent, name: torch.where(even, _next_value(site), site["value"])}
            after = run_prior(poutine.condition(model, data=changed), args)
            for other, own in after.items():
                if other in before and any(f.name == frame.name for f in own["cond_indep_stack"]):
                    old, new = (log_prob(run[other]) for run in (before, after))
                    if old.shape != new.shape or old.dim() < -frame.dim or old.shape[frame.dim] != frame.size:
                        continue
                    between = torch.arange(1, frame.size, 2, device=old.device)
                    old, new = (value.index_select(frame.dim, between) for value in (old, new))
                    if bool(((new - old).abs() > 1e-3 * (1 + old.abs())).any()):
                        expected = f"rows of plate {frame.name!r} that are independent, as a plate declares"
                        got = f"discrete site {name!r}, whose rows act on {other!r} in other rows"
                        remedy = "pyro.markov in place of the plate, or a site a row, without it"
                        raise ValueError(say(expected, got, remedy))


def _next_value(site: dict[str, Any]) -> Tensor:
    """The value behind each in its support, the first behind the last."""
    fn, value = site["fn"], site["value"]
    support: Tensor = fn.enumerate_support(expand=False)
    every = support.expand(len(support), *value.shape)
    at = (every == value).to(torch.uint8).argmax(0)
    return every.gather(0, ((at + 1) % len(support)).unsqueeze(0)).squeeze(0)
