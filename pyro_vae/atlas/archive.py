"""Truths on disk: one compressed file of numbers a posterior, beside the package's code."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor

from pyro_vae.atlas.truth import Truth
from pyro_vae.atlas.values import Values
from pyro_vae.checks import say
from pyro_vae.inference.target.target import Target

__all__ = ["FOLDER", "Stored", "fingerprint", "read", "write"]

FOLDER = "pyro_vae.atlas.stored"
_PACKAGES = ("pyro_vae", "pyro-ppl", "torch", "nutpie")
_PARTS = ("mean", "std", "low", "high", "mean_error", "draws")


def write(truth: Truth, path: Path) -> None:
    """Write a truth to ``path``: moments in double precision, reference draws in single."""
    arrays: dict[str, Any] = {}
    for part in _PARTS:
        values: Values = getattr(truth, part)
        kind = torch.float32 if part == "draws" else torch.float64
        arrays |= {f"{part}/{name}": value.to(kind).numpy() for name, value in values.items()}
    words = {
        "how": truth.how,
        "log_evidence": truth.log_evidence,
        "log_evidence_error": truth.log_evidence_error,
        "provenance": truth.provenance,
    }
    np.savez_compressed(path, words=np.array(json.dumps(words)), **arrays)


def read(name: str) -> Truth:
    """Return the stored truth of that name.

    Raises:
        ValueError: if there is none.

    Example:
        >>> read("nothing")
        Traceback (most recent call last):
        ...
        ValueError: expected a stored truth of 'nothing'; got none; try python -m pyro_vae.atlas.stored nothing
    """
    with as_file(files(FOLDER) / f"{name}.npz") as path:
        if not path.exists():
            raise ValueError(say(f"a stored truth of {name!r}", "none", f"python -m pyro_vae.atlas.stored {name}"))
        with np.load(path, allow_pickle=False) as archive:
            words = json.loads(str(archive["words"]))
            parts: dict[str, Any] = {part: {} for part in _PARTS}
            for key in archive.files:
                part, _, site = key.partition("/")
                if site:
                    parts[part][site] = torch.from_numpy(archive[key]).double()
    return Truth(**words, **parts)


@dataclass(frozen=True, eq=False)
class Stored:
    """A truth that takes long to find, stored with the package; called with the target, it reads it.

    Attributes:
        name: of the problem, and of the file.
        find: from the target to its truth, as :class:`~pyro_vae.atlas.chains.LongChains` do.
    """

    name: str
    find: Callable[[Target], Truth]

    def __call__(self, target: Target) -> Truth:
        """Return the stored truth.

        Raises:
            ValueError: if there is none, or it is of another program or other data.
        """
        truth = read(self.name)
        stored, now = float(truth.provenance["fingerprint"]), fingerprint(target)
        if not abs(stored - now) <= 1e-6 * (1 + abs(now)):
            remedy = f"python -m pyro_vae.atlas.stored {self.name}"
            raise ValueError(say(f"a truth of {self.name!r} as it is now", "one of another program or data", remedy))
        return truth

    def make(self, target: Target, *, seed: int = 1) -> Truth:
        """Find the truth again, and note how it was found.

        Raises:
            ValueError: if chains have not converged.
        """
        pyro.set_rng_seed(seed)
        truth = self.find(target)
        notes: dict[str, Any] = {
            "command": f"python -m pyro_vae.atlas.stored {self.name} --seed {seed}",
            "versions": {package: _version(package) for package in _PACKAGES},
            "fingerprint": fingerprint(target),
        }
        return replace(truth, provenance=truth.provenance | notes)


@torch.no_grad()
def fingerprint(target: Target) -> float:
    """The log joint at one place: another program, or other data, have another one."""
    u: Tensor = torch.linspace(-0.3, 0.4, target.latent_dim).to(target.origin)
    return float(target.log_joint(u.expand_as(target.origin)))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
