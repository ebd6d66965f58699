"""StackGAN: a small image from a caption, and a large one from the small and the caption."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, softplus

from pyro_vae import checks
from pyro_vae.checks import positive_integer, positive_number, say
from pyro_vae.priors import StandardNormal
from pyro_vae.systems.adversaries.captions import Captions
from pyro_vae.systems.adversaries.game import Game
from pyro_vae.systems.adversaries.gan import generator_loss, r1_penalty
from pyro_vae.systems.adversaries.image_networks import ImageGenerator, Stretched, image_trunk, is_large, side_of

__all__ = ["ConditioningAugmentation", "StackGAN", "Stage"]

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


class StackGAN(Game):
    r"""Images from captions, in two stages: outlines small, then the large image.

    Stage I makes an image ``factor`` times smaller from noise and the caption; stage II a full one from that image and
    the caption, without noise of its own but the condition's. Both conditions come from
    :class:`ConditioningAugmentation`, and both discriminators know the caption. The stages train one after the other,
    each for the ``steps`` of :func:`pyro_vae.fit_adversarial`.

    Args:
        captions: the words, made from the training data.
        data_dim: D, pixels of a square image laid flat.
        latent_dim: of the noise of stage I.
        condition_dim: C, of each stage's condition.
        factor: how many times smaller stage I's images are a side; 4 for 28 x 28, 2 for 8 x 8 if None.
        penalty: gamma, the weight of the R1 penalties.
        kl_weight: of the augmentations' divergences.

    Attributes:
        latent_dim: L, all noise that an image takes: what ``given(caption)`` maps to images.

    Raises:
        TypeError: if captions are none, or a size is no whole number.
        ValueError: if images are not square, or no multiple of ``factor`` a side.

    Source:
        Zhang et al. 2017, StackGAN, equations 3 to 6; wrong pairs after Reed et al. 2016, algorithm 1.

    Example:
        >>> from pyro_vae import datasets
        >>> x, labels = datasets.digits(values="intensity"), datasets.digit_labels()
        >>> system = StackGAN(Captions(x, labels), 64)
        >>> system.sample(["a three, slanted", "a one, thin"]).shape
        torch.Size([2, 64])
    """

    def __init__(
        self,
        captions: Captions,
        data_dim: int,
        latent_dim: int = 10,
        *,
        condition_dim: int = 8,
        factor: int | None = None,
        penalty: float = 1.0,
        kl_weight: float = 0.02,
    ) -> None:
        super().__init__()
        if not isinstance(captions, Captions):
            got = type(captions).__name__
            raise TypeError(say("captions, the words of the data", got, "pv.systems.Captions(x, labels)"))
        self.data_dim = positive_integer(data_dim, "data_dim")
        side = side_of(self.data_dim)
        factor = (4 if is_large(self.data_dim) else 2) if factor is None else positive_integer(factor, "factor")
        if side % factor or side == factor:
            raise ValueError(say(f"images whose side is a multiple of {factor}", f"{side} x {side}", "factor=2"))
        self.captions = captions
        both: dict[str, Any] = {
            "condition_dim": positive_integer(condition_dim, "condition_dim"),
            "penalty": positive_number(penalty, "penalty", zero=True),
            "kl_weight": positive_number(kl_weight, "kl_weight", zero=True),
        }
        L = positive_integer(latent_dim, "latent_dim")
        self.first = Stage(captions, self.data_dim // factor**2, factor=factor, latent_dim=L, **both)
        self.second = Stage(captions, self.data_dim, factor=1, latent_dim=0, below=self.first, **both)
        self.latent_dim = self.second.latent_dim
        self.prior = StandardNormal(self.latent_dim)

    def stages(self) -> tuple[Game, ...]:
        """Stage I, then stage II."""
        return self.first, self.second

    def prepare(self, x: Any, *conditions: Any) -> tuple[Tensor, ...]:
        """Return images and the codes of their captions.

        Raises:
            TypeError: if images are no tensor, or captions no strings.
            ValueError: if they are of another size, outside [0, 1], or a caption is missing or unknown.
        """
        if len(conditions) != 1:
            got = f"{len(conditions)} conditions"
            raise ValueError(say("images and their captions", got, "captions.codes(x, labels)"))
        checks.finite(checks.tensor(x))
        if x.shape[1:] != (self.data_dim,):
            expected = f"images (N, {self.data_dim}), laid flat"
            raise ValueError(say(expected, f"shape {tuple(x.shape)}", f"StackGAN(data_dim={x[0].numel()})"))
        if float(x.min()) < 0 or float(x.max()) > 1:
            got = f"values from {float(x.min()):g} to {float(x.max()):g}"
            raise ValueError(say("images in [0, 1]", got, "x / x.max()"))
        codes = self.captions.encode(conditions[0]).to(x.device)
        checks.same_length(x, codes, "x", "captions")
        return x, codes

    @torch.no_grad()
    def sample(self, captions: str | Sequence[str] | Tensor, *, stage: int = 2) -> Tensor:
        """Return an image for each caption, ``(N, D)``, or ``(N, D / factor^2)`` of stage I.

        Args:
            captions: sentences, or codes ``(N, 3)``; what they leave unsaid is drawn.
            stage: 1 for the small image, 2 for the large one.

        Raises:
            TypeError, ValueError: if a caption is unknown, or the stage.
        """
        if stage not in {1, 2}:
            raise ValueError(say("stage 1 or 2", f"{stage!r}", "stage=2"))
        own = self.first if stage == 1 else self.second
        codes = self.captions.encode(captions).to(self.captions.cuts.device)
        e = self.captions.one_hot(self.captions.complete(codes))
        # drawn for stage II whichever is asked for: the same seed gives the small image and the large one made of it
        noise = torch.randn(len(e), self.latent_dim, dtype=e.dtype, device=e.device)
        return own.make(noise[:, -own.latent_dim :], e)

    def given(self, caption: str) -> AtCaption:
        """Return the generator at a caption, a module from noise ``(..., L)`` to x ``(..., D)``.

        What the caption leaves unsaid is drawn once.

        Raises:
            TypeError, ValueError: if the caption is unknown.
        """
        codes = self.captions.encode([caption]).to(self.captions.cuts.device)
        return AtCaption(self.second, self.captions.one_hot(self.captions.complete(codes))[0])


class AtCaption(nn.Module):
    """A stage at one caption, a function of noise alone.

    Args:
        stage: makes images of noise and embedding.
        embedding: ``(W,)``.
    """

    embedding: Tensor

    def __init__(self, stage: Stage, embedding: Tensor) -> None:
        super().__init__()
        self.stage = stage
        self.below = nn.ModuleList(stage._below)  # so that they move and change their mode together
        self.register_buffer("embedding", embedding)

    def forward(self, z: Tensor) -> Tensor:
        """Return x ``(..., D)`` of noise ``(..., L)``."""
        return self.stage.make(z, self.embedding.expand(*z.shape[:-1], -1))


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
