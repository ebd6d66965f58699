"""The multi-scale architecture: squeeze places into channels, and give half of them out at every scale."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from pyro_vae.systems.densities.layers import Layer

__all__ = ["MultiScale", "Squeeze"]


class Squeeze(Layer):
    """Blocks of 2 x 2 places into four channels, ``(N, C, H, W)`` to ``(N, 4 C, H / 2, W / 2)``; volume is preserved.

    Source: Dinh, Sohl-Dickstein & Bengio 2017, section 3.6.

    Example:
        >>> Squeeze()(torch.zeros(5, 1, 8, 6))[0].shape
        torch.Size([5, 4, 4, 3])
    """

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Squeeze."""
        return pixel_unshuffle(x, 2), x.new_zeros(len(x))

    def inverse(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Spread out again."""
        return pixel_shuffle(y, 2), y.new_zeros(len(y))


class MultiScale(Layer):
    r"""Rows of pixels to rows of the base: after every scale but the last, half of the channels are done.

    .. math:: (z^{(i+1)}, h^{(i+1)}) = f^{(i+1)}(h^{(i)}), \quad z^{(S)} = f^{(S)}(h^{(S-1)}), \quad
        z = (z^{(1)}, \dots, z^{(S)}).

    Source: Dinh, Sohl-Dickstein & Bengio 2017, equations 14 to 16.

    Args:
        shape: C, H and W of an image; rows are its pixels, channel by channel.
        scales: S layers; all but the last squeeze once.
    """

    def __init__(self, shape: tuple[int, int, int], scales: Iterable[Layer]) -> None:
        super().__init__()
        self.shape = shape
        self.scales = nn.ModuleList(scales)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return z ``(N, D)`` and the log-determinant."""
        h, done, total = x.unflatten(-1, self.shape), [], x.new_zeros(len(x))
        for number, scale in enumerate(self.scales, start=1):
            h, log_det = scale(h)
            total = total + log_det
            if number < len(self.scales):
                h, z = h.chunk(2, 1)
                done.append(z.flatten(1))
        return torch.cat([*done, h.flatten(1)], -1), total

    def inverse(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return x ``(N, D)`` and the inverse's log-determinant."""
        shapes = self._shapes()
        *done, last = y.split([c * a * b for c, a, b in shapes], -1)
        h, total = last.unflatten(-1, shapes[-1]), y.new_zeros(len(y))
        for number in reversed(range(len(self.scales))):
            if number < len(done):
                h = torch.cat([h, done[number].unflatten(-1, shapes[number])], 1)
            h, log_det = self.scales[number].inverse(h)  # type: ignore[operator]
            total = total + log_det
        return h.flatten(1), total

    def _shapes(self) -> list[tuple[int, int, int]]:
        """The shape of what each scale gives out."""
        c, a, b = self.shape
        shapes = []
        for _ in range(len(self.scales) - 1):
            c, a, b = 2 * c, a // 2, b // 2  # four times the channels, of which half go on
            shapes.append((c, a, b))
        return [*shapes, (c, a, b)]
