"""Sparse regression under the horseshoe prior."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.atlas.archive import Stored
from pyro_vae.atlas.chains import LongChains
from pyro_vae.atlas.problem import Problem
from pyro_vae.atlas.scales import gaussian_given
from pyro_vae.atlas.values import Values
from pyro_vae.inference.mcmc.kernels.nuts import NUTS

__all__ = ["problem"]

N, D = 40, 12


def program(features: Tensor, y: Tensor) -> None:
    """Centred: most weights near zero, a few free."""
    total, local = _scales(features)
    beta = pyro.sample("beta", dist.Normal(features.new_zeros(D), local * total.unsqueeze(-1)).to_event(1))
    with pyro.plate("data", N):
        pyro.sample("y", dist.Normal((features @ beta.unsqueeze(-1)).squeeze(-1), 1.0), obs=y)


def marginal(features: Tensor, y: Tensor) -> None:
    """The program over the scales alone: weights are Gaussian given these, and integrated out."""
    total, local = _scales(features)
    pyro.factor("y", log_marginal(features * (local * total.unsqueeze(-1)).unsqueeze(-2), y))


def log_marginal(loaded: Tensor, y: Tensor) -> Tensor:
    """Log N(y; 0, B B' + I) for B ``(N, D)``, by eliminating one weight after the other.

    Elementary steps in place of a Cholesky factor: they compile into one piece of machine code with the rest.
    """
    augmented = torch.cat([loaded, y.unsqueeze(-1)], -1)
    system = augmented.mT @ augmented + torch.diag(y.new_tensor([1.0] * D + [0.0]))  # (D + 1, D + 1)
    log_det = torch.zeros_like(system[..., 0, 0])
    for _ in range(D):
        pivot = system[..., 0, 0]
        log_det = log_det + pivot.log()
        rest = system[..., 1:, 0]
        system = system[..., 1:, 1:] - rest.unsqueeze(-1) * (rest / pivot.unsqueeze(-1)).unsqueeze(-2)
    return -0.5 * (system[..., 0, 0] + log_det + N * math.log(2 * math.pi))


def _scales(features: Tensor) -> tuple[Tensor, Tensor]:
    """The half-Cauchy scales, sampled as logarithms: on their own scale they have no standard deviations."""
    log = dist.transforms.ExpTransform().inv
    total = dist.TransformedDistribution(dist.HalfCauchy(features.new_tensor(0.3)), [log])
    local = dist.TransformedDistribution(dist.HalfCauchy(features.new_ones(D)), [log]).to_event(1)
    return pyro.sample("log_total", total).exp(), pyro.sample("log_local", local).exp()


def data() -> tuple[Tensor, Tensor]:
    """Forty rows, twelve features, three of which matter, one of these a little."""
    generator = torch.Generator().manual_seed(13)
    features = torch.randn(N, D, generator=generator, dtype=torch.float64)
    weights = features.new_tensor([2.0, -1.0, 0.4] + [0.0] * (D - 3))
    return features, features @ weights + torch.randn(N, generator=generator, dtype=torch.float64)


def _with_weights(values: Values) -> Values:
    """Weights given the scales, drawn exactly."""
    features, y = data()
    scale = (values["log_local"] + values["log_total"].unsqueeze(-1)).exp().flatten(0, -2)
    beta = gaussian_given(torch.diag_embed(scale), features.new_ones(len(scale), N), features, y)
    return {"beta": beta.reshape(values["log_local"].shape)}


def problem() -> Problem:
    """The posterior of one common scale, twelve scales and twelve weights."""
    return Problem(
        name="horseshoe",
        title="Horseshoe regression",
        model=program,
        args=data(),
        why=(
            "Twelve funnels with Cauchy mouths: each weight is either shrunk to nothing or left alone, and the weight "
            "in between is both. Centred chains diverge in every neck; a Gaussian cannot be both, so the doubtful "
            "weight is either in or out. The sites are the logarithms of the scales: on their own scale the "
            "posterior has a mean and no standard deviation."
        ),
        telling=("beta[2]", "log_total"),
        source="Simulated with a fixed seed; Carvalho, Polson & Scott 2010, The horseshoe estimator for sparse "
        "signals, Biometrika 97.",
        find_truth=Stored(
            "horseshoe",
            LongChains(program=marginal, complete=_with_weights, kernel=NUTS(target_accept_prob=0.95)),
        ),
    )
