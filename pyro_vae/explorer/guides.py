"""What a guide is, in the words of ``page/guide.mjs``: its encoder if the page can run it, and q of the page's data."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyro_vae import guides
from pyro_vae.checks import misfit, say
from pyro_vae.explorer.gaussians import components
from pyro_vae.explorer.networks import network_spec
from pyro_vae.explorer.store import Store
from pyro_vae.guides import Guide

__all__ = ["guide_spec"]


@torch.no_grad()
def guide_spec(guide: Guide, x: Tensor, store: Store, rows: int) -> dict[str, Any]:
    """Return q(z|x) of the data, and the encoder.

    Args:
        guide: one whose posteriors are Gaussians or mixtures of some.
        x: data ``(N, *D)``; a guide with parameters of its own for each datum needs all of them.
        store: takes the weights.
        rows: of how many data q is kept, from the first.

    Returns:
        ``q`` the Gaussians of every datum, ``encoder`` the encoder, or None, and why it is not there in ``reason``.

    Raises:
        ValueError: if q is of another kind, or x does not fit the guide.
    """
    try:
        posterior = guide.posterior(x)
    except (RuntimeError, ValueError) as error:
        raise misfit(error, guide, x, what="the guide", name="x") from error
    found = components(posterior)
    if found is None or getattr(posterior, "event_shape", None) != (2,):
        expected = "a guide whose q is a Gaussian over the plane, or a mixture of some"
        got = f"{type(guide).__name__}, which gives {type(getattr(posterior, 'base_dist', posterior)).__name__}"
        raise ValueError(say(expected, got, "guides.DiagonalGaussian(network)"))
    encoder, reason = None, ""
    if type(guide) in _HEADS:
        try:
            network = network_spec(guide.network, store, math.prod(x.shape[1:]))  # type: ignore[arg-type]
            encoder = {"head": type(guide).__name__, "network": network, **_HEADS[type(guide)](guide)}
        except ValueError as error:
            reason = str(error)
    else:
        reason = f"{type(guide).__name__} has no encoder that the page can run"
    return {"name": type(guide).__name__, "q": found[:rows], "encoder": encoder, "reason": reason}


def _none(guide: Any) -> dict[str, Any]:
    return {}


_HEADS: dict[type[Guide], Callable[[Any], dict[str, Any]]] = {
    guides.DiagonalGaussian: _none,
    guides.FullCovarianceGaussian: _none,
    guides.LowRankGaussian: lambda guide: {"rank": guide.rank},
    guides.MixtureOfGaussians: lambda guide: {"offset": guide.offset.double().tolist()},
    guides.ProductOfExperts: lambda guide: {
        "experts": guide.experts.double().tolist(),
        "base": guide.base.double().tolist(),
    },
}
