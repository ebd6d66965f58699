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
_DOUBTFUL = 3.5  # standard errors from which on a mistake that explains the draws better is the better guess
_SLOW = 10  # draws to an effective one: from here on it is the target's fault, and not the number's
_MIN_DRAWS = 8  # a chain


@dataclass(frozen=True)
class Sample(Exercise):
    """An exercise whose answer is draws of a chain, ``(S,)`` or ``(S, L)``, of several, ``(C, S, L)``, or ``Draws``.

    Mean and standard deviation are compared with the truth within five of their Monte Carlo standard errors, by the
    effective sample sizes of ``Draws`` (Vehtari et al. 2021): draws that resemble their neighbours count for less.

    Attributes:
        truth: computes mean and standard deviation, ``(L,)`` each or numbers.
        mistakes: each of whose ``answer`` computes the mean and standard deviation that follow from it; a mean of NaN
            may be any.
        min_ess: effective draws from which on right and wrong can be told apart: enough for each of the mistakes.
        hard: what is said of many draws that are worth little, or are off without a known mistake: what makes this
            target hard. Empty where nothing does.
        praise: what a right answer gets to read.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> exercise = Sample("0.1", "1,000 draws of N(0, 1).", lambda: (0.0, 1.0))
        >>> exercise.examine(torch.randn(1000)).right, exercise.examine(3 * torch.randn(1000)).message
        (True, 'The draws are spread too widely.')
    """

    truth: Callable[[], tuple[Any, Any]]
    mistakes: tuple[Mistake, ...] = ()
    min_ess: float = 100.0
    hard: str = ""
    praise: str = ""

    def examine(self, answer: object) -> Finding:
        """Compare mean and standard deviation of the draws with the truth."""
        mean, std = self._moments(self.truth)
        chains = _read(answer, len(mean))
        if isinstance(chains, Finding):
            return chains
        ess = float(torch.minimum(diagnostics.ess_mean(chains), diagnostics.ess_mean(_squares(chains))).min())
        off = max(_errors(chains, mean, std))
        right = off <= _STANDARD_ERRORS
        mistake = self._mistake(chains, off) if ess >= self.min_ess / 4 else None
        if mistake and off > _DOUBTFUL:
            return Finding(False, _warm_up(chains) or mistake.message)
        if right and ess >= self.min_ess:
            return Finding(True, self.praise)
        what = _warm_up(chains) or _disagreement(chains)
        slow = self.hard and chains[..., 0].numel() >= max(self.min_ess, _SLOW * ess)
        if not what:
            what = _what_is_off(chains, mean, std) if ess >= self.min_ess else self._worth(chains, ess, more=not slow)
        return Finding(False, f"{what} {self.hard}" if slow or (self.hard and ess >= self.min_ess) else what)

    def _mistake(self, chains: Tensor, off: float) -> Mistake | None:
        """The mistake that explains the draws best, and better than the truth; one of any mean comes last."""
        found = []
        for mistake in self.mistakes:
            mean, std = self._moments(mistake.answer)
            error = max(_errors(chains, mean, std))
            if error <= min(_STANDARD_ERRORS, off):
                found.append((bool(mean.isnan().any()), error, mistake))
        return min(found, key=lambda one: one[:2])[2] if found else None

    def _worth(self, chains: Tensor, ess: float, *, more: bool) -> str:
        worth = f"All {chains[..., 0].numel():,} draws together are worth {ess:,.0f} independent ones"
        if not more:
            return f"{worth}."
        return f"{worth}: take more. From {self.min_ess:,.0f} on, a right sampler can be told from a wrong one."

    def _moments(self, compute: Callable[..., Any]) -> tuple[Tensor, Tensor]:
        mean, std = (as_tensor(value) for value in compute())
        if mean is None or std is None:
            raise TypeError(f"mean and standard deviation of exercise {self.number} are no pair of numbers")
        return mean.reshape(-1), std.reshape(-1)


def _read(answer: object, dim: int) -> Tensor | Finding:
    """The draws as ``(C, S, L)``, or why they are none."""
    if isinstance(answer, Draws):
        if len(answer.samples) > 1 or answer.num_data != 1:
            return Finding(False, _which(answer))
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


def _which(draws: Draws) -> str:
    """What is said of draws of several sites, or of several data."""
    if len(draws.samples) == 1:
        return f"These are draws for {draws.num_data} data: hand in those of one."
    sites = ", ".join(f'draws.samples["{name}"]' for name in draws.samples)
    made = ", ".join(f'draws.deterministic["{name}"]' for name in draws.deterministic)
    return f"These are draws of several sites: hand in those of the one that is asked for. There are {sites}" + (
        f", and what the program makes of them: {made}." if made else "."
    )


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
    return float(shift.nan_to_num(0.0).max()), float(((spread - std).abs() / (std * relative)).max())


def _warm_up(chains: Tensor) -> str:
    """What is said where the chains begin elsewhere: on average, or farther out than they ever come back to."""
    begin, end = chains[:, : max(1, chains.shape[1] // 5)], chains[:, chains.shape[1] // 2 :]
    shift = (begin.mean((0, 1)) - end.mean((0, 1))).abs() / end.std((0, 1))
    centre = end.flatten(0, 1).median(0).values
    far = (begin - centre).abs().amax((0, 1)) / (end - centre).abs().amax((0, 1))
    if float(shift.max()) > 1 or float(far.max()) > 2:
        return "The first draws are elsewhere than the later ones: was the warm-up thrown away, and is the chain done?"
    return ""


def _disagreement(chains: Tensor) -> str:
    apart = chains.shape[0] > 1 and float(diagnostics.rhat(chains).max()) > 1.1
    return (
        "The chains do not agree with each other: are they long enough, and do all draw from one density?"
        if apart
        else ""
    )


def _what_is_off(chains: Tensor, mean: Tensor, std: Tensor) -> str:
    shift, _ = _errors(chains, mean, std)
    if shift > _STANDARD_ERRORS:
        return "The mean of the draws is not that of the target, by more than chance explains."
    wide = bool((chains.flatten(0, 1).std(0) > std).any())
    return "The draws are spread too widely." if wide else "The draws are not spread widely enough."
