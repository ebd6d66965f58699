"""How far each route is from the truth, as sections of a run's report, and what that means in sentences."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pyro_vae.evaluation.posterior.comparison import Comparison, compare
from pyro_vae.inference.exact.quadrature import MAX_LATENT_DIM, quadrature
from pyro_vae.inference.mcmc.kernels.hmc import HMC
from pyro_vae.inference.mcmc.run import mcmc
from pyro_vae.inference.optimum.mode import laplace
from pyro_vae.report.page import Section
from pyro_vae.runs.judgement import in_own_units, units
from pyro_vae.runs.training import Trained

__all__ = ["compared", "verdicts"]


def compared(trained: Trained, x: Tensor, *, num_samples: int) -> list[Section]:
    """Return the verdict on the posterior, the routes side by side on data ``(N, D)``, and the ledger of gaps."""
    routes: dict[str, Any] = {"guide (VI)": trained.guide, "Laplace": laplace(trained.model, x)}
    routes["HMC"] = mcmc(trained.model, x, kernel=HMC(), guide=trained.guide, num_samples=num_samples)
    exact = trained.num_latents <= MAX_LATENT_DIM
    truth = quadrature(trained.model, x) if exact else routes["HMC"]
    comparison = in_own_units(trained, x, compare(trained.model, x, routes, truth=truth))
    words = (
        "Mean error is in exact posterior standard deviations; KL, bound and gap are in nats per datum"
        if exact
        else "Beyond three latent dimensions the exact posterior is out of reach: moments are compared with HMC's; the "
        "bound is in nats per datum"
    )
    words += f"; log p(x) is the log of {units(trained)}."
    frame = comparison.to_dataframe().drop(columns="num_samples").dropna(axis=1, how="all")
    frame["ess"] = frame["ess"].round()
    frame.index.name = None
    frame.columns = [{"std_ratio": "sd ratio", "kl": "KL", "ess": "ESS"}.get(c, c.replace("_", " ")) for c in frame]
    made = [Section("Verdict on the posterior", " ".join(verdicts(comparison, routes["HMC"])))]
    made.append(Section("Comparison", f"{len(x)} held-out data by every route. {words}", table=frame))
    return [*made, _ledger(comparison)] if exact else made


def _ledger(comparison: Comparison) -> Section:
    """How log p(x) falls into the bound and the guide's KL."""
    import pandas as pd

    vi = comparison.scores["guide (VI)"]
    parts = {"log p(x), exact": comparison.log_evidence, "less the KL of the guide": -vi.kl, "the bound": vi.bound}
    means = {name: float(value.mean()) for name, value in parts.items()}
    means["unaccounted (noise)"] = means["the bound"] - means["log p(x), exact"] - means["less the KL of the guide"]
    frame = pd.DataFrame({"nats per datum": means}).round(4)
    return Section("Ledger of gaps", "log p(x) = ELBO + KL: what the guide costs, on average.", table=frame)


def verdicts(comparison: Comparison, draws: Any) -> list[str]:
    """Say in sentences what the figures mean, and from which figure.

    Args:
        comparison: with a route "guide (VI)".
        draws: of the chains.
    """
    vi = comparison.scores["guide (VI)"]
    error = float(vi.mean_error.square().mean().sqrt())
    ratio = float(vi.std_ratio.log().mean().exp())
    said = [
        f"The guide's means are off by {error:.2f} posterior standard deviations: "
        + ("trustworthy." if error < 0.1 else "usable for a picture." if error < 0.5 else "do not trust them.")
    ]
    side = "right" if 0.9 < ratio < 1.1 else "too narrow: overconfident" if ratio <= 0.9 else "too wide"
    said.append(f"Its standard deviations are {ratio:.2f} times the true ones: {side}.")
    if not bool(comparison.log_evidence.isnan().all()):
        gap = float(vi.gap.mean())
        word = "small" if gap < 0.1 else "worth a richer guide" if gap < 1 else "large: take a richer guide"
        said.append(f"The bound lies {gap:.3f} nats per datum below log p(x): {word}.")
    rhat = float(next(iter(draws.rhat.values())).max())
    word = "the chains agree" if rhat < 1.01 else "nearly converged" if rhat < 1.05 else "the chains do not agree"
    said.append(f"The largest R-hat of HMC is {rhat:.3f}: {word}.")
    return said
