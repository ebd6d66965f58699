"""DRAW's attention: a square grid of Gaussian filters that reads a patch of an image, or writes one."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pyro_vae.checks import positive_integer, say
from pyro_vae.likelihoods.base import bounded_exp

__all__ = ["GaussianWindow", "WindowHead", "gaussian_window"]

_NUMBERS = 5  # that place a window: two of its centre, variance, stride, intensity


@dataclass(frozen=True)
class GaussianWindow:
    r"""A grid of n x n Gaussian filters over images of B rows and A columns.

    Pixels are counted from 1, so that the middle of a row is (A + 1) / 2. Leading dimensions ``(...)`` are shared.

    Attributes:
        filters_x: :math:`F_X`, ``(..., n, A)``; every row sums to 1.
        filters_y: :math:`F_Y`, ``(..., n, B)``; every row sums to 1.
        centre_x: :math:`g_X`, the column of the grid's centre, ``(...)``.
        centre_y: :math:`g_Y`, its row, ``(...)``.
        stride: :math:`\delta`, pixels between neighbouring filters, ``(...)``.
        variance: :math:`\sigma^2`, of every filter, in squared pixels, ``(...)``.
        intensity: :math:`\gamma`, ``(...)``.
    """

    filters_x: Tensor
    filters_y: Tensor
    centre_x: Tensor
    centre_y: Tensor
    stride: Tensor
    variance: Tensor
    intensity: Tensor

    def read(self, images: Tensor) -> Tensor:
        r"""Return the patch :math:`\gamma F_Y x F_X^\top` of images ``(..., B, A)``, ``(..., n, n)``."""
        return self.intensity[..., None, None] * (self.filters_y @ images @ self.filters_x.mT)

    def write(self, patch: Tensor) -> Tensor:
        r"""Return the image :math:`\gamma^{-1} F_Y^\top w F_X` of a patch w ``(..., n, n)``, ``(..., B, A)``."""
        return self.filters_y.mT @ (patch / self.intensity[..., None, None]) @ self.filters_x

    @property
    def box(self) -> Tensor:
        """Left, top, right and bottom filter of the grid, ``(..., 4)``, with the first pixel's centre at 0."""
        half = (self.filters_x.shape[-2] - 1) / 2 * self.stride
        x, y = self.centre_x - 1, self.centre_y - 1
        return torch.stack([x - half, y - half, x + half, y + half], -1)


def gaussian_window(raw: Tensor, image_shape: tuple[int, int], size: int) -> GaussianWindow:
    r"""Return the filters that five numbers place over images of B rows and A columns.

    .. math::
       g_X = \tfrac{A + 1}{2} (\tilde g_X + 1), \quad g_Y = \tfrac{B + 1}{2} (\tilde g_Y + 1), \quad
       \delta = \tfrac{\max(A, B) - 1}{n - 1} \tilde\delta, \quad \mu_X^i = g_X + (i - n/2 - 1/2)\,\delta

    .. math:: F_X[i, a] \propto \exp\bigl(-(a - \mu_X^i)^2 / 2\sigma^2\bigr), \quad \textstyle\sum_a F_X[i, a] = 1

    and so for Y. The constants that make rows sum to 1 are a softmax's: a filter far outside rests on the nearest edge.

    Args:
        raw: :math:`(\tilde g_X, \tilde g_Y, \log\sigma^2, \log\tilde\delta, \log\gamma)`, ``(..., 5)``; the logarithms
            count between -30 and 30.
        image_shape: B and A.
        size: n, filters a side; at least 2.

    Source:
        Gregor et al. 2015, equations 19 to 26.

    Example:
        >>> window = gaussian_window(torch.zeros(7, 5), (28, 28), 5)
        >>> window.read(torch.ones(7, 28, 28)).shape, window.write(torch.ones(7, 5, 5)).shape
        (torch.Size([7, 5, 5]), torch.Size([7, 28, 28]))
    """
    B, A = image_shape
    index = torch.arange(1, size + 1, dtype=raw.dtype, device=raw.device)
    x, y = (A + 1) / 2 * (raw[..., 0] + 1), (B + 1) / 2 * (raw[..., 1] + 1)
    variance, stride, intensity = bounded_exp(raw[..., 2:]).unbind(-1)
    stride = (max(A, B) - 1) / (size - 1) * stride
    offsets = (index - size / 2 - 0.5) * stride.unsqueeze(-1)
    precision = variance.reciprocal()[..., None, None]
    filters_x, filters_y = (_filters(g.unsqueeze(-1) + offsets, precision, width) for g, width in ((x, A), (y, B)))
    return GaussianWindow(filters_x, filters_y, x, y, stride, variance, intensity)


def _filters(means: Tensor, precision: Tensor, width: int) -> Tensor:
    """Rows of Gaussian weights over pixels 1 to width that sum to 1, ``(..., n, width)``, for means ``(..., n)``."""
    pixels = torch.arange(1, width + 1, dtype=means.dtype, device=means.device)
    return torch.softmax(-0.5 * precision * (pixels - means.unsqueeze(-1)).square(), -1)


class WindowHead(nn.Module):
    r"""A linear map from a hidden state to a window over the image, :math:`W(h)` of DRAW.

    It starts with windows over the whole image, whose filters are half a stride wide, so that no pixel is out of sight.
    Reading then takes means over pixels, and writing divides by the density of filters: with an intensity of 1 it would
    leave on the canvas, and in the gradient, a share of one over the squared stride.

    Args:
        hidden: width of the state.
        image_shape: B rows and A columns.
        size: n, filters a side.
        writes: whether it starts with the intensity at which a patch of ones writes about ones, rather than 1.

    Raises:
        TypeError: if ``size`` is no whole number.
        ValueError: if it is below 2, or above the image's longer side.

    Source:
        Gregor et al. 2015, equation 21.

    Example:
        >>> WindowHead(16, (8, 8), 3)(torch.zeros(7, 16)).filters_x.shape
        torch.Size([7, 3, 8])
    """

    def __init__(self, hidden: int, image_shape: tuple[int, int], size: int, *, writes: bool = False) -> None:
        super().__init__()
        self.image_shape = image_shape
        self.size = positive_integer(size, "attention", minimum=2)
        if self.size > max(image_shape):
            got = f"{size} for images of {image_shape[0]} x {image_shape[1]}"
            raise ValueError(say("a window of at most as many filters as pixels a side", got, "attention=(2, 5)"))
        self.place = nn.Linear(hidden, _NUMBERS)
        stride = (max(image_shape) - 1) / (self.size - 1)
        log_intensity = -2 * math.log(stride) if writes else 0.0
        with torch.no_grad():
            self.place.weight.mul_(0.1)
            self.place.bias.copy_(torch.tensor([0.0, 0.0, 2 * math.log(stride / 2), 0.0, log_intensity]))

    def forward(self, hidden: Tensor) -> GaussianWindow:
        """Return the window of states ``(..., hidden)``."""
        return gaussian_window(self.place(hidden), self.image_shape, self.size)
