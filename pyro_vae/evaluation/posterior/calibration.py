r"""Calibration: over data simulated from the model, is the truth where the posteriors say it is?

If :math:`u \sim p(u)`, :math:`x \sim p(x|u)` and draws come from the exact posterior of x, then the rank of u among
them is uniform in every latent number, and a credible region of mass m holds u with probability m. Whatever breaks
this, breaks the posterior.

Sources: Talts, Betancourt, Simpson, Vehtari & Gelman 2018 (ranks); Säilynoja, Bürkner & Vehtari 2022 (bands); Lemos,
Coogan, Hezaveh & Perreault-Levasseur 2023 (TARP); Modrák et al. 2023 (the log-likelihood as a test quantity).
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae.checks import positive_integer, say
from pyro_vae.evaluation.simulation import applied, simulated
from pyro_vae.inference.mcmc.draws import Draws
from pyro_vae.inference.mcmc.kernels.base import Kernel
from pyro_vae.inference.mcmc.run import mcmc
from pyro_vae.inference.posterior import answer
from pyro_vae.inference.target.blocks import block_size
from pyro_vae.inference.target.program import Program
from pyro_vae.inference.target.target import Target, as_target

__all__ = ["Calibration", "calibrate", "ecdf_band", "tarp"]


@dataclass(frozen=True)
class Calibration:
    """Ranks and coverage over N simulated data.

    Attributes:
        ranks: rank of the truth's u among the draws', from 0 to S, ``(N, L)``; those of a monotone function of a single
            latent number, such as its constrained value, are the same.
        num_draws: S.
        p_value: of the ranks' uniformity in each latent number, ``(L,)``: the share of uniform samples whose ECDF
            strays as far from its band's middle.
        fraction: in which nearness to a random point the truth lies, ``(N,)``; uniform for a calibrated posterior.
        tarp_p_value: of its uniformity.
        informed_fraction: the same, near a point that depends on x: where a linear regression on other data expects
            the truth, ``(N,)``. At random points a posterior that ignores the data passes; here it does not.
        informed_p_value: of its uniformity.
        likelihood_fraction: share of draws with a smaller log p(x|u) than the truth's, ``(N,)``; uniform, too.
        likelihood_p_value: of its uniformity.
        seconds: wall time.
    """

    ranks: Tensor
    num_draws: int
    p_value: Tensor
    fraction: Tensor
    tarp_p_value: float
    informed_fraction: Tensor
    informed_p_value: float
    likelihood_fraction: Tensor
    likelihood_p_value: float
    seconds: float = 0.0

    def calibrated(self, level: float = 0.01) -> bool:
        """Whether no test rejects at ``level`` in all (Bonferroni over the L + 3 tests)."""
        others = self.tarp_p_value, self.informed_p_value, self.likelihood_p_value
        return min(float(self.p_value.min()), *others) * (len(self.p_value) + 3) > level

    def coverage(self, mass: Tensor) -> Tensor:
        """Share of central intervals of mass ``mass`` ``(M,)`` that hold the truth, ``(M, L)``."""
        centred = (2 * (self.ranks.double() + 0.5) / (self.num_draws + 1) - 1).abs()
        return (centred <= mass.double()[:, None, None]).double().mean(1)

    def to_dataframe(self) -> Any:
        """Return a pandas DataFrame, one row a simulated datum."""
        import pandas as pd

        frame = pd.DataFrame(self.ranks.cpu().numpy(), columns=[f"rank_{i}" for i in range(self.ranks.shape[1])])
        return frame.assign(
            tarp_fraction=self.fraction.cpu().numpy(),
            informed_fraction=self.informed_fraction.cpu().numpy(),
            likelihood_fraction=self.likelihood_fraction.cpu().numpy(),
        )

    def __str__(self) -> str:
        words = "no sign of miscalibration" if self.calibrated() else "miscalibrated"
        worst = int(self.p_value.argmin())
        return (
            f"{words} over {len(self.ranks)} simulated data; "
            f"ranks: smallest p {float(self.p_value[worst]):.3g} (latent {worst}); "
            f"TARP: p {self.tarp_p_value:.3g}, near points that depend on x {self.informed_p_value:.3g}; "
            f"log-likelihood: p {self.likelihood_p_value:.3g}"
        )


def calibrate(
    model: Program | Target,
    x: Tensor | tuple[Any, ...] | None = None,
    posterior: Any = None,
    *,
    num_draws: int = 99,
    warmup_steps: int = 200,
    plate: str = "data",
) -> Calibration:
    """Check a way of inference by simulation: ranks of the truth, and expected coverage at random points.

    Args:
        model: a Pyro program with one observed site, its first argument, whose latents lie in the data plate; or a
            Target in place of it and x.
        x: data of the shape to simulate, ``(N, *D)``, whose values are not used: N is the number of simulations; with
            covariates, a tuple that begins with them.
        posterior: the way of inference: a guide, any Pyro program included; a kernel of this package (MCMC of all
            simulations at once); or a function of the simulated data (with covariates, of the tuple) that returns a
            guide, a distribution or Draws, such as ``lambda x: pv.laplace(model, x)``.
        num_draws: S, draws to rank the truth among; of chains, evenly spaced ones, ten steps apart for a kernel.
        warmup_steps: of a kernel.
        plate: the data plate.

    Raises:
        TypeError: if the posterior is none of these.
        ValueError: if there are fewer than 20 simulations, as of a whole program, whose posterior is one.

    Example:
        >>> import pyro_vae as pv
        >>> _ = torch.manual_seed(0)
        >>> model = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Gaussian(torch.nn.Linear(2, 5), scale=1.0))
        >>> calibrate(model, torch.zeros(200, 5), lambda x: pv.analytic(model, x)).calibrated()
        True
    """
    began = time.perf_counter()
    S = positive_integer(num_draws, "num_draws", minimum=9)
    given = as_target(model, x, plate=plate)
    if given.num_data < 20:
        got = f"{given.num_data}" if given.per_datum else "one posterior of the whole program"
        raise ValueError(say("at least 20 simulations, the rows of x", got, "torch.zeros(1000, D)"))
    target, truth = simulated(given)
    with torch.no_grad():
        u = _draws(target, _inferred(target, posterior, S, warmup_steps), S)  # (S, N, L)
    below = (u < truth).sum(0) + (torch.rand_like(truth) * ((u == truth).sum(0) + 1)).floor().long()  # ties at random
    p = _uniformity(((below.double() + torch.rand(below.shape).to(truth.device)) / (S + 1)).cpu())
    near, informed = tarp(u, truth), tarp(u, truth, _expected(target, truth))
    likelihood = _likelihood_fraction(target, u, truth)
    p_values = _uniformity(torch.stack([near, informed, likelihood], -1).double().cpu()).tolist()
    return Calibration(
        ranks=below,
        num_draws=S,
        p_value=p,
        fraction=near,
        tarp_p_value=p_values[0],
        informed_fraction=informed,
        informed_p_value=p_values[1],
        likelihood_fraction=likelihood,
        likelihood_p_value=p_values[2],
        seconds=time.perf_counter() - began,
    )


@torch.no_grad()
def _likelihood_fraction(target: Target, u: Tensor, truth: Tensor) -> Tensor:
    own = target.log_likelihood(truth)
    smaller = sum((target.log_likelihood(part) < own).sum(0) for part in u.split(block_size(target)))
    return (smaller + torch.rand_like(own)) / (len(u) + 1)


def _inferred(target: Target, posterior: Any, num_draws: int, warmup_steps: int) -> Any:
    """What a way of inference says of the target's data."""
    if isinstance(posterior, Kernel):
        return mcmc(
            target,
            kernel=posterior,
            num_samples=max(8, math.ceil(num_draws / 4)),
            warmup_steps=warmup_steps,
            num_chains=4,
            thinning=10,
            compile=False,
        )
    if not callable(posterior) or isinstance(posterior, torch.distributions.Distribution | Draws):
        expected = "a guide, a kernel, or a function of the simulated data"
        raise TypeError(say(expected, type(posterior).__name__, "lambda x: pv.laplace(model, x)"))
    return applied(posterior, target)


