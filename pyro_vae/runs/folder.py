"""A run is a folder, and what is written there is whole or not there at all."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pyro_vae.checks import say

__all__ = ["Run", "RunError", "fingerprint", "versions", "write_whole"]


class RunError(RuntimeError):
    """What went wrong with a run's folder: not there, not writable, in use, or damaged."""


class Run:
    """The folder of a run.

    ``config.toml`` the recipe; ``about.json`` data, versions and fingerprint; ``checkpoint.safetensors`` (and the one
    before) where training stands; ``weights.safetensors`` and ``history.json`` its result; ``lock`` the
    number of the process that writes.

    Args:
        folder: the path.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    @property
    def exists(self) -> bool:
        """Whether a run was started here."""
        return (self / "config.toml").is_file()

    @property
    def finished(self) -> bool:
        """Whether its training has come to an end."""
        return (self / "weights.safetensors").is_file() and (self / "history.json").is_file()

    def must_exist(self) -> Run:
        """Return itself.

        Raises:
            RunError: if there is no run.
        """
        if not self.exists:
            raise RunError(say("the folder of a run", f"none at {self.folder}", "pyro-vae train --output FOLDER"))
        return self

    def discard(self, *, folder: bool) -> None:
        """Remove what says that a run was started, and the folder if it was made for it."""
        for name in ("config.toml", "about.json", *(("lock",) if folder else ())):
            (self / name).unlink(missing_ok=True)
        if folder:
            with suppress(OSError):  # somebody else's file lies there
                self.folder.rmdir()

    def make(self) -> bool:
        """Make the folder; return whether it was not there.

        Raises:
            RunError: if that is not allowed.
        """
        there = self.folder.exists()
        with self._must_be_writable():
            self.folder.mkdir(parents=True, exist_ok=True)
        return not there

    @contextmanager
    def _must_be_writable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            got = f"{self.folder}: {error.strerror}"
            raise RunError(say("a folder to write to", got, "another --output")) from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out; the system opens the lock again when this process ends, however it ends.

        Raises:
            RunError: if another process is in.
        """
        with self._must_be_writable():
            file = (self / "lock").open("a+", encoding="utf-8")
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                file.seek(0)
                owner = file.read().strip() or "another"
                got = f"process {owner} in {self.folder}"
                expected = "a run that no other process writes"
                raise RunError(say(expected, got, "waiting, or another --output")) from error
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            for left_over in self.folder.glob(".*.tmp"):  # of a process that was killed while it wrote
                left_over.unlink(missing_ok=True)
            yield

    def read_json(self, name: str) -> dict[str, Any]:
        """Return the content of a JSON file.

        Raises:
            RunError: if it is missing or damaged.
        """
        path = self / name
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(found, dict):
                raise ValueError(f"a {type(found).__name__}")
        except (OSError, ValueError, RecursionError) as error:
            raise RunError(say(f"a whole {name}", f"{path}: {error}", "a backup, or training again")) from error
        return found

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        """Write a JSON file, whole or not at all."""
        write_whole(self / name, json.dumps(content, indent=1).encode())


def write_whole(path: Path, content: bytes, *, keep: Path | None = None) -> None:
    """Write a file so that a crash at any moment leaves the old one or the new one: write, flush to disk, rename.

    Args:
        path: the file.
        content: its bytes.
        keep: where the old file goes.

    Raises:
        RunError: if the disk is full or not writable; the old file is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            if keep is not None and path.exists():
                path.replace(keep)
            temporary.replace(path)
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)  # the rename itself
            finally:
                os.close(folder)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
    except OSError as error:
        remedy = "freeing some; what was saved before is kept"
        raise RunError(say("room and permission to write", f"{error.strerror} ({path})", remedy)) from error


def fingerprint(path: Path) -> str:
    """Return a digest of a file's bytes, or of the files' of a folder, that says whether the data are the same."""
    digest = hashlib.blake2b(digest_size=16)
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        if file.is_file():
            digest.update(file.name.encode())
            with file.open("rb") as content:
                while piece := content.read(1 << 20):
                    digest.update(piece)
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Return the versions that a run's bits depend on."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for name in ("pyro_vae", "torch", "pyro-ppl", "numpy", "zuko", "safetensors"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
