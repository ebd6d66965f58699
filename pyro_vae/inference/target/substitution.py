"""A program run at values of its latent sites that a vector u holds, for many u at once."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection
from contextlib import nullcontext, suppress
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from pyro_vae.checks import say
from pyro_vae.inference.target.enumeration import Enumeration, is_discrete
from pyro_vae.inference.target.layout import Layout
from pyro_vae.inference.target.modules import evaluating
from pyro_vae.inference.target.program import Imputing, Program, Trace, run_once, run_to
from pyro_vae.inference.target.supports import bijection, is_real, underlying

__all__ = ["DrawImproper", "NaNWhereSaturated", "NaNWithoutFactor", "each", "run_at", "run_prior", "vectorised"]

_FILLS = {Tensor.normal_, Tensor.exponential_, Tensor.cauchy_, Tensor.uniform_, Tensor.log_normal_, Tensor.geometric_}


_MAKERS = {torch.zeros, torch.ones, torch.empty, torch.full, Tensor.new_zeros, Tensor.new_ones, Tensor.new_empty}


def run_prior(model: Program, args: tuple[Any, ...], latent: Collection[str] | None = None) -> Trace:
    """The sample sites of one run in evaluation mode, latent sites drawn from the prior; if given, at least ``latent``.

    An improper one, which has no draws, is uniform on (-2, 2) on the unconstrained scale, as where Pyro's chains start.

    Raises:
        ValueError: if the program draws what no trace shows.
    """
    with _Untraced(), DrawImproper():
        return _run(model, args, run_once if latent is None else partial(run_to, latent))


def _run(model: Program, args: tuple[Any, ...], read: Callable[..., Trace] = run_once) -> Trace:
    with evaluating(model), pyro.validation_enabled(False), Imputing():
        return read(model, *args)


def run_at(
    model: Program,
    args: tuple[Any, ...],
    layout: Layout,
    u: Tensor,
    enumeration: Enumeration | None = None,
    *,
    read: Callable[..., Trace] = run_once,
) -> Trace:
    """The sample sites of one run at u ``(N, L)``; latent ones have their log |det dz/du| in ``infer["log_det"]``.

    Discrete sites have all their values at once if they are to be enumerated, else the first one.
    """
    substitute = _Substitute(layout, u, enumerated=enumeration is not None)
    try:
        with substitute, nullcontext() if enumeration is None else enumeration.running():
            return _run(model, args, read)
    except RuntimeError as error:
        error.add_note(f"last latent site reached: {substitute.last!r}")
        raise


def vectorised(function: Callable[[Tensor], Any], u: Tensor) -> Any:
    """Map a function of u ``(N, L)`` over the leading dimensions of u ``(..., N, L)``.

    Raises:
        ValueError: if the function works for one u, and not vectorised; if a matrix cannot be factored at some u.
    """
    lead = u.shape[:-2]
    if not lead:
        return function(u)
    rows = u.reshape(lead.numel(), *u.shape[-2:])
    try:
        flat = _vmap(function, rows)
    except RuntimeError as error:
        singular = isinstance(error, torch.linalg.LinAlgError)  # type: ignore[attr-defined]  # at some u
        if not singular:
            with suppress(RuntimeError):
                flat = _vmap(lambda row: _writing(function, row), rows)
                return tree_map(lambda out: out.reshape(*lead, *out.shape[1:]), flat)
        function(rows[0])  # an error of the program itself comes as it is
        said = str(error).splitlines()[0].partition(" We don't support that yet")[0][:200]
        where = "; ".join([said, *getattr(error, "__notes__", [])])
        if singular:
            remedy = "more on the diagonal of the covariance, float64, or a prior that keeps away from there"
            raise ValueError(say("a program that has a density at every u", where, remedy)) from error
        remedy = "removing .item(), Python branches on values, dropout and sub-sampling"
        raise ValueError(say("a program and densities that torch.vmap can vectorise", where, remedy)) from error
    return tree_map(lambda out: out.reshape(*lead, *out.shape[1:]), flat)


def each(function: Callable[[Any], Any], items: Any) -> Any:
    """Stack the results of a function that may draw, for each row of a tensor or a dictionary of them, each's own draw.

    Vectorised, or one by one where that cannot be, as with a sampler without a batching rule.
    """
    try:
        with pyro.validation_enabled(False), _OwnNoise():
            return _vmap(function, items, randomness="different")
    except (RuntimeError, ValueError, NotImplementedError):
        leaves, spec = tree_flatten(items)
        results = [function(tree_unflatten(list(row), spec)) for row in zip(*leaves, strict=True)]
        return tree_map(lambda *parts: torch.stack(parts), *results)


def _vmap(function: Callable[[Any], Any], x: Any, *, randomness: str = "error") -> Any:
    """``torch.vmap`` without its warning: an operation without a batching rule is slow, not wrong."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
        return torch.vmap(function, randomness=randomness)(x)


