"""``pyro-vae shards``: one large array as a folder of smaller ones, which ``train`` takes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pyro_vae.cli.options import Json, Seed
from pyro_vae.cli.output import show

__all__ = ["shards"]


def shards(
    data: Annotated[Path, typer.Argument(help="An array or a table of numbers.", show_default=False)],
    *,
    output: Annotated[Path, typer.Option(help="The folder; it must have no .npy files yet.")],
    number: Annotated[
        int, typer.Option(min=1, help="How many: at least one for each process; one must fit into memory.")
    ] = 16,
    in_order: Annotated[
        bool, typer.Option("--in-order", help="Cut the rows as they lie; else they are dealt at random.")
    ] = False,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Cut data into shards for several processes: each reads its own, one after the other, in a new order every epoch.

    An .npy file is read once, piece by piece, and may be larger than memory. A table loses the names of its columns.

    Example:
    pyro-vae shards images.npy --output shards --number 64
    """
    from pyro_vae.checks import say
    from pyro_vae.datasets.files import load
    from pyro_vae.datasets.sharding import write_shards

    loaded = load(data, memory_map=True)
    if loaded.categories:
        names = ", ".join(map(repr, loaded.categories))
        raise ValueError(
            say("columns of numbers", f"words in {names}", "codes in their place, or removing the columns")
        )
    write_shards(loaded.values, output, number, shuffle=not in_order, seed=seed)
    result = {"output": output, "number": number, "rows": len(loaded.values)}
    how = "as they lie" if in_order else "dealt at random"
    show(result, f"{len(loaded.values)} rows, {how}, in {number} shards: {output}", as_json=json)
