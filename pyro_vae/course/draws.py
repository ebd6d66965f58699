"""Answers that are draws: what a learner's sampler gives is compared with the distribution that it should have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae.course.exercise import Exercise, Finding, Mistake
from pyro_vae.course.reading import as_tensor
from pyro_vae.inference.mcmc import diagnostics
from pyro_vae.inference.mcmc.draws import Draws

__all__ = ["Sample"]

_STANDARD_ERRORS = 5.0  # of the mean and of the standard deviation: a right chain fails once in a million numbers
_MIN_ESS = 100.0
_MIN_DRAWS = 8  # a chain


@dataclass(frozen=True)
class Sample(Exercise):
    """An exercise whose answer is draws of a chain, ``(S,)`` or ``(S, L)``, of several, ``(C, S, L)``, or ``Draws``.

    Mean and standard deviation are compared with the truth within five of their Monte Carlo standard errors, by the
    effective sample sizes of ``Draws`` (Vehtari et al. 2021): draws that resemble their neighbours count for less.

    Attributes:
        truth: computes mean and standard deviation, ``(L,)`` each or numbers.
        mistakes: each of whose ``answer`` computes the mean and standard deviation that follow from it.
        praise: what a right answer gets to read.

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
        mean, std = self._moments(self.truth)
        chains = _read(answer, len(mean))
        if isinstance(chains, Finding):
            return chains
        ess = float(torch.minimum(diagnostics.ess_mean(chains), diagnostics.ess_mean(_squares(chains))).min())
        if ess < _MIN_ESS:
            message = f"All {chains[..., 0].numel()} draws together are worth {ess:.0f} independent ones: take more."
            return Finding(False, _trouble(chains) or message)
        if max(_errors(chains, mean, std)) <= _STANDARD_ERRORS:
            return Finding(True, self.praise)
        for mistake in self.mistakes:
            if max(_errors(chains, *self._moments(mistake.answer))) <= _STANDARD_ERRORS:
                return Finding(False, mistake.message)
        return Finding(False, _trouble(chains) or _what_is_off(chains, mean, std))

    def _moments(self, compute: Callable[..., Any]) -> tuple[Tensor, Tensor]:
        mean, std = (as_tensor(value) for value in compute())
        if mean is None or std is None:
            raise TypeError(f"mean and standard deviation of exercise {self.number} are no pair of numbers")
        return mean.reshape(-1), std.reshape(-1)


def _read(answer: object, dim: int) -> Tensor | Finding:
    """The draws as ``(C, S, L)``, or why they are none."""
    if isinstance(answer, Draws) and len(answer.samples) == 1 and answer.num_data == 1:
        (samples,) = answer.samples.values()  # (C, S, 1, *event)
        answer = samples.flatten(2)
    draws = as_tensor(answer)
    chains = None if draws is None else _chains(draws, dim)
    if chains is None:
        wanted = "(S,) or (C, S)" if dim == 1 else f"(S, {dim}) or (C, S, {dim})"
        got = type(answer).__name__ if draws is None else f"shape {tuple(draws.shape)}"
        return Finding(False, f"Expected draws of shape {wanted}, at least {_MIN_DRAWS} a chain; got {got}.")
    if not bool(chains.isfinite().all()):
        return Finding(False, "Not every draw is finite.")
    if float(chains.std((0, 1)).min()) == 0:
        return Finding(False, "The chain never moves.")
    return chains


def _chains(draws: Tensor, dim: int) -> Tensor | None:
    """The draws as ``(C, S, L)``; None if they are of another shape."""
    if dim == 1 and (draws.dim() == 1 or (draws.dim() == 2 and draws.shape[-1] != 1)):
        draws = draws.unsqueeze(-1)
    if draws.dim() == 2:
        draws = draws.unsqueeze(0)
    fits = draws.dim() == 3 and draws.shape[-1] == dim and draws.shape[1] >= _MIN_DRAWS
    return draws if fits and draws.shape[0] else None


def _squares(chains: Tensor) -> Tensor:
    return (chains - chains.mean((0, 1))).square()


def _errors(chains: Tensor, mean: Tensor, std: Tensor) -> tuple[float, float]:
    """How far the means, and the standard deviations, are off at most, in standard errors of right draws.

    The unit is the truth's standard deviation, not the draws' own: draws that are all over the place would excuse
    themselves. Tails heavier than a Gaussian's make a standard deviation less certain: up to a kurtosis of 17.
    """
    spread = chains.flatten(0, 1).std(0)
    error_of_mean = std / diagnostics.ess_mean(chains).sqrt()
    relative = torch.minimum(diagnostics.mcse_std(chains) / spread, (4 / diagnostics.ess_mean(_squares(chains))).sqrt())
    shift = (chains.mean((0, 1)) - mean).abs() / error_of_mean
    return float(shift.max()), float(((spread - std).abs() / (std * relative)).max())


def _trouble(chains: Tensor) -> str:
    """What the draws say against themselves: nothing needs to be known of the target."""
    begin, end = chains[:, : chains.shape[1] // 5], chains[:, chains.shape[1] // 2 :]
    if float(((begin.mean((0, 1)) - end.mean((0, 1))).abs() / end.std((0, 1))).max()) > 1:
        return "The first draws are elsewhere than the later ones: was the warm-up thrown away, and is the chain done?"
    if chains.shape[0] > 1 and float(diagnostics.rhat(chains).max()) > 1.1:
        return "The chains do not agree with each other."
    return ""


def _what_is_off(chains: Tensor, mean: Tensor, std: Tensor) -> str:
    shift, _ = _errors(chains, mean, std)
    if shift > _STANDARD_ERRORS:
        return "The mean of the draws is not that of the target, by more than chance explains."
    wide = bool((chains.flatten(0, 1).std(0) > std).any())
    return "The draws are spread too widely." if wide else "The draws are not spread widely enough."
