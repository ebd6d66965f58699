"""The base class of guides: the recipe for writing one."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
from torch import Tensor, nn

from pyro_vae.checks import misfit, say
from pyro_vae.model import RegisteredModule

__all__ = ["Guide", "check_width", "last_width"]


class Guide(RegisteredModule):
    """Base class of amortised guides q(z|x).

    ``guide(x)`` is a Pyro program: it samples the site ``latent`` inside the plate ``plate``, and returns q, a
    distribution with ``batch_shape (N,)`` and ``event_shape (L,)``. To write one, subclass it, set ``latent_dim``,
    and define ``posterior(x)``, which returns that distribution and samples nothing:

        >>> import torch
        >>> class Fixed(Guide):
        ...     def __init__(self, latent_dim):
        ...         super().__init__()
        ...         self.latent_dim = latent_dim
        ...         self.loc = nn.Parameter(torch.zeros(latent_dim))
        ...     def posterior(self, x):
        ...         return dist.Normal(self.loc.expand(len(x), -1), 1.0).to_event(1)
        >>> Fixed(2)(torch.zeros(7, 5)).batch_shape
        torch.Size([7])

    A guide with several latent sites overrides ``draw`` too: see :class:`BottomUp`. Covariates that the model takes
    after x are accepted and not looked at.

    Args:
        latent: the latent site's name, as in the model.
        plate: the data plate's name, as in the model.
    """

    latent_dim: int

    def __init__(self, *, latent: str = "z", plate: str = "data") -> None:
        super().__init__()
        self.latent = latent
        self.plate = plate

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        """Return q(z|x), ``batch_shape (N,)``, ``event_shape (L,)``."""
        raise NotImplementedError(f"{type(self).__name__} must define posterior(self, x) -> Distribution")

    def draw(self, q: Any) -> None:
        """Run the guide's sample statements inside the data plate, given what ``posterior`` returned."""
        pyro.sample(self.latent, q)

    def forward(self, x: Tensor, *covariates: Tensor) -> dist.TorchDistribution:
        """Run the guide as a Pyro program and return q(z|x)."""
        self.register()
        with pyro.plate(self.plate, len(x)):
            try:
                q = self.posterior(x)
            except (RuntimeError, ValueError) as error:
                raise misfit(error, self, x, what="the guide", name="x") from error
            self.draw(q)
        return q


def check_width(out: Tensor, width: int, meaning: str) -> Tensor:
    """Return a network's output if its last dimension is ``width``.

    Raises:
        ValueError: if it is another.
    """
    if out.shape[-1] != width:
        raise ValueError(
            say(f"a network whose last dimension is {width}: {meaning}", str(out.shape[-1]), f"a last layer of {width}")
        )
    return out


def last_width(network: nn.Module, argument: str) -> int:
    """Return the width of a network's last linear layer.

    Raises:
        ValueError: if it has none, naming the argument that would stand in for it.
    """
    linear = [module for module in network.modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise ValueError(say(f"{argument}, or a network that ends in torch.nn.Linear", "neither", f"{argument}=2"))
    return linear[-1].out_features
