"""A Bayesian neural network with one hidden layer."""

from __future__ import annotations

from functools import partial
from itertools import permutations, product

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.atlas.archive import Stored
from pyro_vae.atlas.chains import LongChains
from pyro_vae.atlas.problem import Problem
from pyro_vae.atlas.values import Symmetry, Values
from pyro_vae.inference.mcmc.kernels.nuts import NUTS

__all__ = ["problem"]

UNITS, NOISE = 2, 0.4


def program(x: Tensor, y: Tensor) -> None:
    """Units tanh(a x + b) with weights c; noise is known."""
    a, b, c = (pyro.sample(name, dist.Normal(x.new_zeros(UNITS), 1.0).to_event(1)) for name in ("a", "b", "c"))
    hidden = torch.tanh(a.unsqueeze(-2) * x.unsqueeze(-1) + b.unsqueeze(-2))  # (N, units)
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal((hidden * c.unsqueeze(-2)).sum(-1), NOISE), obs=y)


def data() -> tuple[Tensor, Tensor]:
    """Twenty points of a bump."""
    generator = torch.Generator().manual_seed(19)
    x = torch.linspace(-2, 2, 20, dtype=torch.float64)
    bump = torch.tanh(1.5 * x + 1.5) - 0.8 * torch.tanh(1.5 * x - 1)
    return x, bump + NOISE * torch.randn(20, generator=generator, dtype=torch.float64)


def _fold(values: Values) -> Values:
    """Slopes positive, by turning a unit over; then units in the order of their biases."""
    sign = torch.where(values["a"] < 0, -1.0, 1.0)
    turned = {name: value * sign for name, value in values.items()}
    order = turned["b"].argsort(-1)
    return {name: value.gather(-1, order) for name, value in turned.items()}


def _image(order: tuple[int, ...], signs: tuple[float, ...], values: Values) -> Values:
    return {name: value[..., list(order)] * value.new_tensor(signs) for name, value in values.items()}


SYMMETRY = Symmetry(
    fold=_fold,
    images=tuple(
        partial(_image, order, signs)
        for order in permutations(range(UNITS))
        for signs in product((1.0, -1.0), repeat=UNITS)
    ),
)


def problem() -> Problem:
    """The posterior of the weights of two units, all eight copies of it."""
    return Problem(
        name="neural_network",
        title="Neural network, one hidden layer",
        model=program,
        args=data(),
        why=(
            "Units may be exchanged and turned over, so the posterior has eight equal copies, each a bent ridge along "
            "which slopes and weights trade. The truth is that of all copies: every mean is exactly zero. It comes "
            "from chains folded into one copy, where they agree, and spread over the eight. Routes find one copy; what "
            "a network predicts can still be right where all its weights are wrong."
        ),
        telling=("a[0]", "c[0]"),
        source="Simulated from the model with a fixed seed; Neal 1996, Bayesian Learning for Neural Networks.",
        find_truth=Stored(
            "neural_network", LongChains(symmetry=SYMMETRY, kernel=NUTS(target_accept_prob=0.99), num_samples=5000)
        ),
    )
