"""The generative model p(z) p(x|z) as a Pyro program, and sampling from it."""

from __future__ import annotations

import uuid
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.checks import misfit, positive_integer, say
from pyro_vae.likelihoods import Likelihood
from pyro_vae.likelihoods.observed import ObservedEntries
from pyro_vae.priors import Prior

__all__ = ["Model", "RegisteredModule", "forget_store"]


class RegisteredModule(nn.Module):
    """A torch module that is also a Pyro program, with parameters of its own in Pyro's parameter store.

    Each instance, a copy too, registers under a name of its own, so two models in one process never share
    parameters by accident.
    """

    def __init__(self) -> None:
        super().__init__()
        self._store_name = _fresh_name(self)

    def __getstate__(self) -> Any:
        forget_store(self)
        return super().__getstate__()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._store_name = _fresh_name(self)

    def register(self) -> None:
        """Show the learnable parameters to Pyro, as ``pyro.module`` does, but silent about frozen ones."""
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                pyro.param(f"{self._store_name}$$${name}", parameter)


def forget_store(module: nn.Module) -> None:
    """Drop what Pyro's store left on the parameters, a weak reference, which cannot be pickled; it comes back."""
    for parameter in module.parameters():
        parameter.__dict__.pop("unconstrained", None)


def _fresh_name(module: nn.Module) -> str:
    return f"{type(module).__name__}.{uuid.uuid4().hex}"


class Model(RegisteredModule):
    r"""The latent-variable model :math:`p(x, z) = p(z)\, p(x|z)` as a Pyro program.

    ``model(x)`` runs the program with sites ``latent`` and ``observed`` inside the plate ``plate``:

    .. code-block:: python

        with pyro.plate("data", len(x)):
            z = pyro.sample("z", prior())
            pyro.sample("x", likelihood(z), obs=x)

    ``model()`` without data samples one datum from the prior predictive, ``model(num_data=N)`` samples N.

    Args:
        prior: returns p(z), ``event_shape (L,)``.
        likelihood: maps z to p(x|z).
        latent: name of the latent site.
        observed: name of the observed site.
        plate: name of the data plate.
        missing: whether NaN in x marks a missing entry, which is then left out of the density: the posterior is that
            given the observed entries. For a guide, ``networks.MaskedInput(network)`` takes such x.

    Raises:
        TypeError: if a part is of the wrong kind.
        ValueError: if two names coincide.

    Example:
        >>> from pyro_vae import likelihoods, networks, priors
        >>> model = Model(priors.StandardNormal(2), likelihoods.Bernoulli(networks.mlp(2, 128, 64)))
        >>> model.sample(5)["x"].shape
        torch.Size([5, 64])
    """

    def __init__(
        self,
        prior: Prior,
        likelihood: Likelihood,
        *,
        latent: str = "z",
        observed: str = "x",
        plate: str = "data",
        missing: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(prior, Prior):
            raise TypeError(say("a Prior first", type(prior).__name__, "pyro_vae.priors.StandardNormal(2)"))
        if not isinstance(likelihood, Likelihood):
            remedy = "pyro_vae.likelihoods.Bernoulli(network)"
            raise TypeError(say("a Likelihood second", type(likelihood).__name__, remedy))
        if len({latent, observed, plate}) < 3:
            raise ValueError(say("three different names", f"{latent!r}, {observed!r}, {plate!r}", "renaming one"))
        self.prior = prior
        self.likelihood = likelihood
        self.latent = latent
        self.observed = observed
        self.plate = plate
        self.missing = missing

    @property
    def latent_dim(self) -> int:
        """L, the dimension of z."""
        return self.prior.latent_dim

    def forward(self, x: Tensor | None = None, *covariates: Tensor, num_data: int = 1) -> Tensor:
        """Run the program; return x, observed or sampled, ``(N, *D)``; the likelihood sees the covariates too."""
        self.register()
        with pyro.plate(self.plate, num_data if x is None else len(x)):
            z = self.prior.draw(self.latent)
            return pyro.sample(self.observed, self.decode(z, *covariates), obs=x)

    @torch.no_grad()
    def sample(self, num_samples: int = 1) -> dict[str, Tensor]:
        """Draw z and x from the model.

        Args:
            num_samples: how many pairs.

        Returns:
            The sites by name: ``(num_samples, L)`` the latent, ``(num_samples, *D)`` the observed.
        """
        num_samples = positive_integer(num_samples, "num_samples")
        trace = pyro.poutine.trace(self).get_trace(num_data=num_samples)
        sites = [name for name in trace.stochastic_nodes if name != self.plate]
        return {name: torch.as_tensor(trace.nodes[name]["value"]) for name in sites}

    def log_joint(self, x: Tensor, z: Tensor, *covariates: Tensor) -> Tensor:
        """Return log p(x, z) for z ``(..., N, L)``, ``(..., N)`` in nats; for priors with p(z) in closed form."""
        return self.prior().log_prob(z) + self.decode(z, *covariates).log_prob(x)

    def decode(self, z: Tensor, *covariates: Tensor) -> dist.TorchDistribution:
        """Return p(x|z) for z ``(..., L)``."""
        try:
            p = self.likelihood(z, *covariates)
        except (RuntimeError, ValueError) as error:
            raise misfit(error, self.likelihood, z, what="the likelihood", name="z") from error
        return ObservedEntries(p) if self.missing else p
