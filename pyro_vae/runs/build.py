"""From a recipe to data, model, guide and objective."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pyro_vae.checks import among, say
from pyro_vae.datasets import digits
from pyro_vae.datasets.files import Loaded, load, outgrows_memory
from pyro_vae.datasets.kinds import Schema, describe
from pyro_vae.datasets.rows import Rows, pieces
from pyro_vae.guides import Guide
from pyro_vae.likelihoods import Likelihood, Mixed
from pyro_vae.model import Model
from pyro_vae.networks import MaskedInput, mlp
from pyro_vae.priors import Prior
from pyro_vae.runs.folder import fingerprint
from pyro_vae.runs.parts import GUIDES, LIKELIHOODS, OBJECTIVES, PRIORS, parse
from pyro_vae.runs.recipe import Recipe

__all__ = [
    "PROPOSED",
    "SPLITS",
    "Prepared",
    "build",
    "build_guide",
    "build_likelihood",
    "build_prior",
    "check_device",
    "encoded",
    "likelihood_name",
    "load_data",
    "objective",
    "prepare",
]

SPLITS = ("train", "validation", "test", "all")
PROPOSED = {
    "binary": "Bernoulli",
    "unit": "ContinuousBernoulli",
    "counts": "NegativeBinomial",
    "categories": "Categorical",
    "real": "Gaussian",
    "mixed": "Mixed",
}


@dataclass(frozen=True)
class Prepared:
    """Data as a run sees them.

    Attributes:
        schema: what they are.
        x: data by split, ``(N, D)``; rows on disk if memory-mapped; empty if the file is gone.
        digest: fingerprint of the file.
        notes: what a person should know.
    """

    schema: Schema
    x: dict[str, Tensor | Rows]
    digest: str
    notes: tuple[str, ...]

    def split(self, name: str) -> Tensor | Rows:
        """Return the data of a split.

        Raises:
            ValueError: if there is no such split.
            FileNotFoundError: if the file is gone.
        """
        if among(name, SPLITS, "--split") not in self.x:
            raise FileNotFoundError(say("the data that the run was trained on", "none at their place", "--data"))
        return self.x[name]


def load_data(data: str, key: str = "", *, memory_map: str = "no") -> Loaded:
    """Return the content of a data set.

    Args:
        data: a file, a folder of images, or "digits".
        key: the array's name inside an ``.npz`` with several.
        memory_map: "yes" leaves an ``.npy`` on disk, "auto" does if it would not fit into memory.

    Raises:
        FileNotFoundError, ValueError: if it cannot be used.
    """
    can = Path(data).suffix == ".npy"
    if memory_map == "yes" and not can:
        raise ValueError(say("an .npy file to leave on disk", repr(data), "numpy.save, or memory_map=no"))
    if data == "digits" and not Path(data).exists():
        return Loaded(digits("all", values="binary").numpy().reshape(-1, 8, 8))
    if memory_map == "no" or not can:
        return load(data, key=key or None)
    loaded = load(data, memory_map=True)
    if memory_map == "yes" or (outgrows_memory(loaded.values) and loaded.values.flags.c_contiguous):
        return loaded
    return Loaded(np.array(loaded.values))


def encoded(loaded: Loaded, schema: Schema, index: np.ndarray | None = None) -> Tensor | Rows:
    """Return rows of a data set as the model sees them: a tensor, or rows on disk if they are memory-mapped."""
    order = None if index is None else torch.as_tensor(index)
    if isinstance(loaded.values, np.memmap):
        return Rows(loaded.values, schema.encode, order)
    whole = schema.encode(loaded.values)
    return whole if order is None else whole[order]


def prepare(recipe: Recipe, schema: Schema | None = None) -> Prepared:
    """Load the data of a recipe and split them by its seed.

    Args:
        recipe: of the run.
        schema: of a run that exists; None looks at the data.

    Raises:
        FileNotFoundError, ValueError: if the data cannot be used.
    """
    loaded = load_data(recipe.data, recipe.key, memory_map=recipe.memory_map)
    digest = fingerprint(Path(recipe.data)) if Path(recipe.data).exists() else recipe.data
    N = len(loaded.values)
    order = np.random.RandomState(recipe.seed).permutation(N)  # the legacy stream is frozen for ever
    held = {"test": int(recipe.test * N), "validation": int(recipe.validation * N)}
    num_train = N - sum(held.values())
    if num_train < 2:
        raise ValueError(say("at least two rows to train on", f"{num_train} of {N}", "more data, or --test 0"))
    rows = {
        "train": order[:num_train],
        "validation": order[num_train : num_train + held["validation"]],
        "test": order[num_train + held["validation"] :],
    }
    if schema is None:
        schema = describe(loaded, rows["train"], kind=recipe.kind, standardise=recipe.standardise)
    whole = encoded(loaded, schema)
    if isinstance(whole, Rows):
        x: dict[str, Tensor | Rows] = {name: encoded(loaded, schema, some) for name, some in rows.items()}
    else:
        x = {name: whole[torch.as_tensor(some)] for name, some in rows.items()}
    return Prepared(schema, x | {"all": whole}, digest, tuple(_notes(schema, whole)))


def _notes(schema: Schema, x: Tensor | Rows) -> list[str]:
    notes = []
    if isinstance(x, Rows):
        notes.append("the data stay on disk and are read batch by batch; duplicates are not looked for")
    elif (distinct := len(torch.unique(x, dim=0)) if x.numel() < 10**7 else len(x)) < 0.9 * len(x):
        notes.append(f"{len(x) - distinct} of {len(x)} rows are duplicates: held-out rows may be known from training")
    first = x[:1]
    constant = torch.stack([(piece == first).all(0) for piece in pieces(x)]).all(0)
    if schema.kind in {"real", "mixed"} and bool(constant.any()):
        count = int(constant.sum())
        notes.append(f"{count} column{'s' if count > 1 else ''} constant: nothing to learn there")
    return notes


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
    if text == "Mixed":
        trunk = mlp(L, *hidden) if hidden else nn.Identity()
        width = hidden[-1] if hidden else L
        parts = [
            _part(PROPOSED[kind], count, K, lambda out: nn.Sequential(trunk, nn.SiLU(), nn.Linear(width, out)))
            for kind, count, K in schema.groups()
        ]
        return Mixed(parts)
    K = max(schema.num_categories)
    return _part(text, schema.data_dim, K, lambda out: mlp(L, *hidden, out))


def _part(text: str, D: int, K: int, network: Any) -> Likelihood:
    part, options = parse(text, LIKELIHOODS, "the likelihood")
    if part is LIKELIHOODS["Categorical"]:
        options = {"num_categories": max(K, 2), **options}
    needed = {"data_dim": D} if options.get("scale") == "learned" else {}
    if part.width is None:
        raise ValueError(say("a likelihood of columns of one kind", repr(text), "likelihood=auto"))
    taken = {key: value for key, value in options.items() if key in part.width.__code__.co_varnames}
    made: Likelihood = part.load()(network(part.width(D, **taken)), **options, **needed)
    return made


def build_guide(recipe: Recipe, schema: Schema) -> Guide:
    """Return a recipe's guide of data of a schema, with fresh weights."""
    D, L, hidden = schema.data_dim, recipe.latent_dim, recipe.hidden_sizes
    part, options = parse(recipe.guide, GUIDES, "the guide")
    if part.width is None:
        raise ValueError(say("a guide with a network", repr(recipe.guide), "guide=DiagonalGaussian"))
    taken = {key: value for key, value in options.items() if key in part.width.__code__.co_varnames}
    network: nn.Module = mlp((2 if schema.missing else 1) * D, *hidden, part.width(L, **taken))
    made: Guide = part.load()(MaskedInput(network) if schema.missing else network, latent_dim=L, **options)
    return made


def _imported(path: str, x: Any, *, trust_code: bool) -> tuple[Any, Any]:
    if not trust_code:
        remedy = "--trust-code, if you trust the file: importing it runs it"
        raise ValueError(say("leave to import a model written in Python", f"none for {path!r}", remedy))
    module, colon, name = path.partition(":")
    if not colon:
        raise ValueError(say("model as package.module:function", repr(path), "model=my_models:make"))
    sys.path.insert(0, str(Path.cwd()))
    try:
        maker = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            say(f"a function at {path!r}", str(error), "package.module:function, from this folder")
        ) from error
    finally:
        sys.path.pop(0)
    model, guide = maker(x)
    return model, guide
