"""What a run is made of, by name: the same names on the command line, in a configuration file and in a run's folder.

Importing this imports no torch: the command line reads its names and words from here.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

__all__ = ["Recipe"]


@dataclass(frozen=True)
class Recipe:
    """What a run is made of.

    Attributes:
        data: a file, a folder of images, or "digits".
        key: the array's name inside an ``.npz`` with several.
        kind: of the data; "auto" guesses.
        standardise: bring real columns to mean 0 and standard deviation 1.
        prior: name and options, as in "GaussianMixture:num_components=5".
        likelihood: name and options; "auto" takes one that fits the kind of data.
        guide: name and options.
        objective: name and options.
        model: a function of the user's, "package.module:function", that takes x and returns model and guide; in place
            of prior, likelihood and guide. It is imported only if trusted.
        latent_dim: L.
        hidden: widths of the hidden layers of both networks, as in "128" or "256,128".
        epochs: passes over the data.
        batch_size: data a step.
        lr: Adam's learning rate.
        validation: share of the data to hold out for learning curves and patience.
        test: share of the data to hold out for everything after training.
        patience: stop once the validation ELBO has not risen for so many epochs; 0 never does.
        kl_warmup: epochs over which the weight of the KL term rises to 1.
        clip_norm: clip the gradient's norm to this; 0 does not.
        dynamic_binarisation: draw new binary data from probabilities every epoch.
        compile: "auto", "yes" or "no".
        seed: of everything random.
        device: "auto", "cpu", "cuda".
        dtype: "float32" or "float64".
        mixed_precision: multiply in bfloat16 while training, on a CUDA device; refused where that biases the ELBO.
        memory_map: "yes" leaves an .npy on disk and reads it batch by batch; "auto" if memory is short; "no".
    """

    data: str
    key: str = ""
    kind: str = "auto"
    standardise: bool = True
    prior: str = "StandardNormal"
    likelihood: str = "auto"
    guide: str = "DiagonalGaussian"
    objective: str = "Trace_ELBO"
    model: str = ""
    latent_dim: int = 2
    hidden: str = "128"
    epochs: int = 100
    batch_size: int = 64
    lr: float = 1e-3
    validation: float = 0.1
    test: float = 0.1
    patience: int = 0
    kl_warmup: int = 0
    clip_norm: float = 0.0
    dynamic_binarisation: bool = False
    compile: str = "auto"
    seed: int = 0
    device: str = "auto"
    dtype: str = "float32"
    mixed_precision: bool = False
    memory_map: str = "auto"

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Recipe:
        """Return the recipe with these values; what is not given keeps its default.

        Raises:
            ValueError: if a name is unknown, or a value is of the wrong kind or out of range.
        """
        from pyro_vae.checks import among, say

        kinds = get_type_hints(cls)
        names = [field.name for field in fields(cls)]
        checked = {}
        for name, value in values.items():
            among(name, names, "a name of the configuration")
            checked[name] = _as(kinds[name], name, value)
        if not checked.get("data"):
            raise ValueError(say("data", "none", "--data table.csv"))
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
            raise ValueError(
                say("a TOML file", f"{path}: {error}", 'lines such as epochs = 50 or prior = "Laplace"')
            ) from error

    def to_toml(self) -> str:
        """Return it as a configuration file."""
        return "".join(f"{name} = {json.dumps(value)}\n" for name, value in asdict(self).items())

    @property
    def hidden_sizes(self) -> tuple[int, ...]:
        """The widths of the hidden layers."""
        return tuple(int(size) for size in self.hidden.split(",") if size.strip())

    def _check(self) -> None:
        from pyro_vae.checks import among, say

        for name, least in (("latent_dim", 1), ("epochs", 1), ("batch_size", 1), ("patience", 0), ("kl_warmup", 0)):
            value = getattr(self, name)
            if not least <= value < 2**31:
                raise ValueError(say(f"{name} to be at least {least}", f"{value}", f"{name}={max(least, 1)}"))
        if not 0 <= self.seed < 2**32:
            raise ValueError(say("a seed from 0 to 2**32 - 1", f"{self.seed}", "seed=0"))
        if not 0 < self.lr < float("inf"):
            raise ValueError(say("a positive lr", f"{self.lr}", "lr=0.001"))
        if not 0 <= self.clip_norm < float("inf"):
            raise ValueError(say("clip_norm to be 0 or more", f"{self.clip_norm}", "clip_norm=10"))
        for name in ("validation", "test"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(say(f"{name} to be a share in [0, 1)", f"{getattr(self, name)}", f"{name}=0.1"))
        if self.validation + self.test >= 1:
            got = f"{self.validation} + {self.test}"
            raise ValueError(say("validation + test below 1", got, "validation=0.1"))
        if not all(size.strip().isdecimal() and 0 < int(size) < 2**24 for size in self.hidden.split(",") if size):
            raise ValueError(say("hidden as widths with commas", repr(self.hidden), 'hidden="128" or "256,128"'))
        among(self.compile, ("auto", "yes", "no"), "compile")
        among(self.memory_map, ("auto", "yes", "no"), "memory_map")
        among(self.dtype, ("float32", "float64"), "dtype")


def _as(kind: type, name: str, value: Any) -> Any:
    from pyro_vae.checks import say

    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value) if abs(value) < 2**1000 else float("inf")
    if name == "hidden" and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if type(value) is not kind:
        words = {int: "a whole number", float: "a number", str: "text in quotes", bool: "true or false"}
        raise ValueError(say(f"{name} to be {words[kind]}", repr(value), f"{name} = {json.dumps(kind())}"))
    return value
