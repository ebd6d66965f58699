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
from pyro_vae.datasets.families import family_of
from pyro_vae.datasets.kinds import Schema
from pyro_vae.guides import Guide
from pyro_vae.likelihoods import Likelihood, Mixed
from pyro_vae.model import Model
from pyro_vae.networks import ColumnFeatures, SkipHead, mlp
from pyro_vae.priors import Prior
from pyro_vae.runs.parts import GUIDES, LIKELIHOODS, OBJECTIVES, PRIORS, parse
from pyro_vae.runs.recipe import Recipe

__all__ = [
    "build",
    "build_guide",
    "build_likelihood",
    "build_prior",
    "check_device",
    "column_features",
    "likelihood_name",
    "make_likelihood",
    "objective",
]


def likelihood_name(recipe: Recipe, schema: Schema) -> str:
    """The likelihood asked for, or the one of all columns, or "Mixed"."""
    if recipe.likelihood != "auto":
        return recipe.likelihood
    groups = schema.groups()
    return groups[0][0] if len(groups) == 1 else "Mixed"


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
    part, options = parse("StandardNormal" if recipe.prior == "auto" else recipe.prior, PRIORS, "the prior")
    made: Prior = part.load()(recipe.num_latents, **options)
    return made


def build_likelihood(recipe: Recipe, schema: Schema) -> Likelihood:
    """Return a recipe's likelihood of data of a schema, with fresh weights: heads on one trunk, a likelihood each."""
    text, L, hidden = likelihood_name(recipe, schema), recipe.num_latents, recipe.hidden_sizes
    head = _heads(L, hidden)
    if text != "Mixed":
        return make_likelihood(text, schema.data_dim, max(schema.num_categories), head)
    return Mixed([make_likelihood(name, D, K, head) for name, D, K in schema.groups()])


def _heads(inputs: int, hidden: tuple[int, ...]) -> Callable[[int], nn.Module]:
    """What makes heads of any width on one trunk."""
    trunk: nn.Module = mlp(inputs, *hidden) if hidden else nn.Identity()
    return lambda out: SkipHead(inputs, trunk, hidden[-1] if hidden else inputs, out)


def make_likelihood(text: str, D: int, K: int, network: Callable[[int], nn.Module]) -> Likelihood:
    """Return a likelihood of D columns of one kind on top of a network of the width that it needs.

    Args:
        text: name and options.
        D: how many columns.
        K: categories of each, or levels.
        network: makes the network, given its width.
    """
    part, options = parse(text, LIKELIHOODS, "the likelihood")
    if part is LIKELIHOODS["Categorical"]:
        options = {"num_categories": max(K, 2), **options}
    ordered = part is LIKELIHOODS["OrderedLogistic"]
    if ordered or (part is LIKELIHOODS["DiscretisedLogistic"] and K):
        options = {"levels": max(K, 2), **options}
    if part is LIKELIHOODS["StudentT"]:
        options = {"df": None, **options}
    per_column = {"learned", "data"} & {options.get(name) for name in ("scale", "dispersion", "max_mean")}
    needed = {"data_dim": D} if ordered or per_column or "df" in options else {}
    if part.width is None:
        raise ValueError(say("a likelihood of columns of one kind", repr(text), "likelihood=auto"))
    made: Likelihood = part.load()(network(part.width(D, **options)), **options, **needed)
    return made


def build_guide(recipe: Recipe, schema: Schema) -> Guide:
    """Return a recipe's guide of data of a schema, with fresh weights; it sees the columns of a table on one scale."""
    part, options = parse("DiagonalGaussian" if recipe.guide == "auto" else recipe.guide, GUIDES, "the guide")
    if part.width is None:
        raise ValueError(say("a guide with a network", repr(recipe.guide), "guide=DiagonalGaussian"))
    L = recipe.num_latents
    inputs = column_features(schema, nn.Identity()).num_inputs
    network = _heads(inputs, recipe.hidden_sizes)(part.width(L, **options))
    needed = {"data_dim": schema.data_dim} if part is GUIDES["ProductOfExperts"] else {}
    made: Guide = part.load()(column_features(schema, network), latent_dim=L, **options, **needed)
    return made


def column_features(schema: Schema, network: nn.Module) -> ColumnFeatures:
    """Return a network over the columns of a schema on one scale, in the model's order."""
    scales = [family_of(schema.likelihoods[i]).seen for i in schema.order]
    K = [schema.num_categories[i] if scale == "category" else 0 for i, scale in zip(schema.order, scales, strict=True)]
    return ColumnFeatures(network, scales, K, missing=schema.missing)


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
