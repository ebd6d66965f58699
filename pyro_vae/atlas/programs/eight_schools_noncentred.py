"""Eight schools, non-centred: the same posterior in better coordinates."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
from torch import Tensor

from pyro_vae.atlas.archive import Stored
from pyro_vae.atlas.problem import Problem
from pyro_vae.atlas.programs.eight_schools_centred import SOURCE, data, given_tau
from pyro_vae.atlas.values import Values

__all__ = ["problem"]


def program(y: Tensor, error: Tensor) -> None:
    """The schools' effects as standardised deviations from a common mean."""
    mu = pyro.sample("mu", dist.Normal(y.new_tensor(0.0), 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(y.new_tensor(5.0)))
    with pyro.plate("schools", len(y)):
        eta = pyro.sample("eta", dist.Normal(y.new_tensor(0.0), 1.0))
        pyro.sample("y", dist.Normal(mu + tau * eta, error), obs=y)


def _split(z: Tensor, s: Values) -> Values:
    return {"mu": z[:, 0], "eta": z[:, 1:] / s["tau"].unsqueeze(-1)}


def problem() -> Problem:
    """The posterior of mean, spread and the eight standardised deviations."""
    return Problem(
        name="eight_schools_noncentred",
        title="Eight schools, non-centred",
        model=program,
        args=data(),
        why=(
            "The data are weak, so deviations in units of tau hardly depend on tau: the posterior is nearly the prior, "
            "nearly Gaussian but for the skewed tau. All routes should do well; what remains wrong is the tail of tau, "
            "which has the prior's Cauchy tail."
        ),
        telling=("tau", "eta[0]"),
        source=SOURCE,
        find_truth=Stored("eight_schools_noncentred", given_tau(_split)),
    )
