"""Likelihoods of counts: Poisson and negative binomial, plain and with extra zeros."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.checks import positive_number, say
from pyro_vae.likelihoods.base import OfNetwork, bounded_exp, data_width, split_last
from pyro_vae.scales import to_scale

__all__ = ["Counts", "NegativeBinomial", "Poisson", "ZeroInflatedNegativeBinomial", "ZeroInflatedPoisson"]


class Counts(OfNetwork):
    r"""Base class of likelihoods of counts: a log mean from the network, below a ceiling where there is one.

    An exponential has no bound where z leaves what training saw: a column that is nearly always 0 is then drawn in the
    hundreds. With a ceiling M the mean is :math:`1 / (e^{-f} + 1 / M)`: the logistic growth of a population of capacity
    M, which is e^f far below it.
    """

    log_max_mean: Tensor | None

    def __init__(
        self, network: nn.Module, *, max_mean: float | Tensor | str | None = None, data_dim: int | None = None
    ) -> None:
        super().__init__(network)
        ceiling: Tensor | None = None
        if isinstance(max_mean, str):
            if max_mean != "data":
                raise ValueError(say('max_mean "data", a number or None', repr(max_mean), 'max_mean="data"'))
            ceiling = torch.full((data_width(data_dim, 'max_mean="data"'),), torch.inf)
        elif isinstance(max_mean, Tensor):
            if not bool((max_mean > 0).all()):
                raise ValueError(say("positive ceilings", f"{max_mean}", "max_mean=2 * x.amax(0)"))
            ceiling = max_mean.to(torch.get_default_dtype())
        elif max_mean is not None:
            ceiling = torch.tensor(positive_number(max_mean, "max_mean", example=100.0))
        self.bounded_by_data = isinstance(max_mean, str)
        self.register_buffer("log_max_mean", None if ceiling is None else ceiling.log())

    @torch.no_grad()
    def bound_by(self, x: Tensor) -> None:
        """Where ``max_mean="data"``, let it be twice the largest count of each column ``(N, D)``; NaN is missing."""
        if self.log_max_mean is not None and self.bounded_by_data:
            self.log_max_mean.copy_((2 * x.nan_to_num(0.0).amax(0).clamp_min(1.0)).log())

    def _log_mean(self, f: Tensor) -> Tensor:
        return f if self.log_max_mean is None else -torch.logaddexp(-f, -self.log_max_mean)

    def _rate(self, f: Tensor, library: Tensor | None) -> Tensor:
        rate = bounded_exp(self._log_mean(f))
        return rate if library is None else library.unsqueeze(-1) * rate


class Poisson(Counts):
    r"""Counts, :math:`x_d|z \sim \mathrm{Poisson}(\ell\, e^{f_d(z)})` with library size :math:`\ell`.

    Args:
        network: maps z ``(..., L)`` to log rates ``(..., D)``.
        max_mean: a ceiling of the mean at library size 1, for all columns or each, as :class:`Counts` describes; with
            "data" there is none until :meth:`Counts.bound_by` has seen them, as ``pyro-vae train`` lets it.
        data_dim: D; needed by ``max_mean="data"`` only.

    Raises:
        ValueError: on a ceiling that is not positive, or a missing ``data_dim``.

    Example:
        >>> from torch import nn, zeros
        >>> Poisson(nn.Linear(2, 5))(zeros(7, 2)).event_shape
        torch.Size([5])
    """

    def forward(self, z: Tensor, library: Tensor | None = None) -> dist.TorchDistribution:
        """Return the distribution of x given z; ``library`` is ``(N,)``, one when not given."""
        return dist.Poisson(self._rate(self.network(z), library)).to_event(1)


class ZeroInflatedPoisson(Counts):
    r"""Poisson's law with extra zeros, :math:`p(x_d|z) = g_d 1[x_d = 0] + (1 - g_d) e^{-m_d} m_d^{x_d} / x_d!`.

    The mean of the Poisson part is :math:`m_d = \ell\, e^{f_d(z)}` with library size :math:`\ell`.

    Args:
        network: maps z ``(..., L)`` to log rates and the logit of g side by side, ``(..., 2 D)``.
        max_mean: a ceiling of m, as of :class:`Poisson`.
        data_dim: D; needed by ``max_mean="data"`` only.

    Raises:
        ValueError: if the network's last dimension is odd, or as of :class:`Poisson`.

    Source:
        Lambert 1992.

    Example:
        >>> from torch import nn, zeros
        >>> ZeroInflatedPoisson(nn.Linear(2, 10))(zeros(7, 2)).event_shape
        torch.Size([5])
    """

    def forward(self, z: Tensor, library: Tensor | None = None) -> dist.TorchDistribution:
        """Return the distribution of x given z; ``library`` is ``(N,)``, one when not given."""
        log_rate, gate = split_last(self.network(z), 2, "log rate and gate")
        return dist.ZeroInflatedPoisson(self._rate(log_rate, library), gate_logits=gate).to_event(1)


class _Dispersed(Counts):
    """Counts whose inverse dispersion r comes from the network, or is learnt a column."""

    def __init__(
        self,
        network: nn.Module,
        *,
        dispersion: str = "network",
        max_mean: float | Tensor | str | None = None,
        data_dim: int | None = None,
    ) -> None:
        super().__init__(network, max_mean=max_mean, data_dim=data_dim)
        if dispersion not in {"network", "learned"}:
            raise ValueError(say('dispersion "network" or "learned"', repr(dispersion), 'dispersion="learned"'))
        self.dispersion_from = dispersion
        if dispersion == "learned":
            self.raw_dispersion = nn.Parameter(torch.zeros(data_width(data_dim, 'dispersion="learned"')))

    def _split(self, out: Tensor, meaning: list[str]) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Log mean, r, and what else the network gives."""
        learned = self.dispersion_from == "learned"
        names = ["log mean", *([] if learned else ["inverse dispersion"]), *meaning]
        log_mean, *rest = split_last(out, len(names), " and ".join(names))
        raw = self.raw_dispersion if learned else rest.pop(0)
        return self._log_mean(log_mean), to_scale(raw, floor=_FLOOR).clamp_max(_CEILING), rest


