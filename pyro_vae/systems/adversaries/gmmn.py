"""Generative moment matching networks: a generator without an adversary."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from pyro_vae.checks import positive_number, say
from pyro_vae.priors.base import Prior
from pyro_vae.systems.adversaries.gan import GAN
from pyro_vae.systems.adversaries.mmd import maximum_mean_discrepancy

__all__ = ["GMMN"]


class GMMN(GAN):
    r"""A generator whose samples have the same moments as data, in the features of a kernel.

    .. math:: \min_G \sqrt{\mathrm{MMD}^2(x_{1:N}, G(z)_{1:N})}

    with Gaussian kernels of several bandwidths. Nothing plays against it, so training is a plain descent:
    :func:`pyro_vae.fit_adversarial` with batches of several hundred, which the estimate needs.

    Args:
        data_dim: D.
        latent_dim: L.
        prior: p(z); the standard normal if None.
        generator: maps z ``(..., L)`` to x ``(..., D)``; one for square images in [0, 1] if None.
        bandwidths: of the kernels, in units of :math:`\sqrt{D}` times the data's.

    Raises:
        TypeError, ValueError: as :class:`GAN`; if there is no bandwidth, or one is not positive.

    Source:
        Li, Swersky & Zemel 2015, Generative moment matching networks, equations 3 and 5.

    Example:
        >>> GMMN(64, latent_dim=2).sample(5).shape
        torch.Size([5, 64])
    """

    def __init__(
        self,
        data_dim: int,
        latent_dim: int = 10,
        *,
        prior: Prior | None = None,
        generator: nn.Module | None = None,
        bandwidths: Sequence[float] = (0.03, 0.06, 0.12, 0.25, 0.5),
    ) -> None:
        super().__init__(data_dim, latent_dim, prior=prior, generator=generator, discriminator=_Absent(), penalty=0)
        scale = self.data_dim**0.5
        if not bandwidths:
            raise ValueError(say("a bandwidth or more", "none", "bandwidths=(0.1, 0.5)"))
        self.bandwidths = tuple(positive_number(h, "a bandwidth") * scale for h in bandwidths)

    def discriminator_loss(self, move: dict[str, Tensor], *batch: Tensor) -> dict[str, Tensor]:
        """Return nothing: there is no discriminator."""
        return {}

    def generator_loss(self, move: dict[str, Tensor], *batch: Tensor) -> dict[str, Tensor]:
        """Return the root of the squared discrepancy of the batch and as many samples."""
        squared = maximum_mean_discrepancy(batch[0], move["fake"], bandwidths=self.bandwidths)
        return {"generator": squared.clamp_min(_SMALLEST).sqrt()}


class _Absent(nn.Module):
    """A discriminator that knows nothing and learns nothing."""

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of zero, ``(..., 1)``."""
        return x.new_zeros(*x.shape[:-1], 1)


_SMALLEST = 1e-8  # the unbiased estimate may be negative, and the root has no slope at zero
