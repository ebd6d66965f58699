"""A training run from its folder: start, go on, finish, and load what it learnt."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from pyro_vae.checks import say
from pyro_vae.datasets.kinds import Schema
from pyro_vae.distributed import agree, rank
from pyro_vae.inference.variational.fit import History
from pyro_vae.model import Model
from pyro_vae.runs.build import build, check_device, likelihood_name, objective
from pyro_vae.runs.checkpoints import Checkpoints, read_tensors, write_tensors
from pyro_vae.runs.data import Prepared, prepare
from pyro_vae.runs.folder import Run, RunError, versions, write_whole
from pyro_vae.runs.isolation import isolated
from pyro_vae.runs.launch import launch
from pyro_vae.runs.learning import learn, resolved
from pyro_vae.runs.precision import bias, halve, must_not_bias
from pyro_vae.runs.recipe import Recipe
from pyro_vae.runs.systems import ConditionalGenerator, build_system
from pyro_vae.systems.densities.density import DensityProgram, FlowDensity

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

    @property
    def density(self) -> FlowDensity | None:
        """The density of x itself, where the run's system is one."""
        return self.model.density if isinstance(self.model, DensityProgram) else None

    @property
    def conditional(self) -> ConditionalGenerator | None:
        """The generator with codes or captions, where the run's system is one."""
        return self.model if isinstance(self.model, ConditionalGenerator) else None

    def sample(self, num_samples: int, condition: str | None = None) -> Tensor:
        """Draw data, ``(S, D)``.

        Args:
            num_samples: S.
            condition: a caption, or the number of a category, where the system takes one.

        Raises:
            ValueError: if it takes none, or another.
        """
        if self.conditional is not None:
            return self.conditional.sample(num_samples, condition)
        if condition is not None:
            got = f"{condition!r} for {self.recipe.system or 'a model without conditions'}"
            raise ValueError(say("no condition", got, "a run with --system StackGAN or InfoGAN"))
        if self.density is not None:
            return self.density.sample(num_samples)
        found: Tensor = self.model.sample(num_samples)[self.model.observed]
        return found

    @property
    def num_latents(self) -> int:
        """Dimensions of z: of DRAW, of all glimpses."""
        return self.model.latent_dim if isinstance(self.model, Model) else self.recipe.num_latents


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
    notify: Callable[[str], None] | None = None,
) -> Trained:
    """Train what a recipe says in a run's folder, or go on with the run there.

    Precision and random numbers are the recipe's own; those of the process are left as they were.

    Args:
        run: the folder.
        recipe: what to train; of a run that is resumed, its own.
        resume: go on with the run in the folder.
        every: keep a state every so many epochs; None as often as costs one percent of the time.
        trust_code: import a model of the user's.
        progress: show a bar on standard error.
        notify: called with what a person should know, a line each.

    Raises:
        RunError: if the folder holds another run, is in use, damaged, or not writable.
        ValueError, TypeError, FileNotFoundError: if data or parts are not usable.
        FloatingPointError: if training diverges.
    """
    notify = notify or (lambda message: None)
    if rank() == 0 and run.exists and not resume:
        raise RunError(say("a folder without a run", f"one at {run.folder}", "--resume, or another --output"))
    check_device(recipe.device, mixed_precision=recipe.mixed_precision)
    about = run.read_json("about.json") if resume else None
    launched = launch(recipe)
    with isolated(recipe):
        prepared = prepare(recipe) if about is None else _same_data(recipe, about)
        recipe = resolved(recipe, prepared)
        model, guide = _programs(recipe, prepared, trust_code=trust_code)
        for line in _description(recipe, prepared):
            notify(line)
        if recipe.mixed_precision:
            notify(_halved(recipe, prepared, model, guide))
        checkpoints = Checkpoints(run, every=every, write=rank() == 0, warn=notify)
        if rank() == 0:
            with _written(run, recipe, prepared, checkpoints, about, launched=launched, notify=notify):
                agree(None)
                history = learn(recipe, prepared, model, guide, checkpoints, progress=progress, notify=notify)
                run.write_json("history.json", asdict(history))
                write_tensors(run / "weights.safetensors", _weights(model, guide), {})
        else:
            agree(None)  # rank 0 has the folder
            history = learn(recipe, prepared, model, guide, checkpoints, progress=False, notify=notify)
        return Trained(recipe, prepared, model, guide, history)


