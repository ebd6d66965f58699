"""One stage of a StackGAN: the game of one image size, with a discriminator that knows the caption."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, softplus

from pyro_vae.checks import say
from pyro_vae.systems.adversaries.captions import Captions
from pyro_vae.systems.adversaries.game import Game
from pyro_vae.systems.adversaries.gan import generator_loss, r1_penalty
from pyro_vae.systems.adversaries.image_networks import ImageGenerator, Stretched, image_trunk, side_of

__all__ = ["ConditioningAugmentation", "Judge", "Refiner", "Stage"]

_FEATURES = 128


class ConditioningAugmentation(nn.Module):
    r"""A normal of a caption's embedding e, :math:`\hat c \sim N(\mu(e), \mathrm{diag}\,\sigma^2(e))`, in place of e.

    Neighbouring captions then overlap, and one caption has many conditions. Its divergence from N(0, I) is part of the
    generator's loss.

    Args:
        width: of the embedding.
        condition_dim: C, of the condition.

    Source: Zhang et al. 2017, section 3.2 and equation 2.

    Example:
        >>> ConditioningAugmentation(16, 4)(torch.zeros(3, 16), torch.zeros(3, 4)).shape
        torch.Size([3, 4])
    """

    def __init__(self, width: int, condition_dim: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, 2 * condition_dim)
        with torch.no_grad():  # captions start far apart beside the noise: else the noise hides them, and stays
            self.layer.weight[:condition_dim].normal_()
            self.layer.bias[condition_dim:].fill_(-2.0)

    def forward(self, e: Tensor, noise: Tensor) -> Tensor:
        """Return the condition ``(N, C)`` of embeddings ``(N, W)`` and standard normal noise ``(N, C)``."""
        loc, log_scale = self.layer(e).chunk(2, -1)
        return loc + log_scale.exp() * noise

    def kl(self, e: Tensor) -> Tensor:
        r"""Return :math:`KL(N(\mu, \sigma^2) \| N(0, I))`, nats, ``(N,)``."""
        loc, log_scale = self.layer(e).chunk(2, -1)
        return 0.5 * (loc.square() + (2 * log_scale).exp() - 1 - 2 * log_scale).sum(-1)


class Stage(Game):
    """One of a StackGAN's two games: caption in, image of its size out.

    Its discriminator is shown real images with their captions, real images with the captions of others, and made
    images: only the first are right.

    Args:
        captions: the words.
        image_dim: pixels of its images.
        factor: how many times smaller a side is than the data's.
        latent_dim: L, of the noise.
        condition_dim: C, of the condition.
        penalty: gamma of the R1 penalty.
        kl_weight: of the conditioning augmentation's divergence.
        below: the stage that makes the smaller image; None for the first.
    """

    def __init__(
        self,
        captions: Captions,
        image_dim: int,
        *,
        factor: int,
        latent_dim: int,
        condition_dim: int,
        penalty: float,
        kl_weight: float,
        below: Stage | None = None,
    ) -> None:
        super().__init__()
        self.captions, self.factor = captions, factor
        self.penalty, self.kl_weight = penalty, kl_weight
        self.own_latent_dim, self.condition_dim = latent_dim, condition_dim
        self.augmentation = ConditioningAugmentation(captions.width, condition_dim)
        self._below = [] if below is None else [below]  # in a list: its weights are not this game's
        if below is None:
            self.generator: nn.Module = ImageGenerator(image_dim, latent_dim + condition_dim)
        else:
            self.generator = Refiner(side_of(image_dim), factor=below.factor // factor, condition_dim=condition_dim)
        self.discriminator = Judge(image_dim, captions.width)

    @property
    def latent_dim(self) -> int:
        """Noise that an image takes: the generator's and the condition's, of this stage and those below it."""
        return self.own_latent_dim + self.condition_dim + sum(below.latent_dim for below in self._below)

    def players(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """The augmentation learns with the generator."""
        return list(self.discriminator.parameters()), [*self.generator.parameters(), *self.augmentation.parameters()]

    def make(self, noise: Tensor, e: Tensor) -> Tensor:
        """Return images ``(..., D)`` of noise ``(..., L)`` and embeddings ``(..., W)``."""
        own = self.own_latent_dim + self.condition_dim
        z, eps = noise[..., : self.own_latent_dim], noise[..., self.own_latent_dim : own]
        condition = self.augmentation(e, eps)
        if self._below:
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self.training):
                small = self._below[0].make(noise[..., own:], e)
            out: Tensor = self.generator(torch.cat([small, condition], -1))
            return out
        out = self.generator(torch.cat([z, condition], -1))
        return out

    def real(self, *batch: Tensor) -> Tensor:
        """Return the data at this stage's size: means of squares of pixels."""
        x = batch[0]
        if self.factor == 1:
            return x
        side = side_of(x.shape[-1])
        return avg_pool2d(x.reshape(-1, 1, side, side), self.factor).flatten(1)

    def play(self, *batch: Tensor) -> dict[str, Tensor]:
        """Return images for the batch's captions."""
        e = self.captions.one_hot(self.captions.complete(batch[1]))
        noise = torch.randn(len(e), self.latent_dim, dtype=e.dtype, device=e.device)
        return {"fake": self.make(noise, e), "embedding": e}

    def discriminator_loss(self, move: dict[str, Tensor], *batch: Tensor) -> dict[str, Tensor]:
        """Return the loss on right pairs, wrong pairs and made images, and the R1 penalty."""
        e = move["embedding"]
        x = self.real(*batch).detach().requires_grad_(self.penalty > 0)
        real = self.discriminator(x, e)
        wrong = softplus(self.discriminator(x.detach(), e.roll(1, 0)))
        different = (e != e.roll(1, 0)).any(-1, keepdim=True).to(wrong)  # the caption of another may be the same
        wrong = (wrong * different).sum() / different.sum().clamp_min(1)
        made = softplus(self.discriminator(move["fake"], e)).mean()
        terms = {"discriminator": softplus(-real).mean() + 0.5 * (wrong + made)}
        if self.penalty:
            terms["penalty"] = r1_penalty(real, x, self.penalty)
        return terms

    def generator_loss(self, move: dict[str, Tensor], *batch: Tensor) -> dict[str, Tensor]:
        """Return the non-saturating loss and the augmentation's divergence."""
        e = move["embedding"]
        loss = generator_loss(self.discriminator(move["fake"], e))
        return {"generator": loss, "kl": self.kl_weight * self.augmentation.kl(e).mean()}


