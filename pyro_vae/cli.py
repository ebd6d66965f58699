"""The command line: ``pyro-vae`` and ``python -m pyro_vae``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["app"]

app = typer.Typer(
    help="Bayesian latent-variable models by every route, and the measured distance between them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.callback()
def main() -> None:
    """Bayesian latent-variable models by every route, and the measured distance between them."""


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Folder for the report, the figures and the table.")] = Path("demo"),
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the 1,437 training digits.")] = 60,
    chained: Annotated[int, typer.Option(min=1, max=360, help="Digits that Pyro's own NUTS samples.")] = 24,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
) -> None:
    """Train on real digits, infer by every basic route, and compare with the exact posterior."""
    from pyro_vae.demo import demo as run

    result = run(output, epochs=epochs, num_chained=chained, seed=seed)
    typer.echo(f"\n{result.comparison}\n\n{result.agreement}\n")
    typer.echo(f"Report:  {result.report}")
    typer.echo(f"Figures: {', '.join(str(path) for path in result.figures)}")
    typer.echo(f"Seconds: {result.seconds:.0f}")
