"""``pyro-vae compare-models`` and ``criticise``: how far models are from the data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pyro_vae.cli.options import Json, Rows, RunFolder, Split, TrustCode, choose, opened
from pyro_vae.cli.output import notify, show

__all__ = ["compare_models", "criticise"]

_Figure = Annotated[Path | None, typer.Option("--output", "--out", help="A .png file for the figure.")]
_MOST_ROWS = 1_000


def compare_models(
    runs: Annotated[list[Path], typer.Argument(help="Folders of two or more finished runs.", show_default=False)],
    rows: Rows = None,
    json: Json = False,
    trust_code: TrustCode = False,
) -> None:
    """Say which run's model is better: log p(x) of the rows that all held out, in the table's own units.

    The runs must be of the same data, columns, --seed and --test. Differences come with their paired standard error;
    posterior probabilities of the models where log p(x) is known well enough. At most 1,000 rows without --rows.

    Example:
    pyro-vae compare-models runs/first runs/second
    """
    from pyro_vae.checks import say
    from pyro_vae.runs.folder import Run
    from pyro_vae.runs.judgement import compare_runs, units
    from pyro_vae.runs.training import load_run

    names = _names(runs)
    if len(names) < 2:
        raise ValueError(say("two or more different runs", f"{len(names)}", "pyro-vae compare-models RUN RUN"))
    trained = {name: load_run(Run(folder), trust_code=trust_code) for name, folder in names.items()}
    for name, one in trained.items():
        if one.density is not None or one.conditional is not None:
            got = f"{one.recipe.system} in {name}"
            raise ValueError(say("runs of models with latents", got, f"pyro-vae evidence {names[name]}, if it has one"))
    found = compare_runs(trained, rows=rows)
    own = units(trained[found.best])
    result = {
        "best": found.best,
        "num_data": len(found.evidence[found.best].log_evidence),
        "units": own,
        "models": found.to_dataframe().to_dict("index"),
        "differences": [vars(difference) for difference in found.differences],
        "verdict": found.verdict,
    }
    show(result, f"{found}\nlog p(x) is the log of {own}", as_json=json)


def _names(runs: list[Path]) -> dict[str, Path]:
    """The runs by the last part of their path, or by all of it where two are alike."""
    folders = list(dict.fromkeys(path.resolve() for path in runs))
    last = [folder.name for folder in folders]
    return {folder.name if last.count(folder.name) == 1 else str(folder): folder for folder in folders}


def criticise(
    run: RunFolder,
    split: Split = "test",
    rows: Rows = None,
    output: _Figure = None,
    json: Json = False,
    trust_code: TrustCode = False,
) -> None:
    """Check a model against held-out data: what would data look like if the model were right?

    Statistics of each column and pair of columns against those of data drawn from the model, a classifier that tries
    to tell the two apart, simple models beside it, and the rows that fit worst. At most 1,000 rows without --rows.

    Example:
    pyro-vae criticise runs/first --output figure.png
    """
    from pyro_vae.checks import among

    if output is not None:
        among(output.suffix, (".png",), "the figure's ending")
    with opened(run, trust_code=trust_code) as trained:
        from pyro_vae.runs.judgement import criticise_run

        found = criticise_run(trained, choose(trained, None, split, rows or _MOST_ROWS))
    if output is not None:
        _write_figure(output, found)
    if split != "test":
        notify(f"note: rows of {split}: the model was trained on them, or they chose when to stop")
    result = {
        "ok": found.ok,
        "p_value": found.p_value,
        "num_data": len(found.pit),
        "verdict": found.verdict,
        "failed": found.to_dataframe().query("adjusted <= 0.05").to_dict("records"),
        "two_sample_auc": found.two_sample.auc if found.two_sample else None,
        "log_p": float(found.evidence.log_evidence.mean()) if found.evidence else None,
        "against_baselines": found.against_baselines,
        "worst_rows": found.worst,
        "notes": found.notes,
    }
    show(result, str(found), as_json=json)


def _write_figure(path: Path, found: Any) -> None:
    from pyro_vae.plots import criticism
    from pyro_vae.report.page import as_png
    from pyro_vae.runs.folder import write_whole

    write_whole(path, as_png(criticism(found)))
    notify(f"wrote {path}")
