"""Where training stands, on disk: tensors and numbers only, with a digest; reading one runs no code."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor

from pyro_vae.checks import say
from pyro_vae.inference.variational.training_state import TrainingState
from pyro_vae.runs.folder import Run, RunError, write_whole

__all__ = ["Checkpoints", "read_tensors", "write_tensors"]

_SHARE = 100  # time between two checkpoints, in times that writing one took: they cost at most one percent
_LONGEST = 600.0  # seconds without one, however long the last took: a disk may have stalled once


class Checkpoints:
    """Keeps a training run's state in its folder; goes to ``fit`` as ``checkpoint``.

    The newest state is in ``checkpoint.safetensors``, the one before in ``checkpoint.previous.safetensors``.

    Args:
        run: the folder.
        every: keep a state every so many epochs; None as often as costs one percent of the time, and every ten minutes.
        write: False on the ranks of a distributed run that only read.
        warn: called with a line if the newest state is damaged and the one before is used.
    """

    def __init__(
        self, run: Run, *, every: int | None = None, write: bool = True, warn: Callable[[str], None] | None = None
    ) -> None:
        self.run = run
        self.every = every
        self.write = write
        self.warn = warn
        self._epochs = 0
        self._last = -float("inf")
        self._cost = 0.0

    def due(self) -> bool:
        """Say whether it is time for the next."""
        self._epochs += 1
        if self.every is not None:
            return self._epochs % self.every == 0
        return time.perf_counter() - self._last >= min(_SHARE * self._cost, _LONGEST)

    def save(self, state: TrainingState) -> None:
        """Write a state; the one before is kept.

        Raises:
            RunError: if it cannot be written; then the last one is still there.
        """
        if not self.write:
            return
        start = time.perf_counter()
        previous = self.run / "checkpoint.previous.safetensors"
        write_tensors(self.run / "checkpoint.safetensors", state.tensors, state.numbers, keep=previous)
        self._last = time.perf_counter()
        self._cost = self._last - start

    def load(self) -> TrainingState | None:
        """Return the newest state that is whole, or None if none was ever written.

        Raises:
            RunError: if there are some and all are damaged.
        """
        paths = [self.run / "checkpoint.safetensors", self.run / "checkpoint.previous.safetensors"]
        problems = []
        for path in paths:
            if path.is_file():
                try:
                    state = TrainingState(*read_tensors(path))
                except RunError as error:
                    problems.append(str(error))
                else:
                    if problems and self.warn is not None:
                        epoch = state.numbers["epoch"]
                        self.warn(f"{paths[0].name} is damaged; going on from the one before, epoch {epoch}")
                    return state
        if problems:
            raise RunError(problems[0])
        return None


def write_tensors(
    path: Path, tensors: dict[str, Tensor], numbers: dict[str, object], *, keep: Path | None = None
) -> None:
    """Write tensors and numbers to a safetensors file, whole or not at all."""
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(numbers)
    write_whole(path, to_bytes(kept, {"numbers": text, "digest": _digest(kept, text)}), keep=keep)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, object]]:
    """Return what :func:`write_tensors` wrote.

    By way of the file's bytes: ``safe_open`` calls torch from Rust and, where Ctrl-C arrives in such a call, says
    that the file is damaged.

    Raises:
        RunError: if the file is missing, truncated, changed, or of another kind.
    """
    remedy = "train --resume from an earlier state, a backup, or training again"
    try:
        content = path.read_bytes()
        tensors = from_bytes(content)
        metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]).get("__metadata__", {})
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise RunError(say("a whole safetensors file", f"{path}: {error}", remedy)) from error
    text = metadata.get("numbers", "")
    if metadata.get("digest") != _digest(tensors, text):
        raise RunError(say("a file as it was written", f"{path}, whose digest differs", remedy))
    return tensors, json.loads(text)


def _digest(tensors: dict[str, Tensor], text: str) -> str:
    """A fingerprint of tensors, by name, shape, dtype and bytes, and of a text."""
    digest = hashlib.blake2b(text.encode(), digest_size=16)
    for name in sorted(tensors):
        digest.update(f"{name} {tuple(tensors[name].shape)} {tensors[name].dtype}".encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
