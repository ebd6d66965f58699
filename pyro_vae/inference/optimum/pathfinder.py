"""Pathfinder: the best Gaussian along the way up, from many starts at once."""

from __future__ import annotations

import math
import time
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.arviz_import import pareto_k
from pyro_vae.checks import positive_integer, say
from pyro_vae.inference.optimum.factored_normal import FactoredNormal
from pyro_vae.inference.optimum.quasi_newton import QuasiNewton
from pyro_vae.inference.target.blocks import block_size, log_joint_in_blocks
from pyro_vae.inference.target.discrete import must_have_continuous
from pyro_vae.inference.target.program import Program
from pyro_vae.inference.target.target import Target, as_target

__all__ = ["PathfinderPosterior", "pathfinder"]

_CHECKS = 1000  # draws of the last bound and of k-hat
_TRIES = 100
_WEIGHT_STEPS = 20


class PathfinderPosterior(dist.MixtureSameFamily):
    """The mixture of each path's best Gaussian, ``batch_shape (N,)``, ``event_shape (L,)``, over the unconstrained u.

    The weights are those of the mixture's highest ELBO, so that paths to one place share what that place deserves.

    Attributes:
        elbo: of the best path's Gaussian, by fresh draws, ``(N,)``, nats.
        elbos: of each path's, ``(P, N)``.
        pareto_k: shape of the tail of the mixture's weights, ``(N,)``; above 0.7 draws cannot be re-weighted.
        converged: whether the best path came to a summit, ``(N,)``.
        num_gradients: gradient evaluations of log p at one u, of all paths together.
        num_evaluations: evaluations of log p without gradient, at one u, for the bounds.
        num_sequential: gradient evaluations one after another.
        seconds: wall time of the route.
    """

    elbo: Tensor
    elbos: Tensor
    pareto_k: Tensor
    converged: Tensor
    num_gradients: int
    num_evaluations: int
    num_sequential: int
    seconds: float

    @property
    def best(self) -> FactoredNormal:
        """The Gaussian of the path with the highest bound, ``batch_shape (N,)``."""
        each = self.component_distribution  # (N, P)
        return _take(FactoredNormal(*(part.movedim(1, 0) for part in _parts(each))), self.elbos.argmax(0))


@torch.no_grad()
def pathfinder(
    model: Program | Target,
    x: Tensor | tuple[Any, ...] | None = None,
    *,
    num_paths: int = 4,
    num_elbo_draws: int = 25,
    history: int = 6,
    max_steps: int = 1000,
    plate: str | None = "data",
) -> PathfinderPosterior:
    r"""Return Pathfinder's approximation of every datum's posterior, all paths and all data as one tensor.

    L-BFGS climbs log p(u, x) from several starts. At each point :math:`u_l` of a path it knows an inverse Hessian
    :math:`H_l` of low rank plus diagonal, and so a Gaussian :math:`N(u_l + H_l \nabla \log p(u_l, x), H_l)`; the one
    with the highest ELBO, by ``num_elbo_draws`` draws, is the path's answer. It costs about as much as the mode, and,
    unlike Laplace's, it need not lie there.

    Paths start uniform on (-2, 2), as chains do; those of latents in a data plate by turns from the prior, too.

    Source: Zhang, Carpenter, Gelman & Vehtari 2022, "Pathfinder: parallel quasi-Newton variational inference", JMLR
    23(306), algorithms 1 to 5.

    Args:
        model: a Pyro program, or a Target in place of program and data.
        x: data ``(N, *D)``, or the program's arguments as a tuple.
        num_paths: P.
        num_elbo_draws: draws that judge each point of a path.
        history: m, steps that L-BFGS keeps; with m >= L a Gaussian posterior is found as it is.
        max_steps: the most evaluations one after another.
        plate: the data plate; None for one posterior of the whole program.

    Raises:
        TypeError, ValueError: as :class:`~pyro_vae.inference.target.target.Target`; if every latent site is discrete,
            a number is not positive, or no start of finite density is found.

    Example:
        >>> from pyro_vae import Model, likelihoods, networks, priors
        >>> model = Model(priors.StandardNormal(2), likelihoods.Bernoulli(networks.mlp(2, 16, 64)))
        >>> q = pathfinder(model, torch.zeros(7, 64))
        >>> q.mean.shape, q.elbo.shape
        (torch.Size([7, 2]), torch.Size([7]))
    """
    begun = time.perf_counter()
    target = as_target(model, x, plate=plate)
    must_have_continuous(target)
    P = positive_integer(num_paths, "num_paths")
    positive_integer(num_elbo_draws, "num_elbo_draws", minimum=2)
    positive_integer(max_steps, "max_steps")
    u, value, grad, tried = starts(target, P)
    climb = QuasiNewton(u, value, grad, history=positive_integer(history, "history"))
    best = _Best(target, climb, torch.randn(num_elbo_draws, 1, 1, target.latent_dim).to(target.origin))
    steps = 0
    while steps < max_steps and not bool(climb.ended.all()):
        moved = climb.tell(*target.value_and_grad(climb.trial))
        best.add(climb, moved)
        steps += 1
    best.judge()
    found = _mixture(target, best.q)
    found.converged = climb.ended & (climb.promise < 1e-3)
    found.converged = found.converged.gather(0, found.elbos.argmax(0, keepdim=True)).squeeze(0)
    found.num_sequential = steps + tried
    found.num_gradients = P * found.num_sequential
    found.num_evaluations += best.num_evaluations
    found.seconds = time.perf_counter() - begun
    return found


