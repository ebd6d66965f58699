"""``pyro-vae train``."""

from __future__ import annotations

import re
from dataclasses import MISSING, fields
from inspect import Parameter, Signature
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from pyro_vae.cli.output import completion, show, tell
from pyro_vae.runs.recipe import Recipe

__all__ = ["train"]

_COMPLETED = {  # options whose values the shell can complete, and the table of names they come from
    "prior": "PRIORS",
    "likelihood": "LIKELIHOODS",
    "guide": "GUIDES",
    "objective": "OBJECTIVES",
}


def train(**given: Any) -> None:
    """Train a model and its guide on your data, into a run's folder.

    Examples:
    pyro-vae train table.csv --output runs/first

    pyro-vae train digits --prior GaussianMixture:num_components=10 --epochs 200 --patience 20

    pyro-vae train --config first.toml --seed 1

    pyro-vae train --output runs/first --resume
    """
    output, resume, config = given.pop("output"), given.pop("resume"), given.pop("config")
    every, trust_code, as_json = given.pop("checkpoint_every"), given.pop("trust_code"), given.pop("json")
    values = {name: value for name, value in given.items() if value is not None}
    from pyro_vae.distributed import agree, joined
    from pyro_vae.runs.folder import Run
    from pyro_vae.runs.training import read_recipe
    from pyro_vae.runs.training import train as run_training

    run = Run(output)
    settings = {} if config is None else Recipe.from_toml(config)
    own = read_recipe(run).device if resume and run.exists else "auto"
    try:
        with joined(str(values.get("device", settings.get("device", own)))) as rank:
            going_on = agree(resume and run.exists)
            if going_on and (values or config is not None) and rank == 0:
                tell("note: --resume goes on with the run's own settings; others are left aside")
            recipe = read_recipe(run) if going_on else Recipe.of({**settings, **values})
            trained = run_training(
                run,
                recipe,
                resume=going_on,
                every=every,
                trust_code=trust_code,
                progress=rank == 0 and not as_json,
                tell=tell if rank == 0 else None,
            )
    except KeyboardInterrupt:
        if run.exists:
            tell(f"to go on: pyro-vae train --output {run.folder} --resume")
        raise
    if rank:
        return
    history = trained.history
    best = (history.validation_elbo or history.train_elbo)[history.best_epoch]
    words = "held-out" if history.validation_elbo else "training"
    text = (
        f"{words} ELBO {best:.3f} nats per datum (epoch {history.best_epoch + 1} of {len(history.train_elbo)}), "
        f"{history.seconds:.1f} s\nrun: {run.folder}"
    )
    result = {
        "run": run.folder,
        "best_elbo": best,
        "best_epoch": history.best_epoch,
        "epochs": len(history.train_elbo),
        "train_elbo": history.train_elbo[-1],
        "validation_elbo": history.validation_elbo[-1] if history.validation_elbo else None,
        "seconds": history.seconds,
        "engine": history.engine,
    }
    show(result, text, as_json=as_json)


def _words() -> dict[str, str]:
    """What each name of the recipe means, from its documentation."""
    found = re.findall(r"^ {8}(\w+): (.*(?:\n {12}.*)*)", Recipe.__doc__ or "", flags=re.M)
    return {name: " ".join(text.split()).replace("``", "") for name, text in found}


def _signature() -> Signature:
    """The recipe's names as options, beside the command's own."""
    words, kinds = _words(), get_type_hints(Recipe)
    parameters = []
    for field in fields(Recipe):
        kind, default = kinds[field.name] | None, field.default
        text = words[field.name]
        if default is not MISSING and default != "":
            text += f" Default: {default}."
        option: Any = typer.Option(help=text, show_default=False)
        if field.name == "data":
            option = typer.Argument(help=text, show_default=False)
        elif field.name in _COMPLETED:
            option = typer.Option(help=text, show_default=False, autocompletion=completion(_COMPLETED[field.name]))
        annotation: Any = Annotated[kind, option]
        parameters.append(Parameter(field.name, Parameter.KEYWORD_ONLY, default=None, annotation=annotation))
    own: dict[str, tuple[Any, Any, str]] = {
        "output": (Path, Path("run"), "The run's folder."),
        "config": (Path | None, None, "A TOML file with the same names, such as config.toml of a run."),
        "resume": (bool, False, "Go on with the run in the folder, if there is one."),
        "checkpoint_every": (int | None, None, "Keep a state every so many epochs Default: at 1 % of the time."),
        "trust_code": (bool, False, "Import --model, which runs it."),
        "json": (bool, False, "Print the result as JSON."),
    }
    for name, (kind, default, text) in own.items():
        flag = (f"--{name.replace('_', '-')}",) if kind is bool else ()
        annotation = Annotated[kind, typer.Option(*flag, help=text)]
        parameters.append(Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation))
    return Signature(parameters)


train.__signature__ = _signature()  # type: ignore[attr-defined]
train.__annotations__ = {p.name: p.annotation for p in train.__signature__.parameters.values()}  # type: ignore[attr-defined]
