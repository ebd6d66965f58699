"""Generative adversarial networks: the game, its non-saturating losses, and the penalty that lets it converge."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyro_vae import checks
from pyro_vae.checks import positive_integer, positive_number, say
from pyro_vae.priors import StandardNormal
from pyro_vae.priors.base import Prior
from pyro_vae.systems.adversaries.game import Game, features_of, in_unit_interval, one_number, rows_of_generator
from pyro_vae.systems.adversaries.image_networks import ImageGenerator, image_trunk

__all__ = ["GAN", "discriminator_loss", "generator_loss", "r1_penalty"]


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    r"""Return :math:`-E_{data} \log D(x) - E_z \log(1 - D(G(z)))`, nats a datum, of logits ``(N, 1)``.

    At the optimal discriminator of a fixed generator, whose logit is :math:`\log p_{data}(x) / p_G(x)`, it is
    :math:`2 \log 2 - 2\,\mathrm{JS}(p_{data} \| p_G)`.

    Source: Goodfellow et al. 2014, equation 1 and theorem 1.

    Example:
        >>> discriminator_loss(torch.zeros(4, 1), torch.zeros(4, 1))
        tensor(1.3863)
    """
    return softplus(-real).mean() + softplus(fake).mean()


def generator_loss(fake: Tensor) -> Tensor:
    r"""Return the non-saturating loss :math:`-E_z \log D(G(z))`, nats a datum, of logits ``(N, 1)``.

    Source: Goodfellow et al. 2014, section 3.

    Example:
        >>> generator_loss(torch.zeros(4, 1))
        tensor(0.6931)
    """
    return softplus(-fake).mean()


def r1_penalty(real: Tensor, x: Tensor, weight: float) -> Tensor:
    r"""Return :math:`\frac\gamma2 E_{data} \|\nabla_x\, \mathrm{logit} D(x)\|^2`.

    Without it the game need not converge where data lie on a manifold, even locally.

    Args:
        real: the logits ``(N, 1)`` of x.
        x: the data ``(N, D)``; they require a gradient.
        weight: gamma.

    Source: Mescheder, Geiger & Nowozin 2018, equation 9.

    Example:
        >>> x = torch.zeros(4, 3, requires_grad=True)
        >>> r1_penalty(x.sum(-1, keepdim=True), x, 2.0).detach()
        tensor(3.)
    """
    (slope,) = torch.autograd.grad(real.sum(), x, create_graph=True)
    return 0.5 * weight * slope.square().flatten(1).sum(-1).mean()


class GAN(Game):
    r"""A generator G(z), z ~ p(z), that a discriminator D cannot tell from data.

    .. math:: \min_G \max_D E_{data} \log D(x) + E_{p(z)} \log(1 - D(G(z)))

    with the non-saturating loss for G and the R1 penalty on D. Learn it with :func:`pyro_vae.fit_adversarial`. The
    generator is a plain module from z ``(..., L)`` to x ``(..., D)``, so with an observation model it is a
    :class:`~pyro_vae.Model`: ``pv.Model(gan.prior, pv.likelihoods.Gaussian(gan.generator, scale=0.1))``.

    Networks that are not given suit square images in [0, 1], 8 x 8 or 28 x 28 and their like: see
    :mod:`pyro_vae.systems.adversaries.image_networks`. Others are the user's: for data on the real line a generator
    that ends in no sigmoid. ``torch.nn.utils.parametrizations.spectral_norm`` on a discriminator's layers, with
    ``penalty=0``, is the other known way to let it train.

    Args:
        data_dim: D, pixels of an image laid flat.
        latent_dim: L.
        prior: p(z); the standard normal if None. Its ``latent_dim`` goes before ``latent_dim``.
        generator: maps z ``(..., L)`` to x ``(..., D)``.
        discriminator: maps x ``(..., D)`` to one logit ``(..., 1)``.
        penalty: gamma, the weight of the R1 penalty; 0 for none.

    Raises:
        TypeError: if a size is no whole number, or a network no module.
        ValueError: if a size is not positive, or a network does not fit.

    Source:
        Goodfellow et al. 2014, Generative adversarial nets; Mescheder et al. 2018, Which training methods for GANs do
        actually converge?

    Example:
        >>> GAN(64, latent_dim=2).sample(5).shape
        torch.Size([5, 64])
    """

    prior: Prior

    def __init__(
        self,
        data_dim: int,
        latent_dim: int = 10,
        *,
        prior: Prior | None = None,
        generator: nn.Module | None = None,
        discriminator: nn.Module | None = None,
        penalty: float = 1.0,
    ) -> None:
        super().__init__()
        self.data_dim = positive_integer(data_dim, "data_dim")
        self.prior = StandardNormal(latent_dim) if prior is None else prior
        self.latent_dim = positive_integer(self.prior.latent_dim, "latent_dim")
        self.penalty = positive_number(penalty, "penalty", zero=True)
        self._set_networks(generator, discriminator)

    def _set_networks(self, generator: Any, discriminator: Any) -> None:
        """Take the user's networks, or those for images; check that they fit."""
        L, D = self.latent_dim, self.data_dim
        self.generator = ImageGenerator(D, L) if generator is None else as_module(generator, "generator")
        if discriminator is None:
            trunk = image_trunk(D)
            discriminator = nn.Sequential(trunk, nn.Linear(features_of(trunk, D), 1))
        self.discriminator = as_module(discriminator, "discriminator")
        rows_of_generator(self.generator, L, D)
        one_number(self.discriminator, D)

    def prepare(self, x: Any, *conditions: Any) -> tuple[Tensor, ...]:
        """Return the data as a checked tensor.

        Raises:
            TypeError: if they are no tensor.
            ValueError: if they are of another size, not finite, outside what the generator can reach, or come with
                conditions.
        """
        if conditions:
            raise ValueError(say("data alone", f"{len(conditions)} conditions too", "StackGAN, which takes captions"))
        checks.finite(checks.tensor(x))
        if x.shape[1:] != (self.data_dim,):
            remedy = f"x.flatten(1), or {type(self).__name__}(data_dim={x[0].numel()})"
            raise ValueError(say(f"data (N, {self.data_dim})", f"shape {tuple(x.shape)}", remedy))
        in_unit_interval(x, self.generator)
        return (x,)

    def play(self, *batch: Tensor) -> dict[str, Tensor]:
        """Return G(z), ``(N, D)``, for as many z from the prior."""
        return {"fake": self.generator(self.prior().sample((len(batch[0]),)))}

    def discriminator_loss(self, move: dict[str, Tensor], *batch: Tensor) -> dict[str, Tensor]:
        """Return the discriminator's loss and the R1 penalty."""
        x = batch[0].detach().requires_grad_(self.penalty > 0)
        real = self.discriminator(x)
        terms = {"discriminator": discriminator_loss(real, self.discriminator(move["fake"]))}
        if self.penalty:
            terms["penalty"] = r1_penalty(real, x, self.penalty)
        return terms

    def generator_loss(self, move: dict[str, Tensor], *batch: Tensor) -> dict[str, Tensor]:
        """Return the generator's non-saturating loss."""
        return {"generator": generator_loss(self.discriminator(move["fake"]))}

    @torch.no_grad()
    def sample(self, num_samples: int) -> Tensor:
        """Return G(z) for z from the prior, ``(S, D)``.

        Raises:
            TypeError: if the number is no whole number.
            ValueError: if it is not positive.
        """
        z = self.prior().sample((positive_integer(num_samples, "num_samples"),))
        out: Tensor = self.generator(z)
        return out


def as_module(value: Any, name: str) -> nn.Module:
    """Return a network that is a module.

    Raises:
        TypeError: if it is none.
    """
    if not isinstance(value, nn.Module):
        raise TypeError(say(f"{name} to be a torch.nn.Module", f"{value!r}", f"{name}=networks.mlp(...)"))
    return value
