"""``pyro-vae train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pyro_vae.cli.options import Json, recipe_options
from pyro_vae.cli.output import notify, show
from pyro_vae.runs.recipe import Recipe

__all__ = ["train"]


@recipe_options()
def train(
    *,
    output: Annotated[Path, typer.Option(help="The run's folder.")] = Path("run"),
    config: Annotated[
        Path | None, typer.Option(help="A TOML file with the same names, such as config.toml of a run.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in the folder, if there is one.")
    ] = False,
    checkpoint_every: Annotated[
        int | None, typer.Option(min=1, help="Keep a state every so many epochs. Default: at 1 % of the time.")
    ] = None,
    trust_code: Annotated[bool, typer.Option("--trust-code", help="Import --model, which runs it.")] = False,
    json: Json = False,
    **settings: Any,
) -> None:
    """Train a model and its guide on your data, into a run's folder.

    Examples:
    pyro-vae train table.csv --output runs/first

    pyro-vae train digits --prior GaussianMixture:num_components=10 --epochs 200 --patience 20

    pyro-vae train --config first.toml --seed 1

    pyro-vae train --output runs/first --resume

    torchrun --nproc-per-node 4 --max-restarts 3 -m pyro_vae train table.csv --output runs/large
    """
    from pyro_vae.distributed import agree, joined
    from pyro_vae.runs.folder import Run
    from pyro_vae.runs.launch import is_of_this_launch
    from pyro_vae.runs.training import read_recipe
    from pyro_vae.runs.training import train as run_training

    run = Run(output)
    given = settings if config is None else {**Recipe.from_toml(config), **settings}
    device = given.get("device", read_recipe(run).device if resume and run.exists else "auto")
    try:
        with joined(str(device)) as rank:
            again = not resume and is_of_this_launch(run, Recipe.of(given))
            going_on = agree((resume or again) and run.exists)
            if rank == 0 and going_on and again:
                notify("note: torchrun has started the processes again; the run goes on")
            elif rank == 0 and going_on and given:
                notify("note: --resume goes on with the run's own settings; others are ignored")
            trained = run_training(
                run,
                read_recipe(run) if going_on else Recipe.of(given),
                resume=going_on,
                every=checkpoint_every,
                trust_code=trust_code,
                progress=rank == 0 and not json,
                notify=notify if rank == 0 else None,
            )
    except KeyboardInterrupt:
        if run.exists:
            notify(f"to go on: pyro-vae train --output {run.folder} --resume")
        raise
    if rank == 0:
        _show(run.folder, trained, as_json=json)


def _show(folder: Path, trained: Any, *, as_json: bool) -> None:
    """Print what came of training, in the table's own units, and what the model is worth beside simple ones."""
    from pyro_vae.runs.judgement import history_in_own_units, judge

    history = history_in_own_units(trained)
    if not history.train_elbo:  # a game, whose losses say nothing of quality
        result = {"run": folder, "num_steps": history.num_steps, "seconds": history.seconds, "engine": history.engine}
        show(result, f"{history.engine}, {history.seconds:.1f} s\nrun: {folder}", as_json=as_json)
        return
    best = (history.validation_elbo or history.train_elbo)[history.best_epoch]
    words = "validation" if history.validation_elbo else "training"
    text = (
        f"{words} ELBO {best:.3f} nats per datum (epoch {history.best_epoch + 1} of {len(history.train_elbo)}), "
        f"{history.seconds:.1f} s"
    )
    judgement = judge(trained)
    result = {
        "run": folder,
        "best_elbo": best,
        "best_epoch": history.best_epoch,
        "epochs": len(history.train_elbo),
        "train_elbo": history.train_elbo[-1],
        "validation_elbo": history.validation_elbo[-1] if history.validation_elbo else None,
        "seconds": history.seconds,
        "engine": history.engine,
    }
    if judgement is not None:
        text += f"\n{judgement}"
        result["log_p"] = float(judgement.evidence.log_evidence.mean())
        result["baselines"] = {name: float(value.mean()) for name, value in judgement.baselines.log_prob.items()}
        result["verdict"] = judgement.sentence
    show(result, f"{text}\nrun: {folder}", as_json=as_json)
