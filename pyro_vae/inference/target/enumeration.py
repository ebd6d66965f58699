"""Discrete latent sites: which a program has, and how it is run over all their values at once."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.infer_config_messenger import InferConfigMessenger
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pyro_vae.checks import say
from pyro_vae.inference.target import elimination
from pyro_vae.inference.target.program import Program, Trace, frame_of

__all__ = ["DiscreteSite", "Enumeration", "SizeGuard", "is_discrete"]

_MOST_DIMS = 56  # of a tensor; torch allows 64, of which vmap and events need some
_PARALLEL: Any = {"enumerate": "parallel", "expand": False, "num_samples": None}


@dataclass(frozen=True)
class DiscreteSite:
    """A discrete latent site that is summed out.

    Attributes:
        name: the site's name.
        values: every value that it takes, ``(K, *event)``, whole numbers as such.
        shape: its batch in the program.
        axis: position of the data axis in it; None outside the data plate.
    """

    name: str
    values: Tensor
    shape: torch.Size
    axis: int | None

    @classmethod
    def of(cls, name: str, site: dict[str, Any], plate: str | None) -> DiscreteSite:
        """Read it off a run of the program.

        Raises:
            ValueError: if its values have no end, or are not the same all over its batch; if a batch is in no plate.
        """
        fn, shape = site["fn"], torch.Size(site["fn"].batch_shape)
        _check_finite(name, fn)
        declared = {frame.dim for frame in site["cond_indep_stack"] if frame.vectorized}
        if any(shape[dim] > 1 and dim not in declared for dim in range(-len(shape), 0)):
            remedy = f"with pyro.plate('{name}_plate', {shape[-1]}) around it"
            raise ValueError(say(f"the batch of the discrete site {name!r} in plates", f"{tuple(shape)}", remedy))
        listed = fn.enumerate_support(expand=False)
        values = listed.reshape(-1, *fn.event_shape)
        if len(values) != len(listed):
            raise ValueError(say(f"one list of values for all of the site {name!r}", "several", "a site for each"))
        whole = bool((values == values.round()).all()) if values.is_floating_point() else True
        frame = frame_of(site, plate)
        axis = None if frame is None else len(shape) + frame.dim
        return cls(name, values.long() if whole else values, shape, axis)


@dataclass(frozen=True)
class Enumeration:
    """The discrete latent sites of one program, and how it is run over all their values.

    Attributes:
        sites: the discrete sites by name.
        first_available_dim: the first dimension, from the right, that no plate and no batch uses.
    """

    sites: dict[str, DiscreteSite]
    first_available_dim: int

    @classmethod
    def of(cls, trace: Trace, plate: str | None) -> Enumeration:
        """Read the discrete sites off one run of a program.

        Raises:
            ValueError: as :meth:`DiscreteSite.of`; if there are more sites than a tensor may have dimensions.
        """
        names = [name for name, site in trace.items() if is_discrete(site)]
        sites = {name: DiscreteSite.of(name, trace[name], plate) for name in names}
        nesting = max([0, *(_num_dims(site) for site in trace.values())])
        alone = [name for name in names if not trace[name]["infer"].get("_markov_depth")]
        if nesting + len(alone) > _MOST_DIMS:
            remedy = "for t in pyro.markov(range(T)) around a chain, or pyro.plate around independent sites"
            expected = f"at most {_MOST_DIMS - nesting} discrete sites outside pyro.markov"
            raise ValueError(say(expected, f"{len(alone)}, {alone[0]!r} to {alone[-1]!r}", remedy))
        undeclared = [name for name in names if trace[name]["infer"].get("enumerate") is None]
        if undeclared:
            some = ", ".join(undeclared[:3]) + (", ..." if len(undeclared) > 3 else "")
            word = f"summing out the discrete sites {some}; pyro.infer.config_enumerate(model) says that it is meant"
            warnings.warn(word, UserWarning, stacklevel=1)  # from one place, so that Python shows it once
        return cls(sites, -1 - nesting)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run a program over all values of its discrete sites, in a dimension each, left of the plates."""
        with _Enumerate(self.first_available_dim), InferConfigMessenger(self._declaration):
            yield

    def declared(self, program: Program) -> Program:
        """The program with its discrete sites declared as Pyro has it, ``infer={"enumerate": "parallel"}``."""
        return poutine.infer_config(program, self._declaration)

    def _declaration(self, site: Any) -> Any:
        return _PARALLEL if site["name"] in self.sites else {}


class _Enumerate(EnumMessenger):
    """Pyro's handler, without ``value.data``, which ``torch.vmap`` does not allow."""

    def _pyro_post_sample(self, msg: Any) -> None:
        """Note which enumerated dimensions a value has, for the sites that follow."""
        value = msg["value"]
        if not isinstance(value, Tensor) or poutine.util.site_is_subsample(msg):
            return
        shape = value.shape[: value.dim() - msg["fn"].event_dim]
        known = msg["infer"].setdefault("_dim_to_id", {})
        known |= self._param_dims.get(msg["name"], {})
        self._value_dims[msg["name"]] = {d: i for d, i in known.items() if len(shape) >= -d and shape[d] > 1}


class SizeGuard(TorchFunctionMode):
    """Stops a program whose tensors outgrow what summing out may need, before they have outgrown the memory.

    Attributes:
        largest: numbers in the largest tensor so far.

    Args:
        args: the program's arguments, which may be as large as they are.
    """

    def __init__(self, args: tuple[Any, ...]) -> None:
        super().__init__()
        self.most = max([elimination.LARGEST, *(8 * arg.numel() for arg in args if isinstance(arg, Tensor))])
        self.largest = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        if isinstance(found, Tensor):
            self.largest = max(self.largest, found.numel())
            if self.largest > self.most:
                raise elimination.size_error(self.largest)
        return found


def is_discrete(site: dict[str, Any]) -> bool:
    """Whether a site is latent and discrete."""
    return not site["is_observed"] and bool(site["fn"].support.is_discrete)


def _num_dims(site: dict[str, Any]) -> int:
    """How many dimensions the batches and plates of a site take."""
    value, fn = site["value"], site["fn"]
    own = value.dim() - len(fn.event_shape) if isinstance(value, Tensor) else 0
    return max([0, own, len(fn.batch_shape), *(-frame.dim for frame in site["cond_indep_stack"] if frame.vectorized)])


def _check_finite(name: str, fn: Any) -> None:
    """Check that a site's values can be listed.

    Raises:
        ValueError: if not; it says how to truncate the site, or to take its event apart.
    """
    with suppress(NotImplementedError):
        if fn.has_enumerate_support:
            fn.enumerate_support(expand=False)
            return
    family = type(fn).__name__
    if fn.event_shape:
        remedy = "its numbers in a plate of their own, in place of .to_event, or one Categorical over all its values"
    elif fn.has_enumerate_support:
        remedy = "one total_count for all, values that are too many having probability zero"
    else:
        remedy = (
            f"truncating it: k = torch.arange(K); dist.Categorical(logits=dist.{family}(...).log_prob(k)), with K so "
            "large that what lies beyond does not matter"
        )
    raise ValueError(say(f"a discrete latent site {name!r} of finitely many values, listed", family, remedy))
