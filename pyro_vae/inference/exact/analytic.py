"""The linear-Gaussian model in closed form."""

from __future__ import annotations

import math
import time
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.checks import say
from pyro_vae.inference.target.program import Program
from pyro_vae.inference.target.supports import layers, underlying
from pyro_vae.inference.target.target import Target, as_target

__all__ = ["AnalyticPosterior", "analytic"]

_GAUSSIAN = (torch.distributions.Normal, torch.distributions.MultivariateNormal)


class AnalyticPosterior(dist.MultivariateNormal):
    """The exact Gaussian posterior, ``batch_shape (N,)``, ``event_shape (L,)``.

    Attributes:
        log_evidence: log p(x), ``(N,)``, nats per datum.
        seconds: wall time of the route.
    """

    log_evidence: Tensor
    seconds: float


@torch.no_grad()
def analytic(
    model: Program | Target, x: Tensor | tuple[Any, ...] | None = None, *, plate: str | None = "data"
) -> AnalyticPosterior:
    r"""Return the exact posterior and evidence of a linear-Gaussian program.

    For :math:`z \sim N(m, \Lambda^{-1})` and :math:`x | z \sim N(W z + b, \Psi)` with diagonal :math:`\Psi`,

    .. math:: p(z|x) = N(z;\; m + V W^\top \Psi^{-1} (x - W m - b),\; V), \quad V = (\Lambda + W^\top \Psi^{-1} W)^{-1},
    .. math:: \log p(x) = \log N(x;\; W m + b,\; W \Lambda^{-1} W^\top + \Psi).

    W, b and Psi are read off the program itself, so any Pyro program of that form will do: Gaussian latent sites,
    one observed site that is Gaussian with a mean affine in them and a standard deviation that does not depend on them.

    Source: Bishop 2006, Pattern Recognition and Machine Learning, equations 2.113 to 2.117.

    Args:
        model: a Pyro program, or a Target in place of program and data.
        x: data ``(N, *D)``, or the program's arguments as a tuple.
        plate: the data plate; None for one posterior of the whole program.

    Raises:
        TypeError, ValueError: as :class:`~pyro_vae.inference.target.target.Target`.
        ValueError: if the program is not linear-Gaussian; the reason is given.

    Example:
        >>> from pyro_vae import Model, likelihoods, networks, priors
        >>> model = Model(priors.StandardNormal(2), likelihoods.Gaussian(networks.mlp(2, 5), scale=0.5))
        >>> analytic(model, torch.zeros(7, 5)).log_evidence.shape
        torch.Size([7])
    """
    start = time.perf_counter()
    target = as_target(model, x, plate=plate)
    origin = target.origin
    prior_mean, prior_precision = _gaussian_prior(target, origin)
    bias, scale, value = _gaussian_likelihood(target, origin)
    columns = [
        _gaussian_likelihood(target, origin + unit)[0] - bias for unit in torch.eye(target.latent_dim).to(origin)
    ]
    weight = torch.stack(columns, -1)  # (N, D, L)
    _check_affine(target, weight, bias, scale, spread=_spread(prior_precision))

    # float64 from here on: single precision loses 1e-3 nats to cancellation where the noise is small
    weight, bias, scale, value = (part.double() for part in (weight, bias, scale, value))
    prior_mean, prior_precision = prior_mean.double(), prior_precision.double()
    missing = value.isnan()  # such an entry says nothing: no weight, no residual, and its constant taken back below
    weight, bias, value = weight.masked_fill(missing.unsqueeze(-1), 0), bias.masked_fill(missing, 0), value.nan_to_num()
    scale = scale.masked_fill(missing, 1)
    scaled = weight / scale.unsqueeze(-1)
    precision = prior_precision + scaled.mT @ scaled
    predicted = (weight @ prior_mean.unsqueeze(-1)).squeeze(-1) + bias
    residual = ((value - predicted) / scale).unsqueeze(-1)
    mean = prior_mean + torch.linalg.solve(precision, scaled.mT @ residual).squeeze(-1)
    factor = torch.linalg.solve_triangular(torch.linalg.cholesky(prior_precision), weight.mT, upper=False).mT
    marginal = dist.LowRankMultivariateNormal(predicted, factor, scale**2)

    posterior = AnalyticPosterior(mean.to(origin), precision_matrix=precision.to(origin))
    silent = 0.5 * math.log(2 * math.pi) * missing.sum(-1)
    posterior.log_evidence = (marginal.log_prob(value) + silent).to(origin)
    posterior.seconds = time.perf_counter() - start
    return posterior


