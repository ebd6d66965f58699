"""A generator of images made a model with a likelihood, so that every route and every measure takes it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae import checks
from pyro_vae.checks import positive_integer, positive_number, say
from pyro_vae.evaluation.evidence.evidence import evidence
from pyro_vae.likelihoods import Gaussian
from pyro_vae.model import Model
from pyro_vae.priors import Prior, StandardNormal
from pyro_vae.randomness import fork_rng

__all__ = ["observation_model"]


def observation_model(
    generator: nn.Module,
    x_validation: Tensor,
    *,
    prior: Prior | None = None,
    latent_dim: int | None = None,
    accuracy: float = 0.02,
    **settings: Any,
) -> Model:
    r"""Return :math:`p(z)\, N(x; G(z), \sigma^2 I)` with the sigma of the highest evidence on validation data.

    A generator alone gives its images a law on a surface of L dimensions, under which data have no density. With
    noise of one sigma it is a latent-variable model: ``quadrature``, ``evidence``, ``bracket``, ``mcmc``, ``compare``
    and ``verdict`` take it. Its log p(x) is that of the best such model, hence a kindness to the generator.

    Sigma is found by Brent's search over :math:`\log \sigma` between a hundredth of the data's standard deviation and
    twice that, each time under the same random numbers.

    Args:
        generator: G, from z ``(..., L)`` to x ``(..., D)``, or a system with ``generator`` and ``prior``.
        x_validation: data that neither trained the generator nor will judge it, ``(N, D)``; some fifty are enough for
            one number.
        prior: p(z); if not given, the system's own, or a standard normal of ``latent_dim``.
        latent_dim: L, where neither a prior nor a system gives it.
        accuracy: of log sigma.
        settings: for :func:`~pyro_vae.evidence`, such as ``num_chains``, ``num_temperatures``.

    Returns:
        The model; its generator's parameters are shared, and frozen nowhere.

    Raises:
        TypeError: if the generator is no module, the prior no Prior, or the data no tensor.
        ValueError: if the data are not finite, nothing gives L, the generator does not fit the data, or no sigma has a
            finite evidence.

    Source:
        Wu, Burda, Salakhutdinov & Grosse 2017, On the quantitative analysis of decoder-based generative models,
        section 2.

    Example:
        >>> x = torch.randn(20, 3)
        >>> model = observation_model(torch.nn.Linear(1, 3), x, latent_dim=1)
        >>> model.likelihood.scale.shape
        torch.Size([])
    """
    from scipy.optimize import minimize_scalar

    checks.finite(checks.tensor(x_validation, "x_validation", min_dim=2), "x_validation")
    network, law = _parts(generator, prior, latent_dim)
    _check_fit(network, law.latent_dim, x_validation)
    positive_number(accuracy, "accuracy", example=0.02)
    spread = float(x_validation.double().std())
    if not spread > 0:
        raise ValueError(say("validation data that vary", f"a standard deviation of {spread:g}", "more of them"))

    def model(log_scale: float) -> Model:
        return Model(law, Gaussian(network, scale=math.exp(log_scale)))

    def loss(log_scale: float) -> float:
        with fork_rng(seed=_SEED):
            value = -float(evidence(model(log_scale), x_validation, **settings).log_evidence.mean())
        return value if math.isfinite(value) else math.inf

    bounds = math.log(spread / 100), math.log(2 * spread)
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": accuracy})
    if not math.isfinite(found.fun):
        raise ValueError(say("a sigma under which data have a density", "none", "a generator whose images are finite"))
    return model(float(found.x))


def _parts(generator: Any, prior: Prior | None, latent_dim: int | None) -> tuple[nn.Module, Prior]:
    """The network and the prior that the arguments mean."""
    network = getattr(generator, "generator", generator)
    if not isinstance(network, nn.Module):
        raise TypeError(say("a generator that is a torch.nn.Module", f"{network!r}", "pv.networks.mlp(10, 128, 784)"))
    law = getattr(generator, "prior", None) if prior is None else prior
    if law is None and latent_dim is None:
        raise ValueError(say("prior or latent_dim", "neither", "latent_dim=10"))
    if law is None:
        law = StandardNormal(positive_integer(latent_dim, "latent_dim"))
    if not isinstance(law, Prior):
        raise TypeError(say("a prior", f"{law!r}", "pv.priors.StandardNormal(10)"))
    parameter = next(network.parameters(), None)
    return network, law if parameter is None else law.to(parameter)


@torch.no_grad()
def _check_fit(network: nn.Module, latent_dim: int, x: Tensor) -> None:
    """Check that the generator makes rows like x."""
    try:
        made = network.eval()(torch.zeros(1, latent_dim, dtype=x.dtype, device=x.device)).shape[1:]
    except RuntimeError as error:
        got = str(error).partition("\n")[0]
        raise ValueError(say(f"a generator that takes z (N, {latent_dim}) of {x.dtype}", got, "latent_dim=")) from error
    if made != x.shape[1:]:
        got = f"{tuple(made)} for data of {tuple(x.shape[1:])}"
        raise ValueError(say("a generator that makes rows like the data", got, "data of its size"))


_SEED = 0  # of the random numbers that all sigmas share
