"""From a recipe and a schema to model, guide and objective."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pyro_vae.checks import among, say
from pyro_vae.datasets.kinds import Schema
from pyro_vae.guides import Guide
from pyro_vae.likelihoods import Likelihood, Mixed
from pyro_vae.model import Model
from pyro_vae.networks import MaskedInput, mlp
from pyro_vae.priors import Prior
from pyro_vae.runs.parts import GUIDES, LIKELIHOODS, OBJECTIVES, PRIORS, parse
from pyro_vae.runs.recipe import Recipe

__all__ = [
    "PROPOSED",
    "build",
    "build_guide",
    "build_likelihood",
    "build_prior",
    "check_device",
    "likelihood_name",
    "objective",
]

PROPOSED = {
    "binary": "Bernoulli",
    "unit": "ContinuousBernoulli",
    "counts": "NegativeBinomial",
    "categories": "Categorical",
    "real": "Gaussian",
    "mixed": "Mixed",
}


def likelihood_name(recipe: Recipe, schema: Schema) -> str:
    """The likelihood asked for, or the one that fits the kind of data."""
    return PROPOSED[schema.kind] if recipe.likelihood == "auto" else recipe.likelihood


def check_device(name: str, *, mixed_precision: bool = False) -> None:
    """Check that this machine has a device.

    Raises:
        ValueError: if it has not, or the name means none, or mixed precision is asked for without a CUDA device.
    """
    kind, _, number = name.partition(":")
    among(kind, ("auto", "cpu", "cuda"), "device")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "cuda" and not (count and (not number or (number.isdecimal() and int(number) < count))):
        raise ValueError(say(f"a machine with the device {name!r}", f"{count} CUDA devices", "device=cpu"))
    if mixed_precision and (kind == "cpu" or not count):
        got = f"device={name}, {count} CUDA devices"
        raise ValueError(say("a CUDA device for mixed precision", got, "mixed_precision=false"))


def objective(recipe: Recipe) -> Any:
    """Return the recipe's objective."""
    part, options = parse(recipe.objective, OBJECTIVES, "the objective")
    return part.load()(**options)


def build(recipe: Recipe, schema: Schema, x: Any, *, trust_code: bool = False) -> tuple[Any, Any]:
    """Return model and guide of a recipe, with fresh weights.

    Args:
        recipe: of the run.
        schema: of the data.
        x: data, for a model of the user's.
        trust_code: import the user's Python code, if the recipe names some.

    Raises:
        ValueError: if parts do not fit together, or code is not trusted.
    """
    if recipe.model:
        return _imported(recipe.model, x, trust_code=trust_code)
    model = Model(build_prior(recipe), build_likelihood(recipe, schema), missing=schema.missing)
    return model, build_guide(recipe, schema)


def build_prior(recipe: Recipe) -> Prior:
    """Return a recipe's prior, with fresh weights."""
    part, options = parse(recipe.prior, PRIORS, "the prior")
    made: Prior = part.load()(recipe.latent_dim, **options)
    return made


def build_likelihood(recipe: Recipe, schema: Schema) -> Likelihood:
    """Return a recipe's likelihood of data of a schema, with fresh weights."""
    text, L, hidden = likelihood_name(recipe, schema), recipe.latent_dim, recipe.hidden_sizes
    if text != "Mixed":
        K = max(schema.num_categories)
        return _likelihood(text, schema.data_dim, K, lambda out: mlp(L, *hidden, out))
    trunk = mlp(L, *hidden) if hidden else nn.Identity()
    width = hidden[-1] if hidden else L
    return Mixed(
        [
            _likelihood(PROPOSED[kind], D, K, lambda out: nn.Sequential(trunk, nn.SiLU(), nn.Linear(width, out)))
            for kind, D, K in schema.groups()
        ]
    )


def _likelihood(text: str, D: int, K: int, network: Callable[[int], nn.Module]) -> Likelihood:
    """A likelihood of D columns of one kind on top of a network of the width that it needs."""
    part, options = parse(text, LIKELIHOODS, "the likelihood")
    if part is LIKELIHOODS["Categorical"]:
        options = {"num_categories": max(K, 2), **options}
    needed = {"data_dim": D} if options.get("scale") == "learned" else {}
    if part.width is None:
        raise ValueError(say("a likelihood of columns of one kind", repr(text), "likelihood=auto"))
    made: Likelihood = part.load()(network(part.width(D, **options)), **options, **needed)
    return made


def build_guide(recipe: Recipe, schema: Schema) -> Guide:
    """Return a recipe's guide of data of a schema, with fresh weights."""
    D, L, hidden = schema.data_dim, recipe.latent_dim, recipe.hidden_sizes
    part, options = parse(recipe.guide, GUIDES, "the guide")
    if part.width is None:
        raise ValueError(say("a guide with a network", repr(recipe.guide), "guide=DiagonalGaussian"))
    network: nn.Module = mlp((2 if schema.missing else 1) * D, *hidden, part.width(L, **options))
    made: Guide = part.load()(MaskedInput(network) if schema.missing else network, latent_dim=L, **options)
    return made


def _imported(path: str, x: Any, *, trust_code: bool) -> tuple[Any, Any]:
    """Model and guide by the user's own function, which importing runs."""
    if not trust_code:
        remedy = "--trust-code, if you trust the file: importing it runs it"
        raise ValueError(say("leave to import a model written in Python", f"none for {path!r}", remedy))
    module, colon, name = path.partition(":")
    if not colon or not all(part.isidentifier() for part in module.split(".")):
        raise ValueError(say("model as package.module:function", repr(path), "model=my_models:make"))
    sys.path.insert(0, str(Path.cwd()))
    try:
        maker = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        remedy = "package.module:function, from this folder"
        raise ValueError(say(f"a function at {path!r}", str(error), remedy)) from error
    finally:
        sys.path.pop(0)
    model, guide = maker(x)
    return model, guide