class _OwnNoise(TorchFunctionMode):
    """Under ``vmap``, has noise filled into a tensor of each row's own: torch refuses one that all rows share."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _FILLS:
            args = (torch.rand_like(args[0]), *args[1:])
        return func(*args, **(kwargs or {}))


def _writing(function: Callable[[Tensor], Any], row: Tensor) -> Any:
    with _Writing(row):
        return function(row)


class _Writing(TorchFunctionMode):
    """Under ``vmap``, lets a program write into tensors in place: into a new one, through ``.data``, where a mask says.

    So do ``OrderedLogistic``, ``ProjectedNormalReparam`` and the reparametrisers of ``Stable``.
    """

    def __init__(self, row: Tensor) -> None:
        super().__init__()
        self.zero = torch.zeros_like(row).sum()  # one of each row

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func == Tensor.data.__get__:  # type: ignore[attr-defined]
            return args[0].detach()
        if func is Tensor.__setitem__ and isinstance(args[1], Tensor) and args[1].dtype == torch.bool:
            place, mask, value = args
            mask = mask.reshape((*mask.shape, *(1,) * (place.dim() - mask.dim())))
            return place.copy_(torch.where(mask, torch.as_tensor(value, dtype=place.dtype), place))
        made = func(*args, **(kwargs or {}))
        return made + self.zero if func in _MAKERS and made.is_floating_point() else made


class NaNWithoutFactor(TorchFunctionMode):
    """Gives NaN in place of an error where a matrix among many has no Cholesky factor."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is not torch.linalg.cholesky:
            return func(*args, **(kwargs or {}))
        factor, failed = torch.linalg.cholesky_ex(*args, **(kwargs or {}))
        return torch.where((failed == 0)[..., None, None], factor, torch.nan)


class DrawImproper(Messenger):
    """Draws latent sites that have no draws: uniform on (-2, 2) on the unconstrained scale."""

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and not msg["done"] and isinstance(underlying(msg["fn"]), dist.ImproperUniform):
            transform = bijection(msg["fn"].support)
            raw = torch.empty(transform.inverse_shape(msg["fn"].shape())).uniform_(-2, 2)
            msg["value"], msg["done"] = transform(raw), True


class NaNWhereSaturated(Messenger):
    """Makes a log determinant NaN where a value has reached the end of its support by rounding.

    Beyond, u moves and the value does not: what stands there is no density, and has not the integral of one. In single
    precision a sigmoid ends at u = 16, where a sparse Beta or Dirichlet still has mass.
    """

    def _pyro_post_sample(self, msg: Any) -> None:
        raw = msg["infer"].get("unconstrained")
        support = getattr(msg["fn"], "support", None)
        if raw is None or support is None or is_real(support):
            return
        log_det = msg["infer"]["log_det"]
        moved = (bijection(support).inv(msg["value"]) - raw).abs()
        lost = ~(moved < 1).reshape(*log_det.shape, -1).all(-1)
        msg["infer"] = {**msg["infer"], "log_det": torch.where(lost, torch.nan, log_det)}


class _Untraced(Messenger):
    """Refuses draws that no trace shows."""

    def _pyro_sample(self, msg: Any) -> None:
        if msg["infer"].get("_do_not_trace", False) and not msg["is_observed"]:
            name = msg["name"].removesuffix("_updated")
            remedy = "the program without ConjugateReparam: a density over all latents needs none"
            raise ValueError(say("a program whose draws are sites", f"{name!r} drawn by ConjugateReparam", remedy))


class _Substitute(Messenger):
    """Give latent sites the values that u holds; note each transform's log |det J| at its site."""

    def __init__(self, layout: Layout, u: Tensor, *, enumerated: bool) -> None:
        super().__init__()
        self.layout = layout
        self.u = u
        self.enumerated = enumerated
        self.last: str | None = None

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or poutine.util.site_is_subsample(msg):
            return
        self.last = msg["name"]
        if msg["done"]:  # has all its values
            return
        if is_discrete(msg) and not self.enumerated:
            msg["value"], msg["done"] = msg["fn"].enumerate_support()[0], True
            return
        site = self.layout.sites.get(msg["name"])
        if site is None:
            sites = list(self.layout.sites)
            raise ValueError(say(f"the latent sites of the first run, {sites}", repr(msg["name"]), "fixed sites"))
        raw = self.layout.unpack(self.u, site)
        transform = bijection(msg["fn"].support)
        value = transform(raw)
        if value.dim() > site.value_dim:
            remedy = "a support that is the same for all of its values"
            raise ValueError(say(f"a support of {msg['name']!r} that no discrete site moves", "one that does", remedy))
        log_det = transform.log_abs_det_jacobian(raw, value)
        extra = log_det.dim() - (value.dim() - len(msg["fn"].event_shape))
        msg["value"] = value
        msg["done"] = True
        log_det = log_det.flatten(-extra).sum(-1) if extra > 0 else log_det
        msg["infer"] = {**msg["infer"], "log_det": log_det, "unconstrained": raw}
