"""Figures of the evaluation: gaps, verdicts, calibration. Each function returns a matplotlib figure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyro_vae.checks import say
from pyro_vae.evaluation.evidence.bracket import Bracket
from pyro_vae.evaluation.posterior.calibration import Calibration, ecdf_band
from pyro_vae.evaluation.posterior.gaps import Ledger
from pyro_vae.evaluation.posterior.verdict import DO_NOT_TRUST, REWEIGHT, TRUST, UNDECIDED, Verdict
from pyro_vae.plots import canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["bracket_widths", "calibration_ranks", "gap_ledger", "verdict_map"]

_COLOURS = {TRUST: "#00798c", REWEIGHT: "#edae49", DO_NOT_TRUST: "#d1495b", UNDECIDED: "0.6"}


def gap_ledger(ledgers: Ledger | dict[str, Ledger], *, title: str = "Why the ELBO is below log p(x)") -> Figure:
    """Draw mean approximation and amortisation gaps as stacked bars, one a ledger.

    Args:
        ledgers: one, or several by name, such as those of the training and the test set.
        title: of the figure.

    Raises:
        ValueError: if there is none.
    """
    named = {"data": ledgers} if isinstance(ledgers, Ledger) else ledgers
    if not named:
        raise ValueError(say("at least one ledger", "none", '{"test": pv.gaps(model, x, guide)}'))
    figure, axes = canvas.one(1.8 + 1.5 * len(named), 4.0)
    for place, ledger in enumerate(named.values()):
        good = ledger.resolved
        base = 0.0
        for value, colour, label in (
            (ledger.approximation[good], "#2e4057", "approximation"),
            (ledger.amortisation[good], "#d1495b", "amortisation"),
        ):
            height = float(value.mean())
            error = float(value.double().std() / len(value) ** 0.5) if len(value) > 1 else 0.0
            axes.bar(place, height, 0.6, bottom=base, yerr=error, color=colour, label=label if place == 0 else None)
            base += height
    axes.set_xticks(range(len(named)), list(named))
    axes.set(ylabel="nats per datum", title=title)
    axes.legend(frameon=False)
    return figure


def verdict_map(found: Verdict, *, title: str = "Which posteriors can be trusted") -> Figure:
    """Draw every datum at its k-hat and its gap, coloured by its verdict.

    Args:
        found: what ``verdict`` returned.
        title: of the figure.
    """
    figure, axes = canvas.one(6.4, 4.2)
    for name, colour in _COLOURS.items():
        rows = found.rows(name)
        if rows:
            k, gap = found.weights.pareto_k[rows].cpu(), found.gap[rows].clamp_min(1e-4).cpu()
            axes.scatter(k, gap, s=14, color=colour, label=f"{name} ({len(rows)})", linewidths=0)
    axes.axvline(0.7, color="0.6", lw=0.8, ls=":")
    axes.set(xlabel=r"Pareto $\hat k$", ylabel="KL(q || p), nats", yscale="log", title=title)
    axes.legend(frameon=False)
    return figure


def calibration_ranks(found: Calibration, *, title: str = "Calibration by simulation") -> Figure:
    """Draw rank histograms, and ECDFs less the diagonal with their simultaneous 95 % band.

    Args:
        found: what ``calibrate`` returned.
        title: of the figure.
    """
    N, L = found.ranks.shape
    figure, (left, right) = canvas.panels(2, 2, cell=(4.5, 3.8), margin=0)
    place, low, high = ecdf_band(N)
    right.fill_between(place, low - place, high - place, color="0.9")
    bins = torch.linspace(-0.5, found.num_draws + 0.5, 21)
    columns = {f"latent {i}": (found.ranks[:, i].double() + 0.5) / (found.num_draws + 1) for i in range(min(L, 8))}
    for i in range(min(L, 8)):
        left.hist(found.ranks[:, i].cpu().numpy(), bins=bins.tolist(), histtype="step", label=f"latent {i}")
    left.axhline(N / 20, color="0.6", lw=0.8, ls=":")
    columns |= {"random points (TARP)": found.fraction, "log-likelihood": found.likelihood_fraction}
    for name, values in columns.items():
        right.plot(place, _ecdf(values, place) - place, lw=1.2, label=name)
    left.set(xlabel="rank of the truth", ylabel="simulations", title=title)
    right.set(xlabel="fraction", ylabel="ECDF less diagonal", title="95 % band in grey")
    right.legend(frameon=False, fontsize=8)
    return figure


def bracket_widths(found: Bracket, *, title: str = "The evidence from both sides") -> Figure:
    """Draw lower and upper bounds of simulated data, in the order of their evidence.

    Args:
        found: what ``bracket`` returned.
        title: of the figure.
    """
    figure, axes = canvas.one(6.4, 4.0)
    order = ((found.lower + found.upper) / 2).argsort().cpu()
    place = torch.arange(len(order))
    axes.errorbar(place, found.lower[order].cpu(), found.lower_error[order].cpu(), fmt=".", label="forwards (lower)")
    axes.errorbar(place, found.upper[order].cpu(), found.upper_error[order].cpu(), fmt=".", label="backwards (upper)")
    axes.set(xlabel="simulated datum, in order", ylabel="log p(x), nats", title=title)
    axes.legend(frameon=False)
    return figure


def _ecdf(values: Tensor, place: Tensor) -> Tensor:
    return torch.searchsorted(values.double().cpu().sort().values, place, right=True) / len(values)