def starts(target: Target, num_paths: int) -> tuple[Tensor, Tensor, Tensor, int]:
    """Return points of finite density ``(P, N, L)``, their value and gradient, and how many evaluations that took.

    Raises:
        ValueError: if there is none in a hundred tries.
    """

    def fresh() -> Tensor:
        u = target.origin.new_empty(num_paths, *target.origin.shape).uniform_(-2, 2)
        if target.per_datum:
            u[::2] = target.sample_prior(len(u[::2]))
        return u

    u = fresh()
    for tried in range(1, _TRIES + 1):
        value, grad = target.value_and_grad(u)
        bad = ~(value.isfinite() & grad.isfinite().all(-1))
        if not bool(bad.any()):
            return u, value, grad, tried
        u = torch.where(bad.unsqueeze(-1), fresh(), u)
    row = int(bad.nonzero()[0, 1])
    expected = f"a start of finite density and gradient (posterior {row}, after {_TRIES} tries)"
    remedy = "a prior that keeps to the likelihood's range, or data on another scale"
    raise ValueError(say(expected, "none", remedy))


class _Best:
    """The Gaussian of the highest bound so far, of every path; points are judged several at a time."""

    def __init__(self, target: Target, climb: QuasiNewton, noise: Tensor) -> None:
        self.target, self.noise = target, noise  # the same noise for all, so that bounds compare
        self.num_evaluations = 0
        self.bound = torch.full_like(climb.value, -math.inf)
        h = climb.history
        self.q, _ = FactoredNormal.of_steps(climb.u, torch.zeros_like(climb.u), h.steps, h.drops, h.diagonal)
        self._room = max(1, min(16, block_size(target) // (len(noise) * len(climb.u))))
        self._waiting: list[tuple[Tensor, ...]] = []
        self.add(climb, torch.ones_like(climb.ended))

    def add(self, climb: QuasiNewton, moved: Tensor) -> None:
        """Take in where the paths stand now, of those that moved ``(P, N)``."""
        if bool(moved.any()):
            h = climb.history
            self._waiting.append((moved, climb.u, climb.grad, h.steps, h.drops, h.diagonal))
        if len(self._waiting) >= self._room:
            self.judge()

    def judge(self) -> None:
        """Give every waiting point its bound, and keep the best."""
        if not self._waiting:
            return
        moved, u, grad, steps, drops, diagonal = zip(*self._waiting, strict=True)
        self._waiting = []
        pairs = torch.stack(steps, 1), torch.stack(drops, 1)  # (m, B, P, N, L)
        q, good = FactoredNormal.of_steps(torch.stack(u), torch.stack(grad), *pairs, torch.stack(diagonal))
        draws = q.place(self.noise.unsqueeze(1))  # (K, B, P, N, L)
        self.num_evaluations += draws[..., 0, 0].numel()
        bound = (self.target.log_joint(draws) - q.log_prob(draws)).mean(0)
        bound = torch.where(good & torch.stack(moved) & ~bound.isnan(), bound, -math.inf)
        top, which = bound.max(0)
        better = top > self.bound
        self.bound = torch.where(better, top, self.bound)
        self.q = _where(better, _take(q, which), self.q)


def _parts(q: FactoredNormal) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return q.loc, q.scale, q.directions, q.factor


def _take(q: FactoredNormal, which: Tensor) -> FactoredNormal:
    """Of the first batch dimension the member ``which`` says, ``(*rest)``."""
    return FactoredNormal(*(part.take_along_dim(_beside(which, part[0]).unsqueeze(0), 0)[0] for part in _parts(q)))


def _where(mask: Tensor, one: FactoredNormal, other: FactoredNormal) -> FactoredNormal:
    pairs = zip(_parts(one), _parts(other), strict=True)
    return FactoredNormal(*(torch.where(_beside(mask, a), a, b) for a, b in pairs))


def _beside(index: Tensor, part: Tensor) -> Tensor:
    return index.reshape(*index.shape, *[1] * (part.dim() - index.dim()))


def _log_weights(log_p: Tensor, log_q: Tensor, elbos: Tensor) -> Tensor:
    r"""The mixture's weights of the highest ELBO, on the log scale, ``(P, N)``, by steps of the natural gradient.

    :math:`w_i \propto w_i \exp E_{q_i}[\log p - \log \sum_j w_j q_j]`: where the Gaussians lie apart the first step
    ends at weights proportional to exp(ELBO), and equal Gaussians share those of one.

    Args:
        log_p: log p at each path's draws, ``(K, P, N)``.
        log_q: the Gaussians' densities j there, ``(P, K, P, N)``.
        elbos: each path's, minus infinity where it has no place, ``(P, N)``.
    """
    log_w = torch.where(elbos.isfinite() | ~elbos.isfinite().any(0), 0.0, -math.inf).log_softmax(0)
    for _ in range(_WEIGHT_STEPS):
        mixed = torch.logsumexp(log_q + log_w[:, None, None], 0)
        rise = (log_p - mixed).mean(0)
        log_w = torch.where(rise.isfinite(), log_w + rise, -math.inf)
        log_w = torch.where(log_w.isfinite().any(0), log_w, 0.0).log_softmax(0)
    return log_w


def _mixture(target: Target, q: FactoredNormal) -> PathfinderPosterior:
    """The paths' Gaussians ``(P, N)`` as one mixture, with bounds by fresh draws."""
    P = q.batch_shape[0]
    draws = q.sample((-(-_CHECKS // P),))  # (K, P, N, L)
    log_p = log_joint_in_blocks(target, draws.flatten(0, 1)).reshape(draws.shape[:-1])
    log_w = log_p - q.log_prob(draws)
    elbos = torch.where(log_w.isfinite().all(0), log_w.mean(0), -math.inf)
    each = FactoredNormal(*(part.movedim(0, 1) for part in _parts(q)))  # (N, P)
    logits = _log_weights(log_p, torch.stack([one.log_prob(draws) for one in map(q.member, range(P))]), elbos)
    found = PathfinderPosterior(dist.Categorical(logits=logits.T, validate_args=False), each, validate_args=False)
    mixed = found.sample((_CHECKS,))
    found.pareto_k = pareto_k(log_joint_in_blocks(target, mixed) - found.log_prob(mixed))
    found.elbos, found.elbo = elbos, elbos.amax(0)
    found.num_evaluations = P * len(draws) + _CHECKS
    return found
