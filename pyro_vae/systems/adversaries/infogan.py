"""InfoGAN: a generator whose codes can be read off its images, by a lower bound on their mutual information."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, cast

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae import checks
from pyro_vae.checks import positive_integer, positive_number, say
from pyro_vae.likelihoods.base import bounded_exp
from pyro_vae.systems.adversaries.game import features_of, one_number, rows_of_generator
from pyro_vae.systems.adversaries.gan import GAN, as_module
from pyro_vae.systems.adversaries.image_networks import ImageGenerator, image_trunk, side_of
from pyro_vae.systems.adversaries.invariance import invariance_loss

__all__ = ["AtCode", "InfoGAN", "InformationBound", "mutual_information"]


class InformationBound(NamedTuple):
    """Lower bounds on the mutual information of codes and images, in nats, with their standard errors.

    Attributes:
        category: of the categorical code; at most its entropy log K.
        category_error: its standard error.
        continuous: of each continuous code, ``(M,)``.
        continuous_error: their standard errors, ``(M,)``.
    """

    category: Tensor
    category_error: Tensor
    continuous: Tensor
    continuous_error: Tensor


def mutual_information(log_likelihood: Tensor, category: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return :math:`I(c; x) = E[\log p(x|c) - \log \frac1K \sum_k p(x|k)]` and its standard error, nats.

    The truth that InfoGAN's bound is under, where p(x|c) can be had: by a formula, or as the evidence of the model
    whose likelihood holds :meth:`InfoGAN.given`.

    Args:
        log_likelihood: log p(x|k) of draws x ~ p(x|c) under every category, ``(S, K)``.
        category: c of each draw, ``(S,)``.

    Raises:
        ValueError: if their sizes differ.

    Example:
        >>> value, error = mutual_information(torch.tensor([[0.0, -50.0], [-50.0, 0.0]]), torch.tensor([0, 1]))
        >>> abs(float(value) - math.log(2)) < 1e-6
        True
    """
    checks.same_length(checks.tensor(log_likelihood, "log_likelihood", min_dim=2), category, "x", "category")
    own = log_likelihood.gather(-1, category.long()[:, None])[:, 0]
    value = own - log_likelihood.logsumexp(-1) + math.log(log_likelihood.shape[-1])
    return _mean_and_error(value)


