"""Checks at the border of the public functions, and the one wording of their errors.

Every message says what was expected, what came, and how to mend it. Inner code trusts its input.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

__all__ = [
    "among",
    "finite",
    "misfit",
    "positive_integer",
    "positive_number",
    "rows",
    "same_length",
    "same_width",
    "say",
    "tensor",
]


def say(expected: str, got: str, remedy: str) -> str:
    """Return "expected ...; got ...; try ...", the wording of every error of this package.

    Example:
        >>> say("a positive integer", "-1", "num_samples=100")
        'expected a positive integer; got -1; try num_samples=100'
    """
    return f"expected {expected}; got {got}; try {remedy}"


def among(value: str, choices: Iterable[str], name: str) -> str:
    """Return ``value`` if it is one of ``choices``.

    Raises:
        ValueError: if it is not; the nearest choice is suggested.
    """
    choices = sorted(choices)
    if value not in choices:
        near = get_close_matches(str(value), choices, n=1)
        raise ValueError(say(f"{name} to be one of {choices}", repr(value), repr((near or choices)[0])))
    return value


def positive_integer(value: Any, name: str, *, minimum: int = 1) -> int:
    """Return ``value`` as an int of at least ``minimum``.

    Raises:
        TypeError: if it is no whole number.
        ValueError: if it is too small.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(say(f"{name} to be a whole number", f"{value!r}", f"{name}={minimum}"))
    number = int(value.__index__())
    if number < minimum:
        raise ValueError(say(f"{name} to be at least {minimum}", str(number), f"{name}={minimum}"))
    return number


def positive_number(value: Any, name: str, *, example: float = 1.0, zero: bool = False) -> float:
    """Return ``value`` as a finite float above 0, or, with ``zero``, of at least 0.

    Raises:
        TypeError: if it is no number.
        ValueError: if it is out of range.
    """
    wanted = f"a {'non-negative' if zero else 'positive'}, finite {name}"
    if isinstance(value, bool | str) or not hasattr(value, "__float__"):
        raise TypeError(say(wanted, repr(value), f"{name}={example:g}"))
    number = float(value)
    if not (number > 0 or (zero and number == 0)) or not math.isfinite(number):
        raise ValueError(say(wanted, str(value), f"{name}={example:g}"))
    return number


def rows(index: Any, num_data: int, name: str = "rows") -> Tensor:
    """Return which data are meant as their numbers ``(n,)`` from 0: given as such, or as one True or False a datum.

    Raises:
        TypeError: if they are not whole numbers.
        ValueError: if there is none, or one that is no datum's.

    Example:
        >>> rows([True, False, True], 3)
        tensor([0, 2])
    """
    remedy = f"{name}=[0, 1]"
    try:
        found = torch.as_tensor(index if isinstance(index, Tensor) else list(index)).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(say(f"{name} as whole numbers", f"{index!r}", remedy)) from error
    if not found.numel() or found.dim() != 1:
        raise ValueError(say(f"{name}: a list of at least one datum", f"shape {tuple(found.shape)}", remedy))
    if found.dtype == torch.bool:
        if len(found) != num_data or not found.any():
            got = f"{len(found)}, of them {int(found.sum())} True"
            raise ValueError(say(f"{name} with one True or False for each of {num_data} data", got, remedy))
        return found.nonzero().flatten()
    if found.is_floating_point() or found.is_complex():
        raise TypeError(say(f"{name} as whole numbers", f"{found.dtype}", remedy))
    found = found.long()
    outside = found[(found < 0) | (found >= num_data)]
    if len(outside):
        raise ValueError(say(f"{name} from 0 to {num_data - 1}", f"{int(outside[0])}", remedy))
    return found


def tensor(x: Any, name: str = "x", *, min_dim: int = 1) -> Tensor:
    """Return ``x`` if it is a non-empty tensor whose first dimension runs over the data.

    Raises:
        TypeError: if it is no tensor.
        ValueError: if it is empty or has fewer than ``min_dim`` dimensions.
    """
    if not isinstance(x, Tensor):
        raise TypeError(say(f"{name} to be a torch.Tensor", type(x).__name__, f"torch.as_tensor({name})"))
    if x.dim() < min_dim:
        shape = tuple(x.shape)
        raise ValueError(
            say(f"{name} to have at least {min_dim} dimensions, the first over the data", f"shape {shape}", "x[None]")
        )
    if x.numel() == 0:
        raise ValueError(say(f"{name} to hold at least one datum", f"shape {tuple(x.shape)}", "a non-empty data set"))
    return x


