"""Guides q(z|x): Pyro programs over the latent site whose call on x also returns q as a Pyro distribution."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyro_vae.checks import positive_integer, say
from pyro_vae.model import Program

__all__ = ["DiagonalGaussian", "FullCovarianceGaussian", "Guide"]


class Guide(Program):
    """Base class of amortised guides q(z|x).

    ``guide(x)`` is a Pyro program: it samples the site ``latent`` inside the plate ``plate``, and returns q, a
    distribution with ``batch_shape (N,)`` and ``event_shape (L,)``. To write one, subclass it, set ``latent_dim``,
    and define ``posterior(x)``, which returns that distribution and samples nothing:

        >>> class Fixed(Guide):
        ...     def __init__(self, latent_dim):
        ...         super().__init__()
        ...         self.latent_dim = latent_dim
        ...         self.loc = nn.Parameter(torch.zeros(latent_dim))
        ...     def posterior(self, x):
        ...         return dist.Normal(self.loc.expand(len(x), -1), 1.0).to_event(1)
        >>> Fixed(2)(torch.zeros(7, 5)).batch_shape
        torch.Size([7])

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

    def forward(self, x: Tensor) -> dist.TorchDistribution:
        """Run the guide as a Pyro program and return q(z|x)."""
        self.register()
        with pyro.plate(self.plate, len(x)):
            q = self.posterior(x)
            pyro.sample(self.latent, q)
        return q


class DiagonalGaussian(Guide):
    r"""The amortised mean-field Gaussian, :math:`q(z|x) = N(z; \mu(x), \mathrm{diag}\,\sigma(x)^2)`.

    Source: Kingma & Welling 2014, equation 9.

    Args:
        network: maps x ``(N, *D)`` to mu and a raw sigma side by side, ``(N, 2 L)``; sigma = softplus(raw) + 1e-6.
        latent_dim: L; taken from the network's last linear layer when not given.
        latent: the latent site's name.
        plate: the data plate's name.

    Raises:
        ValueError: if the network's last dimension is not 2 L.

    Example:
        >>> from pyro_vae.networks import mlp
        >>> DiagonalGaussian(mlp(64, 128, 4)).posterior(torch.zeros(7, 64)).event_shape
        torch.Size([2])
    """

    def __init__(
        self, network: nn.Module, *, latent_dim: int | None = None, latent: str = "z", plate: str = "data"
    ) -> None:
        super().__init__(latent=latent, plate=plate)
        self.network = network
        if latent_dim is None:
            width = _last_width(network)
            if width % 2:
                raise ValueError(
                    say("a network whose last layer holds mu and sigma (2 L)", f"{width}", "an even last layer")
                )
            latent_dim = width // 2
        self.latent_dim = positive_integer(latent_dim, "latent_dim")

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        """Return q(z|x), ``batch_shape (N,)``, ``event_shape (L,)``."""
        out = _parameters(self.network(x), 2 * self.latent_dim, "mu and sigma (2 L)")
        loc, raw = out.chunk(2, -1)
        return dist.Normal(loc, softplus(raw) + _FLOOR).to_event(1)


class FullCovarianceGaussian(Guide):
    r"""The amortised Gaussian with full covariance, :math:`q(z|x) = N(z; \mu(x), T(x) T(x)^\top)`.

    T is lower triangular with a positive diagonal, softplus(raw) + 1e-6.

    Args:
        network: maps x ``(N, *D)`` to mu, the raw diagonal of T and its strict lower triangle row by row,
            ``(N, 2 L + L (L - 1) / 2)``.
        latent_dim: L.
        latent: the latent site's name.
        plate: the data plate's name.

    Raises:
        ValueError: if the network's last dimension is another.

    Example:
        >>> from pyro_vae.networks import mlp
        >>> guide = FullCovarianceGaussian(mlp(64, 128, 5), latent_dim=2)
        >>> guide.posterior(torch.zeros(7, 64)).event_shape
        torch.Size([2])
    """

    def __init__(self, network: nn.Module, *, latent_dim: int, latent: str = "z", plate: str = "data") -> None:
        super().__init__(latent=latent, plate=plate)
        self.network = network
        self.latent_dim = positive_integer(latent_dim, "latent_dim")

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        """Return q(z|x), ``batch_shape (N,)``, ``event_shape (L,)``."""
        L = self.latent_dim
        out = _parameters(self.network(x), 2 * L + L * (L - 1) // 2, "mu, diagonal and triangle (2 L + L (L - 1) / 2)")
        loc, raw, below = out.split([L, L, L * (L - 1) // 2], -1)
        scale_tril = torch.diag_embed(softplus(raw) + _FLOOR)
        rows, columns = torch.tril_indices(L, L, -1)
        scale_tril[..., rows, columns] = below
        return dist.MultivariateNormal(loc, scale_tril=scale_tril)


_FLOOR = 1e-6  # under a learnt sigma: keeps log q finite when softplus underflows


def _parameters(out: Tensor, width: int, meaning: str) -> Tensor:
    if out.shape[-1] != width:
        raise ValueError(
            say(f"a network whose last dimension is {width}: {meaning}", str(out.shape[-1]), f"a last layer of {width}")
        )
    return out


def _last_width(network: nn.Module) -> int:
    linear = [module for module in network.modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise ValueError(say("latent_dim, or a network that ends in torch.nn.Linear", "neither", "latent_dim=2"))
    return linear[-1].out_features
