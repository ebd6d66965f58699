"""Plain torch networks for likelihoods and guides. They are a convenience: users bring their own.

A network of a likelihood maps z ``(..., L)`` to parameters ``(..., P)``; a network of a guide maps x ``(N, *D)``
to parameters ``(N, P)``. Leading dimensions pass through.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from pyro_vae.checks import positive_integer, say

__all__ = ["ColumnFeatures", "ConvDecoder", "ConvEncoder", "MaskedInput", "SkipHead", "mlp"]


def mlp(*sizes: int, activation: Callable[[], nn.Module] = nn.SiLU) -> nn.Sequential:
    """Return a multilayer perceptron with layers of the given sizes.

    The activation stands between the layers, none after the last. The default is smooth, so that Hamiltonian
    trajectories and quadrature converge at their best rates; ``mlp(L, D)`` is a linear map. Inputs ``(..., sizes[0])``,
    outputs ``(..., sizes[-1])``.

    Raises:
        TypeError: if a size is no whole number.
        ValueError: if fewer than two sizes are given, or one is not positive.

    Example:
        >>> import torch
        >>> mlp(2, 128, 64)(torch.zeros(5, 2)).shape
        torch.Size([5, 64])
    """
    if len(sizes) < 2:
        raise ValueError(say("at least two layer sizes", f"{sizes}", "mlp(2, 128, 64)"))
    widths = [positive_integer(size, "a layer size") for size in sizes]
    layers: list[nn.Module] = []
    for i, (fan_in, fan_out) in enumerate(itertools.pairwise(widths)):
        if i > 0:
            layers.append(activation())
        layers.append(nn.Linear(fan_in, fan_out))
    return nn.Sequential(*layers)


class MaskedInput(nn.Module):
    """An encoder of data with missing entries: the network sees x with zeros for NaN, and which entries are observed.

    Shapes: x ``(..., D)`` to whatever the network makes of ``(..., 2 D)``.

    Args:
        network: takes the filled x and the mask (1 where observed) side by side.

    Example:
        >>> import torch
        >>> MaskedInput(mlp(6, 8, 4))(torch.tensor([[0.2, torch.nan, 1.0]])).shape
        torch.Size([1, 4])
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Return the network's output."""
        missing = x.isnan()
        out: Tensor = self.network(torch.cat([x.masked_fill(missing, 0), (~missing).to(x)], -1))
        return out