class InfoGAN(GAN):
    r"""A GAN that keeps in x what its code c says: :math:`\min_{G, Q} \max_D V(D, G) - \lambda L_I(G, Q)`.

    The generator's input is (z, c): noise, a categorical code, one-hot, and continuous codes in [-1, 1]. A recogniser
    Q(c|x), which shares the discriminator's trunk, gives the bound

    .. math:: L_I(G, Q) = E_{c, x = G(z, c)}[\log Q(c|x)] + H(c) \le I(c; G(z, c)).

    Continuous codes are recognised by a beta distribution on their interval, so that theirs is a bound in nats too.
    ``prior`` is of the noise alone; ``given(category)`` is the generator at one category, a module of noise only.

    Args:
        data_dim: D, pixels of an image laid flat.
        latent_dim: L, dimensions of the noise.
        num_categories: K of the categorical code.
        num_continuous: M, continuous codes; may be 0.
        weight: lambda of the categorical code.
        continuous_weight: lambda of the continuous codes.
        invariance: weight of :func:`~pyro_vae.systems.adversaries.invariance.invariance_loss`, by which the recogniser
            also learns from images which differences survive small distortions; 0 is InfoGAN as published, whose code
            may be of style as well as of class. Square images only.
        generator: maps (z, one-hot c, continuous c) ``(..., L + K + M)`` to x ``(..., D)``.
        trunk: maps x ``(..., D)`` to features ``(..., F)``, which discriminator and recogniser share.
        penalty: gamma, the weight of the R1 penalty.

    Raises:
        TypeError: if a size is no whole number, or a network no module.
        ValueError: if a size is not positive, or a network does not fit.

    Source:
        Chen et al. 2016, InfoGAN, equations 4 to 6.

    Example:
        >>> gan = InfoGAN(64, latent_dim=4, num_categories=10, num_continuous=2)
        >>> gan.sample(3, category=7).shape, gan.recognise(torch.zeros(5, 64))[0].logits.shape
        (torch.Size([3, 64]), torch.Size([5, 10]))
    """

    def __init__(
        self,
        data_dim: int,
        latent_dim: int = 10,
        *,
        num_categories: int = 10,
        num_continuous: int = 2,
        weight: float = 1.0,
        continuous_weight: float = 0.1,
        invariance: float = 0.0,
        generator: nn.Module | None = None,
        trunk: nn.Module | None = None,
        penalty: float = 1.0,
    ) -> None:
        self.num_categories = positive_integer(num_categories, "num_categories", minimum=2)
        self.num_continuous = positive_integer(num_continuous, "num_continuous", minimum=0)
        self.weight = positive_number(weight, "weight", zero=True)
        self.continuous_weight = positive_number(continuous_weight, "continuous_weight", zero=True)
        self.invariance = positive_number(invariance, "invariance", zero=True)
        if self.invariance:
            side_of(positive_integer(data_dim, "data_dim"))
        super().__init__(data_dim, latent_dim, generator=generator, discriminator=trunk, penalty=penalty)

    def _set_networks(self, generator: Any, discriminator: Any) -> None:
        D, width = self.data_dim, self.latent_dim + self.num_categories + self.num_continuous
        self.generator = ImageGenerator(D, width) if generator is None else as_module(generator, "generator")
        rows_of_generator(self.generator, width, D)
        trunk = image_trunk(D) if discriminator is None else as_module(discriminator, "trunk")
        F = features_of(trunk, D)
        self.discriminator = nn.Sequential(trunk, nn.Linear(F, 1))
        self.recogniser = nn.Sequential(
            nn.Linear(F, F), nn.SiLU(), nn.Linear(F, self.num_categories + 2 * self.num_continuous)
        )
        one_number(self.discriminator, D)

    def players(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """The recogniser plays on the discriminator's side, whose trunk it shares; both have its loss."""
        return [*self.discriminator.parameters(), *self.recogniser.parameters()], list(self.generator.parameters())

    def play(self, *batch: Tensor) -> dict[str, Tensor]:
        """Return images for as many codes, and the codes."""
        z, category, continuous = self._draw(len(batch[0]))
        return {"fake": self._make(z, category, continuous), "category": category, "continuous": continuous}

    def discriminator_loss(self, move: dict[str, Tensor], *batch: Tensor) -> dict[str, Tensor]:
        """Return the discriminator's loss, the R1 penalty, and what the recogniser loses."""
        terms = super().discriminator_loss(move, *batch) | {"information": self._information_loss(move)}
        if self.invariance:
            terms["invariance"] = self.invariance * invariance_loss(lambda x: self.recognise(x)[0].logits, batch[0])
        return terms

    def generator_loss(self, move: dict[str, Tensor], *batch: Tensor) -> dict[str, Tensor]:
        """Return the generator's loss, and what the recogniser loses."""
        return super().generator_loss(move, *batch) | {"information": self._information_loss(move)}

    def recognise(self, x: Tensor) -> tuple[dist.Categorical, dist.AffineBeta]:
        """Return Q(c|x) of the categorical code and of the continuous ones, ``batch_shape (N,)``.

        Raises:
            ValueError: if x is of another size.
        """
        if x.shape[-1] != self.data_dim:
            raise ValueError(say(f"data (..., {self.data_dim})", f"shape {tuple(x.shape)}", "x.flatten(1)"))
        K, M = self.num_categories, self.num_continuous
        logits, mean, precision = self.recogniser(cast(nn.Sequential, self.discriminator)[0](x)).split([K, M, M], -1)
        total = 1 + bounded_exp(precision)
        where = 0.01 + 0.98 * mean.sigmoid()
        return dist.Categorical(logits=logits), dist.AffineBeta(
            where * total, (1 - where) * total, -1.0, 2.0, validate_args=False
        )

    @torch.no_grad()
    def information_bound(self, num_samples: int = 1000, *, scale: float = 0.0) -> InformationBound:
        r"""Return :math:`L_I \le I(c; x)` over codes and noise drawn anew, without looking at any label.

        Args:
            num_samples: S.
            scale: of Gaussian noise added to the images: the bound is then on I(c; G(z, c) + noise).
        """
        z, category, continuous = self._draw(positive_integer(num_samples, "num_samples", minimum=2))
        fake = self._make(z, category, continuous)
        q, r = self.recognise(fake + scale * torch.randn_like(fake))
        value, error = _mean_and_error(q.log_prob(category) + math.log(self.num_categories))
        values, errors = _mean_and_error(r.log_prob(continuous) + math.log(2.0))
        return InformationBound(value, error, values, errors)

    @torch.no_grad()
    def sample(
        self, num_samples: int, *, category: int | Tensor | None = None, continuous: Tensor | None = None
    ) -> Tensor:
        """Return images of codes and noise, ``(S, D)``.

        Args:
            num_samples: S.
            category: the categorical code of all, or of each ``(S,)``; None draws them.
            continuous: the continuous codes of all ``(M,)``, or of each ``(S, M)``; None draws them.

        Raises:
            TypeError: if a code is no whole number.
            ValueError: if a code is out of range, or not one a sample.
        """
        S = positive_integer(num_samples, "num_samples")
        z, drawn, values = self._draw(S)
        if category is not None:
            drawn = self._checked_category(category, S).to(z.device)
        if continuous is not None:
            values = self._checked_continuous(continuous, S).to(z)
        return self._make(z, drawn, values)

    def given(self, category: int, continuous: Tensor | None = None) -> AtCode:
        """Return the generator at one code, a module from noise ``(..., L)`` to x ``(..., D)``.

        Args:
            category: the categorical code.
            continuous: the continuous codes ``(M,)``; zeros if None.

        Raises:
            ValueError: if a code is out of range.
        """
        one = self._checked_category(category, 1)
        values = self._checked_continuous(torch.zeros(self.num_continuous) if continuous is None else continuous, 1)
        return AtCode(self.generator, torch.cat([self._one_hot(one).to(values), values], -1)[0])

    @torch.no_grad()
    def traverse(self, code: int = 0, *, num_values: int = 9, continuous: Tensor | None = None) -> Tensor:
        """Return images along one continuous code, ``(K, V, D)``: a row a category, under one noise for all.

        ``plots.images(images.flatten(0, 1), image_shape=(8, 8), columns=V)`` draws them.

        Args:
            code: which of the continuous codes goes from -1 to 1.
            num_values: V.
            continuous: the others, ``(M,)``; zeros if None.

        Raises:
            TypeError: if a number is no whole one.
            ValueError: if there is no such code, or a value is out of range.

        Example:
            >>> InfoGAN(64, num_categories=3).traverse(1, num_values=5).shape
            torch.Size([3, 5, 64])
        """
        M, V = self.num_continuous, positive_integer(num_values, "num_values", minimum=2)
        if positive_integer(code, "code", minimum=0) >= M:
            got = f"code {code} of {M}"
            raise ValueError(say("one of the continuous codes, from 0 on", got, "code=0, or a larger num_continuous"))
        z, K = self.prior().sample((1,)), self.num_categories
        start = torch.zeros(M) if continuous is None else continuous
        values = self._checked_continuous(start, V).to(z).clone()
        values[:, code] = torch.linspace(-1, 1, V).to(z)
        category = torch.arange(K, device=z.device).repeat_interleave(V)
        return self._make(z.expand(K * V, -1), category, values.repeat(K, 1)).unflatten(0, (K, V))

    def _draw(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        z = self.prior().sample((count,))
        category = torch.randint(self.num_categories, (count,), device=z.device)
        return z, category, 2 * torch.rand(count, self.num_continuous, dtype=z.dtype, device=z.device) - 1

    def _make(self, z: Tensor, category: Tensor, continuous: Tensor) -> Tensor:
        out: Tensor = self.generator(torch.cat([z, self._one_hot(category).to(z), continuous], -1))
        return out

    def _one_hot(self, category: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(category, self.num_categories)

    def _information_loss(self, move: dict[str, Tensor]) -> Tensor:
        """The negative bound, weighted; 0 where codes are known for certain."""
        q, r = self.recognise(move["fake"])
        loss = -self.weight * q.log_prob(move["category"]).mean()
        if self.num_continuous:
            loss = loss - self.continuous_weight * (r.log_prob(move["continuous"]) + math.log(2.0)).sum(-1).mean()
        return loss

    def _checked_category(self, category: Any, count: int) -> Tensor:
        value = torch.as_tensor(category)
        if value.is_floating_point() or value.dtype == torch.bool:
            raise TypeError(say("category as whole numbers", f"{category!r}", "category=0"))
        K = self.num_categories
        if value.shape not in {(), (count,)} or int(value.min()) < 0 or int(value.max()) >= K:
            got = f"{category!r}" if not value.dim() else f"{tuple(value.shape)} from {value.min()} to {value.max()}"
            raise ValueError(say(f"category from 0 to {K - 1}, one or {count}", got, "category=0"))
        return value.long().expand(count)

    def _checked_continuous(self, continuous: Any, count: int) -> Tensor:
        value, M = torch.as_tensor(continuous), self.num_continuous
        if value.shape not in {(M,), (count, M)} or bool((value.abs() > 1).any()):
            got = f"shape {tuple(value.shape)}, largest size {float(value.abs().max()) if value.numel() else 0:g}"
            remedy = f"torch.zeros({M})"
            raise ValueError(say(f"continuous codes in [-1, 1], ({M},) or ({count}, {M})", got, remedy))
        return value.expand(count, M)


class AtCode(nn.Module):
    """A generator at a fixed code, which goes after the noise.

    Args:
        generator: takes noise and code side by side.
        code: ``(C,)``.

    Example:
        >>> AtCode(nn.Linear(5, 3), torch.ones(2))(torch.zeros(4, 3)).shape
        torch.Size([4, 3])
    """

    code: Tensor

    def __init__(self, generator: nn.Module, code: Tensor) -> None:
        super().__init__()
        self.generator = generator
        self.register_buffer("code", code)

    def forward(self, z: Tensor) -> Tensor:
        """Return x ``(..., D)`` of noise ``(..., L)``."""
        out: Tensor = self.generator(torch.cat([z, self.code.to(z).expand(*z.shape[:-1], -1)], -1))
        return out


def _mean_and_error(value: Tensor) -> tuple[Tensor, Tensor]:
    mean = value.mean(0)
    return mean, (value - mean).square().mean(0).sqrt() / len(value) ** 0.5