def _programs(recipe: Recipe, prepared: Prepared, *, trust_code: bool) -> tuple[Any, Any]:
    """Model and guide of a recipe, with fresh weights: a system's, or built of parts."""
    if recipe.system:
        return build_system(recipe, prepared.schema)
    return build(recipe, prepared.schema, prepared.x.get("train"), trust_code=trust_code)


@contextmanager
def _written(
    run: Run,
    recipe: Recipe,
    prepared: Prepared,
    checkpoints: Checkpoints,
    about: dict[str, Any] | None,
    *,
    launched: dict[str, Any] | None,
    notify: Callable[[str], None],
) -> Iterator[None]:
    """Be the one process that writes the folder; a new run whose parts do not fit leaves nothing behind."""
    made = run.make()
    with run.locked():
        if about is None:
            _start(run, recipe, prepared, launched)
        elif (before := about.get("threads")) != torch.get_num_threads():
            notify(f"note: {torch.get_num_threads()} threads, {before} before: the last bits may differ")
        try:
            yield
        except (ValueError, TypeError, FloatingPointError):
            if about is None and checkpoints.load() is None:
                run.discard(folder=made)
            raise


def _same_data(recipe: Recipe, about: dict[str, Any]) -> Prepared:
    """The data of a run that exists, as they were.

    Raises:
        RunError: if they have changed since.
    """
    prepared = prepare(recipe, Schema.from_json(about.get("schema")))
    if about.get("fingerprint") != prepared.digest:
        raise RunError(say("the data that the run was trained on", f"others at {recipe.data}", "bringing them back"))
    return prepared


def _description(recipe: Recipe, prepared: Prepared) -> list[str]:
    """What a person should know before training."""
    lines = [f"data: {len(prepared.x['all'])} rows of {prepared.schema.summary()}"]
    lines += [f"note: {note}" for note in prepared.notes]
    lines += [f"column {prepared.schema.name(i)}: {choice}" for i, choice in enumerate(prepared.choices)]
    if recipe.system:
        lines.append(f"system: {recipe.system}")
    elif not recipe.model:
        likelihood = likelihood_name(recipe, prepared.schema)
        L = recipe.num_latents
        lines.append(f"model: {recipe.prior} prior in {L} dimensions, {likelihood} likelihood; {recipe.guide} guide")
    return lines


def _halved(recipe: Recipe, prepared: Prepared, model: Any, guide: Any) -> str:
    """Let model and guide train in mixed precision, and say what that does to the ELBO of some training data."""
    if not (isinstance(model, nn.Module) and isinstance(guide, nn.Module)):
        raise TypeError(say("a model and guide that are torch modules", "Python functions", "mixed_precision=false"))
    device = torch.device("cuda" if recipe.device == "auto" else recipe.device)
    for module in (model, guide):
        halve(module.to(device))
    return must_not_bias(bias(model, guide, objective(recipe), prepared.x["train"][:2048].to(device)))


def _start(run: Run, recipe: Recipe, prepared: Prepared, launched: dict[str, Any] | None) -> None:
    """Write what the run is about; with the last file, the run exists."""
    about = {
        "schema": prepared.schema.to_json(),
        "fingerprint": prepared.digest,
        "rows": {name: len(x) for name, x in prepared.x.items()},
        "versions": versions(),
        "threads": torch.get_num_threads(),
    } | ({} if launched is None else {"launch": launched})
    run.write_json("about.json", about)
    write_whole(run / "config.toml", recipe.to_toml().encode())


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

    No code is run from the folder; a model of the user's is imported only if trusted. The process's own precision and
    random numbers are left as they were.

    Raises:
        RunError: if the run is not finished, or damaged.
        ValueError: if it needs code that is not trusted, or its data are not usable.
    """
    recipe = read_recipe(run)
    if not run.finished:
        raise RunError(say("a finished run", f"one still to train at {run.folder}", "pyro-vae train --resume first"))
    about = run.read_json("about.json")
    tensors, _ = read_tensors(run / "weights.safetensors")
    try:
        history = History(**run.read_json("history.json"))
    except TypeError as error:
        raise RunError(say("a whole history.json", f"{error}", "a backup, or training again")) from error
    with isolated(recipe):
        try:
            prepared = _same_data(recipe, about)
        except FileNotFoundError:  # the run has gone elsewhere without its data
            if recipe.model:
                raise
            prepared = Prepared(Schema.from_json(about.get("schema")), getattr(torch, recipe.dtype), {}, "", ())
        model, guide = _programs(recipe, prepared, trust_code=trust_code)
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
    return Trained(recipe, prepared, model, guide, history)