class Judge(nn.Module):
    """A discriminator of images with captions: features of the image beside the caption, then two layers.

    Args:
        image_dim: pixels.
        width: of a one-hot caption.
    """

    def __init__(self, image_dim: int, width: int) -> None:
        super().__init__()
        self.trunk = image_trunk(image_dim)
        self.head = nn.Sequential(nn.Linear(_FEATURES + width, _FEATURES), nn.SiLU(), nn.Linear(_FEATURES, 1))

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        """Return a logit ``(N, 1)``."""
        out: Tensor = self.head(torch.cat([self.trunk(x), e], -1))
        return out


class Refiner(nn.Module):
    """Stage II's generator: a small image and a condition ``(..., d + C)`` to a large image ``(..., D)`` in (0, 1).

    The condition is laid over every pixel of the small image; convolutions mix them, and transposed convolutions
    double the side until it is the large one's.

    Args:
        side: of the large image.
        factor: how many times smaller the small one is a side, a power of two.
        condition_dim: C.

    Raises:
        ValueError: if the factor is no power of two.
    """

    def __init__(self, side: int, *, factor: int, condition_dim: int) -> None:
        super().__init__()
        self.small, self.condition_dim = side // factor, condition_dim
        if factor & (factor - 1):
            raise ValueError(say("a factor that is a power of two", f"{factor}", "factor=2 or factor=4"))
        channels, layers = 32, [nn.Conv2d(1 + condition_dim, 32, 3, padding=1), nn.BatchNorm2d(32), nn.SiLU()]
        layers += [nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.SiLU()]
        while factor > 2:
            layers += [nn.ConvTranspose2d(channels, channels // 2, 4, stride=2, padding=1)]
            channels, factor = channels // 2, factor // 2
            layers += [nn.BatchNorm2d(channels), nn.SiLU()]
        layers += [nn.ConvTranspose2d(channels, 1, 4, stride=2, padding=1)]
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        """Return large images."""
        flat = x.reshape(-1, x.shape[-1])
        image, condition = flat.split([self.small**2, self.condition_dim], -1)
        image = Stretched()(image).reshape(-1, 1, self.small, self.small)
        over = condition[..., None, None].expand(-1, -1, self.small, self.small)
        out: Tensor = self.layers(torch.cat([image, over], 1))
        return out.reshape(*x.shape[:-1], -1)
