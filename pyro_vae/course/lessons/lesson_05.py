"""Lesson 5, HMC and NUTS; are the chains right?"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pyro_vae.course.draws import Sample
from pyro_vae.course.exercise import Exercise, Mistake
from pyro_vae.course.functions import Function

__all__ = ["EXERCISES"]

Gradient = Callable[[Tensor], Tensor]
Phase = tuple[Tensor, Tensor]

_NECK = 3.0  # the standard deviation of the funnel's v


def _leapfrog(z: Tensor, r: Tensor, gradient: Gradient, step: float) -> Phase:
    r = r + 0.5 * step * gradient(z)
    z = z + step * r
    return z, r + 0.5 * step * gradient(z)


def _whole_kicks(z: Tensor, r: Tensor, gradient: Gradient, step: float) -> Phase:
    r = r + step * gradient(z)
    return z + step * r, r


def _euler(z: Tensor, r: Tensor, gradient: Gradient, step: float) -> Phase:
    return z + step * r, r + step * gradient(z)


def _one_half_kick(z: Tensor, r: Tensor, gradient: Gradient, step: float) -> Phase:
    r = r + 0.5 * step * gradient(z)
    return z + step * r, r


def _old_gradient(z: Tensor, r: Tensor, gradient: Gradient, step: float) -> Phase:
    kick = 0.5 * step * gradient(z)
    return z + step * (r + kick), r + 2 * kick


def _two_whole_kicks(z: Tensor, r: Tensor, gradient: Gradient, step: float) -> Phase:
    r = r + step * gradient(z)
    z = z + step * r
    return z, r + step * gradient(z)


def _uphill(z: Tensor) -> Tensor:
    """The gradient of the logarithm of a narrow Gaussian with a bend."""
    return torch.stack([-z[0] - 0.5 * z[1], -3 * z[1] - 0.5 * z[0] - 0.4 * z[1] ** 3])


def _between_and_within(chains: Tensor) -> tuple[Tensor, Tensor]:
    return chains.mean(1).var(), chains.var(1).mean()


def _rhat(chains: Tensor) -> Tensor:
    between, within = _between_and_within(chains)
    S = chains.shape[1]
    return ((S - 1) / S + between / within).sqrt()


def _chains() -> list[tuple[Tensor]]:
    """Chains that agree, that stand apart, and that differ in width, all made without chance."""
    line = torch.arange(40.0)
    waves = torch.stack([(line * rate).sin() for rate in (0.9, 1.3, 2.1, 2.9)])
    shifts, widths = torch.tensor([[0.0], [0.2], [1.5], [-0.9]]), torch.tensor([[1.0], [0.3], [2.0], [1.0]])
    return [(waves,), (waves + shifts,), (waves[:, :12] * widths + shifts,)]


EXERCISES: tuple[Exercise, ...] = (
    Function(
        "5.1",
        "Write leapfrog(z, r, gradient, step): one leapfrog step of position z and momentum r, (2,) each, with unit"
        " mass; gradient(z) is that of log p(x, z). Return the new z and the new r. Hand in the function.",
        _leapfrog,
        [
            (torch.tensor([1.0, -0.5]), torch.tensor([0.3, 0.8]), _uphill, 0.2),
            (torch.tensor([-0.4, 2.0]), torch.tensor([-1.0, 0.1]), _uphill, 0.5),
        ],
        (
            Mistake(_whole_kicks, "The first kick is whole: a leapfrog step begins and ends with half of one."),
            Mistake(_two_whole_kicks, "Both kicks are whole: together they should be as long as the step."),
            Mistake(_euler, "This is Euler's step: it gains energy, and every proposal is soon rejected."),
            Mistake(_one_half_kick, "The second half of the kick is missing: the momentum lags behind."),
            Mistake(
                _old_gradient,
                "The second half of the kick takes the gradient at the old place: the step cannot be reversed.",
            ),
            Mistake(
                lambda z, r, gradient, step: _leapfrog(z, r, lambda z: -gradient(z), step),
                "The force has the wrong sign: it pushes uphill of log p, as that is minus the potential energy.",
            ),
            Mistake(
                lambda z, r, gradient, step: (
                    _leapfrog(z, r, gradient, step)[0],
                    -_leapfrog(z, r, gradient, step)[1],
                ),
                "z is right; r is turned round. Whoever checks that the step can be reversed turns it, not the step.",
            ),
            Mistake(
                lambda z, r, gradient, step: _leapfrog(z, r, gradient, step)[::-1],
                "The position comes first, then the momentum.",
            ),
        ),
        praise="The step is its own inverse once r is flipped, and keeps volume: no correction is needed but energy's.",
    ),
    Function(
        "5.2",
        "Write rhat(chains) for draws (C, S) of one number: the root of (S - 1) / S + B / W, where B is the variance of"
        " the chains' means and W the mean of the chains' variances, both with the divisor n - 1. Hand in the"
        " function.",
        _rhat,
        _chains,
        (
            Mistake(lambda chains: _rhat(chains) ** 2, "The root is missing."),
            Mistake(
                lambda chains: (
                    (chains.shape[0] - 1) / chains.shape[0] + chains.mean(0).var() / chains.var(0).mean()
                ).sqrt(),
                "Chains and draws are exchanged: dimension 0 runs over chains.",
            ),
            Mistake(
                lambda chains: (
                    (chains.shape[1] - 1) / chains.shape[1]
                    + chains.mean(1).var(correction=0) / chains.var(1, correction=0).mean()
                ).sqrt(),
                "The variances have the divisor n, where n - 1 is asked.",
            ),
            Mistake(
                lambda chains: (
                    (chains.shape[1] - 1) / chains.shape[1]
                    + chains.shape[1] * chains.mean(1).var() / chains.var(1).mean()
                ).sqrt(),
                "B counts S times as much as it should: divide once more.",
            ),
            Mistake(
                lambda chains: (
                    (chains.shape[1] - 1) / chains.shape[1] + chains.var(1).mean() / chains.mean(1).var()
                ).sqrt(),
                "The fraction is upside down: chains that disagree should have a large R-hat.",
            ),
            Mistake(
                lambda chains: ((chains.shape[1] - 1) / chains.shape[1] + chains.mean(1).var() / chains.var()).sqrt(),
                "W is the mean of the chains' own variances; this is the variance of all draws together.",
            ),
        ),
        praise="Chains that began far apart, and cannot be told apart now, have forgotten where they began.",
    ),
    Sample(
        "5.3",
        "Sample Neal's funnel, v ~ N(0, 3), x_1 to x_9 ~ N(0, exp(v / 2)) (standard deviations), by HMC or NUTS, so"
        " that the neck is reached, too: write the program so that the sampler sees no funnel. Hand in the draws of"
        " v, (S,) or (C, S).",
        lambda: (0.0, _NECK),
        (
            Mistake(
                lambda: (0.0, 1.0),
                "These are draws of a standardised site: v is made of it by a factor.",
            ),
            Mistake(
                lambda: (0.0, _NECK**0.5),
                "The spread is the square root of what it should be: N(0, 3) has the standard deviation in it here.",
            ),
            Mistake(
                lambda: (0.0, _NECK**2),
                "The spread is the square of what it should be: N(0, 3) has the standard deviation in it here.",
            ),
        ),
        min_ess=200,
        hard="If the program draws x with a scale that v sets, more draws do not help: the sampler sees the funnel, and"
        " stays out of its neck. Draw sites that do not depend on each other, and make v and x of them.",
        praise="The same posterior, in coordinates in which one step size fits everywhere.",
    ),
)
