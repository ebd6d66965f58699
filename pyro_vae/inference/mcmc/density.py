"""The log joint of a target as the kernels call it: counted, and compiled where that pays."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyro_vae.inference.compiled.backend import agree, compile_run, why_no_compiler
from pyro_vae.inference.target.target import Target

__all__ = ["LogDensity"]


class LogDensity:
    """Log p(u, x) of a target and its gradient for u of one fixed shape, counted and perhaps compiled.

    The Pyro program runs once, while its tensor operations and those of its gradient are written down as one graph
    (``make_fx``), which Inductor then compiles. A program that cannot be traced, or whose compiled values differ from
    the eager ones, is run eagerly.

    Args:
        target: the densities.
        compile: compile on first use.

    Attributes:
        num_gradients: calls of ``value_and_grad`` so far.
        num_evaluations: calls of ``value`` so far.
        compile_seconds: wall-clock time spent on compilation.
        compiled: whether a compiled graph is in use.

    Example:
        >>> import pyro_vae as pv
        >>> model = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(torch.nn.Linear(2, 3)))
        >>> density = LogDensity(Target(model, torch.ones(5, 3)))
        >>> value, grad = density.value_and_grad(torch.zeros(4, 5, 2))
        >>> value.shape, grad.shape, density.num_gradients
        (torch.Size([4, 5]), torch.Size([4, 5, 2]), 1)
    """

    def __init__(self, target: Target, *, compile: bool = False) -> None:
        self.target = target
        self.compile = compile
        self.num_gradients = 0
        self.num_evaluations = 0
        self.compile_seconds = 0.0
        self.compiled = False
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
            (prior_grad,) = torch.autograd.grad(prior.sum(), u, retain_graph=True)
            (likelihood_grad,) = torch.autograd.grad(likelihood.sum(), u)
        return prior.detach(), likelihood.detach(), prior_grad, likelihood_grad

    def _call(self, name: str, function: Callable[..., Any], *inputs: Tensor) -> Any:
        if not self.compile:
            return function(*inputs)
        key = (name, *(tuple(t.shape) for t in inputs), inputs[0].dtype)
        if key not in self._graphs:
            started = time.perf_counter()
            graph = _compiled(function, inputs)
            self.compiled = self.compiled or graph is not None
            self._graphs[key] = graph or function
            self.compile_seconds += time.perf_counter() - started
        return self._graphs[key](*inputs)


def _compiled(function: Callable[..., Any], inputs: tuple[Tensor, ...]) -> Callable[..., Any] | None:
    """Trace and compile; None if that fails or changes the values."""
    if why_no_compiler(inputs) is not None:
        return None
    try:
        expected = function(*inputs)
        run = compile_run(lambda tensors: _tensors(function(*tensors)), list(inputs))
        got = run(list(inputs))
    except Exception:  # noqa: BLE001  whatever the compiler stumbles over, the eager program still runs
        return None
    if not agree(got, _tensors(expected), inputs):
        return None
    return (lambda *args: run(list(args))[0]) if isinstance(expected, Tensor) else lambda *args: tuple(run(list(args)))


def _tensors(out: Any) -> list[Tensor]:
    return [out] if isinstance(out, Tensor) else list(out)
