"""Where a training run stands at the end of an epoch: all that is needed to go on as if it had never stopped."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

__all__ = ["Checkpoint", "TrainingState", "load_optimiser", "load_random", "numbered", "save_optimiser", "save_random"]


@dataclass
class TrainingState:
    """A run at the end of an epoch.

    Attributes:
        tensors: weights, the optimiser's moments, random states; by name.
        numbers: all else, as JSON knows it: strings, numbers, lists, dictionaries.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    numbers: dict[str, Any] = field(default_factory=dict)


class Checkpoint(Protocol):
    """Where ``fit`` leaves and finds its state, as :class:`pyro_vae.runs.checkpoints.Checkpoints` does in a folder."""

    def load(self) -> TrainingState | None:
        """Return the state to go on from, or None to begin."""

    def due(self) -> bool:
        """Say whether the present state is to be kept; asked once an epoch."""

    def save(self, state: TrainingState) -> None:
        """Keep a state; what it replaces may go only once the new one is safe."""


def save_random(state: TrainingState) -> None:
    """Add the random states of torch (every device), numpy and Python."""
    state.tensors["random.torch"] = torch.get_rng_state()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        for i, cuda in enumerate(torch.cuda.get_rng_state_all()):
            state.tensors[f"random.cuda.{i}"] = cuda
    _, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002  Pyro seeds numpy's global state
    version, words, gauss_next = random.getstate()
    state.tensors["random.numpy"] = torch.from_numpy(np.asarray(keys).astype(np.int64))
    state.tensors["random.python"] = torch.tensor(words, dtype=torch.int64)
    state.numbers["random"] = {
        "numpy": [int(position), int(has_gauss), float(gauss)],
        "python": [version, gauss_next],
    }


def load_random(state: TrainingState) -> None:
    """Put back what :func:`save_random` saved."""
    torch.set_rng_state(state.tensors["random.torch"])
    for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        if f"random.cuda.{i}" in state.tensors:
            torch.cuda.set_rng_state(state.tensors[f"random.cuda.{i}"], i)
    position, has_gauss, gauss = state.numbers["random"]["numpy"]
    keys = state.tensors["random.numpy"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, position, has_gauss, gauss))  # noqa: NPY002
    version, gauss_next = state.numbers["random"]["python"]
    random.setstate((version, tuple(state.tensors["random.python"].tolist()), gauss_next))


def save_optimiser(optimiser: torch.optim.Optimizer, state: TrainingState) -> None:
    """Add a torch optimiser's state; its settings belong to the configuration."""
    rest = {}
    for i, entry in optimiser.state_dict()["state"].items():
        for key, value in entry.items():
            if isinstance(value, Tensor):
                state.tensors[f"optimiser.{i}.{key}"] = value.detach().clone()
            else:
                rest[f"{i}.{key}"] = value
    state.numbers["optimiser"] = rest


def load_optimiser(optimiser: torch.optim.Optimizer, state: TrainingState) -> None:
    """Put back what :func:`save_optimiser` saved."""
    entries: dict[int, dict[str, Any]] = {}
    named = {name.removeprefix("optimiser."): t for name, t in state.tensors.items() if name.startswith("optimiser.")}
    for name, value in {**named, **state.numbers["optimiser"]}.items():
        i, key = name.split(".", 1)
        entries.setdefault(int(i), {})[key] = value
    optimiser.load_state_dict({**optimiser.state_dict(), "state": entries})


def numbered(tensors: dict[str, Tensor], name: str) -> list[Tensor]:
    """Return the tensors ``name.0``, ``name.1``, ... or ``name.0.0``, ``name.0.1``, ... in order."""
    found = [key for key in tensors if key.startswith(f"{name}.")]
    return [tensors[key] for key in sorted(found, key=lambda key: [int(part) for part in key.split(".")[1:]])]
