"""Affine couplings of images: half of the places, or of the channels, move by what a network makes of the other."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from pyro_vae.systems.densities.layers import Layer

__all__ = ["ChannelCoupling", "CheckerboardCoupling", "ResidualNetwork"]


class ResidualNetwork(nn.Module):
    """A small residual network of 3 x 3 convolutions, zero at first, so that a coupling starts as the identity.

    Shapes: images ``(N, in_channels, H, W)`` to ``(N, out_channels, H, W)``.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        width: channels inside.
        num_blocks: residual blocks of two convolutions.
    """

    def __init__(self, in_channels: int, out_channels: int, *, width: int, num_blocks: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(in_channels, width, 3, padding=1)
        pairs = (
            (nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)) for _ in range(num_blocks)
        )
        self.blocks = nn.ModuleList(nn.Sequential(nn.ReLU(), one, nn.ReLU(), two) for one, two in pairs)
        self.last = nn.Conv2d(width, out_channels, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Return the output."""
        h = self.first(x)
        for block in self.blocks:
            h = h + block(h)
        return self.last(relu(h))


class _AffineCoupling(Layer):
    """What both have: s = c tanh(raw) with a learned c a channel, which starts at 1, and t."""

    def __init__(self, seen: int, moved: int, *, width: int, num_blocks: int) -> None:
        super().__init__()
        self.network = ResidualNetwork(seen, 2 * moved, width=width, num_blocks=num_blocks)
        self.scale = nn.Parameter(torch.ones(moved, 1, 1))

    def parameters_from(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Return s and t."""
        raw, t = self.network(seen).chunk(2, 1)
        return self.scale * torch.tanh(raw), t


class CheckerboardCoupling(_AffineCoupling):
    r"""Every second place moves by its neighbours, :math:`y = b x + (1 - b) (x e^{s(b x)} + t(b x))`.

    Source: Dinh, Sohl-Dickstein & Bengio 2017, section 3.4, equation 9.

    Args:
        num_channels: C of images ``(N, C, H, W)``.
        even: whether b is 1 where row + column is even.
        width: channels inside the network.
        num_blocks: its residual blocks.
    """

    def __init__(self, num_channels: int, *, even: bool, width: int, num_blocks: int) -> None:
        super().__init__(num_channels, num_channels, width=width, num_blocks=num_blocks)
        self.even = even

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Move the places where b is 0."""
        b = self._mask(x)
        s, t = self.parameters_from(b * x)
        s, t = (1 - b) * s, (1 - b) * t
        return x * s.exp() + t, s.flatten(1).sum(-1)

    def inverse(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Move them back."""
        b = self._mask(y)
        s, t = self.parameters_from(b * y)
        s, t = (1 - b) * s, (1 - b) * t
        return (y - t) * (-s).exp(), -s.flatten(1).sum(-1)

    def _mask(self, x: Tensor) -> Tensor:
        rows, columns = (torch.arange(size, device=x.device) for size in x.shape[-2:])
        odd = (rows[:, None] + columns) % 2
        return (1 - odd if self.even else odd).to(x.dtype)


class ChannelCoupling(_AffineCoupling):
    r"""Half of the channels move by the others, :math:`y_2 = x_2 e^{s(x_1)} + t(x_1)`.

    Source: Dinh, Sohl-Dickstein & Bengio 2017, section 3.4.

    Args:
        num_channels: C, even.
        first: whether the first half is what the network sees.
        width: channels inside the network.
        num_blocks: its residual blocks.
    """

    def __init__(self, num_channels: int, *, first: bool, width: int, num_blocks: int) -> None:
        half = num_channels // 2
        super().__init__(half, half, width=width, num_blocks=num_blocks)
        self.first = first

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Move the half that the network does not see."""
        seen, moved = self._halves(x)
        s, t = self.parameters_from(seen)
        return self._whole(seen, moved * s.exp() + t), s.flatten(1).sum(-1)

    def inverse(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Move it back."""
        seen, moved = self._halves(y)
        s, t = self.parameters_from(seen)
        return self._whole(seen, (moved - t) * (-s).exp()), -s.flatten(1).sum(-1)

    def _halves(self, x: Tensor) -> tuple[Tensor, Tensor]:
        one, two = x.chunk(2, 1)
        return (one, two) if self.first else (two, one)

    def _whole(self, seen: Tensor, moved: Tensor) -> Tensor:
        return torch.cat([seen, moved] if self.first else [moved, seen], 1)
