"""The parts that have a name outside Python, with how wide a network each needs. Importing this imports no torch.

This is the one table of names: the library itself takes objects.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from inspect import Parameter, signature
from typing import Any

__all__ = ["GUIDES", "KERNELS", "LIKELIHOODS", "OBJECTIVES", "PRIORS", "SYSTEMS", "TABLES", "Part", "parse"]


@dataclass(frozen=True)
class Part:
    """One part.

    Attributes:
        home: module and class, "module:Class".
        width: width of its network's last layer, of D or L and the part's options; None if a name makes no network.
        skip: arguments of the class that are none of the user's.
        density: whether it is a density of x itself, without latents.
    """

    home: str
    width: Callable[..., int] | None = None
    skip: tuple[str, ...] = field(default=("network", "latent", "plate", "top", "event_dim", "latent_dim", "data_dim"))
    density: bool = False

    def load(self) -> Any:
        """Import the class."""
        module, name = self.home.split(":")
        return getattr(import_module(module), name)

    def summary(self) -> str:
        """The first line of its documentation."""
        return (self.load().__doc__ or "").strip().partition("\n")[0]

    def options(self) -> dict[str, Any]:
        """Its options with their defaults, and those that it hands on to its base class; without one, left out."""
        made = self.load()
        taken = list(signature(made).parameters.values())
        if any(p.kind is Parameter.VAR_KEYWORD for p in taken):
            own = signature(made).parameters
            taken += [p for p in signature(made.__base__).parameters.values() if p.name not in own]
        return {p.name: p.default for p in taken if p.name not in self.skip and p.default is not Parameter.empty}


_P, _L, _G = "pyro_vae.priors", "pyro_vae.likelihoods", "pyro_vae.guides"
_O, _M = "pyro_vae.inference.variational.objectives", "pyro_vae.inference.mcmc.kernels"

PRIORS: Mapping[str, Part] = {
    name: Part(f"{_P}:{name}")
    for name in (
        *("StandardNormal", "DiagonalNormal", "Laplace", "Cauchy", "StudentT", "GaussianMixture"),
        *("RealNVP", "NICE", "MaskedAutoregressive", "NeuralSpline"),
    )
}
LIKELIHOODS: Mapping[str, Part] = {
    "Bernoulli": Part(f"{_L}:Bernoulli", lambda D, **_: D),
    "ContinuousBernoulli": Part(f"{_L}:ContinuousBernoulli", lambda D, **_: D),
    "Beta": Part(f"{_L}:Beta", lambda D, **_: 2 * D),
    "Gaussian": Part(f"{_L}:Gaussian", lambda D, scale="network", **_: 2 * D if scale == "network" else D),
    "Laplace": Part(f"{_L}:Laplace", lambda D, scale="network", **_: 2 * D if scale == "network" else D),
    "StudentT": Part(f"{_L}:StudentT", lambda D, scale="network", **_: 2 * D if scale == "network" else D),
    "LogNormal": Part(f"{_L}:LogNormal", lambda D, scale="network", **_: 2 * D if scale == "network" else D),
    "Gamma": Part(f"{_L}:Gamma", lambda D, **_: 2 * D),
    "HurdleLogNormal": Part(
        f"{_L}:HurdleLogNormal", lambda D, scale="network", **_: 3 * D if scale == "network" else 2 * D
    ),
    "HurdleGamma": Part(f"{_L}:HurdleGamma", lambda D, **_: 3 * D),
    "Exponential": Part(f"{_L}:Exponential", lambda D, **_: D),
    "Poisson": Part(f"{_L}:Poisson", lambda D, **_: D),
    "NegativeBinomial": Part(
        f"{_L}:NegativeBinomial", lambda D, dispersion="network", **_: 2 * D if dispersion == "network" else D
    ),
    "ZeroInflatedPoisson": Part(f"{_L}:ZeroInflatedPoisson", lambda D, **_: 2 * D),
    "ZeroInflatedNegativeBinomial": Part(
        f"{_L}:ZeroInflatedNegativeBinomial",
        lambda D, dispersion="network", **_: 3 * D if dispersion == "network" else 2 * D,
    ),
    "DiscretisedLogistic": Part(f"{_L}:DiscretisedLogistic", lambda D, **_: 2 * D),
    "OrderedLogistic": Part(f"{_L}:OrderedLogistic", lambda D, **_: D),
    "Categorical": Part(f"{_L}:Categorical", lambda D, num_categories=2, **_: D * num_categories),
    "Mixed": Part(f"{_L}:Mixed"),
}
GUIDES: Mapping[str, Part] = {
    "DiagonalGaussian": Part(f"{_G}:DiagonalGaussian", lambda L, **_: 2 * L),
    "FullCovarianceGaussian": Part(f"{_G}:FullCovarianceGaussian", lambda L, **_: 2 * L + L * (L - 1) // 2),
    "LowRankGaussian": Part(f"{_G}:LowRankGaussian", lambda L, rank=1, **_: 2 * L + L * rank),
    "ProductOfExperts": Part(f"{_G}:ProductOfExperts", lambda L, **_: 2 * L),
    "PointMass": Part(f"{_G}:PointMass", lambda L, **_: L),
    "MixtureOfGaussians": Part(
        f"{_G}:MixtureOfGaussians", lambda L, num_components=3, **_: num_components * (1 + 2 * L)
    ),
    "InverseAutoregressive": Part(f"{_G}:InverseAutoregressive", lambda L, **_: max(16, 4 * L)),
    "Planar": Part(f"{_G}:Planar", lambda L, **_: max(16, 4 * L)),
    "Coupling": Part(f"{_G}:Coupling", lambda L, **_: max(16, 4 * L)),
    "NeuralSpline": Part(f"{_G}:NeuralSpline", lambda L, **_: max(16, 4 * L)),
}
OBJECTIVES: Mapping[str, Part] = {
    "Trace_ELBO": Part("pyro.infer:Trace_ELBO"),
    "TraceMeanField_ELBO": Part("pyro.infer:TraceMeanField_ELBO"),
    **{
        name: Part(f"{_O}:{name}")
        for name in (
            *("BetaELBO", "FreeBitsELBO", "ImportanceWeightedELBO", "DoublyReparameterisedELBO", "RenyiELBO"),
            *("PathDerivativeELBO", "ReweightedWakeSleep"),
        )
    },
}
KERNELS: Mapping[str, Part] = {
    "HMC": Part(f"{_M}.hmc:HMC"),
    "NUTS": Part(f"{_M}.nuts:NUTS"),
    "MALA": Part(f"{_M}.mala:MALA"),
    "Barker": Part(f"{_M}.barker:Barker"),
    "RandomWalk": Part(f"{_M}.random_walk:RandomWalk"),
    "ChEES": Part(f"{_M}.chees:ChEES"),
    "ParallelTempering": Part(f"{_M}.tempering:ParallelTempering"),
}
SYSTEMS: Mapping[str, Part] = {
    "DRAW": Part("pyro_vae.systems:DRAW", skip=("image_shape", "latent_dim", "likelihood", "link")),
    "NICE": Part("pyro_vae.systems:NICE", density=True),
    "RealNVP": Part("pyro_vae.systems:RealNVP", density=True),
    "GAN": Part("pyro_vae.systems:GAN", skip=("data_dim", "latent_dim", "prior", "generator", "discriminator")),
    "GMMN": Part("pyro_vae.systems:GMMN", skip=("data_dim", "latent_dim", "prior", "generator")),
    "InfoGAN": Part("pyro_vae.systems:InfoGAN", skip=("data_dim", "latent_dim", "generator", "trunk")),
    "StackGAN": Part("pyro_vae.systems:StackGAN", skip=("captions", "data_dim", "latent_dim")),
}
TABLES: Mapping[str, Mapping[str, Part]] = {
    "priors": PRIORS,
    "likelihoods": LIKELIHOODS,
    "guides": GUIDES,
    "objectives": OBJECTIVES,
    "kernels": KERNELS,
    "systems": SYSTEMS,
}


def parse(text: str, table: Mapping[str, Part], what: str) -> tuple[Part, dict[str, Any]]:
    """Return the part and options that "Name" or "Name:option=value,option=value" means.

    Several whole numbers of one option are joined by an x, "hidden=64x64"; one may stand alone, "hidden=64".

    Raises:
        ValueError: if the part or an option is unknown, or the text is of another form.

    Example:
        >>> parse("GaussianMixture:num_components=5", PRIORS, "the prior")[1]
        {'num_components': 5}
        >>> parse("DRAW:num_glimpses=4,attention=3x5", SYSTEMS, "the system")[1]
        {'num_glimpses': 4, 'attention': (3, 5)}
        >>> parse("NICE:hidden=64", SYSTEMS, "the system")[1]
        {'hidden': (64,)}
    """
    from pyro_vae.checks import among, say

    name, _, rest = text.partition(":")
    part = table[among(name, table, what)]
    options = {}
    for item in filter(None, rest.split(",")):
        key, equals, value = item.partition("=")
        if not equals:
            raise ValueError(say(f"{what} as Name:option=value", repr(text), f"{name}:option=value"))
        options[key.strip()] = _value(value.strip())
    known = part.options()
    if options and not known:
        raise ValueError(say(f"{name} without options", repr(rest), name))
    for key, value in options.items():
        default = known[among(key, known, f"an option of {name}")]
        options[key] = (value,) if isinstance(default, tuple) and type(value) is int else value
    return part, options


def _value(text: str) -> Any:
    """The truth value, number, whole numbers joined by x, or text that an option is written as."""
    if text.lower() in {"true", "false"}:
        return text.lower() == "true"
    if re.fullmatch(r"\d+(x\d+)+", text):
        return tuple(map(int, text.split("x")))
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
