"""``pyro-vae sweep``: a grid of parts and seeds, measured side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pyro_vae.cli.options import Json
from pyro_vae.cli.output import completion, show

__all__ = ["sweep"]

_Names = list[str] | None


def sweep(
    data: Annotated[str | None, typer.Argument(help="A file, a folder of images, or digits.")] = None,
    prior: Annotated[_Names, typer.Option(autocompletion=completion("PRIORS"), help="Again for each prior.")] = None,
    likelihood: Annotated[
        _Names, typer.Option(autocompletion=completion("LIKELIHOODS"), help="Again for each likelihood.")
    ] = None,
    guide: Annotated[_Names, typer.Option(autocompletion=completion("GUIDES"), help="Again for each guide.")] = None,
    objective: Annotated[
        _Names, typer.Option(autocompletion=completion("OBJECTIVES"), help="Again for each objective.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Train each combination with so many seeds.")] = None,
    latent_dim: Annotated[int | None, typer.Option(help="L.")] = None,
    hidden: Annotated[str | None, typer.Option(help='Widths of the hidden layers, as in "256,128".')] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the data of every run.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Data a step.")] = None,
    lr: Annotated[float | None, typer.Option(help="Adam's learning rate.")] = None,
    test: Annotated[float | None, typer.Option(help="Share of the data that all figures are measured on.")] = None,
    rows: Annotated[int | None, typer.Option(min=1, help="Measure on at most so many of them. Default: 100.")] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="A TOML file with these names and those of train, and lists for parts and seeds."),
    ] = None,
    output: Annotated[Path, typer.Option(help="The sweep's folder; one that exists is gone on with.")] = Path("sweep"),
    json: Json = False,
) -> None:
    """Train every combination of priors, likelihoods, guides, objectives and seeds, and measure each on held-out data.

    What is done is kept: the same command again goes on, also with more names or seeds.

    Examples:
    pyro-vae sweep digits --prior StandardNormal --prior Laplace --guide DiagonalGaussian --guide Planar

    pyro-vae sweep --config grid.toml --output sweeps/first
    """
    given = {
        **{"data": data, "prior": prior, "likelihood": likelihood, "guide": guide, "objective": objective},
        **{"latent_dim": latent_dim, "hidden": hidden, "epochs": epochs, "batch_size": batch_size, "lr": lr},
        **{"test": test, "rows": rows, "seeds": None if seeds is None else list(range(seeds))},
    }
    from pyro_vae.runs.folder import Run
    from pyro_vae.runs.recipe import Recipe
    from pyro_vae.runs.sweeping import Grid
    from pyro_vae.runs.sweeping import sweep as run_sweep

    settings = {} if config is None else Recipe.from_toml(config)
    grid = Grid.of({**settings, **{name: value for name, value in given.items() if value not in (None, [])}})
    run = Run(output)
    result = run_sweep(run, grid, progress=not json)
    text = f"{result}\n\nelbo, evidence and gap in nats per datum\nsweep: {run.folder}"
    table = result.to_dataframe().to_dict("records")
    show({"sweep": run.folder, "table": table, "rows": result.rows}, text, as_json=json)