def _draws(target: Target, posterior: Any, num_draws: int) -> Tensor:
    u = answer(target, posterior, num_samples=num_draws).u
    if len(u) < num_draws:
        raise ValueError(say(f"at least {num_draws} draws", f"{len(u)}", "more draws, or a smaller num_draws"))
    return u[torch.linspace(0, len(u) - 1, num_draws).long()]


def tarp(u: Tensor, truth: Tensor, points: Tensor | None = None) -> Tensor:
    """Share of draws nearer to a point than the truth is, ``(N,)``; uniform for a calibrated posterior.

    Unlike ranks, which look at one latent number at a time, this sees dependence between them. Distances are in the
    prior's standard deviations. Points may depend on a datum's x but not on its truth; where they do not depend on x,
    errors that average out over the data stay unseen.

    Args:
        u: draws ``(S, N, L)``.
        truth: ``(N, L)``.
        points: ``(N, L)``; other data's truths if None.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> tarp(torch.randn(99, 500, 2), torch.randn(500, 2)).shape
        torch.Size([500])
    """
    scale = truth.std(0).clamp_min(1e-12)
    point = truth.roll(1, 0) if points is None else points
    own = ((truth - point) / scale).norm(dim=-1)
    others = ((u - point) / scale).norm(dim=-1)
    nearer = (others < own).sum(0)
    return (nearer + torch.rand(nearer.shape).to(u)) / (len(u) + 1)