class NegativeBinomial(_Dispersed):
    r"""Counts more spread than Poisson's, with mean :math:`m_d = \ell\, e^{f_d(z)}` and variance :math:`m + m^2 / r_d`.

    Args:
        network: maps z ``(..., L)`` to log mean and raw r side by side, ``(..., 2 D)``, or to the log mean alone,
            ``(..., D)``; r = softplus(raw) + 0.01, at most 1e4.
        dispersion: where r comes from: "network", or "learned" for one a column.
        max_mean: a ceiling of m at library size 1, as of :class:`Poisson`.
        data_dim: D; needed by ``dispersion="learned"`` and ``max_mean="data"`` only.

    Raises:
        ValueError: if the network's last dimension is odd where it gives both, on an unknown ``dispersion``, or as of
            :class:`Poisson`.

    Example:
        >>> from torch import nn, zeros
        >>> NegativeBinomial(nn.Linear(2, 10))(zeros(7, 2)).event_shape
        torch.Size([5])
    """

    def forward(self, z: Tensor, library: Tensor | None = None) -> dist.TorchDistribution:
        """Return the distribution of x given z; ``library`` is ``(N,)``, one when not given."""
        log_mean, r, _ = self._split(self.network(z), [])
        return dist.NegativeBinomial(r, logits=_logits(log_mean, library, r)).to_event(1)


class ZeroInflatedNegativeBinomial(_Dispersed):
    r"""A negative binomial with extra zeros, :math:`p(x_d|z) = g_d 1[x_d = 0] + (1 - g_d) \mathrm{NB}(x_d; m_d, r_d)`.

    Args:
        network: maps z ``(..., L)`` to log mean, raw r and the logit of g side by side, ``(..., 3 D)``, or to log mean
            and the logit, ``(..., 2 D)``; r = softplus(raw) + 0.01, at most 1e4.
        dispersion: where r comes from: "network", or "learned" for one a column.
        max_mean: a ceiling of m at library size 1, as of :class:`Poisson`.
        data_dim: D; needed by ``dispersion="learned"`` and ``max_mean="data"`` only.

    Raises:
        ValueError: if the network's last dimension does not hold what it gives, or as of :class:`NegativeBinomial`.

    Source:
        Lopez et al. 2018 (scVI), with the library size given as a covariate: ``model(x, library)``.

    Example:
        >>> from torch import nn, ones, zeros
        >>> ZeroInflatedNegativeBinomial(nn.Linear(2, 15))(zeros(7, 2), ones(7)).event_shape
        torch.Size([5])
    """

    def forward(self, z: Tensor, library: Tensor | None = None) -> dist.TorchDistribution:
        """Return the distribution of x given z; ``library`` is ``(N,)``, one when not given."""
        log_mean, r, (gate,) = self._split(self.network(z), ["gate"])
        logits = _logits(log_mean, library, r)
        return dist.ZeroInflatedNegativeBinomial(r, logits=logits, gate_logits=gate).to_event(1)


_FLOOR = 1e-2  # under a learnt inverse dispersion
_CEILING = 1e4  # over it: nearly Poisson, and beyond it differences of lgamma lose all digits of single precision


def _logits(log_mean: Tensor, library: Tensor | None, r: Tensor) -> Tensor:
    """log(m / r), kept off where single-precision probabilities round to 1: m stays below three million r."""
    log_size = 0.0 if library is None else library.log().unsqueeze(-1)
    return (log_mean + log_size - r.log()).clamp(-30.0, 15.0)
