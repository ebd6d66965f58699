"""A guide moved to a constrained support."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor
from torch.distributions import Transform

from pyro_vae.checks import say
from pyro_vae.guides.base import Guide

__all__ = ["Transformed"]


class Transformed(Guide):
    r"""A guide whose draws go through a bijection, :math:`q(z|x) = q_u(T^{-1}(z)|x)\, |\det \partial T^{-1}|`.

    Use it where the prior is constrained, with ``T = torch.distributions.biject_to(prior().support)``.

    Args:
        guide: a guide over real numbers.
        transform: T, from real numbers to the support; element-wise ones act on every dimension of z.

    Raises:
        TypeError: if ``guide`` is no Guide or ``transform`` no Transform.

    Example:
        >>> import torch
        >>> from torch.distributions import biject_to
        >>> from pyro_vae import guides, priors
        >>> prior = priors.Uniform(2)
        >>> guide = Transformed(guides.DiagonalGaussian(torch.nn.Linear(5, 4)), biject_to(prior().support))
        >>> bool(prior().support.check(guide.posterior(torch.zeros(7, 5)).sample()).all())
        True
    """

    def __init__(self, guide: Guide, transform: Transform) -> None:
        if not isinstance(guide, Guide):
            raise TypeError(say("a Guide first", type(guide).__name__, "guides.DiagonalGaussian(network)"))
        if not isinstance(transform, Transform):
            remedy = "torch.distributions.biject_to(prior().support)"
            raise TypeError(say("a torch.distributions.Transform second", type(transform).__name__, remedy))
        super().__init__(latent=guide.latent, plate=guide.plate)
        self.guide = guide
        self.transform = transform
        self.latent_dim = guide.latent_dim

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        """Return q(z|x), ``batch_shape (N,)``, ``event_shape (L,)``."""
        # with a cache, a draw's density needs no inverse, which has no finite gradient where T saturates
        return dist.TransformedDistribution(self.guide.posterior(x), [self.transform.with_cache()])
