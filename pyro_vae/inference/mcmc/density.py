"""The log joint of a target as the kernels call it: counted, and compiled where that pays."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyro_vae import checks
from pyro_vae.checks import say
from pyro_vae.inference.compiled.backend import NotTraceableError, compiled
from pyro_vae.inference.target.target import Target

__all__ = ["MOST_UNROLLED", "LogDensity"]

_SINGULAR = torch.linalg.LinAlgError  # type: ignore[attr-defined]
_WIDTHS = {"value": 1, "value_and_grad": 2, "parts_and_grads": 4}
MOST_UNROLLED = 8  # discrete sites, at some hundred operations each: the compiler's time grows faster than they


class LogDensity:
    """Log p(u, x) of a target and its gradient for u of one fixed shape, counted and perhaps compiled.

    The Pyro program runs once, while its tensor operations and those of its gradient are written down as one graph
    (``make_fx``), which Inductor then compiles. Where a matrix cannot be factorised (a covariance that is not positive
    definite, by rounding perhaps) there is no density: -inf, and a gradient of 0, so that chains turn back.

    Args:
        target: the densities.
        compile: True compiles on first use; "auto" too, but runs a program eagerly that cannot be traced, whose
            compiled values differ from the eager ones, or that has a long chain of discrete sites, and says why in
            ``engine``; False runs eagerly.

    Attributes:
        num_gradients: calls of ``value_and_grad`` so far.
        num_evaluations: calls of ``value`` so far.
        compile_seconds: wall-clock time spent on compilation.
        engine: what evaluates the densities, and why: "compiled", or "Pyro: ..." with a reason.

    Raises:
        NotTraceableError: on first use, if ``compile`` is True and that cannot be done.
        ValueError: if ``compile`` is neither of the three.

    Example:
        >>> import pyro_vae as pv
        >>> model = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(torch.nn.Linear(2, 3)))
        >>> density = LogDensity(Target(model, torch.ones(5, 3)))
        >>> value, grad = density.value_and_grad(torch.zeros(4, 5, 2))
        >>> value.shape, grad.shape, density.num_gradients
        (torch.Size([4, 5]), torch.Size([4, 5, 2]), 1)
    """

    def __init__(self, target: Target, *, compile: bool | str = False) -> None:
        if not isinstance(compile, bool):
            checks.among(compile, ["auto"], "compile, if not True or False,")
        self.target = target
        unrolled = len(target.discrete) if compile == "auto" else 0
        self.compile = False if unrolled > MOST_UNROLLED else compile
        self.num_gradients = 0
        self.num_evaluations = 0
        self.compile_seconds = 0.0
        reason = "nothing was evaluated yet" if self.compile else "not to be compiled"
        if unrolled > MOST_UNROLLED:
            reason = f"{unrolled} discrete sites, whose sum would take the compiler minutes"
        self.engine = f"Pyro: {reason}"
        self._graphs: dict[tuple[Any, ...], Callable[..., Any]] = {}

    @torch.no_grad()
    def value(self, u: Tensor) -> Tensor:
        """Return log p(u), ``(..., N)``."""
        self.num_evaluations += 1
        return self._call("value", self.target.log_joint, u)

    @torch.no_grad()
    def value_and_grad(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return log p(u) ``(..., N)`` and its gradient ``(..., N, L)``."""
        self.num_gradients += 1
        value, grad = self._call("value_and_grad", self.target.value_and_grad, u)
        return value, grad

    @torch.no_grad()
    def parts_and_grads(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return log p(u) and log p(x|u), each ``(..., N)``, and their gradients, for tempering."""
        self.num_gradients += 1
        prior, likelihood, prior_grad, likelihood_grad = self._call("parts_and_grads", self._parts_and_grads, u)
        return prior, likelihood, prior_grad, likelihood_grad

    def _parts_and_grads(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        u = u.detach().requires_grad_()
        with torch.enable_grad():
            prior, likelihood = self.target.log_parts(u)
            if not likelihood.requires_grad:
                remedy = 'evidence(model, x, guide, method="importance") with a guide of the program'
                raise ValueError(say("a likelihood with a gradient in the latents", "none", remedy))
            nothing = 0.0 * u.sum()  # a flat prior does not depend on u
            (prior_grad,) = torch.autograd.grad(prior.sum() + nothing, u, retain_graph=True)
            (likelihood_grad,) = torch.autograd.grad(likelihood.sum() + nothing, u)
        return prior.detach(), likelihood.detach(), prior_grad, likelihood_grad

    def _call(self, name: str, function: Callable[..., Any], u: Tensor) -> Any:
        try:
            return self._run(name, function, u)
        except NotTraceableError:
            raise
        except (RuntimeError, ValueError) as error:  # of compiled code a RuntimeError without more
            halve = _by_halves if _is_singular(error) else _where_defined
            values = halve(function, u.reshape(-1, *u.shape[-2:]), _WIDTHS[name], error)
        shaped = [value.reshape(u.shape[: value.dim() - 3 + u.dim()]) for value in values]
        return shaped[0] if name == "value" else tuple(shaped)

    def _run(self, name: str, function: Callable[..., Any], *inputs: Tensor) -> Any:
        if not self.compile:
            return function(*inputs)
        key = (name, *(tuple(t.shape) for t in inputs), inputs[0].dtype)
        if key not in self._graphs:
            started = time.perf_counter()
            try:
                self._graphs[key] = _compiled(function, inputs)
                self.engine = "compiled"
            except NotTraceableError as error:
                if self.compile is True:
                    raise NotTraceableError(
                        say("a program that can be compiled", str(error), "compile=False")
                    ) from None
                self.engine = f"Pyro: {error}"
                self._graphs[key] = function
            self.compile_seconds += time.perf_counter() - started
        return self._graphs[key](*inputs)


def _where_defined(function: Callable[..., Any], u: Tensor, width: int, error: Exception) -> list[Tensor]:
    """The function of u ``(C, N, L)``, evaluated by halves, so that what has no density is found by itself.

    Args:
        function: gives one value, a value and its gradient, or the values of prior and likelihood and their gradients.
        u: where.
        width: how many tensors it gives.
        error: what came when it was evaluated as a whole.

    Raises:
        Exception: the error that came before, if it is of another kind.
    """
    try:
        return _tensors(function(u))
    except (RuntimeError, ValueError) as own:
        if not _is_singular(own):
            raise error from None
        return _by_halves(function, u, width, error)


def _is_singular(error: Exception) -> bool:
    return isinstance(error, _SINGULAR) or isinstance(error.__cause__, _SINGULAR)


def _by_halves(function: Callable[..., Any], u: Tensor, width: int, error: Exception) -> list[Tensor]:
    """As ``_where_defined``, where the whole is known to be singular somewhere."""
    if len(u) == 1:
        nowhere, zero = torch.full(u.shape[:-1], -torch.inf, dtype=u.dtype, device=u.device), torch.zeros_like(u)
        values = [nowhere, torch.zeros_like(nowhere)][: max(1, width // 2)]  # the prior's -inf says enough
        return values + [zero] * (width // 2)
    halves = [_where_defined(function, half, width, error) for half in u.tensor_split(2)]
    return [torch.cat(pair) for pair in zip(*halves, strict=True)]


def _compiled(function: Callable[..., Any], inputs: tuple[Tensor, ...]) -> Callable[..., Any]:
    """Trace and compile.

    Raises:
        NotTraceableError: if that fails or changes the values.
    """
    expected = function(*inputs)
    run = compiled(lambda tensors: _tensors(function(*tensors)), list(inputs))
    return (lambda *args: run(list(args))[0]) if isinstance(expected, Tensor) else lambda *args: tuple(run(list(args)))


def _tensors(out: Any) -> list[Tensor]:
    return [out] if isinstance(out, Tensor) else list(out)
