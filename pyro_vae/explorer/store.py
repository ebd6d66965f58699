"""Weights and data of a page, as one block of bytes and the places in it."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from torch import Tensor, nn

__all__ = ["Store"]


class Store:
    """Collects arrays; the page finds each by its place.

    Numbers are kept in single precision, whole numbers from 0 to 255 in a byte each.

    Attributes:
        shared: modules that several networks share, as the page knows them.
    """

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._length = 0
        self._places: dict[int, int] = {}
        self._alive: list[nn.Module] = []  # an id is a module's own only as long as the module lives
        self.shared: list[Any] = []

    def put(self, values: Tensor) -> dict[str, Any]:
        """Keep an array and return where it is: ``{"at": bytes from the start, "type": ..., "shape": ...}``."""
        array = values.detach().cpu().double().numpy()
        small = bool(((array >= 0) & (array <= 255) & (array == np.round(array))).all())
        kind, data = ("u1", array.astype(np.uint8)) if small else ("f4", array.astype("<f4"))
        piece = data.tobytes()
        place = {"at": self._length, "type": kind, "shape": list(array.shape)}
        self._pieces.append(piece + bytes(-len(piece) % 4))  # floats begin at multiples of four bytes
        self._length += len(self._pieces[-1])
        return place

    def place_of(self, module: nn.Module) -> int | None:
        """Return the number of a module that was shared before, or None."""
        return self._places.get(id(module))

    def share(self, module: nn.Module, spec: Any) -> int:
        """Keep a module that several networks share, and return its number."""
        self._places[id(module)] = len(self.shared)
        self._alive.append(module)
        self.shared.append(spec)
        return len(self.shared) - 1

    def encoded(self) -> str:
        """Return all bytes in base64."""
        return base64.b64encode(b"".join(self._pieces)).decode()
