"""Factor analysis with two factors, identified by a triangle."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.atlas.archive import Stored
from pyro_vae.atlas.chains import LongChains
from pyro_vae.atlas.problem import Problem
from pyro_vae.inference.mcmc.kernels.nuts import NUTS

__all__ = ["problem"]

D, FREE = 6, 9  # columns; loadings below the diagonal


def program(y: Tensor) -> None:
    """Loadings, lower triangular with a positive diagonal, and unique variances; scores are integrated out."""
    loadings, unique = _loadings(y)
    covariance = loadings @ loadings.mT + torch.diag_embed(unique)
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.MultivariateNormal(y.new_zeros(D), covariance), obs=y)


def with_scores(y: Tensor) -> None:
    """The same posterior of loadings and variances, beside that of the scores: no Cholesky factors for the chains."""
    loadings, unique = _loadings(y)
    scores = pyro.sample("scores", dist.Normal(y.new_zeros(len(y), 2), 1.0).to_event(2))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(scores @ loadings.mT, unique.sqrt().unsqueeze(-2)).to_event(1), obs=y)


def _loadings(y: Tensor) -> tuple[Tensor, Tensor]:
    top = pyro.sample("top", dist.HalfNormal(y.new_ones(2)).to_event(1))
    below = pyro.sample("below", dist.Normal(y.new_zeros(FREE), 1.0).to_event(1))
    unique = pyro.sample("unique", dist.LogNormal(y.new_full((D,), -1.0), 0.5).to_event(1))
    zero = torch.zeros_like(top[..., :1])
    first = torch.cat([top[..., :1], below[..., :5]], -1)
    second = torch.cat([zero, top[..., 1:], below[..., 5:]], -1)
    return torch.stack([first, second], -1), unique  # (D, 2), (D,)


def data() -> tuple[Tensor]:
    """Forty rows of six columns."""
    generator = torch.Generator().manual_seed(20)
    first = [1.0, 0.2, 0.8, 0.7, 0.1, 0.5]
    loadings = torch.tensor([first, [0.0, 0.9, 0.3, -0.2, 0.8, 0.6]], dtype=torch.float64)
    scores = torch.randn(40, 2, generator=generator, dtype=torch.float64)
    return (scores @ loadings + 0.6 * torch.randn(40, D, generator=generator, dtype=torch.float64),)


def problem() -> Problem:
    """The posterior of eleven loadings and six unique variances."""
    return Problem(
        name="factor_analysis",
        title="Factor analysis",
        model=program,
        args=data(),
        why=(
            "A triangle of zeros and a positive diagonal take rotations and signs away, so loadings mean something, as "
            "long as the second column does load on the second factor: where its loading is near zero, a second mode "
            "with the signs turned begins. What rotation is left correlates the loadings. Gaussians should be fair "
            "about most and too sure about the second factor, mean field most of all. Chains that start in the second "
            "mode stay there, although it has next to none of the mass."
        ),
        telling=("top[1]", "below[5]"),
        source="Simulated from the model with a fixed seed; Lopes & West 2004, Bayesian model assessment in factor "
        "analysis, Statistica Sinica 14.",
        find_truth=Stored("factor_analysis", LongChains(program=with_scores, kernel=NUTS(target_accept_prob=0.97))),
    )
