"""How DRAW reads from an image and writes on its canvas: the whole of it at every step, or through a window."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from pyro_vae.systems.drawing.attention import GaussianWindow, WindowHead

__all__ = ["Look", "ReadWhole", "ReadWindow", "WriteWhole", "WriteWindow"]

Look = Callable[[Tensor, Tensor], Tensor]
"""From the error image ``(..., D)`` and the decoder's state ``(..., H)`` to the encoder's features ``(..., F)``."""


class ReadWhole(nn.Module):
    r"""Reads image and error image whole, :math:`W [x, \hat x]`.

    Args:
        hidden: width of the decoder's state, which is not looked at.
        image_shape: B rows and A columns.
        num_features: F.

    Source:
        Gregor et al. 2015, equation 17.

    Example:
        >>> look = ReadWhole(16, (8, 8), 4).of(torch.zeros(7, 64))
        >>> look(torch.zeros(7, 64), torch.zeros(7, 16)).shape
        torch.Size([7, 4])
    """

    def __init__(self, hidden: int, image_shape: tuple[int, int], num_features: int) -> None:
        super().__init__()
        self.image = nn.Linear(math.prod(image_shape), num_features)
        self.error = nn.Linear(math.prod(image_shape), num_features, bias=False)

    def of(self, x: Tensor) -> Look:
        """Return how images ``(..., D)`` are looked at; what never changes from glimpse to glimpse is worked out."""
        seen = self.image(x)
        return lambda error, hidden: seen + self.error(error)


class ReadWindow(nn.Module):
    r"""Reads patches of image and error image, :math:`W \gamma [F_Y x F_X^\top, F_Y \hat x F_X^\top]`.

    Args:
        hidden: width of the decoder's state, which places the window.
        image_shape: B rows and A columns.
        num_features: F.
        size: n, filters a side.

    Source:
        Gregor et al. 2015, equation 27.

    Example:
        >>> look = ReadWindow(16, (8, 8), 4, size=3).of(torch.zeros(7, 64))
        >>> look(torch.zeros(7, 64), torch.zeros(7, 16)).shape
        torch.Size([7, 4])
    """

    def __init__(self, hidden: int, image_shape: tuple[int, int], num_features: int, *, size: int) -> None:
        super().__init__()
        self.window = WindowHead(hidden, image_shape, size)
        self.patches = nn.Linear(2 * size * size, num_features)

    def of(self, x: Tensor) -> Look:
        """Return how images ``(..., D)`` are looked at."""
        image = x.unflatten(-1, self.window.image_shape)

        def look(error: Tensor, hidden: Tensor) -> Tensor:
            window: GaussianWindow = self.window(hidden)
            both = (image, error.unflatten(-1, self.window.image_shape))
            patches = torch.cat([window.read(picture).flatten(-2) for picture in both], -1)  # (..., 2 n n)
            out: Tensor = self.patches(patches)
            return out

        return look


class WriteWhole(nn.Linear):
    r"""Writes on the whole canvas, :math:`W(h)`.

    Args:
        hidden: width of the decoder's state.
        image_shape: B rows and A columns.

    Source:
        Gregor et al. 2015, equation 18.

    Example:
        >>> WriteWhole(16, (8, 8))(torch.zeros(7, 16)).shape
        torch.Size([7, 64])
    """

    def __init__(self, hidden: int, image_shape: tuple[int, int]) -> None:
        super().__init__(hidden, math.prod(image_shape))

    def total(self, states: Tensor) -> Tensor:
        """Return the sum of what T states ``(T, ..., hidden)`` add to the canvas, ``(..., D)``, by one product."""
        return linear(states.sum(0), self.weight, len(states) * self.bias)


class WriteWindow(nn.Module):
    r"""Writes a patch through a window, :math:`\gamma^{-1} F_Y^\top w F_X` with :math:`w = W(h)`.

    Args:
        hidden: width of the decoder's state.
        image_shape: B rows and A columns.
        size: n, filters a side.

    Source:
        Gregor et al. 2015, equations 28 and 29.

    Example:
        >>> WriteWindow(16, (8, 8), size=3)(torch.zeros(7, 16)).shape
        torch.Size([7, 64])
    """

    def __init__(self, hidden: int, image_shape: tuple[int, int], *, size: int) -> None:
        super().__init__()
        self.window = WindowHead(hidden, image_shape, size, writes=True)
        self.patch = nn.Linear(hidden, size * size)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return what is added to the canvas, ``(..., D)``, for states ``(..., hidden)``."""
        size = self.window.size
        window: GaussianWindow = self.window(hidden)
        return window.write(self.patch(hidden).unflatten(-1, (size, size))).flatten(-2)

    def total(self, states: Tensor) -> Tensor:
        """Return the sum of what T states ``(T, ..., hidden)`` add to the canvas, ``(..., D)``."""
        added: Tensor = self(states).sum(0)
        return added
