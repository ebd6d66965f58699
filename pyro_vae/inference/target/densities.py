"""Log densities of a program's sites, a datum at a time or of the whole program."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Set
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro.distributions import hmm
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from pyro_vae.inference.target.layout import Layout
from pyro_vae.inference.target.program import Trace, frame_of

__all__ = ["log_density", "log_parts", "log_prob", "per_datum", "unvalidated"]


def unvalidated(fn: Any) -> Any:
    """The same distribution without checks of its values: a copy, where it keeps them however Pyro's switch stands.

    ``expand`` freezes the switch as it was, as in ``PyroSample(dist.Normal(0.0, 1.0).expand([3]).to_event(1))``.
    """
    base = getattr(fn, "base_dist", None)
    inner = None if base is None else unvalidated(base)
    if inner is base and not vars(fn).get("_validate_args", False):
        return fn
    fn = copy.copy(fn)
    fn._validate_args = False
    if inner is not None:
        fn.base_dist = inner
    return fn


def log_prob(site: dict[str, Any], moving: Set[str] = frozenset()) -> Tensor:
    """The log density of a site's value, scaled and masked as in Pyro, ``(*batch_shape)``."""
    return scale_and_mask(log_density(site, moving), site["scale"], site["mask"])


def log_density(site: dict[str, Any], moving: Set[str] = frozenset()) -> Tensor:
    """The log density of a site's value, ``(*batch_shape)``.

    Outside a support that moves with latents it is -inf: what a density computes there need not be.
    """
    fn, value = site["fn"], site["value"]
    try:
        # a chain that ran away is a density of zero or NaN, not an error
        with _derivable_logs(), pyro.validation_enabled(False):
            found = unvalidated(fn).log_prob(value)
    except RuntimeError as error:
        error.add_note(f"site {site['name']!r}, {type(fn).__name__} of shape {tuple(fn.shape())}")
        raise
    if site["name"] in moving:
        found = torch.where(fn.support.check(value), found, -math.inf)
    return found


@contextmanager
def _derivable_logs() -> Iterator[None]:
    """Have Pyro's hidden Markov models take logarithms that ``torch.func`` can map and derive: its own cannot be."""
    module: Any = hmm
    own, module.safe_log = module.safe_log, _safe_log
    try:
        yield
    finally:
        module.safe_log = own


def _safe_log(x: Tensor) -> Tensor:
    """Log x, of slope 1/max(x, eps) as Pyro's ``safe_log``."""
    eps, at = torch.finfo(x.dtype).eps, x.detach()
    return torch.where(x < eps, at.log() + (x - at) / eps, x.clamp(min=eps).log())


def per_datum(site: dict[str, Any], log_prob: Tensor, plate: str | None) -> Tensor:
    """Sum a site's log probabilities a datum of the plate, ``(N,)``; over all of it where it lies in none."""
    frame = frame_of(site, plate)
    if frame is None:
        return log_prob.sum()
    rows = log_prob.movedim(frame.dim, 0)
    return rows.reshape(rows.shape[0], -1).sum(-1)


def log_parts(
    trace: Trace,
    layout: Layout,
    moving: Set[str],
    like: Tensor,
    without: Set[str] = frozenset(),
) -> tuple[Tensor, Tensor]:
    """Log p(u), with the Jacobian, and log p(x|u) of one run at u, each ``(N,)``, nats.

    Of sites ``without`` a density of their own here only the Jacobian counts.
    """
    log_prior = like.new_zeros(layout.num_data)
    log_likelihood = like.new_zeros(layout.num_data)
    for name, site in trace.items():
        if name in layout.sites:
            log_prior = log_prior + per_datum(site, site["infer"]["log_det"], layout.plate)
        if name in without:
            continue
        term = per_datum(site, log_prob(site, moving), layout.plate)
        if site["is_observed"]:
            log_likelihood = log_likelihood + term
        else:
            log_prior = log_prior + term
    return log_prior, log_likelihood
