"""``pyro-vae atlas``: all routes on the classic posteriors, with a map and a page for each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pyro_vae.cli.options import Json
from pyro_vae.cli.output import show

__all__ = ["atlas"]


def _known_problems(incomplete: str) -> list[str]:
    from pyro_vae.atlas import names

    return [name for name in names() if name.startswith(incomplete)]


def _known_routes(incomplete: str) -> list[str]:
    from pyro_vae.atlas import ROUTES

    return [name for name in ROUTES if name.lower().startswith(incomplete.lower())]


def atlas(
    problems: Annotated[
        list[str] | None,
        typer.Argument(autocompletion=_known_problems, help="Posteriors by name; all if none.", show_default=False),
    ] = None,
    route: Annotated[
        list[str] | None,
        typer.Option(autocompletion=_known_routes, help="A route by name; again for each. All if none."),
    ] = None,
    budget: Annotated[
        list[int] | None,
        typer.Option(min=100, help="Gradients that a route may spend; again for each. Default: 1000, 5000, 25000."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Run each cell with so many seeds.")] = 1,
    quick: Annotated[
        bool, typer.Option("--quick", help="Eight posteriors, nine routes, one small budget: five minutes.")
    ] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    listed: Annotated[bool, typer.Option("--list", help="List posteriors and routes, and do nothing else.")] = False,
    output: Annotated[Path, typer.Option(help="The folder; one that exists is gone on with.")] = Path("atlas"),
    json: Json = False,
) -> None:
    """Run every route over classic posteriors whose truth is known: where does variational inference fail?

    What is done is kept: the same command again goes on, also with more names, budgets or seeds. At the end stand the
    map, a page for each posterior, and how often the verdicts were right.

    Examples:
    pyro-vae atlas --quick

    pyro-vae atlas funnel eight_schools_centred --route "mean field" --route NUTS --output atlas
    """
    from pyro_vae.atlas import BUDGETS, QUICK, QUICK_ROUTES, ROUTES, load, names, run
    from pyro_vae.report.atlas import write_atlas

    if listed:
        titles = {name: load(name).title for name in names()}
        text = "\n".join(
            ["posteriors", *(f"  {n:28s} {t}" for n, t in titles.items()), "routes", *(f"  {r}" for r in ROUTES)]
        )
        show({"posteriors": titles, "routes": list(ROUTES)}, text, as_json=json)
        return
    found = run(
        problems or (QUICK if quick else None),
        routes=route or (QUICK_ROUTES if quick else None),
        budgets=budget or ((5_000,) if quick else BUDGETS),
        seeds=range(seeds),
        path=output,
        jobs=jobs,
        progress=not json,
    )
    page = write_atlas(found, output)
    table = found.to_dataframe().drop(columns=["reason", "said"]).to_dict("records")
    show(
        {"page": page, "cells": table, "verdicts": found.verdicts().to_dict("index")},
        f"{found}\n\n{page}",
        as_json=json,
    )
