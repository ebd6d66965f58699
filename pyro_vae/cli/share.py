"""``pyro-vae sample``, ``report``, ``parts`` and ``demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pyro_vae.cli.options import Json, Output, Rows, RunFolder, Seed, TrustCode, opened
from pyro_vae.cli.output import notify, show, table, write_columns

__all__ = ["demo", "parts", "report", "sample"]


def sample(
    run: RunFolder,
    num_samples: Annotated[int, typer.Option(min=1, help="How many data.")] = 10,
    seed: Seed = 0,
    condition: Annotated[
        str | None, typer.Option(help="A StackGAN's caption, or the number of an InfoGAN's category.")
    ] = None,
    output: Output = None,
    json: Json = False,
    trust_code: TrustCode = False,
) -> None:
    """Draw new data from the model, in the units of your table; images as an array (N, rows, columns).

    Examples:
    pyro-vae sample runs/first --num-samples 1000 --output synthetic.csv

    pyro-vae sample runs/draw --num-samples 100 --output images.npy

    pyro-vae sample runs/stack --condition "a three, slanted" --output threes.npz
    """
    with opened(run, trust_code=trust_code, needs="samples") as trained:
        import numpy as np
        import pandas as pd
        import pyro

        from pyro_vae.datasets.encoding import as_written, decode, named

        pyro.set_rng_seed(seed)
        x = trained.sample(num_samples, condition)
        schema = trained.prepared.schema
        columns = named(
            schema, as_written(schema, decode(schema, x.flatten(1)), dtype=x.dtype, rng=np.random.default_rng(seed))
        )
    write_columns(output, columns, shape=schema.shape)
    text = table(pd.DataFrame(columns).head(10))
    if not schema.tabular:
        low, high = (f"{end([end(values) for values in columns.values()]):g}" for end in (np.min, np.max))
        text = f"{num_samples} images of {' x '.join(map(str, schema.shape))}, values from {low} to {high}"
    show({"num_samples": num_samples, "x": columns}, text, as_json=json)


def report(
    run: RunFolder,
    output: Annotated[Path | None, typer.Option(help="The HTML file; else report.html in the run's folder.")] = None,
    rows: Rows = 60,
    num_samples: Annotated[int, typer.Option(min=4, help="Draws a chain of HMC.")] = 300,
    json: Json = False,
    trust_code: TrustCode = False,
) -> None:
    """Write one HTML page about a run, which opens offline: data, model, learning, comparison, verdicts.

    Example:
    pyro-vae report runs/first
    """
    with opened(run, trust_code=trust_code) as trained:
        from pyro_vae.report.run import write_page

        path = write_page(run, trained, output=output, rows=rows, num_samples=num_samples, notify=notify)
    show({"report": path}, f"report: {path}", as_json=json)


def parts(json: Json = False) -> None:
    """List priors, likelihoods, guides, objectives and kernels, each with its options.

    Use them as --prior GaussianMixture:num_components=5.
    """
    from pyro_vae.runs.parts import TABLES

    found: dict[str, dict[str, dict[str, Any]]] = {
        room: {name: {"summary": part.summary(), "options": _printable(part.options())} for name, part in table.items()}
        for room, table in TABLES.items()
    }
    lines = []
    for room, entries in found.items():
        lines.append(f"\n{room}")
        for name, entry in entries.items():
            options = ", ".join(f"{key}={value}" for key, value in entry["options"].items())
            lines.append(f"  {name}: {entry['summary']}" + (f"\n      {options}" if options else ""))
    show(found, "\n".join(lines).strip(), as_json=json)


def _printable(options: dict[str, Any]) -> dict[str, Any]:
    """Options as JSON knows them."""
    plain = bool | int | str | None
    return {name: value if isinstance(value, plain) else str(value) for name, value in options.items()}


def demo(
    output: Annotated[Path, typer.Option(help="Folder for the report, the figures and the table.")] = Path("demo"),
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the 1,437 training digits.")] = 60,
    chained: Annotated[int, typer.Option(min=1, max=360, help="Digits that Pyro's own NUTS samples.")] = 6,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Train on real digits, infer by every basic route, and compare with the exact posterior."""
    from pyro_vae.demo import demo as run

    result = run(output, epochs=epochs, num_chained=chained, seed=seed, progress=not json)
    text = (
        f"\n{result.comparison}\n\n{result.agreement}\n\nReport:  {result.report}\n"
        f"To play: {result.page}\n"
        f"Figures: {', '.join(str(path) for path in result.figures)}\nSeconds: {result.seconds:.0f}"
    )
    found = {
        "routes": result.comparison.to_dataframe().to_dict("index"),
        "agreement": result.agreement,
        "report": result.report,
        "page": result.page,
        "figures": result.figures,
        "seconds": result.seconds,
    }
    show(found, text, as_json=json)
