"""Posterior collapse: how much each latent dimension says about the data."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae import checks
from pyro_vae.checks import positive_integer, say
from pyro_vae.inference.posterior import named_posterior
from pyro_vae.inference.target.program import Program
from pyro_vae.inference.target.target import Target, as_target
from pyro_vae.inference.variational.objectives.weighted import kl_per_dimension

__all__ = ["Collapse", "CollapseWarning", "collapse"]


_DRAWS = 512  # of a posterior without moments in closed form


class CollapseWarning(UserWarning):
    """The posterior of every latent dimension ignores the data."""


@dataclass(frozen=True)
class Collapse:
    """What :func:`collapse` measured.

    Attributes:
        kl: mean KL(q(z_l|x) || p(z_l)) over data, ``(L,)`` nats; NaN where the divergence is not a sum over dimensions
            in closed form. Of a prior of two levels, L counts both, the upper one first.
        mutual_information: I(z_l; x) under the guide, ``(L,)`` nats; never above log N.
        variance_of_mean: variance over data of the posterior mean of z_l, ``(L,)``.
        threshold: a dimension is active where that variance is above this.
    """

    kl: Tensor
    mutual_information: Tensor
    variance_of_mean: Tensor
    threshold: float

    @property
    def active(self) -> Tensor:
        """Which dimensions are active, ``(L,)``."""
        return self.variance_of_mean > self.threshold

    @property
    def active_units(self) -> int:
        """How many dimensions are active."""
        return int(self.active.sum())

    @property
    def collapsed(self) -> bool:
        """Whether no dimension is active."""
        return self.active_units == 0

    def __str__(self) -> str:
        total = float(self.mutual_information.sum())
        return f"{self.active_units} of {len(self.active)} dimensions active, with {total:.2f} nats of information"


@torch.no_grad()
def collapse(
    model: Program | Target,
    guide: Any,
    x: Tensor | tuple[Any, ...] | None = None,
    *,
    num_samples: int = 16,
    threshold: float = 0.01,
    max_data: int = 1000,
) -> Collapse:
    r"""Measure the posterior collapse of a guide.

    A dimension is active if :math:`\mathrm{Var}_x(E_{q(z_l|x)}[z_l]) > 0.01`. Its mutual information is
    :math:`I_l = E_x KL(q(z_l|x) \| q(z_l))` with :math:`q(z_l) = \frac1N \sum_n q(z_l|x_n)`, by draws; marginals of q
    are taken as Gaussians of its means and variances, which is exact for Gaussian guides. Where q has no moments in
    closed form, they are those of 512 draws; the variance over data is then rid of the draws' own.

    Source: Burda, Grosse & Salakhutdinov 2016, section 5.2 (active units); Hoffman & Johnson 2016 (information).

    Args:
        model: a ``Model``, whose prior gives the KL, or any Pyro program; or a Target in place of it and x.
        guide: a ``Guide``, or anything with ``posterior(x)``; it is looked at in evaluation mode.
        x: data ``(N, *D)``, or the program's arguments as a tuple.
        num_samples: draws a datum for the mutual information.
        threshold: of the variance of the posterior mean, in units of z squared.
        max_data: rows used for the mutual information, whose cost grows with their square.

    Returns:
        KL, mutual information and activity by dimension.

    Raises:
        TypeError: if the guide has no ``posterior``, or a number is not whole.
        ValueError: if there are fewer than two data, or a number is not positive.

    Warns:
        CollapseWarning: if no dimension is active.

    Example:
        >>> from pyro_vae import Model, guides, likelihoods, networks, priors
        >>> model = Model(priors.StandardNormal(2), likelihoods.Bernoulli(networks.mlp(2, 20)))
        >>> collapse(model, guides.DiagonalGaussian(networks.mlp(20, 4)), torch.randn(50, 20)).active_units
        2
    """
    positive_integer(num_samples, "num_samples")
    if not callable(getattr(guide, "posterior", None)):
        raise TypeError(say("a guide with posterior(x)", type(guide).__name__, "pyro_vae.guides.DiagonalGaussian"))
    if isinstance(model, Target):
        model, args = model.model, as_target(model, x).args
    else:  # guide and prior alone are looked at: data that the likelihood has no density for are none of its business
        args = x if isinstance(x, tuple) else (x,)
    if len(checks.tensor(args[0])) < 2:
        raise ValueError(say("at least two data", f"{len(args[0])}", "a larger x"))
    q = named_posterior(guide, args)
    mean, variance, noise = _moments(q)
    information = _information(mean[:max_data], variance[:max_data], num_samples)
    result = Collapse(_kl(model, q, mean), information, (mean.var(0) - noise).clamp_min(0), threshold)
    if result.collapsed:
        remedy = "a KL warm-up, objectives.FreeBitsELBO, or a weaker likelihood"
        got = f"a largest variance of the posterior mean of {float(result.variance_of_mean.max()):.1e}"
        warnings.warn(say("a posterior that depends on x", got, remedy), CollapseWarning, stacklevel=2)
    return result


def _moments(q: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and variance of q, ``(N, L)``, and the mean variance of the former as an estimate, ``(L,)``."""
    try:
        mean, variance = q.mean, q.variance
    except NotImplementedError:  # a transformed guide, or one of two sites
        draws = q.sample((_DRAWS,))  # (_DRAWS, N, L)
        variance = draws.var(0)
        return draws.mean(0), variance, variance.mean(0) / _DRAWS
    return mean, variance, torch.zeros_like(mean[0])


def _kl(model: Any, q: Any, mean: Tensor) -> Tensor:
    try:
        kl = kl_per_dimension(q, model.prior())
    except (NotImplementedError, AttributeError):  # a prior of two levels, or a program without a prior object
        kl = None
    return torch.full_like(mean[0], torch.nan) if kl is None else kl.mean(0)


def _information(mean: Tensor, variance: Tensor, num_samples: int) -> Tensor:
    N = len(mean)
    q = torch.distributions.Normal(mean, variance.clamp_min(1e-12).sqrt())
    z = q.sample((num_samples,))  # (S, N, L)
    total = torch.zeros_like(mean[0])
    for draw in z:
        cross = q.log_prob(draw.unsqueeze(1))  # (N, N, L): draw of a row under the posterior of a column
        total += (q.log_prob(draw) - torch.logsumexp(cross, 1) + math.log(N)).mean(0)
    return total / num_samples
