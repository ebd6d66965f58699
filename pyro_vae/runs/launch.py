"""Which launch of ``torchrun`` a run belongs to: one that starts its processes again goes on where they were."""

from __future__ import annotations

import hashlib
import os
import platform
from contextlib import suppress
from pathlib import Path
from typing import Any

from pyro_vae.distributed import everyones
from pyro_vae.runs.folder import Run
from pyro_vae.runs.recipe import Recipe

__all__ = ["is_of_this_launch", "launch"]


def launch(asked: Recipe) -> dict[str, Any] | None:
    """Return what tells this launch from others; None without ``torchrun``. All processes call it together.

    Args:
        asked: the recipe as it was asked for.
    """
    name = os.environ.get("TORCHELASTIC_RUN_ID")
    agents = everyones(None if name is None else _agent())
    if name is None:
        return None
    digest = hashlib.blake2b(repr(asked).encode(), digest_size=16).hexdigest()
    return {"name": name, "agents": sorted({agent for agent in agents if agent}), "asked": digest}


def is_of_this_launch(run: Run, asked: Recipe) -> bool:
    """Whether a run was started by the launch that this process is of, before one of its processes died.

    Of the launch's agents, one a machine, a single one must still be the same, or else the name that ``--rdzv-id`` has
    given it. All processes call this together.
    """
    own = launch(asked)
    before = run.read_json("about.json").get("launch") if own and run.exists else None
    if own is None or not isinstance(before, dict) or before.get("asked") != own["asked"]:
        return False
    named = own["name"] not in {"", "none"} and before.get("name") == own["name"]
    return named or not set(own["agents"]).isdisjoint(before.get("agents", ()))


def _agent() -> str:
    """The process that started this one: its machine, number and, where the system tells, when it began."""
    number, began = os.getppid(), ""
    with suppress(OSError, IndexError):
        began = Path(f"/proc/{number}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    return f"{platform.node()} {number} {began}".strip()
