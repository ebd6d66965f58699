"""Normalising flows as Pyro distributions; their layers are zuko's, and the planar layer is written here."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Transform, constraints
from torch.nn.functional import softplus

from pyro_vae.checks import positive_integer

__all__ = ["FlowDistribution", "PlanarTransform", "autoregressive", "compose", "coupling", "planar"]

TransformNetwork = Callable[[Tensor | None], Transform]
"""Gives a transform of vectors for a context ``(..., context_dim)``, or for None."""


class FlowDistribution(dist.TorchDistribution):
    r"""The law of z = g(u), u standard normal: :math:`\log p(z) = \log N(u; 0, I) - \log|\det \partial g/\partial u|`.

    The density of its own last draw is remembered, so that a flow that is slow to invert costs nothing in an ELBO.
    There is no closed form of its mean and variance: they are sums over 4,096 Sobol' points, with errors of about a
    hundredth of a standard deviation.

    Args:
        transform: g, from u ``(..., L)`` to z ``(..., L)``; a batch of transforms broadcasts over leading dimensions.
        base: the law of u: a standard normal of ``batch_shape (...)`` and ``event_shape (L,)``.

    Source:
        Rezende & Mohamed 2015; Papamakarios et al. 2021, equation 7.

    Example:
        >>> from torch.distributions import AffineTransform
        >>> base = dist.Normal(torch.zeros(2), 1.0).to_event(1)
        >>> flow = FlowDistribution(AffineTransform(1.0, 1.0, event_dim=1), base)
        >>> flow.log_prob(torch.ones(2)), flow.batch_shape
        (tensor(-1.8379), torch.Size([]))
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012  torch's own convention
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, transform: Transform, base: dist.TorchDistribution) -> None:
        self.transform = transform
        self.base = base
        self._last: tuple[Tensor, Tensor] | None = None
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> FlowDistribution:
        """Return the same flow with a larger ``batch_shape``."""
        return FlowDistribution(self.transform, self.base.expand(torch.Size(batch_shape)))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draw z with gradients."""
        u = self.base.rsample(torch.Size(sample_shape))
        z, log_det = _call_and_log_det(self.transform, u)
        self._last = (z, self.base.log_prob(u) - log_det)
        return z

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(z), ``(...)``, in nats."""
        if self._last is not None and value is self._last[0]:
            return self._last[1]
        u, log_det = _call_and_log_det(self.transform.inv, value)
        return self.base.log_prob(u) + log_det

    @property
    def mean(self) -> Tensor:
        """The mean, by quasi-Monte Carlo, ``(..., L)``."""
        return self._sobol().mean(0)

    @property
    def variance(self) -> Tensor:
        """The variance, by quasi-Monte Carlo, ``(..., L)``."""
        return self._sobol().var(0)

    def _sobol(self, num_points: int = 4096) -> Tensor:
        L = self.event_shape[0]
        origin = self.base.mean  # for its device, dtype and batch
        points = torch.quasirandom.SobolEngine(L).draw(num_points, dtype=torch.float64) + 0.5 / num_points
        u = math.sqrt(2) * torch.erfinv(2 * points.clamp(max=1 - 0.25 / num_points) - 1)
        u = u.to(origin).reshape(num_points, *[1] * len(self.batch_shape), L)
        with torch.no_grad():
            return self.transform(u.expand(num_points, *self.batch_shape, L))


def _call_and_log_det(transform: Any, u: Tensor) -> tuple[Tensor, Tensor]:
    if hasattr(transform, "call_and_ladj"):  # zuko's transforms give both in one pass
        return transform.call_and_ladj(u)
    z = transform(u)
    return z, transform.log_abs_det_jacobian(u, z)


class PlanarTransform(Transform):
    r"""The planar map :math:`g(u) = u + \hat v \tanh(w^\top u + b)`, kept invertible by :math:`w^\top\hat v \ge -1`.

    Its inverse solves a scalar equation: with a = w'u, the number y = a + (w'v) tanh(a + b) is monotone in a, and is
    inverted by bisection, polished by one Newton step that carries the gradient.

    Args:
        weight: w ``(..., L)``.
        direction: v ``(..., L)``; moved to v-hat, which keeps the map invertible.
        bias: b ``(...)``.

    Source:
        Rezende & Mohamed 2015, equation 10 and appendix A.1.

    Example:
        >>> g = PlanarTransform(torch.ones(2), torch.ones(2), torch.zeros(()))
        >>> u = torch.tensor([0.3, -1.0])
        >>> torch.allclose(g.inv(g(u)), u, atol=1e-5)
        True
    """

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self, weight: Tensor, direction: Tensor, bias: Tensor) -> None:
        super().__init__()
        dot = (weight * direction).sum(-1, keepdim=True)
        square = weight.square().sum(-1, keepdim=True) + 1e-12
        self.weight, self.bias = weight, bias
        self.direction = direction + (softplus(dot) - 1 - dot) * weight / square  # w'v = softplus(.) - 1 > -1
        self.slope = (weight * self.direction).sum(-1)

    def _call(self, u: Tensor) -> Tensor:
        return u + self.direction * torch.tanh((self.weight * u).sum(-1) + self.bias).unsqueeze(-1)

    def _inverse(self, z: Tensor) -> Tensor:
        y = (self.weight * z).sum(-1)
        with torch.no_grad():  # a lies in y +- |slope|
            reach = self.slope.abs() + 1e-3
            low, high = y - reach, y + reach
            for _ in range(60 if y.dtype == torch.float64 else 32):
                a = (low + high) / 2
                above = a + self.slope * torch.tanh(a + self.bias) > y
                low, high = torch.where(above, low, a), torch.where(above, a, high)
        a = (low + high) / 2
        t = torch.tanh(a + self.bias)
        a = a - (a + self.slope * t - y) / (1 + self.slope * (1 - t * t)).detach()
        return z - self.direction * torch.tanh(a + self.bias).unsqueeze(-1)

    def log_abs_det_jacobian(self, u: Tensor, z: Tensor) -> Tensor:
        """Return log |1 + w'v (1 - tanh^2)|, ``(...)``."""
        t = torch.tanh((self.weight * u).sum(-1) + self.bias)
        return torch.log1p(self.slope * (1 - t * t))