class SkipHead(nn.Module):
    r"""A linear map beside a trunk, :math:`f(z) = b + A z + B\, \mathrm{silu}(t(z))`, with B = 0 at first.

    A linear model is what it starts from, so that training departs from the best linear answer rather than having to
    find it. Heads may share a trunk.

    Args:
        latent_dim: width of the input.
        trunk: maps the input to ``(..., width)``.
        width: of the trunk's output.
        out_features: width of the output.

    Example:
        >>> import torch
        >>> head = SkipHead(2, mlp(2, 16), 16, 5)
        >>> bool((head(torch.zeros(3, 2)) == head.linear.bias).all())
        True
    """

    def __init__(self, latent_dim: int, trunk: nn.Module, width: int, out_features: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.linear = nn.Linear(latent_dim, out_features)
        self.bent = nn.Linear(width, out_features, bias=False)
        nn.init.zeros_(self.bent.weight)

    def forward(self, z: Tensor) -> Tensor:
        """Return the output ``(..., out_features)``."""
        out: Tensor = self.linear(z) + self.bent(silu(self.trunk(z)))
        return out


class ColumnFeatures(nn.Module):
    r"""A table's columns on one scale, for an encoder: standardised, after a logarithm where one is asked for.

    Features end at 8 standard deviations: a value that training never saw must not send the posterior away.

    A category of K becomes K - 1 indicators, for the first is where the others are not; a column with a share of zeros
    an indicator of what is above 0 and its logarithm; a missing entry becomes 0, with its mask beside the columns.

    Args:
        network: takes the features ``(N, width)``.
        scales: of each column, "real" or "level" (as it is), "log", "log1p", "asinh", "hurdle", or "category".
        num_categories: K of each column of categories.
        missing: whether NaN marks missing entries; the masks ``(N, D)`` then follow the columns.

    Example:
        >>> import torch
        >>> features = ColumnFeatures(nn.Identity(), ["real", "category"], [0, 3])
        >>> features(torch.tensor([[0.5, 2.0]]))
        tensor([[0.5000, 0.0000, 1.0000]])
    """

    loc: Tensor
    scale: Tensor

    def __init__(
        self, network: nn.Module, scales: Sequence[str], num_categories: Sequence[int], *, missing: bool = False
    ) -> None:
        super().__init__()
        self.network = network
        self.scales = tuple(scales)
        self.num_categories = tuple(num_categories)
        self.missing = missing
        width = sum(self.widths)
        self.register_buffer("loc", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))

    @property
    def widths(self) -> list[int]:
        """How many features each column becomes."""
        widths = {"category": lambda K: K - 1, "hurdle": lambda K: 2}
        pairs = zip(self.scales, self.num_categories, strict=True)
        return [widths[scale](K) if scale in widths else 1 for scale, K in pairs]

    @property
    def indicators(self) -> Tensor:
        """Which features are 0 or 1, ``(F,)``."""
        own = {"hurdle": [True, False]}
        pairs = zip(self.scales, self.widths, strict=True)
        return torch.tensor([one for scale, width in pairs for one in own.get(scale, [scale == "category"] * width)])

    @property
    def num_inputs(self) -> int:
        """How wide the network's input is: the features, and the masks where entries may be missing."""
        return len(self.loc) + (len(self.scales) if self.missing else 0)

    @torch.no_grad()
    def standardise(self, x: Tensor) -> None:
        """Take location and scale of every feature but the indicators from data ``(N, D)``."""
        raw = self.raw(x)
        numbers = ~self.indicators.to(x.device)
        mean = raw.nanmean(0)
        spread = (raw - mean).square().nanmean(0).sqrt()
        self.loc.copy_(torch.where(numbers, mean, 0.0))
        self.scale.copy_(torch.where(numbers & (spread > 1e-6), spread, 1.0))

    def raw(self, x: Tensor) -> Tensor:
        """Return the features ``(N, F)`` before they are standardised, NaN where an entry is missing, or has no log."""
        columns = []
        for value, scale, K in zip(x.unbind(-1), self.scales, self.num_categories, strict=True):
            if scale == "category":
                hot = (value.unsqueeze(-1) == torch.arange(1, K, device=x.device)).to(x)
                columns.append(torch.where(value.isnan().unsqueeze(-1), value.unsqueeze(-1), hot))
            elif scale == "hurdle":
                indicator = torch.where(value.isnan(), value, (value > 0).to(x))
                columns.append(torch.stack([indicator, torch.where(value > 0, value, torch.nan).log()], -1))
            else:
                columns.append((_TRANSFORMS[scale](value)).unsqueeze(-1))
        return torch.cat(columns, -1)

    def features(self, x: Tensor) -> Tensor:
        """Return the standardised features ``(N, F)``, NaN where an entry is missing, or has no log."""
        return ((self.raw(x) - self.loc) / self.scale).clamp(-_FARTHEST, _FARTHEST)

    def dequantised(self, x: Tensor, generator: torch.Generator) -> Tensor:
        r"""Return the features with noise of :math:`U(-\tfrac12, \tfrac12)` on indicators and levels.

        A density of these is no larger than a probability of those; without it the likelihood of a Gaussian mixture
        has no bound (Theis, van den Oord & Bethge 2016, section 3.1).
        """
        features = self.features(x)
        noise = torch.rand(features.shape, generator=generator, dtype=features.dtype).to(features.device) - 0.5
        steps = [scale == "level" for scale, width in zip(self.scales, self.widths, strict=True) for _ in range(width)]
        whole = self.indicators | torch.tensor(steps)
        return features + noise * whole.to(x.device) / self.scale

    def forward(self, x: Tensor) -> Tensor:
        """Return the network's output."""
        features = self.features(x)
        if self.missing or "hurdle" in self.scales:
            features = features.nan_to_num(0.0)
        if self.missing:
            features = torch.cat([features, (~x.isnan()).to(x)], -1)
        out: Tensor = self.network(features)
        return out


