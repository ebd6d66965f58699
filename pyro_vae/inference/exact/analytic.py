"""Linear-Gaussian programs in closed form."""

from __future__ import annotations

import math
import time
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.checks import say
from pyro_vae.inference.target.program import Program, frame_of
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

    Where every site, latent or observed, is Gaussian with a mean affine in the latents before it and a constant
    covariance :math:`C_s C_s^\top`, the residuals :math:`r_s = C_s^{-1} (v_s - m_s)` of their values are affine in u,
    together :math:`r(u) = r_0 + J u`, and :math:`\log p(x, u) = -\tfrac12 |r_0 + J u|^2 + c`: least squares. So

    .. math:: p(u|x) = N(u;\; \hat u,\; (J^\top J)^{-1}), \quad \hat u = -(J^\top J)^{-1} J^\top r_0,
    .. math:: \log p(x) = -\tfrac12 |r(\hat u)|^2 - \tfrac12 \log\det J^\top J - \sum_s \log\det C_s
        - \tfrac{D}{2} \log 2\pi.

    Means and covariances are read off the program itself, so any Pyro program of that form will do: factor analysis,
    a regression, a hierarchy, a state-space chain.

    Source: Bishop 2006, Pattern Recognition and Machine Learning, sections 2.3.3 and 8.1.4.

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
    sites = _gaussians(target, origin)
    moved = [_gaussians(target, origin + unit) for unit in torch.eye(target.latent_dim).to(origin)]
    slopes = {  # (N, d, e, L), in float64 from here on: single precision loses 1e-3 nats where the noise is small
        name: torch.stack([each[name].gap - site.gap for each in moved], -1) for name, site in sites.items()
    }
    own = torch.cat([_rows(sites[name].whiten(slopes[name])) for name in target.sites], 1)
    _check_affine(target, sites, slopes, spread=torch.linalg.inv(own))

    residual = torch.cat([_rows(site.whiten(site.gap.unsqueeze(-1))) for site in sites.values()], 1)
    slope = torch.cat([_rows(site.whiten(slopes[name])) for name, site in sites.items()], 1)
    missing = residual.isnan()  # such an entry says nothing: no residual, no slope
    residual, slope = residual.masked_fill(missing, 0), slope.masked_fill(missing, 0)
    q, r = torch.linalg.qr(slope)  # (N, D + L, L), (N, L, L)
    mean = -torch.linalg.solve_triangular(r, q.mT @ residual, upper=True)
    log_det = r.diagonal(dim1=-2, dim2=-1).abs().log().sum(-1)
    log_scale = torch.cat([site.log_scale.reshape(target.num_data, -1) for site in sites.values()], 1)
    log_scale = log_scale.masked_fill(missing.squeeze(-1), 0).sum(-1)
    seen = (~missing).sum((1, 2)).to(residual) - target.latent_dim
    square = (residual + slope @ mean).square().sum((1, 2))

    posterior = AnalyticPosterior(mean.squeeze(-1).to(origin), precision_matrix=(r.mT @ r).to(origin))
    posterior.log_evidence = (-0.5 * (square + seen * math.log(2 * math.pi)) - log_det - log_scale).to(origin)
    posterior.seconds = time.perf_counter() - start
    return posterior


class _Gaussian(NamedTuple):
    """A site at some u: its value and mean ``(N, d, e)``, and a factor of its covariance ``(N, d, e, e)``."""

    value: Tensor
    mean: Tensor
    factor: Tensor

    @property
    def gap(self) -> Tensor:
        """From the mean to the value."""
        return self.value - self.mean

    @property
    def log_scale(self) -> Tensor:
        """The log of the factor's diagonal, ``(N, d, e)``."""
        return self.factor.diagonal(dim1=-2, dim2=-1).log()

    def whiten(self, columns: Tensor) -> Tensor:
        """Columns ``(N, d, e, K)`` in units of the factor."""
        if self.factor.shape[-1] == 1:
            return columns / self.factor
        return torch.linalg.solve_triangular(self.factor, columns, upper=False)


