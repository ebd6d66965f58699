"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["Data", "Json", "Output", "Rows", "RunFolder", "Split", "TrustCode", "choose", "load"]

RunFolder = Annotated[Path, typer.Argument(help="The folder of a finished run.", show_default=False)]
Data = Annotated[Path | None, typer.Option(help="Other data with the same columns; else the run's own.")]
Split = Annotated[str, typer.Option(help="Which of the run's own data: test, validation, train or all.")]
Rows = Annotated[int, typer.Option(min=1, help="Take at most so many data, from the first.")]
Output = Annotated[Path | None, typer.Option(help="A .csv, .parquet or .npz file to write.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
TrustCode = Annotated[bool, typer.Option("--trust-code", help="Import the run's own Python code, which runs it.")]


def load(folder: Path, *, trust_code: bool) -> Any:
    """Return the finished run in a folder."""
    from pyro_vae.runs.folder import Run
    from pyro_vae.runs.training import load_run

    return load_run(Run(folder), trust_code=trust_code)


def choose(trained: Any, data: Path | None, split: str, rows: int) -> Any:
    """Return the data that a command is about, ``(N, D)``, as the model sees them; rows on disk if they are many."""
    from pyro_vae.checks import say
    from pyro_vae.runs.build import encoded, load_data

    if data is not None:
        x = encoded(load_data(str(data), memory_map="auto"), trained.prepared.schema)
    else:
        x = trained.prepared.split(split)
    if not len(x):
        raise ValueError(say(f"data in the split {split!r}", "none", "--split train"))
    return x if rows >= len(x) > _FEW else x[:rows]


_FEW = 20_000  # rows that are read at once, wherever they lie
