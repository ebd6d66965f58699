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


def write_columns(path: Path | None, columns: Mapping[str, Any], *, shape: tuple[int, ...] | None = None) -> None:
    """Write named columns of equal length to ``.csv``, ``.parquet`` or ``.npz``, and say so; no path, no file.

    With the ``shape`` of a datum also to ``.npy``, one array ``(N, *shape)``; images are one array in ``.npz`` too.

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
    numbers = shape is not None and all(np.asarray(values).dtype.kind in "biuf" for values in columns.values())
    endings = (".csv", ".npy", ".npz", ".parquet") if numbers else (".csv", ".npz", ".parquet")
    among(path.suffix, endings, "the output's ending")
    if shape is not None and (path.suffix == ".npy" or (path.suffix == ".npz" and len(shape) > 1)):
        values = np.column_stack([np.asarray(values) for values in columns.values()])
        array = values.reshape(-1, *shape)
        np.save(out, array, allow_pickle=False) if path.suffix == ".npy" else np.savez(out, x=array)
    elif path.suffix == ".npz":
        np.savez(out, **{name: np.asarray(values) for name, values in columns.items()})  # type: ignore[arg-type]
    elif path.suffix == ".csv":
        pd.DataFrame(dict(columns)).to_csv(out, index=False)
    else:
        pd.DataFrame(dict(columns)).to_parquet(out, index=False)
    write_whole(path, out.getvalue())
    notify(f"wrote {path}")
