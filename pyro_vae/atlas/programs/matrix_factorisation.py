"""Probabilistic matrix factorisation: a posterior that may be turned at will."""

from __future__ import annotations

import math
from functools import partial

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.atlas.archive import Stored
from pyro_vae.atlas.chains import LongChains
from pyro_vae.atlas.problem import Problem
from pyro_vae.atlas.values import Symmetry, Values

__all__ = ["problem"]

ROWS, COLUMNS, RANK, NOISE = 8, 6, 2, 0.5
IMAGES = 8


def program(y: Tensor, seen: Tensor) -> None:
    """Entries are products of a row's and a column's vector; some are not seen."""
    row = pyro.sample("row", dist.Normal(y.new_zeros(ROWS, RANK), 1.0).to_event(2))
    column = pyro.sample("column", dist.Normal(y.new_zeros(COLUMNS, RANK), 1.0).to_event(2))
    entries = (row @ column.mT)[..., seen[:, 0], seen[:, 1]]
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(entries, NOISE), obs=y)


def data() -> tuple[Tensor, Tensor]:
    """Two thirds of the entries, and where they stand."""
    generator = torch.Generator().manual_seed(21)
    row = torch.randn(ROWS, RANK, generator=generator, dtype=torch.float64)
    column = torch.randn(COLUMNS, RANK, generator=generator, dtype=torch.float64)
    seen = (torch.rand(ROWS, COLUMNS, generator=generator) < 0.67).nonzero()
    y = (row @ column.T)[seen[:, 0], seen[:, 1]]
    return y + NOISE * torch.randn(len(seen), generator=generator, dtype=torch.float64), seen


def _turned(values: Values, q: Tensor) -> Values:
    return {name: value @ q for name, value in values.items()}


def _fold(values: Values) -> Values:
    """The first column's vector along the first axis, the second's in the upper half."""
    first, second = values["column"][..., 0, :], values["column"][..., 1, :]
    along = first / torch.linalg.vector_norm(first, dim=-1, keepdim=True)
    across = torch.stack([-along[..., 1], along[..., 0]], -1)
    side = torch.where((second * across).sum(-1, keepdim=True) < 0, -1.0, 1.0)
    return _turned(values, torch.stack([along, side * across], -1))


def _anyhow(which: int, values: Values) -> Values:
    """Every draw turned by an angle of its own, and mirrored in every other image; opposite images cancel."""
    lead = values["row"].shape[:-2]
    angle = 2 * math.pi * torch.rand(lead, generator=torch.Generator().manual_seed(which // 4), dtype=torch.float64)
    angle = angle + math.pi * (which % 4 // 2)
    mirror = -1.0 if which % 2 else 1.0
    cos, sin = angle.cos(), angle.sin()
    return _turned(values, torch.stack([torch.stack([cos, sin], -1), mirror * torch.stack([-sin, cos], -1)], -2))


SYMMETRY = Symmetry(
    fold=_fold,
    images=tuple(partial(_anyhow, which) for which in range(IMAGES)),
)


def problem() -> Problem:
    """The posterior of all rows' and columns' vectors, in every rotation."""
    return Problem(
        name="matrix_factorisation",
        title="Probabilistic matrix factorisation",
        model=program,
        args=data(),
        why=(
            "Rows and columns may be turned and mirrored together: the posterior is a sphere of copies, every mean is "
            "exactly zero, and only products of rows and columns are known. The truth is that of all rotations, from "
            "chains turned into one position, where they agree, and turned at random again. Variational routes break "
            "the symmetry at one arbitrary angle: every vector is wrong, every product may be right."
        ),
        telling=("row[0,0]", "column[0,0]"),
        source="Simulated from the model with a fixed seed; Salakhutdinov & Mnih 2008, Bayesian probabilistic matrix "
        "factorization using MCMC, ICML.",
        find_truth=Stored("matrix_factorisation", LongChains(symmetry=SYMMETRY)),
    )