class _Planar(nn.Module):
    def __init__(self, latent_dim: int, context_dim: int, num_transforms: int) -> None:
        super().__init__()
        self.shape = (num_transforms, 2 * latent_dim + 1)
        self.head = nn.Linear(context_dim, num_transforms * (2 * latent_dim + 1))
        nn.init.zeros_(self.head.bias)
        nn.init.normal_(self.head.weight, std=1e-2 / math.sqrt(context_dim))
        with torch.no_grad():  # distinct directions w; v near the value that makes the map the identity
            bias = self.head.bias.view(self.shape)
            bias[:, :latent_dim] = torch.randn(num_transforms, latent_dim)
            w = bias[:, :latent_dim]
            still = math.log(math.e - 1) * w / w.square().sum(-1, keepdim=True)  # softplus(w'v) = 1: no bend
            bias[:, latent_dim:-1] = still + 1e-2 * torch.randn(num_transforms, latent_dim)

    def forward(self, context: Tensor | None) -> Transform:
        if context is None:
            context = self.head.bias.new_zeros(self.head.in_features)
        raw = self.head(context).unflatten(-1, self.shape)
        L = (self.shape[1] - 1) // 2
        layers = [PlanarTransform(p[..., :L], p[..., L:-1], p[..., -1]) for p in raw.unbind(-2)]
        return compose(*layers)


def compose(*transforms: Transform) -> Transform:
    """Return the transforms one after the other, as one."""
    with _zuko() as zuko:
        return zuko.transforms.ComposedTransform(*transforms)


def planar(latent_dim: int, *, context_dim: int, num_transforms: int) -> nn.Module:
    """Return a network that gives planar transforms for a context."""
    with _zuko():
        return _Planar(latent_dim, context_dim, positive_integer(num_transforms, "num_transforms"))


def autoregressive(
    latent_dim: int, *, context_dim: int, num_transforms: int, hidden: tuple[int, ...], spline: bool = False
) -> nn.Module:
    """Return a network that gives masked autoregressive transforms: affine, or rational-quadratic splines.

    They start at the identity. Forwards is one pass, backwards is L passes.
    """
    with _zuko() as zuko:
        make = zuko.flows.NSF if spline else zuko.flows.MAF
        count = positive_integer(num_transforms, "num_transforms")
        flow = make(latent_dim, context_dim, transforms=count, hidden_features=hidden, activation=nn.SiLU)
        return _identity(flow.transform)


def coupling(
    latent_dim: int, *, context_dim: int, num_transforms: int, hidden: tuple[int, ...], additive: bool = False
) -> nn.Module:
    """Return a network that gives coupling transforms: affine (Real NVP), or additive (NICE).

    They start at the identity. One latent dimension has nothing to couple: the transforms are element-wise.
    """
    with _zuko() as zuko:
        how = {"univariate": zuko.transforms.AdditiveTransform, "shapes": [()]} if additive else {}
        count = positive_integer(num_transforms, "num_transforms")
        if latent_dim > 1 or context_dim:
            how |= {"hidden_features": hidden, "activation": nn.SiLU}
        return _identity(zuko.flows.NICE(latent_dim, context_dim, transforms=count, **how).transform)


def _identity(transforms: Any) -> nn.Module:
    """Set the last layer of every network inside to zero, so that the flow starts as the identity."""
    for transform in transforms.transforms:
        if hasattr(transform, "hyper"):
            last = [layer for layer in transform.hyper.modules() if hasattr(layer, "bias")][-1]
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        else:
            for parameter in transform.parameters():
                nn.init.zeros_(parameter)
    return transforms


@contextmanager
def _zuko() -> Iterator[Any]:
    """Import zuko without its side effect: it switches off torch's argument validation for the whole process."""
    base = torch.distributions.Distribution
    validate, arg_constraints = base._validate_args, base.__dict__["arg_constraints"]
    try:
        import zuko

        yield zuko
    finally:
        base._validate_args, base.arg_constraints = validate, arg_constraints  # type: ignore[method-assign]
