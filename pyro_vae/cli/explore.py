"""``pyro-vae explore``: a run's latent plane as a page to play with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pyro_vae.cli.options import Data, Json, RunFolder, Split, TrustCode, choose, opened
from pyro_vae.cli.output import show

__all__ = ["explore"]


def explore(
    run: RunFolder,
    output: Annotated[Path | None, typer.Option(help="The HTML file; else explore.html in the run's folder.")] = None,
    data: Data = None,
    split: Split = "test",
    rows: Annotated[int, typer.Option(min=1, help="How many data the page holds, from the first.")] = 60,
    json: Json = False,
    trust_code: TrustCode = False,
) -> None:
    """Write one HTML page to play with a run of two latent dimensions: drag z, draw x, bend q, let chains walk.

    It opens offline, and its address holds all that is set. Train with --latent-dim 2.

    Example:
    pyro-vae explore runs/first
    """
    with opened(run, trust_code=trust_code) as trained:
        from pyro_vae.explorer.explore import explore as write

        path = write(
            trained.model,
            trained.guide,
            choose(trained, data, split, rows)[:],
            path=output or run / "explore.html",
            title=f"The latent plane of {run.resolve().name}",
            schema=trained.prepared.schema,
            rows=rows,
        )
    show({"page": path}, f"page: {path}", as_json=json)