def _gaussians(target: Target, u: Tensor) -> dict[str, _Gaussian]:
    """Every site at u, which must be Gaussian, in float64."""
    return {name: _gaussian(target, name, site) for name, site in target.trace(u).items()}


def _gaussian(target: Target, name: str, site: dict[str, Any]) -> _Gaussian:
    fn = site["fn"]
    normal: Any = underlying(fn)
    role = "observed" if name in target.observed else "prior"
    if not isinstance(normal, _GAUSSIAN):
        raise _refusal(f"the {role} site {name!r} is {type(normal).__name__}, not Normal")
    if any(isinstance(layer, dist.MaskedDistribution) for layer in layers(fn)) or site["mask"] is not None:
        raise _refusal(f"the {role} site {name!r} is masked")
    if site["scale"] != 1:
        raise _refusal(f"the {role} site {name!r} is scaled")
    alone = isinstance(normal, torch.distributions.Normal)
    end = (1,) if alone else ()  # of a site of numbers, each its own vector
    value, mean = site["value"].reshape(*site["value"].shape, *end), normal.loc.reshape(*normal.loc.shape, *end)
    factor = normal.scale[..., None, None] if isinstance(normal, torch.distributions.Normal) else normal.scale_tril
    shape = torch.broadcast_shapes(value.shape, mean.shape, (*fn.shape(), *end))
    parts = [value.expand(shape), mean.expand(shape), factor.expand(*shape, shape[-1])]
    if not alone and bool(value.isnan().any()):
        raise _refusal(f"entries of the correlated site {name!r} are missing")
    frame = frame_of(site, target.layout.plate)
    axis = None if frame is None else len(shape) + frame.dim - len(fn.event_shape) - len(end)
    value, mean, factor = (p.unsqueeze(0) if axis is None else p.movedim(axis, 0) for p in parts)
    N, e = len(value), shape[-1]
    return _Gaussian(
        *(p.double() for p in (value.reshape(N, -1, e), mean.reshape(N, -1, e), factor.reshape(N, -1, e, e)))
    )


def _rows(columns: Tensor) -> Tensor:
    """Columns ``(N, d, e, K)`` of a site as ``(N, d e, K)``."""
    return columns.flatten(1, 2)


def _check_affine(target: Target, sites: dict[str, _Gaussian], slopes: dict[str, Tensor], *, spread: Tensor) -> None:
    """Check means and factors at random points, of size about one and of the prior's size.

    Each entry is held to its own size, and to what rounds there: where units differ, one of a larger unit would hide
    how another bends.
    """
    eps = torch.finfo(target.origin.dtype).eps
    rtol = 1e-3 if target.origin.dtype == torch.float32 else 1e-8
    generator = torch.Generator().manual_seed(1)
    unit = torch.eye(target.latent_dim).to(spread)
    for step in (0.3 * unit, 3.0 * unit, spread):
        noise = torch.randn(target.num_data, target.latent_dim, 1, generator=generator).to(spread)
        u = (step @ noise).to(target.origin)  # (N, L, 1)
        for name, found in _gaussians(target, u.squeeze(-1)).items():
            site = sites[name]
            slope, at = slopes[name].nan_to_num(), u.double().unsqueeze(1)
            off = (found.gap - site.gap - (slope @ at).squeeze(-1)).nan_to_num().abs()
            far = (slope.abs() @ at.abs()).squeeze(-1)
            size = site.mean.abs() + found.mean.abs() + slope.abs().sum(-1)
            bent = off > rtol * far + 16 * eps * size * (1 + at.abs().sum(-2))
            if bool(bent.any()):
                worst = float(off[bent].max())
                raise _refusal(f"the mean is not linear in the latent: at site {name!r} it is off by {worst:.3g}")
            if not torch.allclose(found.factor, site.factor, rtol=rtol):
                raise _refusal(f"the standard deviation depends on the latent at site {name!r}")


def _refusal(reason: str) -> ValueError:
    expected = "a linear-Gaussian program (every site Gaussian, linear means, constant scales)"
    return ValueError(say(expected, reason, "quadrature (L <= 3), laplace or mcmc"))
