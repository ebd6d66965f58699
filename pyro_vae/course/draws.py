"""Answers that are draws: what a learner's sampler gives is compared with the distribution that it should have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae.course.exercise import Exercise, Finding, Mistake
from pyro_vae.course.values import as_tensor

__all__ = ["Sample"]

_STANDARD_ERRORS = 5.0  # of the mean and of the standard deviation, by the effective sample size
_MIN_ESS = 100.0


@dataclass(frozen=True)
class Sample(Exercise):
    """An exercise whose answer is draws of a chain, ``(S,)`` or ``(S, L)``, or of several, ``(C, S, L)``.

    Mean and standard deviation are compared with the truth by the effective sample size of Geyer's initial sequence,
    which ``Draws`` uses, too: E|mean - mu| is sigma / sqrt(ESS), and that of the standard deviation, for tails like a
    Gaussian's, sigma / sqrt(2 ESS).

    Attributes:
        truth: computes mean and standard deviation, ``(L,)`` each or numbers.
        mistakes: each of whose ``answer`` computes the mean and standard deviation that follow from it.
        praise: what a right answer gets to read.

    Raises:
        TypeError: never for an answer: what cannot be read is wrong.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> exercise = Sample("0.1", "1,000 draws of N(0, 1).", lambda: (0.0, 1.0))
        >>> exercise.examine(torch.randn(1000)).right, exercise.examine(3 * torch.randn(1000)).message
        (True, 'The draws are spread too widely.')
    """

    truth: Callable[[], tuple[Any, Any]]
    mistakes: tuple[Mistake, ...] = ()
    praise: str = ""

    def examine(self, answer: object) -> Finding:
        """Compare mean and standard deviation of the draws with the truth."""
        mean, std = (as_tensor(v) for v in self.truth())
        if mean is None or std is None:
            raise TypeError(f"the truth of exercise {self.number} is no pair of numbers")
        mean, std = mean.reshape(-1), std.reshape(-1)
        chains = _read(answer, len(mean))
        if isinstance(chains, Finding):
            return chains
        ess = _effective_size(chains)
        if float(ess.min()) < _MIN_ESS:
            return Finding(False, f"The draws are worth only {float(ess.min()):.0f} independent ones: take more.")
        if _agrees(chains, ess, mean, std):
            return Finding(True, self.praise)
        for mistake in self.mistakes:
            other = [as_tensor(v) for v in mistake.answer()]  # type: ignore[attr-defined]
            if _agrees(chains, ess, *(v.reshape(-1) for v in other if v is not None)):
                return Finding(False, mistake.message)
        return Finding(False, _what_is_off(chains, ess, mean, std))


def _read(answer: object, dim: int) -> Tensor | Finding:
    """The draws as ``(C, S, L)``, or why they are none."""
    draws = as_tensor(answer)
    chains = None if draws is None else _chains(draws, dim)
    if chains is None:
        wanted = "(S,)" if dim == 1 else f"(S, {dim})"
        got = type(answer).__name__ if draws is None else f"shape {tuple(draws.shape)}"
        return Finding(False, f"Expected draws of shape {wanted}; got {got}.")
    if not bool(chains.isfinite().all()):
        return Finding(False, "Not every draw is finite.")
    if float(chains.std((0, 1)).min()) == 0:
        return Finding(False, "The chain never moves.")
    return chains


def _chains(draws: Tensor, dim: int) -> Tensor | None:
    """The draws as ``(C, S, L)``; None if they are of another shape."""
    if draws.dim() == 1 and dim == 1:
        draws = draws.unsqueeze(-1)
    if draws.dim() == 2 and draws.shape[-1] != dim and dim == 1:
        draws = draws.unsqueeze(-1)
    if draws.dim() == 2:
        draws = draws.unsqueeze(0)
    return draws if draws.dim() == 3 and draws.shape[-1] == dim and draws.shape[1] > 3 else None


def _effective_size(chains: Tensor) -> Tensor:
    """The smaller of the effective sizes for z and for (z - mean)^2, ``(L,)``."""
    from pyro.ops.stats import effective_sample_size

    centred = chains - chains.mean((0, 1))
    return torch.minimum(
        effective_sample_size(chains, chain_dim=0, sample_dim=1),
        effective_sample_size(centred.square(), chain_dim=0, sample_dim=1),
    )


def _agrees(chains: Tensor, ess: Tensor, mean: Tensor, std: Tensor) -> bool:
    shift = (chains.mean((0, 1)) - mean).abs() / (std / ess.sqrt())
    spread = (chains.std((0, 1)) - std).abs() / (std / (2 * ess).sqrt())
    return float(torch.maximum(shift, spread).max()) <= _STANDARD_ERRORS


def _what_is_off(chains: Tensor, ess: Tensor, mean: Tensor, std: Tensor) -> str:
    if float(((chains.mean((0, 1)) - mean).abs() / (std / ess.sqrt())).max()) > _STANDARD_ERRORS:
        return "The mean of the draws is not that of the target, by more than chance explains."
    wide = bool((chains.std((0, 1)) > std).any())
    return "The draws are spread too widely." if wide else "The draws are not spread widely enough."
