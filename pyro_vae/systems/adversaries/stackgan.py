"""StackGAN: a small image from a caption, and a large one from the small and the caption."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae import checks
from pyro_vae.checks import positive_integer, positive_number, say
from pyro_vae.priors import StandardNormal
from pyro_vae.systems.adversaries.captions import Captions
from pyro_vae.systems.adversaries.game import Game
from pyro_vae.systems.adversaries.image_networks import is_large, side_of
from pyro_vae.systems.adversaries.stage import Stage

__all__ = ["AtCaption", "StackGAN"]


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