def finite(x: Tensor, name: str = "x", *, missing: bool = False) -> Tensor:
    """Return ``x`` if it holds neither NaN nor infinity; with ``missing``, NaN is allowed.

    Raises:
        ValueError: naming the first offending row.
    """
    bad = x.isinf() if missing else ~torch.isfinite(x)
    if bad.any():
        if not x.dim():
            raise ValueError(say(f"{name} to be finite", str(float(x)), "a finite number"))
        rows = bad.reshape(x.shape[0], -1).any(-1).nonzero().flatten()
        row = int(rows[0])
        kind = "NaN" if torch.isnan(x[row]).any() else "an infinite value"
        raise ValueError(
            say(
                f"{name} to be finite",
                f"{kind} in row {row} ({len(rows)} such rows)",
                "dropping them, or Model(..., missing=True) for NaN",
            )
        )
    return x


def misfit(error: Exception, module: nn.Module, value: Tensor, *, what: str, name: str) -> Exception:
    """Return what to raise where a user's network failed on a tensor: torch's error in this package's words.

    Args:
        error: what the network raised, or a distribution made of its output.
        module: the module that holds it.
        value: what it was given.
        what: how to call the module, as in "the guide".
        name: how to call the value.

    Returns:
        A ValueError about dtypes, shapes or invalid parameters, or the error itself if it is about none of these.
    """
    message = str(error).partition("\n")[0]
    dtypes = {str(p.dtype): p.dtype for p in module.parameters() if p.is_floating_point()}
    if isinstance(error, RuntimeError) and dtypes and value.dtype not in dtypes.values():
        dtype = min(dtypes)
        remedy = f"{name}.to({dtype})" + (
            f", or moving the modules to {value.dtype}" if value.is_floating_point() else ""
        )
        return ValueError(say(f"{name} of {dtype}, as {what}'s parameters are", f"{value.dtype}", remedy))
    if isinstance(error, RuntimeError) and not _fits_first_layer(module, value):
        shape = tuple(value.shape)
        remedy = f"a first layer of {shape[-1] if shape else 1}"
        return ValueError(say(f"{what}'s network to take {name} of shape {shape}", message[:200], remedy))
    if isinstance(error, ValueError) and _raised_in(error, "torch.distributions"):
        got = message.partition(" (Tensor")[0].replace("Expected", "an invalid")
        remedy = "covariates in their range (a library size above 0), or finite weights"
        if bool(value.isnan().any()):
            got, remedy = f"NaN in {name}, and {got}", "networks.MaskedInput(network), which sees what is missing"
        return ValueError(say(f"{what} to give a valid distribution", got, remedy))
    return error


def _fits_first_layer(module: nn.Module, value: Tensor) -> bool:
    """Whether the first linear layer, if there is one, takes the last dimension of the value, or a datum laid flat."""
    widths = (layer.in_features for layer in module.modules() if isinstance(layer, nn.Linear))
    return next(widths, None) in {None, *value.shape[-1:], math.prod(value.shape[1:])}


def _raised_in(error: Exception, package: str) -> bool:
    """Whether the line that raised is a package's own."""
    step = error.__traceback__
    while step is not None and step.tb_next is not None:
        step = step.tb_next
    return step is not None and str(step.tb_frame.f_globals.get("__name__")).startswith(package)


def same_length(x: Tensor, other: Tensor, name: str, other_name: str) -> None:
    """Check that two tensors run over the same data.

    Raises:
        ValueError: if their first dimensions differ.
    """
    if x.shape[0] != other.shape[0]:
        raise ValueError(
            say(
                f"{name} and {other_name} to have the same number of data",
                f"{x.shape[0]} and {other.shape[0]}",
                "passing the same rows to both",
            )
        )


def same_width(x: Tensor, other: Tensor, name: str, other_name: str) -> None:
    """Check that two tensors hold some rows each, with equally many numbers a row.

    Raises:
        TypeError: if one is no tensor.
        ValueError: if one is empty, or their widths differ.
    """
    for each, called in ((x, name), (other, other_name)):
        if not isinstance(each, Tensor):
            raise TypeError(say(f"{called} to be a torch.Tensor", type(each).__name__, f"torch.as_tensor({called})"))
    if min(len(x), len(other)) < 1 or x[0].numel() != other[0].numel():
        got = f"shapes {tuple(x.shape)} and {tuple(other.shape)}"
        raise ValueError(say(f"{name} and {other_name} with rows of one width", got, "the same columns in both"))
