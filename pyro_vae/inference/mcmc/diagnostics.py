r"""R-hat, effective sample size and Monte Carlo error of many posteriors at once.

The definitions are those of ArviZ and Stan (Vehtari, Gelman, Simpson, Carpenter & Buerkner 2021, "Rank-normalization,
folding, and localization"): the same numbers as ``arviz.rhat``, ``arviz.ess`` and ``arviz.mcse``, for all columns of a
tensor together. Draws are ``(C, S, *shape)``; each result is ``(*shape,)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["ess_bulk", "ess_mean", "ess_tail", "mcse_mean", "mcse_std", "rhat"]

_CHUNK = 4_000_000  # numbers worked on together: bounds the memory of a diagnostic to some 100 MB
_DIRECT_PAIRS = 4  # autocorrelations summed directly before a column goes to the FFT: most chains need no more


def rhat(draws: Tensor) -> Tensor:
    r"""Rank-normalised split R-hat: the larger of the bulk's and the folded draws' (Vehtari et al. 2021, section 4).

    One chain is compared with itself, first half against second, as in Stan. A constant column gives NaN.

    Args:
        draws: ``(C, S, *shape)`` with at least 4 draws a chain.

    Returns:
        ``(*shape,)``; 1 at convergence.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> bool((rhat(torch.randn(4, 500, 3)) < 1.02).all())
        True
    """

    def of_columns(x: Tensor) -> Tensor:
        chains = _split(x)
        ordered = chains.flatten(1).sort(-1).values
        middle = ordered.shape[-1] // 2  # the number of draws is even after the split
        folded = (chains - (ordered[:, middle - 1 : middle + 1].sum(-1) / 2)[:, None, None]).abs()
        return torch.maximum(_between_over_within(_z_scale(chains)), _between_over_within(_z_scale(folded)))

    return _by_column(of_columns, draws)


def ess_bulk(draws: Tensor) -> Tensor:
    """Effective sample size of the rank-normalised draws: how well the bulk is known; ``(*shape,)``."""
    return _by_column(lambda x: _ess(_z_scale(_split(x))), draws)


def ess_tail(draws: Tensor) -> Tensor:
    """The smaller effective sample size of the 5 % and 95 % quantiles; ``(*shape,)``."""

    def of_columns(x: Tensor) -> Tensor:
        ordered = x.flatten(1).sort(-1).values
        low, high = (_ess(_split((x <= _quantile(ordered, p)[:, None, None]).to(x.dtype))) for p in (0.05, 0.95))
        return torch.where(torch.isnan(ordered[:, -1]), torch.nan, torch.minimum(low, high))

    return _by_column(of_columns, draws)


def ess_mean(draws: Tensor) -> Tensor:
    """Effective sample size of the mean; ``(*shape,)``."""
    return _by_column(lambda x: _ess(_split(x)), draws)


def mcse_mean(draws: Tensor) -> Tensor:
    r"""Monte Carlo standard error of the mean, :math:`s / \sqrt{ESS}`; ``(*shape,)``, in units of the draws."""
    return _by_column(lambda x: x.flatten(1).std(-1) / _ess(_split(x)).sqrt(), draws)


def mcse_std(draws: Tensor) -> Tensor:
    r"""Monte Carlo standard error of the standard deviation; ``(*shape,)``, in units of the draws.

    .. math:: \sqrt{(m_4 - m_2^2) / (4\, m_2\, ESS)}

    with the central moments :math:`m_k` and the effective sample size of the squared deviations (delta method).
    """

    def of_columns(x: Tensor) -> Tensor:
        squared = (x - x.mean((-2, -1), keepdim=True)).square()
        m2, m4 = squared.mean((-2, -1)), squared.square().mean((-2, -1))
        return ((m4 - m2.square()).clamp(min=0) / (4 * m2 * _ess(_split(squared)))).sqrt()

    return _by_column(of_columns, draws)


def _by_column(function: Callable[[Tensor], Tensor], draws: Tensor) -> Tensor:
    """Apply a function of ``(M, C, S)`` to every column of ``(C, S, *shape)``, so many at a time as fit the chunk."""
    C, S = draws.shape[:2]
    columns = draws.reshape(C, S, -1)
    size = max(1, _CHUNK // max(1, C * S))
    parts = [function(part.permute(2, 0, 1).contiguous()) for part in columns.split(size, -1)]
    return torch.cat(parts).reshape(draws.shape[2:])


def _split(x: Tensor) -> Tensor:
    """``(M, C, S)`` to ``(M, 2 C, S // 2)``: first and last half of each chain."""
    half = x.shape[-1] // 2
    return torch.cat([x[..., :half], x[..., -half:]], 1)


def _quantile(ordered: Tensor, probability: float) -> Tensor:
    """Linear interpolation between order statistics along the last dimension."""
    position = probability * (ordered.shape[-1] - 1)
    low = math.floor(position)
    high = min(low + 1, ordered.shape[-1] - 1)
    return torch.lerp(ordered[..., low], ordered[..., high], position - low)


def _z_scale(x: Tensor) -> Tensor:
    """Normal scores of the ranks over all chains; tied draws share their mean rank."""
    flat = x.flatten(1)
    n = flat.shape[-1]
    ordered, order = flat.sort(-1)
    start = torch.ones_like(ordered, dtype=torch.bool)
    start[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    where = torch.arange(n, device=x.device, dtype=torch.int32).expand_as(order)
    if bool(start.all()):
        twice = 2 * where
    else:  # first and last place of each run of equal draws
        first = torch.where(start, where, 0).cummax(-1).values
        stop = torch.where(start, where, n).roll(-1, -1)
        stop[:, -1] = n
        twice = first + stop.flip(-1).cummin(-1).values.flip(-1) - 1
    # twice the mean rank, less two, is a whole number: the normal scores come from a table
    ranks = torch.arange(2 * n - 1, device=x.device, dtype=torch.float64) / 2 + 1
    scores = torch.special.ndtri((ranks - 0.375) / (n + 0.25)).to(x.dtype)
    z = torch.empty_like(flat).scatter_(-1, order, scores[twice.long()])
    return z.reshape(x.shape)


def _between_over_within(x: Tensor) -> Tensor:
    """R-hat of ``(M, chains, draws)`` (Gelman & Rubin 1992)."""
    n = x.shape[-1]
    within = x.var(-1).mean(-1)
    between = n * x.mean(-1).var(-1)
    return ((between / within + n - 1) / n).sqrt()


def _ess(x: Tensor) -> Tensor:
    """Effective sample size of ``(M, chains, draws)`` from Geyer's initial monotone sequence (Stan's reference, 16.4).

    Autocorrelations at few lags are cheap to sum directly, and a well-mixing chain needs few; the other columns go
    through the FFT.
    """
    chains, n = x.shape[1:]
    constant = x.flatten(1).amax(-1) == x.flatten(1).amin(-1)
    means = x.mean(-1)
    x = x - means[..., None]
    variance = x.square().sum(-1).mean(-1) / (n - 1)
    total = variance * (n - 1) / n + (means.var(-1) if chains > 1 else 0)

    last = max(0, (n - 3) // 2)  # the last pair of lags that counts
    few = min(_DIRECT_PAIRS - 1, last)
    lags = [(x[..., : n - t] * x[..., t:]).sum(-1).mean(-1) / n for t in range(2 * few + 2)]
    tau, done = _geyer(1 - (variance[:, None] - torch.stack(lags, -1)) / total[:, None], complete=few == last)
    rest = (~done & ~constant).nonzero().flatten()
    if len(rest):
        size = 2 ** math.ceil(math.log2(2 * n))
        power = torch.fft.rfft(x[rest], n=size).abs().square().mean(1)
        covariance = torch.fft.irfft(power, n=size)[:, : 2 * last + 2] / n
        tau[rest], _ = _geyer(1 - (variance[rest, None] - covariance) / total[rest, None], complete=True)
    draws = chains * n
    ess = draws / tau.clamp(min=1 / math.log10(draws))
    return torch.where(constant, float(draws), ess)


def _geyer(rho: Tensor, *, complete: bool) -> tuple[Tensor, Tensor]:
    """Autocorrelation time from autocorrelations ``(M, even number of lags)``, and where the sequence has ended.

    Pairs of neighbouring lags are summed until the first sum that is not positive, made monotone, and added.
    """
    rho = torch.cat([torch.ones_like(rho[:, :1]), rho[:, 1:]], -1)
    even, pairs = rho[:, ::2], rho[:, ::2] + rho[:, 1::2]
    ended = pairs <= 0
    done = ended.any(-1)
    final = torch.where(done, ended.to(torch.uint8).argmax(-1), pairs.shape[-1] - 1)[:, None]  # (M, 1)
    before = torch.arange(pairs.shape[-1], device=rho.device) < final
    tail = even.gather(-1, final)
    tail = torch.where((tail > 0) | (pairs.gather(-1, final) >= 0), tail, 0)[:, 0]
    monotone = torch.cummin(pairs, -1).values
    tau = -1 + 2 * torch.where(before, monotone, 0).sum(-1) + tail
    return tau, done | complete
