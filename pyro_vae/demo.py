"""The main job: from real digits to a measured answer, with a table, figures and a report."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_vae import datasets, plots
from pyro_vae.evaluation.posterior.comparison import Comparison, RouteScore, compare
from pyro_vae.explorer.explore import explore
from pyro_vae.guides import DiagonalGaussian
from pyro_vae.inference.exact.quadrature import QuadraturePosterior, quadrature
from pyro_vae.inference.mcmc.draws import Draws
from pyro_vae.inference.mcmc.reference import pyro_mcmc
from pyro_vae.inference.mcmc.run import mcmc
from pyro_vae.inference.optimum.mode import laplace, maximum_a_posteriori
from pyro_vae.inference.variational.fit import fit
from pyro_vae.likelihoods import Bernoulli
from pyro_vae.model import Model
from pyro_vae.networks import mlp
from pyro_vae.priors import StandardNormal
from pyro_vae.report import Section, write_report

__all__ = ["DemoResult", "demo"]

_IMAGE = (8, 8)


@dataclass(frozen=True)
class DemoResult:
    """What the main job made.

    Attributes:
        comparison: every route against the exact posterior.
        agreement: in words, how the chains and the bound agree with the exact answer.
        report: path of the HTML report.
        page: path of the HTML page to play with, beside the report.
        figures: paths of the figures.
        seconds: wall time.
    """

    comparison: Comparison
    agreement: str
    report: Path
    page: Path
    figures: list[Path]
    seconds: float


def demo(
    output: str | Path = "demo", *, epochs: int = 60, num_chained: int = 6, seed: int = 0, progress: bool = True
) -> DemoResult:
    """Train a VAE on real digits, infer held-out digits by every basic route, and compare with the exact posterior.

    Args:
        output: folder for report, figures and table.
        epochs: passes over the 1,437 training digits.
        num_chained: how many of the 360 held-out digits Pyro's own NUTS samples, one after the other.
        seed: of everything random.
        progress: show progress bars.
    """
    start = time.perf_counter()
    pyro.set_rng_seed(seed)
    x_train, x_test = datasets.digits("train"), datasets.digits("test")
    model = Model(StandardNormal(2), Bernoulli(mlp(2, 128, 64)))
    guide = DiagonalGaussian(mlp(64, 128, 4))
    history = fit(model, guide, x_train, epochs=epochs, lr=3e-3, progress=progress)

    truth = quadrature(model, x_test)
    chained = x_test[:num_chained]
    nuts = pyro_mcmc(model, chained, num_samples=300, warmup_steps=200, num_chains=2, progress=progress)
    hmc = mcmc(model, x_test, num_samples=500, warmup_steps=300, num_chains=4, progress=progress)
    posteriors: dict[str, Any] = {
        "exact": truth,
        "mode (MAP)": maximum_a_posteriori(model, x_test),
        "Laplace": laplace(model, x_test),
        "VI, amortised": guide,
        "HMC, batched": hmc,
        "NUTS (Pyro)": (nuts, range(num_chained)),
    }
    comparison = compare(model, x_test, posteriors, truth=truth)
    agreement = _agreement(comparison, nuts, hmc, truth)

    labels = datasets.digit_labels("test")
    drawn = {name: posteriors[name] for name in ("VI, amortised", "Laplace", "mode (MAP)", "NUTS (Pyro)")}
    rows = _rows_to_show(comparison.scores["VI, amortised"], num_chained)
    figures = {
        "posteriors": plots.posterior_contours(model, x_test, drawn, truth=truth, rows=rows),
        "latent-space": plots.latent_space(truth.mean, labels, title="Exact posterior means of held-out digits"),
        "decoder": plots.decoder_plane(model.decode, image_shape=_IMAGE, title="The decoder over the latent plane"),
        "learning": plots.learning_curve(history),
        "reconstructions": _reconstructions(model, truth, x_test[:10]),
    }
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in figures.items():
        paths.append(folder / f"{name}.png")
        figure.savefig(paths[-1], dpi=110)
    (folder / "table.txt").write_text(f"{comparison}\n\n{agreement}\n", encoding="utf-8")
    comparison.to_dataframe(per_datum=True).to_csv(folder / "per-datum.csv", index=False)
    page = explore(model, guide, x_test, path=folder / "explore.html", title="A VAE on real digits", labels=labels)
    seconds = time.perf_counter() - start
    report = _report(folder / "report.html", comparison, agreement, figures, seconds=seconds, seed=seed)
    return DemoResult(comparison, agreement, report, page, paths, seconds)


def _rows_to_show(vi: RouteScore, num_chained: int) -> list[int]:
    """Three digits as they come, and three of the others that have chains, the one with the worst guide first."""
    first = list(range(min(3, num_chained)))
    rest = vi.kl[len(first) : num_chained].argsort(descending=True)[:3] + len(first)
    return first + rest.tolist()


def _agreement(comparison: Comparison, nuts: Draws, hmc: Draws, truth: QuadraturePosterior) -> str:
    vi = comparison.scores["VI, amortised"]
    below = int((vi.bound <= comparison.log_evidence + 4 * vi.bound_error + comparison.error_bound).sum())
    lines = [_chains("NUTS", nuts, truth, 1.05), _chains("HMC", hmc, truth, 1.01)]
    lines.append(f"ELBO at most the exact log evidence, within 4 standard errors: {below} of {len(vi.bound)} digits.")
    return "\n".join(lines)


def _chains(name: str, draws: Draws, truth: QuadraturePosterior, max_rhat: float) -> str:
    """Say how many posteriors agree with the exact one, and which do not, with their R-hat."""
    n = draws.num_data
    off = (draws.mean()["z"] - truth.mean[:n]).abs() / draws.mcse["z"]
    near = (off < 4).all(-1)
    rhat = draws.rhat["z"].amax(-1)
    text = f"{name} means within 4 Monte Carlo standard errors of the exact ones: {int(near.sum())} of {n} digits"
    if not bool(near.all()):
        rows = [f"{int(row)} (R-hat {float(rhat[row]):.3f})" for row in (~near).nonzero().flatten()[:6]]
        text += f"; not {', '.join(rows)}"
    return f"{text}; R-hat below {max_rhat} on {int((rhat < max_rhat).sum())}."


@torch.no_grad()
def _reconstructions(model: Model, truth: QuadraturePosterior, x: Tensor) -> Any:
    mean = model.decode(truth.mean[: len(x)]).mean
    return plots.images(
        torch.cat([x, mean]), image_shape=_IMAGE, columns=len(x), title="Held-out digits, and p(x|z) at E[z|x]"
    )


def _report(
    path: Path, comparison: Comparison, agreement: str, figures: dict[str, Any], *, seconds: float, seed: int
) -> Path:
    return write_report(
        path,
        "A VAE on real digits, and how far to trust its posterior",
        [
            Section(
                "Every route against the exact posterior",
                "Prior p(z) = N(0, I) in two dimensions; likelihood p(x|z) = Bernoulli with logits from a 2-128-64 "
                "network; guide q(z|x) = N(mu(x), sigma(x)) from a 64-128-4 network. Both learnt by SVI on Trace_ELBO "
                "from 1,437 of scikit-learn's 8 x 8 digits; the table is over the 360 held out.\n\n"
                "Mean error is in exact posterior standard deviations; KL, bound and gap are in nats per datum. The "
                "gap between the exact log evidence and the bound is the KL, by log p(x) = KL + ELBO.\n\n" + agreement,
                table=comparison.to_dataframe(),
            ),
            Section("The same, to play with",
                    "Drag a point and see it decoded; draw a digit and see its exact posterior; bend q and read both "
                    "terms of log p(x) = KL + ELBO; let chains walk. The page lies beside this one and opens offline.",
                    links={"The latent plane, in the browser": "explore.html"}),
            Section("Posteriors of single digits",
                    "Grey: the exact density. Lines hold 50 % and 95 % of a route's mass; dots are draws.",
                    figure=figures["posteriors"]),
            Section("The latent space", figure=figures["latent-space"]),
            Section("The decoder over the latent plane", figure=figures["decoder"]),
            Section("Reconstructions", figure=figures["reconstructions"]),
            Section("Learning", "ELBO over epochs, on training and held-out data.", figure=figures["learning"]),
            Section("How to make this page again",
                    f"It took {seconds:.0f} seconds with {torch.get_num_threads()} threads, Pyro {pyro.__version__}, "
                    f"torch {torch.__version__}.", code=f"python -m pyro_vae demo --seed {seed}"),
        ],
    )  # fmt: skip
