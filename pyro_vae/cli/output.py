"""What the command line says, and where: results on standard output, everything else on standard error."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import typer

__all__ = ["explained", "notify", "settings", "show", "table", "write_columns"]


class _Settings:
    """What holds for all commands of this process."""

    debug = False


settings = _Settings()


def explained(command: Callable[..., None]) -> Callable[..., None]:
    """Turn what goes wrong in a command into a sentence and an exit code."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
        except _EXPECTED as error:
            if settings.debug:
                raise
            notify(f"error: {error}")
            raise typer.Exit(1) from None

    return run


_EXPECTED = (ValueError, TypeError, OSError, ArithmeticError, MemoryError, RuntimeError, ImportError)


def notify(message: str) -> None:
    """Write a line for the person, on standard error."""
    typer.echo(message, err=True)


def show(result: Mapping[str, Any], text: str, *, as_json: bool) -> None:
    """Print a result: as JSON, or as text."""
    typer.echo(json.dumps(_plain(result)) if as_json else text)


def _plain(value: Any) -> Any:
    """Numbers, lists and dictionaries for JSON, which knows no NaN."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and (value != value or abs(value) == float("inf")):  # noqa: PLR0124  NaN
        return None
    return value


def table(frame: Any) -> str:
    """Return a pandas DataFrame as text."""
    return str(frame.to_string(float_format=lambda value: f"{value:.3f}", na_rep="-"))


def write_columns(path: Path | None, columns: Mapping[str, Any]) -> None:
    """Write named columns of equal length to ``.csv``, ``.parquet`` or ``.npz``, and say so; no path, no file.

    Raises:
        ValueError: if the ending is another.
        RunError: if the file cannot be written; then what was there is untouched.
    """
    if path is None:
        return
    import io

    import numpy as np
    import pandas as pd

    from pyro_vae.checks import among
    from pyro_vae.runs.folder import write_whole

    out = io.BytesIO()
    among(path.suffix, (".csv", ".npz", ".parquet"), "the output's ending")
    if path.suffix == ".npz":
        np.savez(out, **{name: np.asarray(values) for name, values in columns.items()})  # type: ignore[arg-type]
    elif path.suffix == ".csv":
        pd.DataFrame(dict(columns)).to_csv(out, index=False)
    else:
        pd.DataFrame(dict(columns)).to_parquet(out, index=False)
    write_whole(path, out.getvalue())
    notify(f"wrote {path}")
