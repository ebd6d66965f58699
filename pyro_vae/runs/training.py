"""A training run from its folder: begin, go on, finish, and load what it learnt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from pyro_vae.checks import say
from pyro_vae.datasets.kinds import Schema
from pyro_vae.distributed import agree, rank
from pyro_vae.inference.variational.fit import History, fit
from pyro_vae.runs.build import Prepared, build, check_device, likelihood_name, objective, prepare
from pyro_vae.runs.checkpoints import Checkpoints, read_tensors, write_tensors
from pyro_vae.runs.folder import Run, RunError, versions, write_whole
from pyro_vae.runs.precision import bias, halve, must_not_bias
from pyro_vae.runs.recipe import Recipe

__all__ = ["Trained", "load_run", "read_recipe", "train"]


@dataclass(frozen=True)
class Trained:
    """A run with what it learnt.

    Attributes:
        recipe: what it is made of.
        prepared: its data.
        model: p(x, z).
        guide: q(z|x).
        history: of the training.
    """

    recipe: Recipe
    prepared: Prepared
    model: Any
    guide: Any
    history: History


def read_recipe(run: Run) -> Recipe:
    """Return the recipe of a run that exists."""
    return Recipe.of(Recipe.from_toml(run.must_exist() / "config.toml"))


def train(
    run: Run,
    recipe: Recipe,
    *,
    resume: bool = False,
    every: int | None = None,
    trust_code: bool = False,
    progress: bool = False,
    tell: Callable[[str], None] | None = None,
) -> Trained:
    """Train what a recipe says in a run's folder, or go on with what was begun there.

    Args:
        run: the folder.
        recipe: what to train; of a run that is resumed, its own.
        resume: go on with the run in the folder.
        every: keep a state every so many epochs; None as often as costs one percent of the time.
        trust_code: import a model of the user's.
        progress: show a bar on standard error.
        tell: is told, in one line each, what a person should know.

    Raises:
        RunError: if the folder holds another run, is in use, damaged, or not writable.
        ValueError, TypeError, FileNotFoundError: if data or parts are not usable.
        FloatingPointError: if training diverges.
    """
    tell = tell or (lambda message: None)
    if rank() == 0 and run.exists and not resume:
        raise RunError(say("a folder without a run", f"one at {run.folder}", "--resume, or another --output"))
    check_device(recipe.device, mixed_precision=recipe.mixed_precision)
    torch.set_default_dtype(torch.float64 if recipe.dtype == "float64" else torch.float32)
    about = run.read_json("about.json") if resume else None
    prepared = prepare(recipe, None if about is None else Schema.from_json(about["schema"]))
    if about is not None and about["fingerprint"] != prepared.digest:
        raise RunError(say("the data that the run began with", f"others at {recipe.data}", "bringing them back"))
    tell(f"data: {len(prepared.x['all'])} rows of {prepared.schema.words_for_people()}")
    for note in prepared.notes:
        tell(f"note: {note}")
    pyro.set_rng_seed(recipe.seed)
    model, guide = build(recipe, prepared.schema, prepared.x["train"], trust_code=trust_code)
    if not recipe.model:
        tell(
            f"model: {recipe.prior} prior, {likelihood_name(recipe, prepared.schema)} likelihood; {recipe.guide} guide"
        )
    if recipe.mixed_precision:
        tell(_halved(recipe, prepared, model, guide))
    keeper = Checkpoints(run, every=every, write=rank() == 0, tell=tell)
    if rank():
        agree(None)  # rank 0 has begun
        history = _fit(recipe, prepared, model, guide, keeper, progress=False)
        return Trained(recipe, prepared, model, guide, history)
    made = run.make()
    with run.locked():
        if about is None:
            _begin(run, recipe, prepared)
        elif about["threads"] != torch.get_num_threads():
            tell(f"note: {torch.get_num_threads()} threads, {about['threads']} before: the last bits may differ")
        agree(None)
        try:
            history = _fit(recipe, prepared, model, guide, keeper, progress=progress)
        except (ValueError, TypeError, FloatingPointError):  # parts that do not fit: there is nothing to go on with
            if about is None and keeper.load() is None:
                run.discard(folder=made)
            raise
        _finish(run, model, guide, history)
    return Trained(recipe, prepared, model, guide, history)


def _halved(recipe: Recipe, prepared: Prepared, model: Any, guide: Any) -> str:
    """Let model and guide train in mixed precision, and say what that does to the ELBO of some training data."""
    if not (isinstance(model, nn.Module) and isinstance(guide, nn.Module)):
        raise TypeError(say("a model and guide that are torch modules", "Python functions", "mixed_precision=false"))
    device = torch.device("cuda" if recipe.device == "auto" else recipe.device)
    for module in (model, guide):
        halve(module.to(device))
    return must_not_bias(bias(model, guide, objective(recipe), prepared.x["train"][:2048].to(device)))


def _begin(run: Run, recipe: Recipe, prepared: Prepared) -> None:
    about = {
        "schema": prepared.schema.to_json(),
        "fingerprint": prepared.digest,
        "rows": {name: len(x) for name, x in prepared.x.items()},
        "versions": versions(),
        "threads": torch.get_num_threads(),
    }
    run.write_json("about.json", about)
    write_whole(run / "config.toml", recipe.to_toml().encode())  # last: with it, the run has begun


def _fit(recipe: Recipe, prepared: Prepared, model: Any, guide: Any, keeper: Checkpoints, *, progress: bool) -> History:
    held_out = prepared.x["validation"]
    batch_size = min(recipe.batch_size, len(prepared.x["train"]))
    return fit(
        model,
        guide,
        prepared.x["train"],
        epochs=recipe.epochs,
        batch_size=batch_size,
        lr=recipe.lr,
        loss=objective(recipe),
        validation=held_out if len(held_out) else None,
        patience=recipe.patience or None,
        kl_warmup=recipe.kl_warmup,
        clip_norm=recipe.clip_norm or None,
        dynamic_binarisation=recipe.dynamic_binarisation,
        compile="auto" if recipe.compile == "auto" else recipe.compile == "yes",
        checkpoint=keeper,
        device=recipe.device,
        progress=progress,
    )


def _finish(run: Run, model: Any, guide: Any, history: History) -> None:
    run.write_json("history.json", asdict(history))
    write_tensors(run / "weights.safetensors", _weights(model, guide), {})


def _weights(model: Any, guide: Any) -> dict[str, Tensor]:
    """All tensors of model and guide by name, and Pyro's own parameters; one that two names share comes once a name."""
    found: dict[str, Tensor] = {}
    for side, program in (("model", model), ("guide", guide)):
        if isinstance(program, nn.Module):
            found |= {f"{side}.{name}": tensor.detach().clone() for name, tensor in program.state_dict().items()}
    for name, value in pyro.get_param_store().named_parameters():
        if "$$$" not in name:
            found[f"param.{name}"] = value.detach().clone()
    return found


