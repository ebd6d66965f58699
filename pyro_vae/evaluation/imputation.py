"""Missing data: imputation from the posterior predictive."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae import checks
from pyro_vae.checks import positive_integer, say
from pyro_vae.evaluation.evidence.importance import proposal, weighted_blocks
from pyro_vae.evaluation.sites import side_by_side
from pyro_vae.inference.mcmc.draws import Draws
from pyro_vae.inference.posterior import GuideSampler, answer
from pyro_vae.inference.target.target import Target
from pyro_vae.model import Model

__all__ = ["impute"]


@torch.no_grad()
def impute(
    model: Model,
    x: Tensor | tuple[Tensor, ...],
    posterior: Any,
    *,
    num_samples: int = 100,
    num_particles: int | None = None,
) -> Tensor:
    r"""Draw the missing entries of x from the posterior predictive, :math:`\int p(x_{mis}|z)\, p(z|x_{obs})\, dz`.

    Args:
        model: a ``Model(..., missing=True)``.
        x: data ``(N, *D)`` with NaN where an entry is missing; a tuple hands its further tensors on to the likelihood,
            as the routes do: ``(counts, library)``.
        posterior: p(z|x_obs) or an approximation of it: a guide, a distribution over the unconstrained u as the routes
            return it, Draws, or draws of z itself ``(S, N, L)``, as in ``draws.samples["z"].flatten(0, 1)``.
        num_samples: S, when the posterior is a guide or a distribution.
        num_particles: K; the draws are resampled from as many of the posterior's by their importance weights
            p(x, z) / q(z|x), each at most sqrt(K) times their mean (of the draws that fit into memory at once). That
            mends a posterior that errs a little; of one far off, whose weights are carried by a few draws, it stays
            between the two. None takes its own draws as they are.

    Returns:
        ``(S, N, *D)``: x where it is observed, draws where it is missing.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if a number is not positive, the draws are of other data, or the posterior has no density to
            weigh by.

    Source:
        Rubin 1987, sampling importance resampling, with the truncated weights of Ionides 2008.

    Example:
        >>> from pyro_vae import Model, analytic, likelihoods, priors
        >>> pixels = likelihoods.Gaussian(torch.nn.Linear(1, 2), scale=0.5)
        >>> model = Model(priors.StandardNormal(1), pixels, missing=True)
        >>> x = torch.tensor([[0.3, torch.nan]])
        >>> impute(model, x, analytic(model, x), num_samples=10).shape
        torch.Size([10, 1, 2])
    """
    x, *covariates = x if isinstance(x, tuple) else (x,)
    checks.tensor(x)
    if not isinstance(model, Model):
        raise TypeError(say("a pyro_vae.Model", type(model).__name__, "Model(prior, likelihood, missing=True)"))
    num_samples = positive_integer(num_samples, "num_samples")
    if num_particles is not None and isinstance(posterior, Tensor | Draws):
        got, remedy = "draws, which have none", "num_particles=None, or a guide or distribution"
        raise ValueError(say("a posterior with a density to weigh particles by", got, remedy))
    if isinstance(posterior, Tensor):
        z = posterior
    elif callable(posterior) or isinstance(posterior, Distribution | Draws):
        target = Target(model, (x, *covariates), plate=model.plate)
        if num_particles is None:
            z = _draws_of_z(target, posterior, num_samples)
        else:
            K = positive_integer(num_particles, "num_particles")
            z = side_by_side(target, _resampled(target, posterior, num_samples, K))
    else:
        remedy = 'pyro_vae.quadrature(model, x), or draws.samples["z"].flatten(0, 1)'
        raise TypeError(say("a posterior distribution, or draws of z", type(posterior).__name__, remedy))
    if z.dim() != 3 or z.shape[1] != len(x):
        raise ValueError(say(f"draws of shape (S, {len(x)}, L)", f"{tuple(z.shape)}", "a posterior of the same data"))
    if z.shape[-1] < model.latent_dim:
        got, remedy = f"draws of {z.shape[-1]} dimensions", "a posterior of the same model"
        raise ValueError(say(f"draws of z of {model.latent_dim} dimensions", got, remedy))
    z = z[..., z.shape[-1] - model.latent_dim :]  # of two levels, the one that the likelihood sees
    return torch.where(x.isnan(), model.likelihood(z, *covariates).sample().to(x), x)


def _draws_of_z(target: Target, posterior: Any, num_samples: int) -> Tensor:
    """Draws of the latent sites on their own scale, side by side, ``(S, N, L)``."""
    if isinstance(posterior, Draws):
        u = answer(target, posterior).u
    else:
        sampler = GuideSampler(target, posterior)
        q = sampler.distribution
        u = sampler.draw(num_samples)[0] if q is None else q.sample((num_samples,))  # its density is not needed
    if u.shape[-2:] != target.origin.shape:
        return u  # of other data or another model: the caller says so
    return side_by_side(target, u)


def _resampled(target: Target, posterior: Any, num_samples: int, num_particles: int) -> Tensor:
    """Draw u ``(S, N, L)`` from particles by their weights, in one pass over blocks of them.

    A place holds a draw of the blocks so far; the next block takes it with the block's share of the weight. In a block
    of k, no weight counts for more than sqrt(k) times their mean, so that a single draw never takes all places.
    """
    kept = target.origin.new_zeros(num_samples, *target.origin.shape)
    total = target.origin.new_full((target.num_data,), -math.inf, dtype=torch.float64)
    for u, log_weights in weighted_blocks(target, proposal(target, posterior), num_particles):
        log_w = log_weights.double().nan_to_num(-math.inf, posinf=-math.inf)
        log_w = torch.minimum(log_w, log_w.logsumexp(0) - 0.5 * math.log(len(u)))
        block = log_w.logsumexp(0)
        total = torch.logaddexp(total, block)
        weights = (log_w - block).exp().nan_to_num(1.0 / len(u))  # of a block without weight: any
        chosen = torch.multinomial(weights.T, num_samples, replacement=True).T  # (S, N)
        taken = torch.rand(chosen.shape, device=u.device) < (block - total).exp().nan_to_num(1.0)
        drawn = u.gather(0, chosen.unsqueeze(-1).expand(-1, -1, u.shape[-1]))
        kept = torch.where(taken.unsqueeze(-1), drawn, kept)
    return kept
