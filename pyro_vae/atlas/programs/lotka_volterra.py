"""Predators and prey: a differential equation inside the likelihood."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.atlas.archive import Stored
from pyro_vae.atlas.chains import LongChains
from pyro_vae.atlas.problem import Problem

__all__ = ["problem"]

T, STEP = 12, 0.5  # observations, one Runge-Kutta step of half a year each
START = (0.7, -0.3)  # log populations at time zero, known
RATES = (0.8, 0.6, 0.9, 0.7)  # birth, predation, death, growth of the predator


def program(y: Tensor) -> None:
    """Four rates and the noise of the logarithms."""
    rates = pyro.sample("rates", dist.LogNormal(y.new_tensor(RATES).log() - 0.1, 0.4).to_event(1))
    noise = pyro.sample("noise", dist.LogNormal(y.new_tensor(-1.0), 0.5))
    with pyro.plate("data", T):
        pyro.sample("y", dist.Normal(solution(rates), noise[..., None, None]).to_event(1), obs=y)


def solution(rates: Tensor) -> Tensor:
    """Log populations at each observation ``(T, 2)``, by the classical Runge-Kutta method on the logarithms."""
    birth, predation, death, growth = rates.unbind(-1)

    def slope(log_population: Tensor) -> Tensor:
        prey, predator = log_population.exp().unbind(-1)
        return torch.stack([birth - predation * predator, growth * prey - death], -1)

    place = rates.new_tensor(START).expand(*rates.shape[:-1], 2)
    path = []
    for _ in range(T):
        first = slope(place)
        second = slope(place + STEP / 2 * first)
        third = slope(place + STEP / 2 * second)
        place = place + STEP / 6 * (first + 2 * second + 2 * third + slope(place + STEP * third))
        path.append(place)
    return torch.stack(path, -2)


def data() -> tuple[Tensor]:
    """Twelve observations of two log populations."""
    generator = torch.Generator().manual_seed(18)
    truth = solution(torch.tensor(RATES, dtype=torch.float64))
    return (truth + 0.25 * torch.randn(T, 2, generator=generator, dtype=torch.float64),)


def problem() -> Problem:
    """The posterior of four rates and the noise."""
    return Problem(
        name="lotka_volterra",
        title="Lotka-Volterra",
        model=program,
        args=data(),
        why=(
            "The likelihood runs through twelve steps of a differential equation: gradients are long products, and far "
            "from the truth the phase of the cycle is wrong and the posterior flat or worse. Close to it, it is small, "
            "correlated and nearly Gaussian on the log scale. Routes that start badly fail, those that arrive are "
            "right, mean field excepted."
        ),
        telling=("rates[0]", "rates[2]"),
        source="Simulated from the model with a fixed seed, with the fixed step as the model.",
        find_truth=Stored("lotka_volterra", LongChains()),
    )
