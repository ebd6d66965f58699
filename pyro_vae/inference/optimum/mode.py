"""The mode of the posterior, and the Gaussian that fits its curvature."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.checks import positive_integer
from pyro_vae.inference.optimum.climb import ascend, decrement, flat
from pyro_vae.inference.target.discrete import must_have_continuous
from pyro_vae.inference.target.program import Program
from pyro_vae.inference.target.target import Target, as_target
from pyro_vae.randomness import fork_rng

__all__ = ["LaplacePosterior", "ModePosterior", "laplace", "maximum_a_posteriori"]


class ModePosterior(dist.Delta):
    """A point mass on the mode, ``batch_shape (N,)``, ``event_shape (L,)``, over the unconstrained vector u.

    Attributes:
        log_joint: log p(x, z) at the mode, ``(N,)``, nats.
        converged: whether the gradient vanished there, ``(N,)``.
        seconds: wall time of the route.
    """

    log_joint: Tensor
    converged: Tensor
    seconds: float


class LaplacePosterior(dist.MultivariateNormal):
    """The Gaussian of a mode's curvature, ``batch_shape (N,)``, ``event_shape (L,)``, over the unconstrained vector u.

    Attributes:
        log_evidence: Laplace's approximation of log p(x), ``(N,)``, nats. Not a bound.
        converged: whether the gradient vanished at the mode and the curvature is that of a maximum, ``(N,)``.
        seconds: wall time of the route.
    """

    log_evidence: Tensor
    converged: Tensor
    seconds: float


def maximum_a_posteriori(
    model: Program | Target,
    x: Tensor | tuple[Any, ...] | None = None,
    *,
    plate: str | None = "data",
    num_starts: int = 4,
    max_steps: int = 100,
) -> ModePosterior:
    r"""Return the mode :math:`\arg\max_z p(z|x)` of every datum, by damped Newton steps batched over data.

    The density is that over the latents as the program names them (no Jacobian), as in textbooks and in Stan's
    optimiser. Several starts, the best of a sample of the prior, climb at once; the highest end wins.

    Source: Nocedal & Wright 2006, Numerical Optimization, section 3.4 (modified Newton).

    Args:
        model: a Pyro program, or a Target in place of program and data.
        x: data ``(N, *D)``, or the program's arguments as a tuple.
        plate: the data plate; None for one posterior of the whole program.
        num_starts: how many starts a datum.
        max_steps: the most Newton steps.

    Returns:
        A point mass; ``target.constrain`` takes its mean to the named sites.

    Raises:
        TypeError, ValueError: as :class:`~pyro_vae.inference.target.target.Target`.

    Example:
        >>> from pyro_vae import Model, likelihoods, networks, priors
        >>> model = Model(priors.StandardNormal(2), likelihoods.Bernoulli(networks.mlp(2, 16, 64)))
        >>> maximum_a_posteriori(model, torch.zeros(7, 64)).mean.shape
        torch.Size([7, 2])
    """
    start = time.perf_counter()
    target = as_target(model, x, plate=plate)
    u, gradient, hessian = _climb(target, lambda v: target.log_joint(v) - target.log_jacobian(v), num_starts, max_steps)
    posterior = ModePosterior(u, event_dim=1)
    with torch.no_grad():
        posterior.log_joint = target.log_joint(u) - target.log_jacobian(u)
    posterior.converged = decrement(gradient, hessian) < flat(u)
    posterior.seconds = time.perf_counter() - start
    return posterior


def laplace(
    model: Program | Target,
    x: Tensor | tuple[Any, ...] | None = None,
    *,
    plate: str | None = "data",
    num_starts: int = 4,
    max_steps: int = 100,
) -> LaplacePosterior:
    r"""Return Laplace's approximation, :math:`q(u) = N(\hat u, H^{-1})`, of every datum's posterior.

    :math:`\hat u` is the mode over the unconstrained vector and :math:`H = -\nabla^2 \log p(x, \hat u)`;
    :math:`\log p(x) \approx \log p(x, \hat u) + \tfrac{L}{2} \log 2\pi - \tfrac12 \log |H|`.

    Where H is not positive definite (the climb ended on a saddle or a kink) its eigenvalues are floored and
    ``converged`` is False for that datum.

    Source: MacKay 2003, Information Theory, Inference, and Learning Algorithms, equation 27.5.

    Args:
        model: a Pyro program, or a Target in place of program and data.
        x: data ``(N, *D)``, or the program's arguments as a tuple.
        plate: the data plate; None for one posterior of the whole program.
        num_starts: how many starts a datum.
        max_steps: the most Newton steps.

    Raises:
        TypeError, ValueError: as :class:`~pyro_vae.inference.target.target.Target`.

    Example:
        >>> from pyro_vae import Model, likelihoods, networks, priors
        >>> model = Model(priors.StandardNormal(2), likelihoods.Bernoulli(networks.mlp(2, 16, 64)))
        >>> laplace(model, torch.zeros(7, 64)).log_evidence.shape
        torch.Size([7])
    """
    start = time.perf_counter()
    target = as_target(model, x, plate=plate)
    u, gradient, hessian = _climb(target, target.log_joint, num_starts, max_steps)
    values, vectors = torch.linalg.eigh(-hessian)
    floor = 1e-6 * values.abs().amax(-1, keepdim=True)
    maximum = (values > floor).all(-1)
    values = torch.maximum(values, floor)
    covariance = (vectors / values.unsqueeze(-2)) @ vectors.mT
    posterior = LaplacePosterior(u, covariance_matrix=(covariance + covariance.mT) / 2)
    with torch.no_grad():
        height = target.log_joint(u)
    posterior.log_evidence = height + 0.5 * target.latent_dim * math.log(2 * math.pi) - 0.5 * values.log().sum(-1)
    posterior.converged = maximum & (decrement(gradient, hessian) < flat(u))
    posterior.seconds = time.perf_counter() - start
    return posterior


def _climb(
    target: Target, density: Callable[[Tensor], Tensor], num_starts: int, max_steps: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Climb from the best prior draws; return the highest end ``(N, L)``, its gradient and Hessian."""
    must_have_continuous(target)
    num_starts = positive_integer(num_starts, "num_starts")
    positive_integer(max_steps, "max_steps")
    u, value, gradient, hessian = ascend(density, _starts(target, density, num_starts), max_steps)  # (K, N, ...)
    best = value.argmax(0)
    pick = (best, torch.arange(target.num_data))
    return u[pick], gradient[pick], hessian[pick]


@torch.no_grad()
def _starts(target: Target, density: Callable[[Tensor], Tensor], num_starts: int) -> Tensor:
    with fork_rng(seed=0):  # a deterministic route takes nothing from the user's random stream
        draws = target.sample_prior(max(64, num_starts))
    heights = density(draws)
    heights = heights.masked_fill(~heights.isfinite(), -math.inf)
    top = heights.topk(num_starts, dim=0).indices  # (K, N)
    return draws.gather(0, top.unsqueeze(-1).expand(-1, -1, target.latent_dim))