_FARTHEST = 8.0  # standard deviations
_TRANSFORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "real": lambda x: x,
    "level": lambda x: x,
    "log": lambda x: x.clamp_min(1e-30).log(),
    "log1p": lambda x: x.clamp_min(0.0).log1p(),
    "asinh": torch.asinh,
}


class ConvEncoder(nn.Module):
    """A convolutional encoder for square images.

    Strided 3x3 convolutions halve the image once per entry of ``channels``; a linear layer gives the parameters.

    Shapes: x ``(..., in_channels, image_size, image_size)`` or flat ``(..., in_channels * image_size**2)`` to
    ``(..., out_features)``.

    Raises:
        ValueError: if ``image_size`` cannot be halved ``len(channels)`` times.

    Example:
        >>> import torch
        >>> ConvEncoder(28, out_features=40)(torch.zeros(5, 784)).shape
        torch.Size([5, 40])
    """

    def __init__(
        self, image_size: int, *, out_features: int, in_channels: int = 1, channels: Sequence[int] = (32, 64)
    ) -> None:
        super().__init__()
        self.image_shape = (in_channels, image_size, image_size)
        small = _halved(image_size, len(channels))
        layers: list[nn.Module] = []
        for fan_in, fan_out in zip((in_channels, *channels), channels, strict=False):
            layers += [nn.Conv2d(fan_in, fan_out, 3, stride=2, padding=1), nn.SiLU()]
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels[-1] * small**2, out_features))

    def forward(self, x: Tensor) -> Tensor:
        """Return the parameters ``(..., out_features)``."""
        event_dim = 3 if x.shape[-3:] == self.image_shape else 1
        lead = x.shape[: x.dim() - event_dim]
        out: Tensor = self.layers(x.reshape(-1, *self.image_shape))
        return out.reshape(*lead, -1)


class ConvDecoder(nn.Module):
    """The mirror of :class:`ConvEncoder`: z ``(..., L)`` to flat images.

    Shapes: ``(..., latent_dim)`` to ``(..., out_channels * image_size**2)``; pass ``flat=False`` for
    ``(..., out_channels, image_size, image_size)``.

    Raises:
        ValueError: if ``image_size`` cannot be halved ``len(channels)`` times.

    Example:
        >>> import torch
        >>> ConvDecoder(28, latent_dim=20)(torch.zeros(5, 20)).shape
        torch.Size([5, 784])
    """

    def __init__(
        self,
        image_size: int,
        *,
        latent_dim: int,
        out_channels: int = 1,
        channels: Sequence[int] = (64, 32),
        flat: bool = True,
    ) -> None:
        super().__init__()
        small = _halved(image_size, len(channels))
        self.image_shape = (out_channels, image_size, image_size)
        self.flat = flat
        layers: list[nn.Module] = [
            nn.Linear(latent_dim, channels[0] * small**2),
            nn.SiLU(),
            nn.Unflatten(-1, (channels[0], small, small)),
        ]
        for i, (fan_in, fan_out) in enumerate(zip(channels, (*channels[1:], out_channels), strict=False)):
            if i > 0:
                layers.append(nn.SiLU())
            layers.append(nn.ConvTranspose2d(fan_in, fan_out, 4, stride=2, padding=1))
        self.layers = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        """Return one image a row of z."""
        out: Tensor = self.layers(z.reshape(-1, z.shape[-1]))
        return out.reshape(*z.shape[:-1], *((-1,) if self.flat else self.image_shape))


def _halved(image_size: int, times: int) -> int:
    if image_size % 2**times or image_size < 2**times:
        raise ValueError(
            say(f"an image size divisible by {2**times} (one halving a channel)", f"{image_size}", "fewer channels")
        )
    return image_size // 2**times