def _expected(target: Target, truth: Tensor) -> Tensor:
    """Where a ridge regression on x expects each truth, ``(N, L)``, fitted to the other half of the data."""
    x = next(arg for arg in target.args if isinstance(arg, Tensor)).to(truth).nan_to_num().reshape(len(truth), -1)
    x = torch.cat([(x - x.mean(0)) / x.std(0).clamp_min(1e-6), torch.ones_like(x[:, :1])], -1)
    halves = torch.arange(len(x), device=x.device) % 2 == 0
    point = torch.empty_like(truth)
    for fitted in (halves, ~halves):
        a, b = x[fitted], truth[fitted]
        ridge = torch.eye(a.shape[1]).to(a) * 1e-2 * len(a)
        point[~fitted] = x[~fitted] @ torch.linalg.solve(a.T @ a + ridge, a.T @ b)
    return point


def _statistic(values: Tensor) -> Tensor:
    """Largest distance of an ECDF from the diagonal in standard deviations, for values ``(..., N)`` in (0, 1)."""
    N = values.shape[-1]
    place = torch.linspace(0, 1, min(N, 100) + 2, dtype=torch.float64)[1:-1]
    ecdf = torch.searchsorted(values.sort(-1).values, place.expand(*values.shape[:-1], -1).contiguous()) / N
    return ((ecdf - place).abs() / (place * (1 - place) / N).sqrt()).amax(-1)


def _null(num_data: int, repeats: int = 2000) -> Tensor:
    """The statistic of uniform samples, from a stream of its own."""
    generator = torch.Generator().manual_seed(num_data)
    parts = [torch.rand(200, num_data, dtype=torch.float64, generator=generator) for _ in range(repeats // 200)]
    return torch.cat([_statistic(part) for part in parts])


def _uniformity(values: Tensor) -> Tensor:
    """P-value of uniformity of each column of ``(N, L)``, ``(L,)``."""
    null, found = _null(len(values)), _statistic(values.T.contiguous())
    return ((null >= found[:, None]).double().sum(-1) + 1) / (len(null) + 1)


def ecdf_band(num_data: int, level: float = 0.95) -> tuple[Tensor, Tensor, Tensor]:
    """Return points in (0, 1) and the band's lower and upper edge there.

    The whole ECDF of ``num_data`` uniform values stays inside with probability ``level``.

    Args:
        num_data: N.
        level: simultaneous.

    Example:
        >>> place, low, high = ecdf_band(500)
        >>> bool((low < place).all() and (place < high).all())
        True
    """
    width = _null(num_data).quantile(level)
    place = torch.linspace(0, 1, min(num_data, 100) + 2, dtype=torch.float64)[1:-1]
    half = width * (place * (1 - place) / num_data).sqrt()
    return place, place - half, place + half
