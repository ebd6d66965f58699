"""What a run is made of, by name: the same names on the command line, in a configuration file and in a run's folder.

Importing this imports no torch: the command line reads its names and words from here.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

__all__ = ["Recipe"]


@dataclass(frozen=True)
class Recipe:
    """What a run is made of; each field says what it means, here and in the command line's help."""

    data: Annotated[str, 'A file, a folder of images, or "digits".']
    key: Annotated[str, "The array's name inside an .npz with several."] = ""
    drop: Annotated[str, "Columns of a table to leave out, with commas between."] = ""
    kind: Annotated[str, 'Kind of all columns: binary, unit, counts, categories or real; "auto" guesses each.'] = "auto"
    standardise: Annotated[bool, "Bring real columns to mean 0 and standard deviation 1."] = True
    prior: Annotated[
        str,
        'Name and options, as in "GaussianMixture:num_components=5"; "auto" takes a standard normal, or for tables a '
        "mixture of as many components as held-out factors ask for.",
    ] = "auto"
    likelihood: Annotated[str, 'Name and options; "auto" takes one that fits the kind of data.'] = "auto"
    guide: Annotated[
        str, 'Name and options; "auto" is DiagonalGaussian, and ProductOfExperts of a table with gaps.'
    ] = "auto"
    objective: Annotated[str, "Name and options."] = "Trace_ELBO"
    model: Annotated[
        str,
        'A function of yours, "package.module:function", that takes x and returns model and guide, in place '
        "of prior, likelihood and guide. It is imported only if trusted.",
    ] = ""
    system: Annotated[
        str,
        "A system of the literature in place of prior, likelihood and guide: DRAW, NICE, RealNVP, GAN, GMMN, "
        'InfoGAN or StackGAN, with options as in "DRAW:num_glimpses=8,attention=5x5".',
    ] = ""
    latent_dim: Annotated[str, 'Dimension of z, L; "auto" chooses it by held-out evidence, 2 for images.'] = "auto"
    hidden: Annotated[str, 'Widths of the hidden layers of both networks, as in "128" or "256,128".'] = "128"
    epochs: Annotated[int, "At most so many passes over the data; 0 goes on until the validation ELBO stays."] = 0
    batch_size: Annotated[int, "Data a step."] = 64
    lr: Annotated[float, "Learning rate of Adam."] = 1e-3
    validation: Annotated[float, "Share of the data to hold out for learning curves and patience."] = 0.1
    test: Annotated[float, "Share of the data to hold out for everything after training."] = 0.1
    patience: Annotated[int, "Stop once the validation ELBO has not risen for so many epochs; 0 never does."] = 0
    kl_warmup: Annotated[int, "Epochs over which the weight of the KL term rises to 1."] = 0
    clip_norm: Annotated[float, "Clip the gradient's norm to this; 0 does not."] = 0.0
    dynamic_binarisation: Annotated[bool, "Draw new binary data from probabilities every epoch."] = False
    compile: Annotated[str, '"auto", "yes" or "no".'] = "auto"
    seed: Annotated[int, "Of everything random."] = 0
    device: Annotated[str, '"auto", "cpu" or "cuda", "cuda:1".'] = "auto"
    dtype: Annotated[str, '"float32" or "float64".'] = "float32"
    mixed_precision: Annotated[
        bool,
        "Multiply in bfloat16 while training, on a CUDA device; refused where that biases the ELBO.",
    ] = False
    memory_map: Annotated[
        str,
        '"yes" leaves an .npy on disk and reads it batch by batch; "auto" if memory is short; "no".',
    ] = "auto"

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Recipe:
        """Return the recipe with these values; what is not given keeps its default.

        Raises:
            ValueError: if a name is unknown, or a value is of the wrong kind or out of range.
        """
        from pyro_vae.checks import among, say

        types = get_type_hints(cls)
        checked = {}
        for name, value in values.items():
            among(name, types, "a name of the configuration")
            checked[name] = _as(types[name], name, value)
        if not checked.get("data"):
            raise ValueError(say("data", "none", 'pyro-vae train table.csv, or the line data = "table.csv"'))
        recipe = cls(**checked)
        recipe._check()
        return recipe

    @classmethod
    def from_toml(cls, path: str | Path) -> dict[str, Any]:
        """Return the values of a configuration file.

        Raises:
            ValueError: if it is no TOML.
            FileNotFoundError: if there is none.
        """
        from pyro_vae.checks import say

        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(say("a configuration file", f"no file at {path}", "another path"))
        try:
            return tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
            remedy = 'lines such as epochs = 50 or prior = "Laplace"'
            raise ValueError(say("a TOML file", f"{path}: {error}", remedy)) from error

    def to_toml(self) -> str:
        """Return it as a configuration file."""
        return "".join(f"{name} = {json.dumps(value)}\n" for name, value in asdict(self).items())

    @property
    def num_latents(self) -> int:
        """L, once it is known."""
        return int(self.latent_dim)

    @property
    def dropped(self) -> tuple[str, ...]:
        """The names of the columns to leave out."""
        return tuple(dict.fromkeys(name.strip() for name in self.drop.split(",") if name.strip()))

    @property
    def compiled(self) -> bool | str:
        """What ``fit`` takes as ``compile``."""
        return "auto" if self.compile == "auto" else self.compile == "yes"

    @property
    def hidden_sizes(self) -> tuple[int, ...]:
        """The widths of the hidden layers."""
        return tuple(int(size) for size in self.hidden.split(",") if size.strip())

    def _check(self) -> None:
        """Check that every value is in its range."""
        from pyro_vae.checks import among, positive_number, say

        for name, least in (("epochs", 0), ("batch_size", 1), ("patience", 0), ("kl_warmup", 0)):
            value = getattr(self, name)
            if not least <= value < 2**31:
                raise ValueError(say(f"{name} to be at least {least}", f"{value}", f"{name}={max(least, 1)}"))
        L = self.latent_dim
        if L != "auto" and not (L.isascii() and L.isdecimal() and 0 < int(L) < 2**31):
            raise ValueError(say('latent_dim to be a whole number of at least 1, or "auto"', repr(L), "latent_dim=2"))
        if not 0 <= self.seed < 2**32:
            raise ValueError(say("a seed from 0 to 2**32 - 1", f"{self.seed}", "seed=0"))
        positive_number(self.lr, "lr", example=0.001)
        positive_number(self.clip_norm, "clip_norm", example=10, zero=True)
        for name in ("validation", "test"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(say(f"{name} to be a share in [0, 1)", f"{getattr(self, name)}", f"{name}=0.1"))
        if self.validation + self.test >= 1:
            got = f"{self.validation} + {self.test}"
            raise ValueError(say("validation + test below 1", got, "validation=0.1"))
        if not all(size.strip().isdecimal() and 0 < int(size) < 2**24 for size in self.hidden.split(",") if size):
            raise ValueError(say("hidden as widths with commas", repr(self.hidden), 'hidden="128" or "256,128"'))
        for name in ("compile", "memory_map"):
            among(getattr(self, name), ("auto", "yes", "no"), name)
        among(self.dtype, ("float32", "float64"), "dtype")


def _as(wanted: type, name: str, value: Any) -> Any:
    """A value of the type that its field has, where that loses nothing."""
    from pyro_vae.checks import say

    whole = type(value) is int
    if wanted is float and whole:
        return float(value) if abs(value) < 2**1000 else float("inf")
    if name in {"hidden", "latent_dim"} and whole:
        return str(value)
    if type(value) is not wanted:
        words = {int: "a whole number", float: "a number", str: "text in quotes", bool: "true or false"}
        raise ValueError(say(f"{name} to be {words[wanted]}", repr(value), f"{name} = {json.dumps(wanted())}"))
    return value
