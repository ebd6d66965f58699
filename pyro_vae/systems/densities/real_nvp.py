"""Real NVP: affine couplings as a density of x itself, of tables and of images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from pyro_vae.checks import positive_integer, positive_number, say
from pyro_vae.flows.networks import coupling
from pyro_vae.systems.densities.batch_norm import BatchNorm
from pyro_vae.systems.densities.density import FlowDensity
from pyro_vae.systems.densities.image_couplings import ChannelCoupling, CheckerboardCoupling
from pyro_vae.systems.densities.layers import Chain, Coupling, DiagonalScale, Layer
from pyro_vae.systems.densities.multi_scale import MultiScale, Squeeze

__all__ = ["RealNVP"]


class RealNVP(FlowDensity):
    r"""Real-valued non-volume-preserving flows: half of the entries move by an affine map that the others give.

    .. math:: y_{I_1} = x_{I_1}, \quad y_{I_2} = x_{I_2} \odot e^{s(x_{I_1})} + t(x_{I_1}), \quad
        \log\Big|\det \frac{\partial y}{\partial x}\Big| = \sum_d s_d.

    A table's columns take turns, odd and even, by networks of ``hidden`` layers. An image goes through the published
    multi-scale architecture: at every scale three couplings with checkerboard masks, a squeeze, three with channel
    masks, then half of the channels are done; at the last scale four with checkerboard masks. Their networks are
    convolutional, with ``width`` channels and ``num_blocks`` residual blocks (there 32 to 64 channels and 4 or more).

    Source: Dinh, Sohl-Dickstein & Bengio 2017, sections 3 and 4.1.

    Args:
        shape: D of a table; (H, W) or (C, H, W) of an image, whose rows are its pixels, channel by channel.
        num_transforms: couplings of a table.
        hidden: widths of the hidden layers of a table's networks.
        max_log_scale: keeps the log scales s of a table's couplings within so much of 0, and adds one learned scale a
            column, which the bound would take away otherwise. Scales that follow the row are what overfits a small
            table: with a bound near 0 the flow is NICE, which has none.
        num_scales: of an image, S; its sides are halved S - 1 times.
        width: channels inside an image's networks.
        num_blocks: their residual blocks.
        batch_norm: normalise after every coupling; None does so for images.
        momentum: of the running averages, see :class:`~pyro_vae.systems.densities.batch_norm.BatchNorm`.
        base: "normal", as published, or "logistic".
        **preprocessing: ``num_levels``, ``intensities``, ``dequantisation`` and ``alpha`` of
            :class:`~pyro_vae.systems.densities.density.FlowDensity`.

    Raises:
        TypeError: if a size is no whole number.
        ValueError: if a size or alpha is out of its range, a word unknown, or a side of the image cannot be halved.

    Example:
        >>> import torch
        >>> table, image = RealNVP(2), RealNVP((8, 8), num_levels=17, width=4)
        >>> table.log_prob(torch.zeros(1, 2)).detach(), image.sample(3).shape
        (tensor([-1.8379]), torch.Size([3, 64]))
    """

    def __init__(
        self,
        shape: int | Sequence[int],
        *,
        num_transforms: int = 6,
        hidden: Sequence[int] = (64, 64),
        max_log_scale: float | None = None,
        num_scales: int = 2,
        width: int = 32,
        num_blocks: int = 1,
        batch_norm: bool | None = None,
        momentum: float = 0.9,
        base: str = "normal",
        **preprocessing: Any,
    ) -> None:
        image = None if not isinstance(shape, Sequence) else _image_shape(shape)
        super().__init__(shape if image is None else math.prod(image), base=base, **preprocessing)  # type: ignore[arg-type]
        if positive_number(momentum, "momentum", example=0.9, zero=True) >= 1:
            raise ValueError(say("a momentum in [0, 1)", f"{momentum}", "momentum=0.9"))
        norm = momentum if (image is not None if batch_norm is None else batch_norm) else None
        if image is None:
            networks = {"hidden": hidden, "max_log_scale": max_log_scale}
            layers = _of_table(self.data_dim, num_transforms, networks, norm)
            self.layers = layers if max_log_scale is None else Chain([layers, DiagonalScale(self.data_dim)])
            return
        if max_log_scale is not None:
            got, remedy = "max_log_scale for an image, whose couplings learn theirs", "leaving it out"
            raise ValueError(say("a table", got, remedy))
        sizes = {"width": positive_integer(width, "width"), "num_blocks": positive_integer(num_blocks, "num_blocks")}
        self.layers = _of_image(image, positive_integer(num_scales, "num_scales"), sizes, norm)


def _image_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    """C, H and W."""
    sizes = [positive_integer(size, "a side of the image") for size in shape]
    if len(sizes) not in {2, 3}:
        raise ValueError(say("an image's shape, (H, W) or (C, H, W)", f"{tuple(shape)}", "shape=(28, 28)"))
    c, a, b = [1, *sizes][-3:]
    return c, a, b


def _of_table(data_dim: int, num_transforms: int, networks: dict[str, Any], norm: float | None) -> Layer:
    if norm is None:
        return Coupling(coupling(data_dim, context_dim=0, num_transforms=num_transforms, **networks))
    layers: list[Layer] = []
    for _ in range(-(-positive_integer(num_transforms, "num_transforms") // 2)):
        pair = coupling(data_dim, context_dim=0, num_transforms=2, **networks)
        layers += [Coupling(pair), BatchNorm(data_dim, momentum=norm)]
    return Chain(layers)


def _of_image(shape: tuple[int, int, int], num_scales: int, networks: dict[str, int], norm: float | None) -> Layer:
    c, a, b = shape
    if a % 2 ** (num_scales - 1) or b % 2 ** (num_scales - 1):
        possible = next(n for n in range(num_scales, 0, -1) if not (a % 2 ** (n - 1) or b % 2 ** (n - 1)))
        expected = f"sides that can be halved {num_scales - 1} times, for {num_scales} scales"
        remedy = f"num_scales={possible}, or an image padded to even sides"
        raise ValueError(say(expected, f"{a} x {b} pixels", remedy))
    if a * b * c < 2:
        raise ValueError(say("an image of at least two pixels", f"{shape}", "shape=(28, 28)"))

    def normalised(layers: list[Layer], channels: int) -> list[Layer]:
        if norm is None:
            return layers
        return [each for layer in layers for each in (layer, BatchNorm(channels, momentum=norm))]

    def checkerboard(channels: int, count: int) -> list[Layer]:
        layers: list[Layer] = [CheckerboardCoupling(channels, even=i % 2 == 0, **networks) for i in range(count)]
        return normalised(layers, channels)

    def channelwise(channels: int, count: int) -> list[Layer]:
        layers: list[Layer] = [ChannelCoupling(channels, first=i % 2 == 0, **networks) for i in range(count)]
        return normalised(layers, channels)

    scales = []
    for _ in range(num_scales - 1):
        scales.append(Chain([*checkerboard(c, 3), Squeeze(), *channelwise(4 * c, 3)]))
        c *= 2
    return MultiScale(shape, [*scales, Chain(checkerboard(c, 4))])
