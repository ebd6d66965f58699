"""Stochastic volatility: returns whose scale wanders."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.atlas.archive import Stored
from pyro_vae.atlas.chains import LongChains
from pyro_vae.atlas.problem import Problem
from pyro_vae.inference.mcmc.kernels.nuts import NUTS

__all__ = ["problem"]

T = 50


def program(y: Tensor) -> None:
    """Centred: the log variances as one Gaussian vector, an autoregression from its stationary start."""
    mean, factor = _autoregression(y)
    h = pyro.sample("h", dist.MultivariateNormal(mean.unsqueeze(-1).expand(*mean.shape, T), scale_tril=factor))
    with pyro.plate("data", T):
        pyro.sample("y", dist.Normal(y.new_tensor(0.0), (h / 2).exp()), obs=y)


def noncentred(y: Tensor) -> None:
    """The same posterior, over the innovations."""
    mean, factor = _autoregression(y)
    innovation = pyro.sample("innovation", dist.Normal(y.new_zeros(T), 1.0).to_event(1))
    h = mean.unsqueeze(-1) + (factor @ innovation.unsqueeze(-1)).squeeze(-1)
    pyro.deterministic("h", h, event_dim=1)
    with pyro.plate("data", T):
        pyro.sample("y", dist.Normal(y.new_tensor(0.0), (h / 2).exp()), obs=y)


def _autoregression(y: Tensor) -> tuple[Tensor, Tensor]:
    """The mean, and the triangular factor of the covariance ``(T, T)``."""
    mean = pyro.sample("mean", dist.Normal(y.new_tensor(0.0), 2.0))
    phi = pyro.sample("phi", dist.Beta(y.new_tensor(20.0), 1.5))
    sigma = pyro.sample("sigma", dist.HalfNormal(y.new_tensor(0.5)))
    lag = (torch.arange(T).unsqueeze(-1) - torch.arange(T)).clamp_min(0).to(y)
    powers = (lag * phi.log()[..., None, None]).exp().tril()
    start = (1 - phi**2).rsqrt()[..., None]
    sizes = sigma[..., None] * torch.cat([start, torch.ones_like(start).expand(*start.shape[:-1], T - 1)], -1)
    return mean, powers * sizes.unsqueeze(-2)


def data() -> tuple[Tensor]:
    """Fifty returns."""
    generator = torch.Generator().manual_seed(14)
    innovation, noise = torch.randn(2, T, generator=generator, dtype=torch.float64)
    h = [innovation[0]]
    for t in range(1, T):
        h.append(0.95 * h[-1] + 0.4 * innovation[t])
    return ((torch.stack(h) / 2 - 0.5).exp() * noise,)


def problem() -> Problem:
    """The posterior of mean, persistence, scale and fifty log variances."""
    return Problem(
        name="stochastic_volatility",
        title="Stochastic volatility",
        model=program,
        args=data(),
        why=(
            "Each return says little of its own variance, so neighbours must be held together, by a persistence near 1 "
            "and a scale that are themselves hardly known. Mean field shrinks scale and widths; centred chains move "
            "slowly in the scale; a Gaussian of full rank needs a thousand covariances to be right."
        ),
        telling=("sigma", "h[49]"),
        source="Simulated from the model with a fixed seed; Kim, Shephard & Chib 1998, Stochastic volatility, "
        "Review of Economic Studies 65.",
        find_truth=Stored(
            "stochastic_volatility", LongChains(program=noncentred, kernel=NUTS(target_accept_prob=0.99))
        ),
    )
