"""The density that a kernel estimate makes of samples: what papers on GANs once reported as their likelihood."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vae.checks import positive_number, same_width, say

__all__ = ["Parzen", "parzen"]


@dataclass(frozen=True)
class Parzen:
    """A Parzen-window estimate.

    Attributes:
        log_density: log of the estimate at each datum, ``(N,)``, nats.
        scale: the window's standard deviation.
    """

    log_density: Tensor
    scale: float


def parzen(samples: Tensor, x: Tensor, *, scale: float | None = None, x_validation: Tensor | None = None) -> Parzen:
    r"""Estimate a density from samples by Gaussian windows, :math:`\frac{1}{S} \sum_s N(x; x_s, \sigma^2 I)`.

    In many dimensions it is far below the density that the samples were drawn from, and does not even order models as
    that density does (Theis, van den Oord & Bethge 2016; Wu et al. 2017). It is here to be compared with.

    Args:
        samples: ``(S, D)``.
        x: data to score, ``(N, D)``.
        scale: sigma; if not given, the one of 25 between 0.01 and 1 standard deviation of the data that is best on
            ``x_validation``.
        x_validation: data that choose sigma.

    Raises:
        ValueError: if the widths differ, or neither sigma nor data that choose it are given.

    Source:
        Breuleux, Bengio & Vincent 2011; Goodfellow et al. 2014, section 5.

    Example:
        >>> parzen(torch.zeros(1, 2), torch.zeros(3, 2), scale=1.0).log_density
        tensor([-1.8379, -1.8379, -1.8379], dtype=torch.float64)
    """
    same_width(samples, x, "samples", "x")
    if scale is None:
        if x_validation is None:
            raise ValueError(say("scale or x_validation", "neither", "x_validation=some held-out data"))
        same_width(samples, x_validation, "samples", "x_validation")
        scales = (torch.logspace(-2, 0, 25) * float(x_validation.std())).tolist()
        scale = max(scales, key=lambda sigma: float(_log_density(samples, x_validation, sigma).mean()))
    scale = positive_number(scale, "scale")
    return Parzen(_log_density(samples, x, scale), scale)


def _log_density(samples: Tensor, x: Tensor, scale: float) -> Tensor:
    """Log of the mean window at each datum, ``(N,)``, in blocks of data."""
    samples, x = samples.flatten(1).double(), x.flatten(1).double()
    S, D = samples.shape
    constant = math.log(S) + D * math.log(scale * math.sqrt(2 * math.pi))
    parts = [(torch.cdist(part, samples).square() / (-2 * scale**2)).logsumexp(-1) for part in x.split(_BLOCK)]
    return torch.cat(parts) - constant


_BLOCK = 500  # data at once
