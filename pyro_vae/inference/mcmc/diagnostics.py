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

__all__ = ["bfmi", "convergence", "ess_bulk", "ess_mean", "ess_tail", "mcse_mean", "mcse_std", "rhat"]

_CHUNK = 500_000  # numbers worked on together: small enough to stay in the cache
_DIRECT_PAIRS = 4  # autocorrelations summed directly before a column goes to the FFT: most chains need no more


def convergence(draws: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """R-hat, bulk and tail effective sample size, ``(*shape,)`` each; one sort serves all three.

    Args:
        draws: ``(C, S, *shape)``; fewer than 4 draws a chain give NaN, as in ArviZ.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> r_hat, bulk, tail = convergence(torch.randn(4, 500, 3))
        >>> bool((r_hat < 1.02).all() and (bulk > 1500).all() and (tail > 1000).all())
        True
    """

    def of_columns(x: Tensor) -> Tensor:
        chains = _split(x)
        ordered, order = _sorted(chains.flatten(1))
        z = _normal_scores(ordered, order).reshape(chains.shape)
        middle = ordered.shape[-1] // 2  # the number of draws is even after the split
        z_folded = _normal_scores(*_folded(ordered, order, middle)).reshape(chains.shape)
        r_hat = torch.maximum(_between_over_within(z), _between_over_within(z_folded))
        if x.shape[-1] % 2:  # the quantiles count the middle draws that the split leaves out
            ordered = _sorted(x.flatten(1))[0]
        low, high = (_ess(_split((x <= _quantile(ordered, p)[:, None, None]).to(x.dtype))) for p in (0.05, 0.95))
        found = torch.stack([r_hat, _ess(z), torch.minimum(low, high)], -1)
        return torch.where(torch.isnan(x).flatten(1).any(-1)[:, None], torch.nan, found)

    r_hat, bulk, tail = _by_column(of_columns, draws).unbind(-1)
    return r_hat, bulk, tail


def rhat(draws: Tensor) -> Tensor:
    r"""Rank-normalised split R-hat: the larger of the bulk's and the folded draws' (Vehtari et al. 2021, section 4).

    One chain is compared with itself, first half against second, as in Stan. A constant column gives NaN.

    Args:
        draws: ``(C, S, *shape)``; fewer than 4 draws a chain give NaN, as in ArviZ.

    Returns:
        ``(*shape,)``; 1 at convergence.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> bool((rhat(torch.randn(4, 500, 3)) < 1.02).all())
        True
    """
    return convergence(draws)[0]


def ess_bulk(draws: Tensor) -> Tensor:
    """Effective sample size of the rank-normalised draws: how well the bulk is known; ``(*shape,)``."""
    return convergence(draws)[1]


def ess_tail(draws: Tensor) -> Tensor:
    """The smaller effective sample size of the 5 % and 95 % quantiles; ``(*shape,)``."""
    return convergence(draws)[2]


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


def bfmi(energy: Tensor) -> Tensor:
    r"""Energy Bayesian fraction of missing information of each chain, ``(C, *shape)`` (Betancourt 2016).

    .. math:: \sum_s (E_s - E_{s-1})^2 \, / \, \sum_s (E_s - \bar E)^2

    Below 0.3 the momentum's fresh draws change the energy too little for the chain to see all of the posterior.

    Args:
        energy: the Hamiltonian of each draw, ``(C, S, *shape)``.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> steps = torch.randn(2, 1000)
        >>> bool((bfmi(steps) > 1).all()), bool((bfmi(steps.cumsum(1)) < 0.1).all())
        (True, True)
    """
    change = energy.diff(dim=1).square().sum(1)
    return change / (energy - energy.mean(1, keepdim=True)).square().sum(1)


def _by_column(function: Callable[[Tensor], Tensor], draws: Tensor) -> Tensor:
    """Apply a function of ``(M, C, S)`` to every column of ``(C, S, *shape)``, so many at a time as fit the chunk."""
    C, S = draws.shape[:2]
    if S < 4:  # halves of one draw have no variance
        empty = function(draws.new_zeros(1, C, 4))[0]
        return draws.new_full((*draws.shape[2:], *empty.shape), torch.nan)
    columns = draws.reshape(C, S, -1)
    size = max(1, _CHUNK // max(1, C * S))
    found = torch.cat([function(part.permute(2, 0, 1).contiguous()) for part in columns.split(size, -1)])
    return found.reshape(*draws.shape[2:], *found.shape[1:])


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


def _folded(ordered: Tensor, order: Tensor, middle: int) -> tuple[Tensor, Tensor]:
    """Sort the distances from the median of sorted numbers; return them and where the numbers came from.

    Outwards from the median, the distances of either side are in order already: there are only two runs to merge.
    """
    distance = (ordered - ordered[:, middle - 1 : middle + 1].sum(-1, keepdim=True) / 2).abs()
    outwards = [torch.cat([x[:, :middle].flip(-1), x[:, middle:]], -1) for x in (distance, order)]
    found, place = _sorted(outwards[0], in_runs=True)
    return found, outwards[1].gather(-1, place)


def _sorted(flat: Tensor, *, in_runs: bool = False) -> tuple[Tensor, Tensor]:
    """Sort each row; return the sorted numbers and where they came from.

    For float32 on a CPU the numbers' bits and places are packed into one integer, which NumPy sorts several times as
    fast as torch sorts numbers with their places; rows of a few ordered runs, by merging them.
    """
    if flat.dtype != torch.float32 or flat.is_cuda:
        ordered, order = flat.sort(-1)
        return ordered, order
    bits = (flat + 0.0).view(torch.int32)  # -0 and 0 are the same number
    bits = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).long()  # in the order of the numbers
    packed = (bits << 32) | torch.arange(flat.shape[-1])
    packed.numpy().sort(-1, kind="stable" if in_runs else "quicksort")
    order = packed & 0xFFFFFFFF
    return flat.gather(-1, order), order


def _normal_scores(ordered: Tensor, order: Tensor) -> Tensor:
    """Normal scores of the ranks, in the places that the numbers came from; equal numbers share their mean rank."""
    n = ordered.shape[-1]
    start = torch.ones_like(ordered, dtype=torch.bool)
    torch.ne(ordered[:, 1:], ordered[:, :-1], out=start[:, 1:])
    # twice the mean rank, less two, is a whole number: the normal scores come from a table
    ranks = torch.arange(2 * n - 1, device=ordered.device, dtype=torch.float64) / 2 + 1
    scores = torch.special.ndtri((ranks - 0.375) / (n + 0.25)).to(ordered.dtype)
    if bool(start.all()):
        return torch.empty_like(ordered).scatter_(-1, order, scores[::2].expand_as(order))
    place = torch.arange(n, device=ordered.device, dtype=torch.int32).expand_as(order)
    first = torch.where(start, place, 0).cummax(-1).values  # first and last place of each run of equal numbers
    stop = torch.where(start, place, n).roll(-1, -1)
    stop[:, -1] = n
    last = stop.flip(-1).cummin(-1).values.flip(-1) - 1
    return torch.empty_like(ordered).scatter_(-1, order, scores[(first + last).long()])


def _between_over_within(x: Tensor) -> Tensor:
    """R-hat of ``(M, chains, draws)`` (Gelman & Rubin 1992)."""
    n = x.shape[-1]
    if n < 2:
        return torch.full_like(x[:, 0, 0], torch.nan)
    means = x.mean(-1)
    within = (x - means[..., None]).square().sum(-1).mean(-1) / (n - 1)  # several times as fast as torch's var
    between = n * means.var(-1)
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
