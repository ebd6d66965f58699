"""What chains have found so far, shown while they run: in terminals and notebooks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from pyro_vae import checks
from pyro_vae.inference.mcmc import diagnostics
from pyro_vae.inference.target.target import Target

__all__ = ["LiveView", "watching"]

_EVERY = 0.5  # seconds between two looks
_ROWS = 20


class LiveView:
    """Keeps the draws so far and makes a table of them.

    Args:
        target: whose sites to show.

    Example:
        >>> import pyro_vae as pv
        >>> model = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(torch.nn.Linear(2, 3)))
        >>> view = LiveView(Target(model, torch.ones(5, 3)))
        >>> view.update("sampling", torch.zeros(4, 5, 2))
        >>> view.table().title
        'sampling: 1 draw of 4 chains, 5 posteriors'
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self.stage = "warm-up"
        self.last = target.origin.unsqueeze(0)
        self.draws: list[Tensor] = []

    def update(self, stage: str, u: Tensor) -> None:
        """Take where the chains are, u ``(C, N, L)``."""
        self.stage, self.last = stage, u
        if stage == "sampling":
            self.draws.append(u)

    @torch.no_grad()
    def table(self) -> Any:
        """Return a rich table: mean, standard deviation and R-hat of each number, the worst R-hat of N posteriors."""
        from rich.table import Table

        u = torch.stack(self.draws, 1) if self.draws else self.last.unsqueeze(1)  # (C, S, N, L)
        C, S, N, _ = u.shape
        kept = f"{S} draw{'s' * (S != 1)} of " if self.draws else ""
        table = Table(title=f"{self.stage}: {kept}{C} chains" + (f", {N} posteriors" if N > 1 else ""))
        for column in ("site", "mean", "std", "R-hat" if N == 1 else "largest R-hat"):
            table.add_column(column, justify="left" if column == "site" else "right")
        values = self.target.constrain(u)
        lead = 3 if self.target.per_datum else 2
        rows = [row for name, value in values.items() for row in _numbers(name, value, lead)]
        for row in rows[:_ROWS]:
            table.add_row(*row)
        if len(rows) > _ROWS:
            table.add_row(f"and {len(rows) - _ROWS} more", "", "", "")
        return table


def _numbers(name: str, value: Tensor, lead: int) -> Iterator[tuple[str, ...]]:
    """A row of each number of a site ``(C, S, (N,) *event)``; moments are means over the posteriors."""
    event = value.shape[lead:]
    flat = value.flatten(lead) if event else value.unsqueeze(-1)
    flat = flat if lead == 3 else flat.unsqueeze(2)  # (C, S, N, numbers)
    for i in range(min(flat.shape[-1], _ROWS)):
        column = flat[..., i]
        place = [int(j) for j in torch.unravel_index(torch.tensor(i), event)] if event else []
        rhat = diagnostics.convergence(column)[0].nan_to_num(-1.0).amax() if column.shape[1] >= 4 else -1.0
        std = column.flatten(0, 1).std(0).mean() if column.shape[:2].numel() > 1 else torch.nan
        label = name + (f"[{', '.join(map(str, place))}]" if place else "")
        yield label, f"{float(column.mean()):.4g}", f"{float(std):.3g}", f"{float(rhat):.3f}" if rhat > 0 else "-"


@contextmanager
def watching(
    target: Target, callback: Callable[[str, int, Tensor], None] | None, *, show: bool | str
) -> Iterator[Callable[[str, int, Tensor], None]]:
    """Give what to call after every step: the callback, and the live view where ``show`` is "live"."""
    if not isinstance(show, bool):
        checks.among(show, ["live"], "progress, if not True or False,")
    if isinstance(show, bool):
        yield (lambda *_: None) if callback is None else callback
        return
    view, seen = LiveView(target), time.monotonic()
    with _screen() as screen:

        def told(stage: str, step: int, u: Tensor) -> None:
            nonlocal seen
            view.update(stage, u)
            if callback is not None:
                callback(stage, step, u)
            if time.monotonic() - seen > _EVERY:
                screen(view.table())
                seen = time.monotonic()

        try:
            yield told
        finally:
            screen(view.table())


@contextmanager
def _screen() -> Iterator[Callable[[Any], None]]:
    """Give what shows a table in the place of the last one.

    In a notebook that is an output of the cell, which is saved with it; rich's own, a widget, is not.
    """
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True)
    if not console.is_jupyter:
        with Live(console=console, auto_refresh=False) as live:
            yield lambda table: live.update(table, refresh=True)
        return
    from IPython.display import DisplayHandle

    cell, shown = DisplayHandle(), False

    def show(table: Any) -> None:
        nonlocal shown
        (cell.update if shown else cell.display)(table)
        shown = True

    yield show
