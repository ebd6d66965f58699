"""What a likelihood is, in the words of ``page/likelihood.mjs``: parts side by side, each a family over a network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyro_vae import likelihoods
from pyro_vae.checks import say
from pyro_vae.explorer.networks import network_spec
from pyro_vae.explorer.store import Store
from pyro_vae.likelihoods import Likelihood, Mixed
from pyro_vae.likelihoods.location_scale import LocationScale
from pyro_vae.scales import to_scale

__all__ = ["likelihood_spec"]

_LEAST_GAP = 1e-3  # between the cutpoints of OrderedLogistic


def likelihood_spec(likelihood: Likelihood, store: Store) -> list[dict[str, Any]]:
    """Return the parts of a likelihood, in the order of the data.

    Args:
        likelihood: of this package; a Mixed one has several parts.
        store: takes the weights.

    Raises:
        ValueError: if the page does not know it, or a layer of its network.
    """
    if isinstance(likelihood, Mixed):
        return [one for part in likelihood.parts for one in likelihood_spec(part, store)]  # type: ignore[arg-type]
    kind = type(likelihood)
    if kind not in _OPTIONS:
        known = ", ".join(sorted(one.__name__ for one in _OPTIONS))
        expected = f"a likelihood that the page knows (Mixed, {known})"
        raise ValueError(say(expected, kind.__name__, "likelihoods.Bernoulli(network)"))
    network: Any = likelihood.network
    spec = {"family": kind.__name__, "network": network_spec(network, store, 2), **_OPTIONS[kind](likelihood)}
    z = next((p.new_zeros(1, 2) for p in likelihood.parameters()), torch.zeros(1, 2))
    with torch.no_grad():
        event = likelihood(z).event_shape
    return [spec | {"width": event.numel()}]


def _none(likelihood: Any) -> dict[str, Any]:
    return {}


def _location_scale(likelihood: LocationScale) -> dict[str, Any]:
    if likelihood.scale_from == "network":
        return {"scale": None, "floor": likelihood.min_scale}
    scale = likelihood.scale if likelihood.scale_from == "fixed" else to_scale(
        likelihood.raw_scale, floor=likelihood.min_scale
    )  # fmt: skip
    return {"scale": float(scale) if scale.numel() == 1 else _numbers(scale)}


def _student(likelihood: likelihoods.StudentT) -> dict[str, Any]:
    df = 1 + to_scale(likelihood.raw_df, floor=0.0) if likelihood.df is None else likelihood.df
    return _location_scale(likelihood) | {"df": _numbers(torch.as_tensor(df))}


def _ordered(likelihood: likelihoods.OrderedLogistic) -> dict[str, Any]:
    gaps = to_scale(likelihood.raw_gaps, floor=_LEAST_GAP)
    cutpoints = torch.cat([likelihood.first_cutpoint.unsqueeze(-1), gaps], -1).cumsum(-1)
    return {"cutpoints": _numbers(cutpoints), "gaps": _numbers(gaps)}


def _numbers(values: Tensor) -> Any:
    return values.detach().cpu().double().tolist()


_OPTIONS: dict[type[Likelihood], Callable[[Any], dict[str, Any]]] = {
    **dict.fromkeys((likelihoods.Bernoulli, likelihoods.ContinuousBernoulli), _none),
    **dict.fromkeys((likelihoods.Gaussian, likelihoods.Laplace, likelihoods.LogNormal), _location_scale),
    likelihoods.HurdleLogNormal: _location_scale,
    likelihoods.StudentT: _student,
    **dict.fromkeys((likelihoods.Exponential, likelihoods.Gamma, likelihoods.HurdleGamma), _none),
    **dict.fromkeys((likelihoods.Poisson, likelihoods.NegativeBinomial), _none),
    **dict.fromkeys((likelihoods.ZeroInflatedPoisson, likelihoods.ZeroInflatedNegativeBinomial), _none),
    likelihoods.Beta: lambda part: {"floor": part.min_concentration},
    likelihoods.Categorical: lambda part: {"categories": part.num_categories},
    likelihoods.OrderedLogistic: _ordered,
    likelihoods.DiscretisedLogistic: lambda part: {"levels": part.levels, "floor": part.min_scale},
}
