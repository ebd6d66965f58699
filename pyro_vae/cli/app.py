"""The application: its commands, and what becomes of an error."""

from __future__ import annotations

from typing import Annotated

import typer

from pyro_vae.cli import atlas, evaluate, explore, impute, model, output, shards, share, sweep, train

__all__ = ["app"]

app = typer.Typer(
    help="Bayesian latent-variable models by every route, and the measured distance between them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


@app.callback(
    epilog="Exit codes: 0 done, 1 not possible (standard error says why), 2 wrong usage, 130 interrupted.",
)
def settings(
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error comes from.")] = False,
) -> None:
    """Bayesian latent-variable models by every route, and the measured distance between them.

    Start with  pyro-vae demo,  or with your own data:

    pyro-vae train table.csv --output runs/first

    pyro-vae compare runs/first

    pyro-vae report runs/first
    """
    output.settings.debug = debug


for command in (
    train.train,
    evaluate.infer,
    evaluate.compare,
    evaluate.evidence,
    model.criticise,
    model.compare_models,
    sweep.sweep,
    atlas.atlas,
    share.sample,
    impute.impute,
    share.report,
    explore.explore,
    shards.shards,
    share.parts,
    share.demo,
):
    app.command()(output.explained(command))
