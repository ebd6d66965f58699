"""Flow guides: a Gaussian with full covariance whose standard normal is first bent by a flow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Transform, constraints

from pyro_vae.checks import positive_integer
from pyro_vae.flows.networks import FlowDistribution, autoregressive, compose, coupling
from pyro_vae.flows.planar import PlanarNetwork
from pyro_vae.guides.base import Guide, check_width, last_width
from pyro_vae.guides.gaussian import triangle

__all__ = ["Coupling", "InverseAutoregressive", "NeuralSpline", "Planar"]


class _GaussianTransform(Transform):
    """v -> mu + T v with a lower triangular T."""

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self, loc: Tensor, scale_tril: Tensor) -> None:
        super().__init__()
        self.loc, self.scale_tril = loc, scale_tril

    def _call(self, v: Tensor) -> Tensor:
        return self.loc + (self.scale_tril @ v.unsqueeze(-1)).squeeze(-1)

    def _inverse(self, z: Tensor) -> Tensor:
        centred = (z - self.loc).unsqueeze(-1)
        return torch.linalg.solve_triangular(self.scale_tril, centred, upper=False).squeeze(-1)

    def log_abs_det_jacobian(self, v: Tensor, z: Tensor) -> Tensor:
        return self.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1).expand(v.shape[:-1])


class _FlowGuide(Guide):
    """A Gaussian guide whose standard normal is bent first. A subclass says by what, in ``_layers``."""

    def __init__(
        self,
        network: nn.Module,
        *,
        latent_dim: int,
        num_transforms: int | None = None,
        hidden: Sequence[int] = (64,),
        context_dim: int | None = None,
        latent: str = "z",
        plate: str = "data",
    ) -> None:
        super().__init__(latent=latent, plate=plate)
        self.network = network
        width = last_width(network, "context_dim") if context_dim is None else context_dim
        L, self.context_dim = positive_integer(latent_dim, "latent_dim"), positive_integer(width, "context_dim")
        self.latent_dim = L
        self.head = nn.Linear(self.context_dim, 2 * L + L * (L - 1) // 2)
        self.flow = self._layers(num_transforms, hidden)

    def _layers(self, num_transforms: int | None, hidden: Sequence[int]) -> nn.Module:
        raise NotImplementedError(f"{type(self).__name__} must define _layers(self, num_transforms, hidden)")

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        """Return q(z|x), ``batch_shape (N,)``, ``event_shape (L,)``."""
        L = self.latent_dim
        context = check_width(self.network(x), self.context_dim, "the context")
        loc, raw = self.head(context).split([L, L * (L + 1) // 2], -1)
        gaussian = _GaussianTransform(loc, triangle(raw, L))
        base = dist.Normal(torch.zeros_like(loc), torch.ones_like(loc)).to_event(1)
        bend: Any = self.flow(context)
        return FlowDistribution(compose(bend, gaussian), base)


class InverseAutoregressive(_FlowGuide):
    r"""The inverse autoregressive flow conditioned on x: draws in one pass, densities elsewhere in L.

    z = mu(x) + T(x) g(u; x) with u standard normal and T lower triangular. The flow g starts at the identity, and the
    family contains the full-covariance Gaussian.

    Args:
        network: maps x ``(N, *D)`` to a context ``(N, C)`` of any width.
        latent_dim: L.
        num_transforms: how many layers g has; 2 if None.
        hidden: widths of the flow's hidden layers.
        context_dim: C; taken from the network's last linear layer when not given.
        latent: the latent site's name.
        plate: the data plate's name.

    Raises:
        TypeError: if a size is no whole number.
        ValueError: if a size is not positive.

    Source:
        Kingma et al. 2016.

    Example:
        >>> from pyro_vae.networks import mlp
        >>> InverseAutoregressive(mlp(64, 128, 32), latent_dim=2).posterior(torch.zeros(7, 64)).event_shape
        torch.Size([2])
    """

    def _layers(self, num_transforms: int | None, hidden: Sequence[int]) -> nn.Module:
        count = 2 if num_transforms is None else num_transforms
        return autoregressive(self.latent_dim, context_dim=self.context_dim, num_transforms=count, hidden=hidden)


class Planar(_FlowGuide):
    r"""The planar flow conditioned on x: each layer bends space along one direction.

    z = mu(x) + T(x) g(u; x) with u standard normal and T lower triangular. The flow g starts close to the identity,
    and the family contains the full-covariance Gaussian.

    Args:
        network: maps x ``(N, *D)`` to a context ``(N, C)`` of any width.
        latent_dim: L.
        num_transforms: how many layers g has; 8 if None.
        context_dim: C; taken from the network's last linear layer when not given.
        latent: the latent site's name.
        plate: the data plate's name.

    Raises:
        TypeError: if a size is no whole number.
        ValueError: if a size is not positive.

    Source:
        Rezende & Mohamed 2015, equation 10.

    Example:
        >>> from pyro_vae.networks import mlp
        >>> Planar(mlp(64, 128, 32), latent_dim=2).posterior(torch.zeros(7, 64)).event_shape
        torch.Size([2])
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        latent_dim: int,
        num_transforms: int | None = None,
        context_dim: int | None = None,
        latent: str = "z",
        plate: str = "data",
    ) -> None:
        super().__init__(
            network,
            latent_dim=latent_dim,
            num_transforms=num_transforms,
            context_dim=context_dim,
            latent=latent,
            plate=plate,
        )

    def _layers(self, num_transforms: int | None, hidden: Sequence[int]) -> nn.Module:
        count = 8 if num_transforms is None else num_transforms
        return PlanarNetwork(self.latent_dim, context_dim=self.context_dim, num_transforms=count)


