"""A run's own precision and random streams, which the rest of the process does not feel."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pyro
import torch

from pyro_vae.randomness import fork_rng
from pyro_vae.runs.recipe import Recipe

__all__ = ["isolated"]


@contextmanager
def isolated(recipe: Recipe) -> Iterator[None]:
    """Work in a recipe's dtype and from its seed, and put the process's own back at the end, also after an error.

    Modules are built under the default dtype rather than moved to it afterwards: the initial weights of a float64 run
    are drawn in double precision.

    Example:
        >>> with isolated(Recipe("digits", dtype="float64")):
        ...     torch.zeros(1).dtype
        torch.float64
        >>> torch.zeros(1).dtype
        torch.float32
    """
    dtype, python, numpy = torch.get_default_dtype(), random.getstate(), np.random.get_state()  # noqa: NPY002
    with fork_rng():
        try:
            torch.set_default_dtype(getattr(torch, recipe.dtype))
            pyro.set_rng_seed(recipe.seed)
            yield
        finally:
            torch.set_default_dtype(dtype)
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002  Pyro seeds numpy's global stream too
