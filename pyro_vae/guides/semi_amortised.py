"""A guide that refines its first answer by a few gradient steps on every datum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.checks import positive_integer, positive_number, say
from pyro_vae.guides.base import Guide
from pyro_vae.model import Model
from pyro_vae.scales import FLOOR, raw_scale, to_scale

__all__ = ["SemiAmortised"]


class SemiAmortised(Guide):
    r"""A diagonal Gaussian guide whose answer is refined by gradient ascent on each datum's own ELBO.

    From the first guide's mean and standard deviation, ``num_steps`` steps of Adam climb the ELBO in (mu, raw sigma)
    with ``num_particles`` reparameterised draws, antithetic and drawn once, so that the steps climb one function.
    The refined parameters are the first guide's plus a step held constant: training passes the gradient at the
    refined point straight to the first guide.

    Args:
        guide: a guide whose posterior is ``Independent(Normal)``, such as ``guides.DiagonalGaussian``.
        model: the ``Model`` that is inferred, or for another Pyro program its ``log_joint(x, z)``: a function of x
            and of z ``(S, N, L)`` that gives log p(x, z) ``(S, N)``.
        num_steps: how many steps.
        learning_rate: Adam's step, in units of mu and raw sigma.
        num_particles: how many draws, even.

    Raises:
        TypeError: if ``guide`` is no Guide, or its posterior another family.
        ValueError: if a number is not positive, or ``num_particles`` odd.

    Source:
        Kim et al. 2018, with the gradient held constant through the steps.

    Example:
        >>> from pyro_vae import Model, guides, likelihoods, priors
        >>> model = Model(priors.StandardNormal(2), likelihoods.Bernoulli(torch.nn.Linear(2, 5)))
        >>> guide = SemiAmortised(guides.DiagonalGaussian(torch.nn.Linear(5, 4)), model)
        >>> guide.posterior(torch.zeros(7, 5)).event_shape
        torch.Size([2])
    """

    def __init__(
        self,
        guide: Guide,
        model: Model | Callable[[Tensor, Tensor], Tensor],
        *,
        num_steps: int = 5,
        learning_rate: float = 0.1,
        num_particles: int = 8,
    ) -> None:
        if not isinstance(guide, Guide):
            raise TypeError(say("a Guide first", type(guide).__name__, "guides.DiagonalGaussian(network)"))
        super().__init__(latent=guide.latent, plate=guide.plate)
        self.guide = guide
        self._model = [model]  # in a list: its parameters are the model's
        self.latent_dim = guide.latent_dim
        self.num_steps = positive_integer(num_steps, "num_steps")
        self.num_particles = positive_integer(num_particles, "num_particles", minimum=2)
        if self.num_particles % 2:
            raise ValueError(say("an even num_particles (antithetic pairs)", f"{num_particles}", "num_particles=8"))
        self.learning_rate = positive_number(learning_rate, "learning_rate", example=0.1)

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        """Return the refined q(z|x), ``batch_shape (N,)``, ``event_shape (L,)``."""
        q = self.guide.posterior(x)
        normal = getattr(q, "base_dist", None)
        if not isinstance(normal, torch.distributions.Normal):
            raise TypeError(say("a guide with a diagonal Gaussian", type(q).__name__, "guides.DiagonalGaussian"))
        loc, raw = normal.loc, raw_scale(normal.scale.clamp_min(FLOOR + 1e-12))
        half = torch.randn(self.num_particles // 2, *loc.shape, dtype=loc.dtype, device=loc.device)
        noise = torch.cat([half, -half])
        start = [loc.detach(), raw.detach()]
        now, mean, square = list(start), [torch.zeros_like(p) for p in start], [torch.zeros_like(p) for p in start]
        for step in range(1, self.num_steps + 1):
            grads = self._gradient(x, now, noise)
            for i, g in enumerate(grads):
                mean[i] = 0.9 * mean[i] + 0.1 * g
                square[i] = 0.999 * square[i] + 0.001 * g * g
                unit = (mean[i] / (1 - 0.9**step)) / ((square[i] / (1 - 0.999**step)).sqrt() + 1e-8)
                now[i] = now[i] + self.learning_rate * unit
        loc, raw = loc + (now[0] - start[0]), raw + (now[1] - start[1])
        return dist.Normal(loc, to_scale(raw)).to_event(1)

    def _gradient(self, x: Tensor, parameters: list[Tensor], noise: Tensor) -> tuple[Tensor, ...]:
        """The gradient of each datum's ELBO, its entropy in closed form, in mu and raw sigma."""
        model: Any = self._model[0]
        log_joint = model.log_joint if isinstance(model, Model) else model
        with torch.enable_grad():
            loc, raw = (p.detach().requires_grad_() for p in parameters)
            scale = to_scale(raw)
            z = loc + scale * noise  # (num_particles, N, L)
            elbo = log_joint(x, z).sum() / len(noise) + scale.log().sum()
            return torch.autograd.grad(elbo, (loc, raw))
