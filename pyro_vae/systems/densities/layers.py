"""Invertible layers: the recipe for writing one, one after the other, and as the transform of a distribution."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Transform, constraints

from pyro_vae.flows.networks import FlowDistribution, FlowNetwork

__all__ = ["Chain", "Coupling", "DiagonalScale", "FlowWithin", "Layer", "LayerTransform"]


class Layer(nn.Module):
    r"""Base class of invertible maps of N data at once, from the data's side to the base's.

    To write one, subclass it and define ``forward``, which returns y and :math:`\log|\det \partial y/\partial x|`,
    and ``inverse``, which returns x and :math:`\log|\det \partial x/\partial y|`, the negative of the former; both
    logarithms ``(N,)``, in nats:

        >>> class Doubled(Layer):
        ...     def forward(self, x):
        ...         return 2 * x, x.new_full((len(x),), x[0].numel() * 0.6931)
        ...     def inverse(self, y):
        ...         return y / 2, y.new_full((len(y),), -y[0].numel() * 0.6931)
        >>> Doubled()(torch.ones(2, 3))[1]
        tensor([2.0793, 2.0793])
    """

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return y and the logarithm of the Jacobian's determinant, ``(N,)``."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(self, x)")

    def inverse(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return x and the logarithm of the inverse's determinant, ``(N,)``."""
        raise NotImplementedError(f"{type(self).__name__} must define inverse(self, y)")


class Chain(Layer):
    """Layers one after the other; their log-determinants add up.

    Example:
        >>> y, log_det = Chain([DiagonalScale(2), DiagonalScale(2)])(torch.ones(1, 2))
        >>> y.tolist(), log_det.item()
        ([[1.0, 1.0]], 0.0)
    """

    def __init__(self, layers: Iterable[Layer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the last layer's output and the sum of the log-determinants."""
        total = x.new_zeros(len(x))
        for layer in self.layers:
            x, log_det = layer(x)
            total = total + log_det
        return x, total

    def inverse(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Go back through the layers."""
        total = y.new_zeros(len(y))
        for layer in reversed(self.layers):
            y, log_det = layer.inverse(y)  # type: ignore[operator]
            total = total + log_det
        return y, total


class Coupling(Layer):
    """zuko's coupling transforms of a row's entries, as one layer.

    Args:
        network: gives them; one of :mod:`pyro_vae.flows.networks`, without context.
    """

    def __init__(self, network: FlowNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return y and the log-determinant."""
        return self.network(None).call_and_ladj(x)

    def inverse(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return x and the inverse's log-determinant."""
        return self.network(None).inv.call_and_ladj(y)


class DiagonalScale(Layer):
    r"""One learned factor a dimension, :math:`y_d = e^{s_d} x_d` with log-determinant :math:`\sum_d s_d`.

    Source: Dinh, Krueger & Bengio 2014, section 3.3.
    """

    def __init__(self, data_dim: int) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(data_dim))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the scaled x."""
        return x * self.log_scale.exp(), self.log_scale.sum().expand(len(x))

    def inverse(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return the unscaled y."""
        return y * (-self.log_scale).exp(), -self.log_scale.sum().expand(len(y))


class LayerTransform(Transform):
    """A layer as a torch transform from the base to the data, of vectors with any leading dimensions.

    Args:
        layer: maps data to the base.
        to_base: go the layer's own way, from the data to the base.
    """

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self, layer: Layer, *, to_base: bool = False) -> None:
        super().__init__()
        self.layer = layer
        self.to_base = to_base

    @property
    def inv(self) -> Transform:
        """The way back."""
        return LayerTransform(self.layer, to_base=not self.to_base)

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the image and the log-determinant in one pass, as zuko's transforms do."""
        way = self.layer if self.to_base else self.layer.inverse
        y, log_det = way(x.reshape(-1, x.shape[-1]))
        return y.reshape(x.shape), log_det.reshape(x.shape[:-1])

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the log-determinant at x."""
        return self.call_and_ladj(x)[1]

    def _call(self, x: Tensor) -> Tensor:
        return self.call_and_ladj(x)[0]

    def _inverse(self, y: Tensor) -> Tensor:
        return self.inv(y)


class FlowWithin(FlowDistribution):
    """A flow whose entries lie in a part of the real line, which its support says.

    Args:
        transform: from the base to the data.
        base: the law of what is transformed, ``event_shape (D,)``.
        entries: the support of an entry.
    """

    def __init__(self, transform: Transform, base: dist.TorchDistribution, entries: constraints.Constraint) -> None:
        super().__init__(transform, base)
        self.entries = entries

    @property
    def support(self) -> constraints.Constraint:  # type: ignore[override]
        """The support of a row."""
        if self.entries is constraints.real:
            return constraints.real_vector
        return constraints.independent(self.entries, 1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> FlowWithin:
        """Return the same law with a larger ``batch_shape``."""
        return FlowWithin(self.transform, self.base.expand(torch.Size(batch_shape)), self.entries)