def _gaussian_prior(target: Target, origin: Tensor) -> tuple[Tensor, Tensor]:
    """Mean ``(N, L)`` and precision ``(N, L, L)`` of log p(u), which must be quadratic."""
    for name, site in target.trace(origin).items():
        if name in target.sites and not isinstance(underlying(site["fn"]), _GAUSSIAN):
            raise _refusal(f"the prior site {name!r} is {type(underlying(site['fn'])).__name__}, not Normal")
    u = origin.clone().requires_grad_()
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(target.log_prior(u).sum(), u, create_graph=True)
        rows = [
            torch.autograd.grad(slope[:, i].sum(), u, retain_graph=True, allow_unused=True)[0]
            for i in range(target.latent_dim)
        ]
    precision = -torch.stack([torch.zeros_like(u) if row is None else row for row in rows], -2)
    if bool(torch.linalg.cholesky_ex(precision).info.any()):
        raise _refusal("the latent sites' density has no Gaussian's curvature at the origin")
    mean = torch.linalg.solve(precision, slope.detach().unsqueeze(-1)).squeeze(-1)
    noise = torch.randn(target.latent_dim, 1, generator=torch.Generator().manual_seed(0)).to(origin)
    step = _spread(precision) @ noise
    heights = target.log_prior(torch.stack([mean, mean + step.squeeze(-1)]))
    expected = -0.5 * (step.mT @ precision @ step).reshape(-1)
    rounding = 8 * torch.finfo(origin.dtype).eps * heights.abs().amax(0)
    if bool(((heights[1] - heights[0] - expected).abs() > _tolerance(origin) * expected.abs() + rounding).any()):
        raise _refusal("the latent sites depend on each other in a way that is not Gaussian")
    return mean, precision


def _spread(precision: Tensor) -> Tensor:
    """A factor of the prior's covariance, ``(N, L, L)``: it takes steps of size one to steps of the prior's."""
    return torch.linalg.inv(torch.linalg.cholesky(precision)).mT


def _gaussian_likelihood(target: Target, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, scale and value of the observed site at u, each ``(N, D)``."""
    if len(target.observed) != 1:
        raise _refusal(f"there are {len(target.observed)} observed sites, not one: {target.observed}")
    site = target.trace(u)[target.observed[0]]
    normal = underlying(site["fn"])
    if not isinstance(normal, torch.distributions.Normal):
        raise _refusal(f"the observed site {target.observed[0]!r} is {type(normal).__name__}, not Normal")
    masked = any(isinstance(layer, dist.MaskedDistribution) for layer in layers(site["fn"]))
    if masked or site["mask"] is not None or site["scale"] != 1:
        raise _refusal(f"the observed site {target.observed[0]!r} is masked or scaled")
    loc, scale, value = torch.broadcast_tensors(normal.loc, normal.scale, site["value"])
    N = target.num_data
    return loc.reshape(N, -1), scale.reshape(N, -1), value.reshape(N, -1)


def _check_affine(target: Target, weight: Tensor, bias: Tensor, scale: Tensor, *, spread: Tensor) -> None:
    """Check mean and scale at random points, of size about one and of the prior's size."""
    rtol = _tolerance(bias)
    generator = torch.Generator().manual_seed(1)
    unit = torch.eye(target.latent_dim).to(bias)
    for factor in (0.3 * unit, 3.0 * unit, spread):
        noise = torch.randn(target.num_data, target.latent_dim, generator=generator).to(bias)
        u = (factor @ noise.unsqueeze(-1)).squeeze(-1)
        loc, other, _ = _gaussian_likelihood(target, u)
        affine = (weight @ u.unsqueeze(-1)).squeeze(-1) + bias
        moved = (loc - bias).abs().max().clamp_min(1e-3)
        if not torch.allclose(loc, affine, rtol=0, atol=float(rtol * moved)):
            off = float((loc - affine).abs().max())
            raise _refusal(f"the mean is not linear in the latent: it is off by {off:.3g} at a random point")
        if not torch.allclose(other, scale, rtol=rtol):
            raise _refusal("the standard deviation depends on the latent")


def _tolerance(like: Tensor) -> float:
    return 1e-3 if like.dtype == torch.float32 else 1e-8


def _refusal(reason: str) -> ValueError:
    return ValueError(
        say("a linear-Gaussian program (Gaussian prior, Gaussian likelihood, linear mean, constant scale)", reason,
            "quadrature (L <= 3), laplace or mcmc")
    )  # fmt: skip
