"""A two-level prior: two latent sites."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.checks import positive_integer, say
from pyro_vae.priors.base import Prior
from pyro_vae.scales import to_scale

__all__ = ["HierarchicalNormal"]


class HierarchicalNormal(Prior):
    r"""Two levels, :math:`p(w) = N(w; 0, I)`, :math:`p(z|w) = N(z; \mu(w), \mathrm{diag}\,\sigma(w)^2)`.

    The model has two latent sites, ``top`` (w) and the model's own (z); the likelihood sees z. Guides that fit are
    ``guides.BottomUp`` and ``guides.TopDown``.

    Args:
        network: maps w ``(..., M)`` to mu and a raw sigma side by side, ``(..., 2 L)``; sigma = softplus(raw) + 1e-3.
        latent_dim: L, the dimension of z.
        top_dim: M, the dimension of w.
        top: name of the site of w.

    Raises:
        TypeError: if a size is no whole number.
        ValueError: if a size is not positive, or the network's last dimension is not 2 L.

    Source:
        Sonderby et al. 2016, equations 1 and 2.

    Example:
        >>> from pyro_vae import Model, likelihoods
        >>> prior = HierarchicalNormal(nn.Linear(1, 4), latent_dim=2, top_dim=1)
        >>> sorted(Model(prior, likelihoods.Bernoulli(nn.Linear(2, 5))).sample(3))
        ['x', 'z', 'z_top']
    """

    loc: Tensor

    def __init__(self, network: nn.Module, *, latent_dim: int, top_dim: int, top: str = "z_top") -> None:
        super().__init__()
        self.network = network
        self.latent_dim = positive_integer(latent_dim, "latent_dim")
        self.top_dim = positive_integer(top_dim, "top_dim")
        self.top = top
        self.register_buffer("loc", torch.zeros(self.top_dim), persistent=False)

    def given(self, w: Tensor) -> dist.TorchDistribution:
        """Return p(z|w) for w ``(..., M)``."""
        out = self.network(w)
        if out.shape[-1] != 2 * self.latent_dim:
            expected = f"a network whose last dimension is {2 * self.latent_dim}: mu and sigma (2 L)"
            raise ValueError(say(expected, str(out.shape[-1]), f"a last layer of {2 * self.latent_dim}"))
        loc, raw = out.chunk(2, -1)
        return dist.Normal(loc, to_scale(raw, floor=1e-3)).to_event(1)

    def forward(self) -> dist.TorchDistribution:
        """Refuse: p(z) alone has no closed form.

        Raises:
            NotImplementedError: always; ``given(w)`` is p(z|w).
        """
        raise NotImplementedError("expected a prior with p(z) in closed form; got two levels; try prior.given(w)")

    def draw(self, latent: str) -> Tensor:
        """Sample w, then z, and return z."""
        w = pyro.sample(self.top, dist.Normal(self.loc, torch.ones_like(self.loc)).to_event(1))
        return pyro.sample(latent, self.given(w))
