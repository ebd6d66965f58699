"""How much memory is free."""

from __future__ import annotations

import torch

__all__ = ["available_memory"]


def available_memory(device: torch.device | None = None) -> int:
    """Return the bytes that can be taken now on a device; of the machine's main memory if None or the CPU.

    Example:
        >>> available_memory() > 0
        True
    """
    if device is not None and device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    import psutil

    return int(psutil.virtual_memory().available)
