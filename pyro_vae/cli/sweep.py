"""``pyro-vae sweep``: a grid of parts and seeds, measured side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pyro_vae.cli.options import Json, PartNames, completion, recipe_options
from pyro_vae.cli.output import show

__all__ = ["sweep"]


def _parts(name: str) -> Any:
    """The option for the names of one part."""
    return typer.Option(autocompletion=completion(name), help=f"Again for each {name}.")


@recipe_options(
    *("data", "hidden", "batch_size", "lr", "test"),
    latent_dim='Dimensions of z; of a table "auto" chooses it for each likelihood. Default: 2.',
    epochs="Passes over the training data of every run. Default: 100.",
)
def sweep(
    *,
    prior: Annotated[PartNames, _parts("prior")] = None,
    likelihood: Annotated[PartNames, _parts("likelihood")] = None,
    guide: Annotated[PartNames, _parts("guide")] = None,
    objective: Annotated[PartNames, _parts("objective")] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Train each combination with so many seeds. Default: 3.")
    ] = None,
    rows: Annotated[int | None, typer.Option(min=1, help="Measure on at most so many test data. Default: 100.")] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="A TOML file with these names and those of train, and lists for parts and seeds."),
    ] = None,
    output: Annotated[Path, typer.Option(help="The sweep's folder; one that exists is gone on with.")] = Path("sweep"),
    json: Json = False,
    **settings: Any,
) -> None:
    """Train every combination of priors, likelihoods, guides, objectives and seeds, and measure each on held-out data.

    What is done is kept: the same command again goes on, also with more names or seeds. Under torchrun each process
    takes a share of the runs.

    Examples:
    pyro-vae sweep digits --prior StandardNormal --prior Laplace --guide DiagonalGaussian --guide Planar

    pyro-vae sweep --config grid.toml --output sweeps/first
    """
    from pyro_vae.distributed import joined
    from pyro_vae.runs.folder import Run
    from pyro_vae.runs.recipe import Recipe
    from pyro_vae.runs.sweeping import Grid
    from pyro_vae.runs.sweeping import sweep as run_sweep

    own: dict[str, Any] = {
        "prior": prior,
        "likelihood": likelihood,
        "guide": guide,
        "objective": objective,
        "rows": rows,
    }
    own["seeds"] = None if seeds is None else list(range(seeds))
    settings |= {name: value for name, value in own.items() if value}
    grid = Grid.of(settings if config is None else {**Recipe.from_toml(config), **settings})
    with joined(grid.recipe.device) as rank:
        result = run_sweep(Run(output), grid, progress=not (json or rank))
    if rank:
        return
    text = f"{result}\n\nelbo, evidence and gap in nats per datum, in the units given\nsweep: {output}"
    table = result.to_dataframe().to_dict("records")
    show({"sweep": output, "table": table, "rows": result.rows}, text, as_json=json)
    if all(row["error"] for row in result.rows):
        raise typer.Exit(1)
