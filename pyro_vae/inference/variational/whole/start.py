"""A Gaussian to start from."""

from __future__ import annotations

from dataclasses import dataclass

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.checks import say
from pyro_vae.inference.optimum.pathfinder import pathfinder
from pyro_vae.inference.target.target import Target
from pyro_vae.inference.variational.whole.families import cholesky
from pyro_vae.inference.variational.whole.natural import natural_steps, num_natural_draws

__all__ = ["Start", "gaussian_start"]

_MOST_NATURAL = 300  # latent dimension up to which natural-gradient steps pay
_MOST_CLIMBED = 200  # evaluations of Pathfinder: what is left of the way, natural-gradient steps go faster
_NATURAL_STEPS = 20
_LEAST_NATURAL = 2  # the first evaluation only judges the start


@dataclass(frozen=True)
class Start:
    """Where a search begins.

    Attributes:
        q: a Gaussian over u, ``batch_shape (N,)``.
        num_gradients: what it cost, in gradient evaluations at one u.
        num_sequential: those one after another.
    """

    q: dist.MultivariateNormal
    num_gradients: int
    num_sequential: int


@torch.no_grad()
def gaussian_start(target: Target, *, budget: int) -> Start:
    """Return Pathfinder's best Gaussian, moved by natural-gradient steps while they raise the bound.

    Raises:
        ValueError: if no start of finite density is found.
    """
    L = target.latent_dim
    path = pathfinder(target, history=min(max(6, L), 20), max_steps=max(1, min(_MOST_CLIMBED, budget // 8)))
    best = path.best
    tril = _narrowed(target, best.mean, cholesky(best.covariance_matrix))
    q = dist.MultivariateNormal(best.mean, scale_tril=tril, validate_args=False)
    spent, sequential = path.num_gradients, path.num_sequential
    affordable = (budget - spent) // num_natural_draws(L)
    if L <= _MOST_NATURAL and affordable >= _LEAST_NATURAL:
        q, own, calls = natural_steps(target, q, max_steps=min(_NATURAL_STEPS, affordable))
        spent, sequential = spent + own, sequential + calls
    return Start(q, spent, sequential)


def _narrowed(target: Target, loc: Tensor, tril: Tensor) -> Tensor:
    """The factor, halved until a hundred draws all have a finite density, as they do not beyond a support's edge.

    Raises:
        ValueError: if that never is so.
    """
    for _ in range(20):
        q = dist.MultivariateNormal(loc, scale_tril=tril, validate_args=False)
        bad = ~target.log_joint(q.sample((100,))).isfinite().all(0)
        if not bool(bad.any()):
            return tril
        tril = torch.where(bad[:, None, None], tril / 2, tril)
    row = int(bad.nonzero()[0, 0])
    expected = f"a Gaussian whose draws have finite density (posterior {row})"
    remedy = "a model whose likelihood is positive around the posterior's mode, or pv.mcmc"
    raise ValueError(say(expected, "none around Pathfinder's best point", remedy))
