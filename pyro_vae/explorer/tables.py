"""How the page shows a datum: as an image, or as a row of named columns in the table's own units."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from pyro_vae.checks import say
from pyro_vae.datasets.kinds import Schema
from pyro_vae.likelihoods import Bernoulli, Beta, ContinuousBernoulli, Likelihood
from pyro_vae.networks import ConvDecoder

__all__ = ["column_specs", "image_size"]

_SMALLEST_IMAGE = 16  # pixels from which a square number of like columns is taken for an image


def image_size(
    likelihood: Likelihood, x: Tensor, *, named: bool, image_shape: Sequence[int] | None
) -> tuple[int, int] | None:
    """Return height and width of a datum, or None if it is a row of a table.

    Args:
        likelihood: of the model.
        x: data ``(N, *D)``.
        named: whether the columns have names.
        image_shape: what the user says, or None.

    Raises:
        ValueError: if the numbers of a datum do not fill the shape, or it is no shape of a grey image, or the decoder
            makes images in colour.
    """
    D = math.prod(x.shape[1:])
    if image_shape is not None:
        shape = tuple(int(size) for size in image_shape)
        if len(shape) != 2 or math.prod(shape) != D:
            raise ValueError(say(f"an image_shape (height, width) of {D} pixels", f"{shape}", "image_shape=(8, 8)"))
        return shape[0], shape[1]
    if named:
        return None
    for module in likelihood.modules():
        if isinstance(module, ConvDecoder):
            channels, height, width = module.image_shape
            if channels != 1 or height * width != D:
                got = f"{channels} channels of {height} x {width} for {D} numbers a datum"
                raise ValueError(say("grey images, of one channel", got, "out_channels=1, or columns=names of each"))
            return height, width
    if x.dim() > 2 and x.shape[-1] * x.shape[-2] == D:
        return int(x.shape[-2]), int(x.shape[-1])
    side = math.isqrt(D)
    square = side * side == D and D >= _SMALLEST_IMAGE
    return (side, side) if square and isinstance(likelihood, Bernoulli | ContinuousBernoulli | Beta) else None


def column_specs(x: Tensor, columns: Sequence[str] | None, schema: Schema | None) -> list[dict[str, Any]]:
    """Return name, units and range of each column, in the order to show them; ``index`` is its place in the model.

    Args:
        x: data ``(N, D)`` as the model sees them; NaN is missing.
        columns: names, in the model's order.
        schema: of the table, in its place.

    Raises:
        ValueError: if there are not as many names as columns.
    """
    flat = x.flatten(1).double()
    D = flat.shape[1]
    if schema is not None:
        if schema.data_dim != D:
            remedy = "the schema of these data"
            raise ValueError(say(f"a schema of {D} columns, as x has", f"{schema.data_dim}", remedy))
        place = {column: index for index, column in enumerate(schema.order)}
        return [_of_schema(schema, column, place[column], flat) for column in range(D)]
    names = [f"x{i + 1}" for i in range(D)] if columns is None else [str(name) for name in columns]
    if len(names) != D:
        raise ValueError(say(f"{D} names, one a column of x", f"{len(names)}", "columns=list_of_names"))
    return [{"name": name, "index": i, "loc": 0.0, "scale": 1.0} | _range(flat[:, i]) for i, name in enumerate(names)]


def _of_schema(schema: Schema, column: int, index: int, flat: Tensor) -> dict[str, Any]:
    name = schema.name(column).strip("'")
    levels = schema.levels[column] if schema.levels else ()
    words = schema.words.get(name, ()) or tuple(f"{level:g}" for level in levels)
    spec: dict[str, Any] = {
        "name": name,
        "index": index,
        "loc": schema.loc[column],
        "scale": schema.scale[column],
        **_range(flat[:, index]),
    }
    if words:
        spec["words"] = list(words)
    if levels:
        spec["levels"] = list(levels)
    return spec


def _range(values: Tensor) -> dict[str, float]:
    """Smallest and largest value that is there, as the model sees it."""
    there = values[~values.isnan()]
    if not len(there):
        return {"low": 0.0, "high": 1.0}
    return {"low": float(there.min()), "high": float(there.max())}
