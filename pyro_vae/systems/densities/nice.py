"""NICE: additive couplings and one learned scale a dimension, as a density of x itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pyro_vae.flows.networks import coupling
from pyro_vae.systems.densities.density import FlowDensity
from pyro_vae.systems.densities.layers import Chain, Coupling, DiagonalScale

__all__ = ["NICE"]


class NICE(FlowDensity):
    r"""Non-linear independent components estimation: a volume-preserving flow, and then one scale a dimension.

    .. math:: y_{I_1} = x_{I_1}, \quad y_{I_2} = x_{I_2} + m(x_{I_1}), \quad z = e^{s} \odot h, \quad
        \log p(x) = \sum_d \log p_b(z_d) + \sum_d s_d.

    Odd and even entries take turns, four times as published; there, the networks m have four or five hidden layers of
    1,000 to 5,000 units, which ``hidden=(1000,) * 5`` gives.

    Source: Dinh, Krueger & Bengio 2014, sections 3 and 5.1.

    Args:
        data_dim: D, at least 2.
        num_transforms: additive couplings.
        hidden: widths of their networks' hidden layers.
        base: "logistic", as published for MNIST, or "normal".
        **preprocessing: ``num_levels``, ``intensities``, ``dequantisation`` and ``alpha`` of
            :class:`~pyro_vae.systems.densities.density.FlowDensity`.

    Raises:
        TypeError: if a size is no whole number.
        ValueError: if a size or alpha is out of its range, or a word unknown.

    Example:
        >>> import torch
        >>> system = NICE(2, base="normal")
        >>> system.log_prob(torch.zeros(1, 2)).detach()
        tensor([-1.8379])
    """

    def __init__(
        self,
        data_dim: int,
        *,
        num_transforms: int = 4,
        hidden: Sequence[int] = (128, 128),
        base: str = "logistic",
        **preprocessing: Any,
    ) -> None:
        super().__init__(data_dim, base=base, **preprocessing)
        D = self.data_dim
        network = coupling(D, context_dim=0, num_transforms=num_transforms, hidden=hidden, additive=True)
        self.layers = Chain([Coupling(network), DiagonalScale(D)])
