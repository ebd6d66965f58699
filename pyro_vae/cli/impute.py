"""``pyro-vae impute``: missing cells filled in, and how well."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pyro_vae.cli.options import Data, Json, Output, Rows, RunFolder, Seed, TrustCode, choose, opened
from pyro_vae.cli.output import notify, show, write_columns

__all__ = ["impute"]

_MOST_ROWS = 1_000  # to check on
_PARTICLES = 1_000  # that draws are resampled from by their importance weights


def impute(
    run: RunFolder,
    output: Output = None,
    data: Data = None,
    rows: Rows = None,
    draws: Annotated[
        int | None, typer.Option(min=1, help="Write so many completed tables, drawn at random, instead of means.")
    ] = None,
    num_samples: Annotated[int, typer.Option(min=2, help="Draws that a mean is taken of.")] = 200,
    check: Annotated[
        bool, typer.Option("--check", help="Hide observed cells, and say how well they come back.")
    ] = False,
    share: Annotated[float, typer.Option(help="Of the observed cells, to hide at a time.")] = 0.1,
    split: Annotated[str, typer.Option(help="Rows to check on: test, validation, train or all.")] = "test",
    seed: Seed = 0,
    json: Json = False,
    trust_code: TrustCode = False,
) -> None:
    """Fill in empty cells with means, or N draws of them, or check how well that works.

    Means are those of the posterior predictive, with the decimals that a column is written with; of words and of two
    values the most frequent draw. Other cells stay as they are, and so do columns that the model does not know. With
    --draws the completed tables stand one below the other, with a column "draw".
    The run must have been trained on data with empty cells; --check works on any, and compares with the column means
    and scikit-learn's IterativeImputer, on a thousand rows at most without --rows.

    Examples:
    pyro-vae impute runs/first --data table.csv --output filled.csv

    pyro-vae impute runs/first --draws 20 --output completed.csv

    pyro-vae impute runs/first --check
    """
    from pyro_vae.checks import say

    with opened(run, trust_code=trust_code) as trained:
        import pyro

        pyro.set_rng_seed(seed)
        if check:
            x = choose(trained, data, split, rows or _MOST_ROWS)
            _check(
                trained, x, split=None if data else split, share=share, num_samples=num_samples, seed=seed, json=json
            )
            return
        if output is None:
            raise ValueError(say("a file to write", "none", "--output filled.csv, or --check"))
        x = choose(trained, data, "all", rows)
        own, beside = _own_cells(trained, data, len(x))
        columns, filled = _completed(trained, x, own, beside, draws=draws, num_samples=num_samples)
    write_columns(output, columns)
    tables = f", {draws} times" if draws else ""
    result = {"filled": filled, "draws": draws, "output": output}
    show(result, f"filled {filled} entries of {len(x)} rows{tables}: {output}", as_json=json)


def _own_cells(trained: Any, data: Path | None, num_rows: int) -> tuple[Any, Any]:
    """The table's own numbers ``(N, D)``, and its other columns, a pandas DataFrame or None, of the first rows."""
    from pyro_vae.checks import say
    from pyro_vae.datasets.tables import Layout, read_cells
    from pyro_vae.runs.data import load_data

    recipe, schema = trained.recipe, trained.prepared.schema
    path = Path(data or recipe.data)
    layout = Layout(schema.columns, schema.words)
    loaded = load_data(str(path), "" if data else recipe.key, memory_map="auto", like=layout)
    if loaded.shards:
        raise ValueError(say("one file to fill", f"the shards of {path}", "--data with one of them"))
    values = loaded.values[:num_rows]
    beside = read_cells(path)[:num_rows] if schema.columns else None
    if beside is not None and (more := [name for name in beside.columns if name not in schema.columns]):
        notify(f"note: written as they are, for the model does not know them: {', '.join(more)}")
    return values.reshape(len(values), -1), beside


def _completed(
    trained: Any, x: Any, own: Any, beside: Any, *, draws: int | None, num_samples: int
) -> tuple[dict[str, Any], int]:
    """Columns by name without a missing entry, in the table's order, and how many were missing."""
    import numpy as np
    import torch

    from pyro_vae.datasets.encoding import as_written, decode, named
    from pyro_vae.datasets.rows import pieces
    from pyro_vae.evaluation.imputation import impute as fill
    from pyro_vae.evaluation.imputation_check import point_estimate

    schema = trained.prepared.schema
    codes = torch.tensor([bool(schema.levels and schema.levels[i]) for i in schema.order])
    found, count = [], 0
    for piece in pieces(x):
        S = draws or num_samples
        filled = fill(trained.model, piece, trained.guide, num_samples=S, num_particles=max(S, _PARTICLES))
        if not draws:
            middle = point_estimate(filled, torch.tensor(_categories(schema)))
            middle[..., codes] = filled[..., codes].median(0).values  # a value that occurs, of codes without a mean
            filled = torch.where(piece.isnan(), middle, piece)[None]  # a mean of equal numbers is off in the last digit
        found.append(as_written(schema, decode(schema, filled), dtype=trained.prepared.dtype))
        count += int(piece.isnan().sum())
    values = np.concatenate(found, 1)  # (draws, N, D)
    values = np.where(np.isnan(own), values, own)  # in double precision
    columns = named(schema, values.reshape(-1, schema.data_dim))
    if beside is not None and set(beside.columns) >= set(columns):
        others = {name: np.tile(beside[name].to_numpy(), len(values)) for name in beside.columns}
        columns = others | columns
    if draws:
        columns = {"draw": np.repeat(np.arange(1, draws + 1), values.shape[1]), **columns}
    return columns, count


def _categories(schema: Any) -> list[bool]:
    """Which columns have no mean, in the model's order."""
    return [schema.kinds[i] in {"binary", "categories"} for i in schema.order]


def _check(trained: Any, x: Any, *, split: str | None, share: float, num_samples: int, seed: int, json: bool) -> None:
    """Print how well hidden cells come back; of a run on complete data from Laplace's approximation."""
    import pyro_vae as pv
    from pyro_vae.checks import say
    from pyro_vae.evaluation.imputation_check import check_imputation

    model, posterior, schema = trained.model, trained.guide, trained.prepared.schema
    if not isinstance(model, pv.Model):
        raise ValueError(say("a run of a pyro_vae.Model", "a model of your own", "pv.check_imputation in Python"))
    if not model.missing:
        model, posterior = pv.Model(model.prior, model.likelihood, missing=True), pv.laplace
        notify("note: trained on complete data: hidden cells are imputed by Laplace's approximation, not by the guide")
    if split not in {None, "test"}:
        notify(f"note: rows of {split}: the model was trained on them, or they chose when to stop")
    found = check_imputation(
        model,
        x[:],
        posterior,
        x_train=trained.prepared.split("train")[:],
        share=share,
        categories=_categories(schema),
        names=[schema.name(i).strip("'") for i in schema.order],
        num_samples=num_samples,
        num_particles=_PARTICLES,
        seed=seed,
    )
    frame = found.to_dataframe()
    result = {
        "cells": len(found.column),
        "columns": frame.drop(index=["all numbers", "all categories"], errors="ignore").to_dict("index"),
        "all": frame[frame.index.isin(["all numbers", "all categories"])].to_dict("index"),
        "verdict": found.verdict,
        "notes": found.notes,
    }
    show(result, str(found), as_json=json)
