"""Bounds by importance weights: IWAE, its doubly reparameterised gradient, and Renyi's."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pyro_vae.checks import say
from pyro_vae.inference.target.program import Program
from pyro_vae.inference.variational.objectives.base import Draw, Objective

__all__ = ["DoublyReparameterisedELBO", "ImportanceWeightedELBO", "RenyiELBO"]


class ImportanceWeightedELBO(Objective):
    r"""The importance-weighted bound, :math:`E[\log \frac1K \sum_k w_k]` with :math:`w_k = p(x, z_k) / q(z_k|x)`.

    It lies between the ELBO (K = 1) and log p(x), and rises with K. The weights are averaged for every datum.

    Args:
        particles: as of :class:`Objective`.

    Source:
        Burda, Grosse & Salakhutdinov 2016, equation 8.

    Example:
        >>> import pyro
        >>> from pyro_vae import Model, guides, likelihoods, networks, priors
        >>> model = Model(priors.StandardNormal(2), likelihoods.Bernoulli(networks.mlp(2, 8, 20)))
        >>> guide = guides.DiagonalGaussian(networks.mlp(20, 8, 4))
        >>> optimiser = pyro.optim.Adam({"lr": 1e-3})
        >>> svi = pyro.infer.SVI(model, guide, optimiser, loss=ImportanceWeightedELBO(num_particles=5))
        >>> svi.step(torch.zeros(7, 20)) > 0
        True
    """

    default_particles = 5

    def estimate(
        self, model: Program, guide: Program, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """Return the bound twice: autograd does the rest."""
        log_p, log_q = self._log_densities(model, guide, args, kwargs)
        bound = _log_mean_exp(log_p - log_q).sum()
        return bound, bound


class DoublyReparameterisedELBO(ImportanceWeightedELBO):
    r"""The importance-weighted bound with the doubly reparameterised gradient (DReG).

    The guide's gradient is :math:`\sum_k \tilde w_k^2\, \partial_z \log w_k\, \partial_\phi z_k` with normalised
    weights :math:`\tilde w`: unbiased where a datum depends on its own draws alone, and its signal does not vanish
    beside its noise as K grows. The model's gradient is that of the bound.

    Source:
        Tucker et al. 2019, equation 10.

    Example:
        >>> DoublyReparameterisedELBO(num_particles=50).num_particles
        50
    """

    def estimate(
        self, model: Program, guide: Program, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """Return the bound and the surrogate of its gradient."""
        draws, log_p, log_q = self._at_leaves(model, guide, args, kwargs, through=True)
        log_w = log_p - log_q
        weight = log_w.detach().softmax(0)
        for draw in draws:  # the gradient that comes back through the model has one weight; here it gets the other
            if draw.seen.requires_grad:
                own = weight if self.vectorize_particles else weight[draw.run]
                draw.seen.register_hook(partial(_times, own.reshape(*own.shape, *[1] * draw.event_dim)))
        surrogate = (weight * log_p).sum() - pull_back((weight.square() * log_q).sum(), draws)
        return _log_mean_exp(log_w).sum(), surrogate


class RenyiELBO(ImportanceWeightedELBO):
    r"""Renyi's bound, :math:`\frac{1}{1 - \alpha} \log \frac1K \sum_k w_k^{1 - \alpha}`.

    alpha = 0 is the importance-weighted bound, alpha towards 1 the ELBO; alpha below 0 gives upper bounds in the
    limit of many particles.

    Args:
        alpha: any number but 1.
        particles: as of :class:`Objective`.

    Raises:
        ValueError: if alpha is 1.

    Source:
        Li & Turner 2016, equation 13.

    Example:
        >>> RenyiELBO(alpha=0.5, num_particles=10).alpha
        0.5
    """

    def __init__(self, *, alpha: float = 0.5, **particles: Any) -> None:
        super().__init__(**particles)
        if alpha == 1 or not math.isfinite(alpha):
            raise ValueError(say("an alpha other than 1", f"{alpha}", "pyro.infer.Trace_ELBO() for alpha = 1"))
        self.alpha = float(alpha)

    def estimate(
        self, model: Program, guide: Program, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """Return the bound twice: autograd does the rest."""
        log_p, log_q = self._log_densities(model, guide, args, kwargs)
        bound = _log_mean_exp((1 - self.alpha) * (log_p - log_q)).sum() / (1 - self.alpha)
        return bound, bound


def _times(weight: Tensor, grad: Tensor) -> Tensor:
    return (weight * grad).reshape(grad.shape)  # the weight may have empty dimensions to the left of the draw's


def pull_back(objective: Tensor, draws: list[Draw]) -> Tensor:
    """Return a scalar whose gradient carries the objective's gradient at the leaves back through the draws."""
    zero = objective.new_zeros(())
    if not objective.requires_grad:  # only the value is asked for
        return zero
    grads = torch.autograd.grad(objective, [d.leaf for d in draws], retain_graph=True, allow_unused=True)
    pairs = [(g, d.value) for g, d in zip(grads, draws, strict=True) if g is not None and d.value.requires_grad]
    return sum(((g * z).sum() for g, z in pairs), zero)


def _log_mean_exp(log_w: Tensor) -> Tensor:
    return torch.logsumexp(log_w, 0) - math.log(log_w.shape[0])
