"""Eight schools, centred: the hierarchy that is a funnel."""

from __future__ import annotations

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.atlas.archive import Stored
from pyro_vae.atlas.problem import Problem
from pyro_vae.atlas.scales import GivenScales
from pyro_vae.atlas.values import Values

__all__ = ["SOURCE", "data", "given_tau", "problem", "scale", "split"]

SOURCE = (
    "Effects of coaching and their standard errors from Rubin 1981, Estimation in parallel randomized experiments, "
    "Journal of Educational Statistics 6, table 1; priors as in posteriordb's eight_schools."
)


def program(y: Tensor, error: Tensor) -> None:
    """The schools' effects around a common mean."""
    mu = pyro.sample("mu", dist.Normal(y.new_tensor(0.0), 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(y.new_tensor(5.0)))
    with pyro.plate("schools", len(y)):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, error), obs=y)


def data() -> tuple[Tensor, Tensor]:
    """Estimated effects and their standard errors."""
    y = torch.tensor([28, 8, -3, 7, -1, 1, 18, 12], dtype=torch.float64)
    return y, torch.tensor([15, 10, 16, 11, 9, 11, 10, 18], dtype=torch.float64)


def scale(y: Tensor, error: Tensor) -> Values:
    """The one scale, given which all else is Gaussian."""
    return {"tau": pyro.sample("tau", dist.HalfCauchy(y.new_tensor(5.0)))}


def _factor(s: Values) -> Tensor:
    """Of mu and the eight deviations from it."""
    tau = s["tau"].unsqueeze(-1)
    return torch.diag_embed(torch.cat([torch.full_like(tau, 5.0), tau.expand(*tau.shape[:-1], 8)], -1))


def split(z: Tensor, s: Values) -> Values:
    """Mu and theta from mu and deviations ``(n, 9)``."""
    return {"mu": z[:, 0], "theta": z[:, :1] + z[:, 1:]}


def given_tau(split: Callable[[Tensor, Values], Values] = split) -> GivenScales:
    """The truth: tau by quadrature, all else Gaussian given tau."""
    y, error = data()
    design = torch.cat([torch.ones(8, 1).double(), torch.eye(8).double()], 1)
    return GivenScales(scale, _factor, lambda s: error.expand(*s["tau"].shape, 8), design, y, split)


def problem() -> Problem:
    """The posterior of mean, spread and the eight effects."""
    return Problem(
        name="eight_schools_centred",
        title="Eight schools, centred",
        model=program,
        args=data(),
        why=(
            "Eight noisy effects say little of their spread tau, and where tau is small the effects must lie close "
            "together: a funnel. Chains diverge in its neck and miss small tau; a Gaussian over log tau and theta "
            "cannot follow, and mean field gives up small tau altogether. The non-centred program has the same "
            "posterior of the effects, and none of this."
        ),
        telling=("tau", "theta[0]"),
        source=SOURCE,
        find_truth=Stored("eight_schools_centred", given_tau()),
    )
