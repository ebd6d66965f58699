"""The networks that adversarial systems take for square images in [0, 1], unless the user brings others."""

from __future__ import annotations

import math

from torch import Tensor, nn

from pyro_vae.checks import say
from pyro_vae.networks import ConvEncoder, mlp

__all__ = ["ImageGenerator", "Stretched", "image_trunk", "is_large", "side_of"]

_SMALL = 12  # pixels a side, up to which an image goes through a perceptron
_FEATURES = 128
_CHANNELS = (32, 16)


class ImageGenerator(nn.Module):
    """A network from z ``(..., L)`` to flat images ``(..., D)`` in (0, 1).

    Images of up to 12 pixels a side, and those whose side is no multiple of four, come from a perceptron; larger ones
    from two transposed convolutions. Batch normalisation keeps the images of a batch apart while the game is young
    (Radford et al. 2016, section 3); in evaluation mode it is a fixed affine map, so that G is a smooth function of z.

    Args:
        data_dim: D.
        latent_dim: L.

    Example:
        >>> import torch
        >>> ImageGenerator(784, 10)(torch.randn(3, 2, 10)).shape
        torch.Size([3, 2, 784])
    """

    def __init__(self, data_dim: int, latent_dim: int) -> None:
        super().__init__()
        self.layers = _convolutional(data_dim, latent_dim) if is_large(data_dim) else _dense(data_dim, latent_dim)
        self.last = nn.Sigmoid()

    def forward(self, z: Tensor) -> Tensor:
        """Return images ``(..., D)``."""
        out: Tensor = self.last(self.layers(z.reshape(-1, z.shape[-1])))
        return out.reshape(*z.shape[:-1], -1)


class Stretched(nn.Module):
    """Pixels from [0, 1] on [-2, 2]: the background, which is most of an image, must not be silent.

    Example:
        >>> import torch
        >>> Stretched()(torch.tensor([0.0, 0.5, 1.0]))
        tensor([-2.,  0.,  2.])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return 4 x - 2."""
        return 4 * x - 2


def image_trunk(data_dim: int, extra: int = 0) -> nn.Sequential:
    """Return a network from flat images ``(..., D)`` in [0, 1], with ``extra`` more numbers after them, to features.

    Example:
        >>> import torch
        >>> image_trunk(64)(torch.zeros(2, 64)).shape
        torch.Size([2, 128])
    """
    if is_large(data_dim) and not extra:
        network: nn.Module = ConvEncoder(math.isqrt(data_dim), out_features=_FEATURES, channels=_CHANNELS[::-1])
    else:
        network = mlp(data_dim + extra, _FEATURES, _FEATURES)
    return nn.Sequential(Stretched(), network, nn.SiLU())


def side_of(data_dim: int) -> int:
    """Return the side of a square image of so many pixels.

    Raises:
        ValueError: if there is none.

    Example:
        >>> side_of(784)
        28
    """
    side = math.isqrt(data_dim)
    if side * side != data_dim:
        raise ValueError(say("square images", f"{data_dim} pixels", f"images of {side} x {side}"))
    return side


def is_large(data_dim: int) -> bool:
    """Whether images of so many pixels go through convolutions.

    Example:
        >>> is_large(64), is_large(784)
        (False, True)
    """
    side = math.isqrt(data_dim)
    return side * side == data_dim and side > _SMALL and side % 4 == 0


def _dense(data_dim: int, latent_dim: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for fan_in in (latent_dim, _FEATURES):
        layers += [nn.Linear(fan_in, _FEATURES), nn.BatchNorm1d(_FEATURES), nn.SiLU()]
    return nn.Sequential(*layers, nn.Linear(_FEATURES, data_dim))


def _convolutional(data_dim: int, latent_dim: int) -> nn.Sequential:
    small, (first, second) = math.isqrt(data_dim) // 4, _CHANNELS
    layers = [nn.Linear(latent_dim, first * small**2), nn.Unflatten(-1, (first, small, small))]
    layers += [nn.BatchNorm2d(first), nn.SiLU(), nn.ConvTranspose2d(first, second, 4, stride=2, padding=1)]
    layers += [nn.BatchNorm2d(second), nn.SiLU(), nn.ConvTranspose2d(second, 1, 4, stride=2, padding=1), nn.Flatten()]
    return nn.Sequential(*layers)
