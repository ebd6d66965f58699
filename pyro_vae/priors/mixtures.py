"""Mixture priors: a learned Gaussian mixture, with or without a site of its components, and VampPrior."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.checks import among, finite, misfit, positive_integer, positive_number, say, tensor
from pyro_vae.priors.base import Prior
from pyro_vae.randomness import fork_rng
from pyro_vae.scales import raw_scale, to_scale

__all__ = ["DiscreteMixture", "GaussianMixture", "VampPrior"]


class GaussianMixture(Prior):
    r"""A learned mixture, :math:`p(z) = \sum_k \pi_k N(z; \mu_k, \Sigma_k)`, with diagonal or full covariances.

    Weights, means and covariances are learnt; Sigma = T T^T with T lower triangular, its diagonal softplus(raw) + 0.01,
    and of diagonal covariances nothing below it. Means start as draws of N(0, 1) ``spread`` wide, so that the
    components differ, with Sigma = I.

    Args:
        latent_dim: L.
        num_components: how many Gaussians.
        spread: standard deviation of the first means.
        covariance: "diagonal" or "full".

    Raises:
        TypeError: if a size is no whole number.
        ValueError: if a size is not positive, ``spread`` negative, or ``covariance`` another word.

    Example:
        >>> GaussianMixture(2, num_components=10)().event_shape
        torch.Size([2])
    """

    def __init__(
        self, latent_dim: int, *, num_components: int = 10, spread: float = 1.0, covariance: str = "diagonal"
    ) -> None:
        super().__init__()
        self.latent_dim = positive_integer(latent_dim, "latent_dim")
        K = positive_integer(num_components, "num_components")
        spread = positive_number(spread, "spread", zero=True)
        self.covariance = among(covariance, ("diagonal", "full"), "covariance")
        self.logits = nn.Parameter(torch.zeros(K))
        self.loc = nn.Parameter(spread * torch.randn(K, self.latent_dim))
        self.raw_scale = nn.Parameter(torch.full((K, self.latent_dim), float(raw_scale(1.0, floor=_FLOOR))))
        if covariance == "full":
            self.lower = nn.Parameter(torch.zeros(K, self.latent_dim, self.latent_dim))

    def forward(self) -> dist.TorchDistribution:
        """Return p(z), ``event_shape (L,)``."""
        return dist.MixtureSameFamily(dist.Categorical(logits=self.logits), self.components())

    def components(self, index: Any = slice(None)) -> dist.TorchDistribution:
        """Return the Gaussians, ``batch_shape (K,)``, or those at an index ``(...)``."""
        loc, scale = self.loc[index], to_scale(self.raw_scale, floor=_FLOOR)[index]
        if self.covariance == "full":
            return dist.MultivariateNormal(loc, scale_tril=self.lower[index].tril(-1) + torch.diag_embed(scale))
        return dist.Normal(loc, scale).to_event(1)

    def responsibilities(self, z: Tensor) -> Tensor:
        """Return p(c|z) for z ``(..., L)``, ``(..., K)``: p(c|x) is their mean over draws of z given x."""
        return (self.logits + self.components().log_prob(z.unsqueeze(-2))).softmax(-1)

    @torch.no_grad()
    def start_at(self, weights: Tensor, means: Tensor, covariances: Tensor) -> None:
        """Become this mixture, or, of diagonal covariances, the one of its diagonals.

        Args:
            weights: ``(K,)``.
            means: ``(K, L)``.
            covariances: ``(K, L, L)``.
        """
        scale = covariances.diagonal(dim1=-2, dim2=-1).sqrt()
        if self.covariance == "full":
            tril = torch.linalg.cholesky(covariances)
            scale = tril.diagonal(dim1=-2, dim2=-1)
            self.lower.copy_(tril.tril(-1))
        self.logits.copy_(weights.log())
        self.loc.copy_(means)
        self.raw_scale.copy_(raw_scale(scale.clamp_min(1.1 * _FLOOR), floor=_FLOOR))


class DiscreteMixture(GaussianMixture):
    r"""The same mixture with its component a site: :math:`p(c) = \pi_c`, :math:`p(z|c) = N(z; \mu_c, \Sigma_c)`.

    The model has two latent sites, ``component`` (c) and the model's own (z); the likelihood sees z. A guide is over z
    alone: c is summed out, in training and in every route. The cluster of a datum is given back exactly: p(c|x) by
    ``quadrature(model, x).compute_marginals()``, or from draws of any posterior of z by :meth:`responsibilities`.

    Args:
        latent_dim: L.
        component: name of the site of c.
        settings: as :class:`GaussianMixture`.

    Raises:
        TypeError, ValueError: as :class:`GaussianMixture`.

    Source:
        Jiang et al. 2017, Variational Deep Embedding, equations 1 to 4.

    Example:
        >>> from pyro_vae import Model, likelihoods, quadrature
        >>> model = Model(DiscreteMixture(2, num_components=3), likelihoods.Bernoulli(nn.Linear(2, 5)))
        >>> quadrature(model, torch.ones(4, 5)).compute_marginals()["c"].shape
        torch.Size([4, 3])
    """

    def __init__(self, latent_dim: int, *, component: str = "c", **settings: Any) -> None:
        super().__init__(latent_dim, **settings)
        self.component = component

    def draw(self, latent: str) -> Tensor:
        """Sample c, then z, and return z."""
        c = pyro.sample(self.component, dist.Categorical(logits=self.logits), infer={"enumerate": "parallel"})
        return pyro.sample(latent, self.components(c))


class VampPrior(Prior):
    r"""The mixture of a guide's posteriors at learned pseudo-inputs, :math:`p(z) = \frac1K \sum_k q(z|u_k)`.

    The guide stays the guide's: its parameters are not listed among the prior's, so that nothing is trained twice.
    Save the guide too, for without it this prior is not whole.

    Args:
        guide: the guide whose ``posterior(u)`` gives q(z|u); the one that is trained with the model.
        pseudo_inputs: the first u ``(K, *D)``; rows of the training data are a good start.
        bounds: keeps u inside (low, high) by a sigmoid, for data such as pixels; None leaves u free.

    Raises:
        TypeError: if the guide has no ``posterior``, or the pseudo-inputs are no tensor.
        ValueError: if the pseudo-inputs are not finite, lie outside ``bounds``, or do not fit the guide in shape or
            dtype; if the guide's posteriors have no density, or are not over all data (a per-datum guide).

    Source:
        Tomczak & Welling 2018, equation 9.

    Example:
        >>> from pyro_vae.guides import DiagonalGaussian
        >>> guide = DiagonalGaussian(nn.Linear(5, 4))
        >>> VampPrior(guide, torch.rand(10, 5), bounds=(0.0, 1.0))().event_shape
        torch.Size([2])
    """

    def __init__(self, guide: Any, pseudo_inputs: Tensor, *, bounds: tuple[float, float] | None = None) -> None:
        super().__init__()
        if not callable(getattr(guide, "posterior", None)):
            remedy = "pyro_vae.guides.DiagonalGaussian(network)"
            raise TypeError(say("a guide with posterior(x)", type(guide).__name__, remedy))
        u = finite(tensor(pseudo_inputs, "pseudo_inputs", min_dim=2), "pseudo_inputs")
        self.latent_dim = positive_integer(guide.latent_dim, "guide.latent_dim")
        _check_components(guide, u)
        self._guide = [guide]  # in a list: not a submodule
        self.bounds = bounds
        if bounds is not None:
            low, high = bounds
            if not low < high or bool((u < low).any()) or bool((u > high).any()):
                got = f"values from {float(u.min()):g} to {float(u.max()):g} and bounds {bounds}"
                raise ValueError(say("pseudo-inputs inside bounds (low, high)", got, "bounds=None"))
            u = torch.logit(((u - low) / (high - low)).clamp(0.05, 0.95))  # a flat sigmoid would not learn
        self.pseudo_inputs = nn.Parameter(u.detach().clone())

    def forward(self) -> dist.TorchDistribution:
        """Return p(z), ``event_shape (L,)``."""
        u: Tensor = self.pseudo_inputs
        if self.bounds is not None:
            low, high = self.bounds
            u = low + (high - low) * torch.sigmoid(u)
        return dist.MixtureSameFamily(dist.Categorical(logits=u.new_zeros(len(u))), self._guide[0].posterior(u))


@torch.no_grad()
def _check_components(guide: Any, u: Tensor) -> None:
    """Check that a guide gives one posterior with a density for each pseudo-input."""
    try:
        with fork_rng():
            q = guide.posterior(u)
    except (RuntimeError, ValueError) as error:
        raise misfit(error, guide, u, what="the guide", name="pseudo-inputs") from error
    if q.batch_shape != (len(u),) or q.event_shape != (guide.latent_dim,) or isinstance(_base(q), dist.Delta):
        got = f"{type(guide).__name__}, which gives {type(_base(q)).__name__} of shape {tuple(q.shape())}"
        raise ValueError(say("a guide whose posteriors are densities over z", got, "guides.DiagonalGaussian(network)"))


def _base(q: Any) -> Any:
    return getattr(q, "base_dist", q)


_FLOOR = 1e-2  # under a learnt sigma: a component cannot shrink to a point
