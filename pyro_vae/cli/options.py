"""Options that several commands share, and the run that they are about."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import MISSING, fields
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import typer

from pyro_vae.runs.recipe import Recipe

__all__ = ["choose", "completion", "opened", "recipe_options"]

PartNames = list[str] | None
RunFolder = Annotated[Path, typer.Argument(help="The folder of a finished run.", show_default=False)]
Data = Annotated[Path | None, typer.Option(help="Other data with the same columns; else the run's own.")]
Split = Annotated[str, typer.Option(help="Which of the run's own data: test, validation, train or all.")]
Rows = Annotated[int | None, typer.Option(min=1, help="Take at most so many data, from the first.")]
Output = Annotated[Path | None, typer.Option(help="A .csv, .parquet or .npz file to write.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of everything random.")]
TrustCode = Annotated[bool, typer.Option("--trust-code", help="Import the run's own Python code, which runs it.")]

_TABLES = {
    "prior": "PRIORS",
    "likelihood": "LIKELIHOODS",
    "guide": "GUIDES",
    "objective": "OBJECTIVES",
    "system": "SYSTEMS",
}


def completion(setting: str) -> Callable[[str], list[str]]:
    """Return what the shell asks for the names of parts, "prior" for one, that begin with what was typed."""

    def complete(incomplete: str) -> list[str]:
        from pyro_vae.runs import parts

        return [name for name in getattr(parts, _TABLES[setting]) if name.lower().startswith(incomplete.lower())]

    return complete


def recipe_options(*names: str, **words: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command whose last parameter is ``**settings`` an option for each of these settings of a recipe.

    Type, words and default come from the recipe's fields. The command gets those that were given.

    Args:
        names: of the settings; all if none.
        words: further settings by name, with the command's own words for each.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [p for p in signature(command, eval_str=True).parameters.values() if p.kind is not Parameter.VAR_KEYWORD]
        every = [*names, *words] or [field.name for field in fields(Recipe)]
        chosen = [_parameter(name, words.get(name)) for name in every]

        @functools.wraps(command)
        def run(**given: Any) -> None:
            settings = {p.name: given.pop(p.name) for p in chosen}
            settings |= {name: ",".join(value) for name, value in settings.items() if isinstance(value, list)}
            command(**given, **{name: value for name, value in settings.items() if value is not None})

        parameters = [*chosen, *own]
        run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return decorate


def _parameter(name: str, own: str | None) -> Parameter:
    """A setting of a recipe as typer reads it: an option that is None if it is not given."""
    field = next(field for field in fields(Recipe) if field.name == name)
    kind, words = get_args(get_type_hints(Recipe, include_extras=True)[name])
    if field.default not in (MISSING, ""):
        words += f" Default: {field.default}."
    words = own or words
    option: Any = typer.Option(help=words, autocompletion=completion(name) if name in _TABLES else None)
    if name == "data":
        option = typer.Argument(help=words, show_default=False)
    if name == "drop":  # may be said several times
        kind = list[str]
    return Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option])


@contextmanager
def opened(folder: Path, *, trust_code: bool, needs: str = "latents") -> Iterator[Any]:
    """Load the finished run in a folder, and work in its precision and from its seed until the end.

    Args:
        folder: of the run.
        trust_code: import the user's own Python code.
        needs: what the command is about: "latents", "density" or "samples". A density of x has no latents; a generator
            with codes or captions has samples alone.

    Raises:
        ValueError: if the run's system has not got it.
    """
    from pyro_vae.checks import say
    from pyro_vae.runs.folder import Run
    from pyro_vae.runs.isolation import isolated
    from pyro_vae.runs.training import load_run

    trained = load_run(Run(folder), trust_code=trust_code)
    if needs == "latents" and trained.density is not None:
        remedy = "pyro-vae evidence or sample; or a run without --system"
        raise ValueError(say("a model with latents", f"{trained.recipe.system}, a density of x", remedy))
    if needs != "samples" and trained.conditional is not None:
        got = f"{trained.recipe.system}, whose images depend on a code or caption"
        raise ValueError(say(f"a model with {needs}", got, "pyro-vae sample; or --system GAN"))
    with isolated(trained.recipe):
        yield trained


def choose(trained: Any, data: Path | None, split: str, rows: int | None) -> Any:
    """Return the data that a command is about, ``(N, D)``, as the model sees them; rows on disk if they are many."""
    from pyro_vae.checks import say
    from pyro_vae.cli.output import notify
    from pyro_vae.datasets.tables import Layout
    from pyro_vae.runs.data import encoded, load_data

    if data is not None:
        schema = trained.prepared.schema
        loaded = load_data(str(data), memory_map="auto", like=Layout(schema.columns, schema.words))
        for note in loaded.notes:
            notify(f"note: {note}")
        x = encoded(loaded, schema, trained.prepared.dtype)
    else:
        x = trained.prepared.split(split)
    if not len(x):
        raise ValueError(say(f"data in the split {split!r}", "none", "--split train"))
    if rows is None or rows >= len(x):
        return x if len(x) > _FEW else x[:]
    return x[:rows]


_FEW = 20_000  # rows that are read at once, wherever they lie
