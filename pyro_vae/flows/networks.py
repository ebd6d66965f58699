"""Normalising flows as Pyro distributions; their layers are zuko's."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Transform, constraints

from pyro_vae.checks import positive_integer, positive_number, say

__all__ = ["FlowDistribution", "FlowNetwork", "autoregressive", "compose", "coupling"]


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
        """Return z at the points of a Sobol sequence in the base, for moments without Monte Carlo noise."""
        L = self.event_shape[0]
        origin = self.base.mean  # for its device, dtype and batch
        points = torch.quasirandom.SobolEngine(L).draw(num_points, dtype=torch.float64) + 0.5 / num_points
        u = math.sqrt(2) * torch.erfinv(2 * points.clamp(max=1 - 0.25 / num_points) - 1)
        u = u.to(origin).reshape(num_points, *[1] * len(self.batch_shape), L)
        with torch.no_grad():
            return self.transform(u.expand(num_points, *self.batch_shape, L))


def _call_and_log_det(transform: Any, u: Tensor) -> tuple[Tensor, Tensor]:
    """Return z and log |dz/du|."""
    if hasattr(transform, "call_and_ladj"):  # zuko's transforms give both in one pass
        return transform.call_and_ladj(u)
    z = transform(u)
    return z, transform.log_abs_det_jacobian(u, z)


class FlowNetwork(nn.Module):
    """zuko's network of transforms: gives one for a context ``(..., context_dim)``, or for None.

    It travels as its recipe and its tensors. A pickle of zuko's own modules would import zuko with its side effect
    (see :func:`zuko_imported`), and say nothing helpful where it is not installed.

    Args:
        build: a function of zuko that makes the transforms, one of this module's.
        recipe: its further arguments.

    Example:
        >>> import copy
        >>> flow = coupling(2, context_dim=0, num_transforms=4, hidden=(8,))
        >>> copy.deepcopy(flow)(None)(torch.zeros(2)).detach()
        tensor([0., 0.])
    """

    def __init__(self, build: Callable[..., Any], *recipe: Any) -> None:
        super().__init__()
        self.build, self.recipe = build, recipe
        with zuko_imported() as zuko:
            self.transforms: nn.ModuleList = _identity(build(zuko, *recipe).transform.transforms)

    def forward(self, context: Tensor | None) -> Transform:
        """Return the transforms one after the other, as one."""
        return compose(*(transform(context) for transform in self.transforms))

    def __reduce__(self) -> tuple[Any, ...]:
        tensors = dict(self.transforms.named_parameters()), dict(self.transforms.named_buffers())
        own = {name: value for name, value in self.__dict__.items() if name != "_modules"}
        return _rebuilt, (self.build, *self.recipe), (own, *tensors)

    def __setstate__(self, state: tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]) -> None:
        own, parameters, buffers = state
        super().__setstate__({**own, "_modules": self._modules})
        for register, tensors in (("_parameters", parameters), ("_buffers", buffers)):
            for path, tensor in tensors.items():
                home, _, name = path.rpartition(".")
                getattr(self.transforms.get_submodule(home), register)[name] = tensor
        self.train(self.training)


def autoregressive(
    latent_dim: int, *, context_dim: int, num_transforms: int, hidden: Sequence[int], spline: bool = False
) -> FlowNetwork:
    """Return a network that gives masked autoregressive transforms: affine, or rational-quadratic splines.

    They start at the identity. Forwards is one pass, backwards is L passes.
    """
    recipe = latent_dim, context_dim, positive_integer(num_transforms, "num_transforms"), widths(hidden)
    return FlowNetwork(_splines if spline else _autoregressive, *recipe)


def coupling(
    latent_dim: int,
    *,
    context_dim: int,
    num_transforms: int,
    hidden: Sequence[int],
    additive: bool = False,
    max_log_scale: float | None = None,
) -> FlowNetwork:
    """Return a network that gives coupling transforms: affine (Real NVP), or additive (NICE).

    They start at the identity. One latent dimension has nothing to couple: the transforms are element-wise. An affine
    coupling's log scale is softly kept within ``max_log_scale`` either way; None is zuko's bound, 6.9.
    """
    recipe = latent_dim, context_dim, positive_integer(num_transforms, "num_transforms"), widths(hidden)
    if additive:
        return FlowNetwork(_additive_coupling, *recipe)
    if max_log_scale is None:
        return FlowNetwork(_affine_coupling, *recipe)
    return FlowNetwork(_bounded_coupling, *recipe, positive_number(max_log_scale, "max_log_scale", example=0.2))


def compose(*transforms: Transform) -> Transform:
    """Return the transforms one after the other, as one."""
    with zuko_imported() as zuko:
        return zuko.transforms.ComposedTransform(*transforms)


def widths(hidden: Sequence[int]) -> tuple[int, ...]:
    """Return the widths of hidden layers as a tuple.

    Raises:
        TypeError: if they are no sequence of whole numbers.
        ValueError: if one is not positive.
    """
    if not isinstance(hidden, Sequence):
        raise TypeError(say("hidden to be a sequence of widths, one a layer", f"{hidden!r}", "hidden=(64,)"))
    return tuple(positive_integer(width, "a width in hidden") for width in hidden)


@contextmanager
def zuko_imported() -> Iterator[Any]:
    """Import zuko without its side effect: it switches off torch's argument validation for the whole process.

    Raises:
        ModuleNotFoundError: if it is not installed.
    """
    base = torch.distributions.Distribution
    validate, arg_constraints = base._validate_args, base.__dict__["arg_constraints"]
    try:
        import zuko
    except ModuleNotFoundError as error:
        if error.name != "zuko":
            raise
        message = say("zuko, which gives flows their layers", "no such package", "pip install zuko")
        raise ModuleNotFoundError(message, name="zuko") from None
    finally:
        base._validate_args, base.arg_constraints = validate, arg_constraints  # type: ignore[method-assign]
    yield zuko


# what zuko is asked to build; functions of a module, because a pickle names them


def _autoregressive(zuko: Any, latent_dim: int, context_dim: int, count: int, hidden: tuple[int, ...]) -> Any:
    return zuko.flows.MAF(latent_dim, context_dim, transforms=count, hidden_features=hidden, activation=nn.SiLU)


def _splines(zuko: Any, latent_dim: int, context_dim: int, count: int, hidden: tuple[int, ...]) -> Any:
    return zuko.flows.NSF(latent_dim, context_dim, transforms=count, hidden_features=hidden, activation=nn.SiLU)


def _affine_coupling(zuko: Any, *sizes: Any) -> Any:
    return _coupling(zuko, {}, *sizes)


def _bounded_coupling(zuko: Any, *sizes_and_bound: Any) -> Any:
    *sizes, bound = sizes_and_bound
    affine = partial(zuko.transforms.MonotonicAffineTransform, slope=math.exp(-bound))
    return _coupling(zuko, {"univariate": affine}, *sizes)


def _additive_coupling(zuko: Any, *sizes: Any) -> Any:
    return _coupling(zuko, {"univariate": zuko.transforms.AdditiveTransform, "shapes": [()]}, *sizes)


def _coupling(zuko: Any, how: dict[str, Any], *sizes: Any) -> Any:
    latent_dim, context_dim, count, hidden = sizes
    if latent_dim > 1 or context_dim:  # else there is nothing for a network to see
        how = {**how, "hidden_features": hidden, "activation": nn.SiLU}
    return zuko.flows.NICE(latent_dim, context_dim, transforms=count, **how)


def _rebuilt(build: Callable[..., Any], *recipe: Any) -> FlowNetwork:
    """What a copy starts from: its first weights are thrown away, so they take nothing from the random stream."""
    with torch.random.fork_rng(devices=[]):
        return FlowNetwork(build, *recipe)


def _identity(transforms: Any) -> nn.ModuleList:
    """Set the last layer of every network inside to zero, so that the flow starts as the identity."""
    for transform in transforms:
        if hasattr(transform, "hyper"):
            last = [layer for layer in transform.hyper.modules() if hasattr(layer, "bias")][-1]
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        else:
            for parameter in transform.parameters():
                nn.init.zeros_(parameter)
    return transforms