class Coupling(_FlowGuide):
    r"""The affine coupling flow (Real NVP) conditioned on x: quick both ways.

    z = mu(x) + T(x) g(u; x) with u standard normal and T lower triangular. The flow g starts at the identity, and the
    family contains the full-covariance Gaussian.

    Args:
        network: maps x ``(N, *D)`` to a context ``(N, C)`` of any width.
        latent_dim: L.
        num_transforms: how many layers g has; 4 if None.
        hidden: widths of the flow's hidden layers.
        context_dim: C; taken from the network's last linear layer when not given.
        latent: the latent site's name.
        plate: the data plate's name.

    Raises:
        TypeError: if a size is no whole number.
        ValueError: if a size is not positive.

    Source:
        Dinh, Sohl-Dickstein & Bengio 2017.

    Example:
        >>> from pyro_vae.networks import mlp
        >>> Coupling(mlp(64, 128, 32), latent_dim=2).posterior(torch.zeros(7, 64)).event_shape
        torch.Size([2])
    """

    def _layers(self, num_transforms: int | None, hidden: Sequence[int]) -> nn.Module:
        count = 4 if num_transforms is None else num_transforms
        return coupling(self.latent_dim, context_dim=self.context_dim, num_transforms=count, hidden=hidden)


class NeuralSpline(_FlowGuide):
    r"""The autoregressive flow of rational-quadratic splines, conditioned on x.

    z = mu(x) + T(x) g(u; x) with u standard normal and T lower triangular. The flow g starts at the identity, and the
    family contains the full-covariance Gaussian.

    Args:
        network: maps x ``(N, *D)`` to a context ``(N, C)`` of any width.
        latent_dim: L.
        num_transforms: how many layers g has; 2 if None.
        hidden: widths of the flow's hidden layers.
        context_dim: C; taken from the network's last linear layer when not given.
        latent: the latent site's name.
        plate: the data plate's name.

    Raises:
        TypeError: if a size is no whole number.
        ValueError: if a size is not positive.

    Source:
        Durkan et al. 2019.

    Example:
        >>> from pyro_vae.networks import mlp
        >>> NeuralSpline(mlp(64, 128, 32), latent_dim=2).posterior(torch.zeros(7, 64)).event_shape
        torch.Size([2])
    """

    def _layers(self, num_transforms: int | None, hidden: Sequence[int]) -> nn.Module:
        count, C = 2 if num_transforms is None else num_transforms, self.context_dim
        return autoregressive(self.latent_dim, context_dim=C, num_transforms=count, hidden=hidden, spline=True)
