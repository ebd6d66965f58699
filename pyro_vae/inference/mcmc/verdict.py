"""What chains say of themselves in one line: what is wrong, where, and what to try."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyro_vae.inference.mcmc import diagnostics

if TYPE_CHECKING:
    from pyro_vae.inference.mcmc.draws import Draws

__all__ = ["verdict"]

_RARE = 0.05  # exchanges between temperatures below this hardly carry a chain to another mode
_LOW_BFMI = 0.3  # Stan's threshold
_OFTEN = 0.01  # a share of trees at the limit that costs more than the limit saves
_LEAST_DIVERGENT = 10  # divergent draws that show where they lie
_APART = 0.3  # Kolmogorov-Smirnov distance from the other draws that says so


def verdict(draws: Draws) -> str:
    """Say how many posteriors converged, which did not and at which site, what else is wrong and what to try."""
    good = draws.converged()
    parts = [f"{int(good.sum()):,} of {draws.num_data:,} posteriors converged (R-hat < 1.01, ESS > 400)"]
    if not bool(good.all()):
        parts.append(f"these did not: {_listed((~good).nonzero().flatten())}{_worst(draws)}")
    parts += [*_of_divergences(draws), *_of_energies(draws), *_of_depths(draws)]
    if draws.exchange is not None and bool((draws.exchange < _RARE).any()):
        rows = (draws.exchange < _RARE).any(0).nonzero().flatten()
        parts.append(f"some temperatures exchange less than {_RARE:.0%} of the time, in posteriors {_listed(rows)}")
    if not draws.complete:
        parts.append(f"interrupted after {draws.num_samples:,} draws a chain")
    return "; ".join(parts)


def _worst(draws: Draws) -> str:
    """The site with the largest R-hat, or the smallest effective sample size where no R-hat is too large."""
    r_hats = {name: float(value.nan_to_num(0.0).max()) for name, value in draws.rhat.items()}
    name = max(r_hats, key=r_hats.__getitem__)
    if r_hats[name] >= 1.01:
        return f" (R-hat {r_hats[name]:.2f} at {name!r}; more warm-up, or look for several modes)"
    smallest = {
        name: float(torch.minimum(draws.ess_bulk[name], draws.ess_tail[name]).nan_to_num(torch.inf).min())
        for name in r_hats
    }
    name = min(smallest, key=smallest.__getitem__)
    return f" (ESS {smallest[name]:.0f} at {name!r}; more draws)" if smallest[name] < torch.inf else ""


def _of_divergences(draws: Draws) -> Iterator[str]:
    if not bool(draws.divergences.any()):
        return
    rows = draws.divergences.nonzero().flatten()
    where = f", in posteriors {_listed(rows)}" if draws.num_data > 1 else ""
    said = f"{int(draws.divergences.sum()):,} divergent draws{where}"
    found = _where_divergent(draws, int(draws.divergences.argmax()))
    if found is None:
        yield f"{said}: try target_accept_prob=0.95"
        return
    name, side = found
    remedy = "a prior that keeps it from there, or target_accept_prob=0.95"
    if side == "small":  # as a scale is in the neck of a funnel
        remedy = "reparametrise what depends on it (pyro.infer.reparam.LocScaleReparam(0.0)), or try "
        remedy += "target_accept_prob=0.95"
    yield f"{said}, where {name!r} is {side}: {remedy}"


def _where_divergent(draws: Draws, row: int) -> tuple[str, str] | None:
    """The site whose value tells one posterior's divergent draws best from the others, and whether it is low or high.

    It is the one of the largest Kolmogorov-Smirnov distance; None where there are too few, or none tells them. Of
    several as large within a standard error, and of many columns some are so by chance, it is a low one: a scale.
    """
    if draws.diverging is None:
        return None
    diverging = draws.diverging[:, :, row].flatten()
    if not _LEAST_DIVERGENT <= int(diverging.sum()) < len(diverging) - _LEAST_DIVERGENT:
        return None
    found: list[tuple[float, str]] = []
    for name, value in draws.samples.items():
        if name in draws.marginals:
            continue
        columns = value[:, :, row].flatten(0, 1).flatten(1) if value.dim() > 3 else value[:, :, row].reshape(-1, 1)
        for column in columns.unbind(-1):
            order = diverging[column.argsort()].double()
            gap = (order / order.sum()).cumsum(0) - ((1 - order) / (1 - order).sum()).cumsum(0)
            found.append((float(gap[gap.abs().argmax()]), name))
    low, high = max(found), min(found)
    if max(low[0], -high[0]) <= _APART:
        return None
    standard_error = 0.5 / float(diverging.sum()) ** 0.5
    return (low[1], "small") if low[0] >= -high[0] - standard_error else (high[1], "large")


def _of_energies(draws: Draws) -> Iterator[str]:
    if draws.energy is None or draws.num_samples < 4:
        return
    fraction = diagnostics.bfmi(draws.energy.double())
    if bool((fraction < _LOW_BFMI).any()):
        chains = (fraction < _LOW_BFMI).any(-1).nonzero().flatten()
        yield (
            f"E-BFMI {float(fraction.nan_to_num(torch.inf).min()):.2f} in chains {_listed(chains)}: "
            "tails too heavy for the momentum; reparametrise scales and what they scale, or draw more"
        )


def _of_depths(draws: Draws) -> Iterator[str]:
    if draws.tree_depth is None or draws.max_tree_depth is None:
        return
    share = float((draws.tree_depth >= draws.max_tree_depth).double().mean())
    if share > _OFTEN:
        yield (
            f"{share:.0%} of the trees end at max_tree_depth={draws.max_tree_depth}: "
            f"try {draws.max_tree_depth + 2}, or centre and scale what the sites multiply"
        )


def _listed(rows: Tensor, most: int = 8) -> str:
    """Name the first few of some posteriors, and count the others."""
    shown = ", ".join(str(int(row)) for row in rows[:most])
    return shown if len(rows) <= most else f"{shown} and {len(rows) - most:,} more"