def load_run(run: Run, *, trust_code: bool = False) -> Trained:
    """Return a finished run: data, model and guide with their learnt weights; without data if the file is gone.

    No code is run from the folder; a model of the user's is imported only if trusted.

    Raises:
        RunError: if the run is not finished, or damaged.
        ValueError: if it needs code that is not trusted, or its data are not usable.
    """
    recipe = read_recipe(run)
    if not run.finished:
        raise RunError(say("a finished run", f"one still to train at {run.folder}", "pyro-vae train --resume first"))
    about = run.read_json("about.json")
    torch.set_default_dtype(torch.float64 if recipe.dtype == "float64" else torch.float32)
    pyro.set_rng_seed(recipe.seed)
    schema = Schema.from_json(about["schema"])
    try:
        prepared = prepare(recipe, schema)
    except FileNotFoundError:  # the run has gone elsewhere without its data
        if recipe.model:
            raise
        prepared = Prepared(schema, {}, "", ())
    else:
        if prepared.digest != about["fingerprint"]:
            raise RunError(
                say("the data that the run was trained on", f"others at {recipe.data}", "bringing them back")
            )
    model, guide = build(recipe, schema, prepared.x.get("train"), trust_code=trust_code)
    tensors, _ = read_tensors(run / "weights.safetensors")
    for side, program in (("model", model), ("guide", guide)):
        if isinstance(program, nn.Module):
            own = {name.removeprefix(f"{side}."): t for name, t in tensors.items() if name.startswith(f"{side}.")}
            try:
                program.load_state_dict(own)
            except RuntimeError as error:
                raise RunError(say(f"weights of this {side}", str(error), "the versions in about.json")) from error
            program.eval()
    for name, tensor in tensors.items():
        if name.startswith("param."):
            pyro.param(name.removeprefix("param."), tensor)
    return Trained(recipe, prepared, model, guide, History(**run.read_json("history.json")))
