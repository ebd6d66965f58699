"""``pyro-vae infer``, ``compare`` and ``evidence``: posteriors of data, and how far they are from the truth."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from pyro_vae.cli.options import Data, Json, Output, Rows, RunFolder, Split, TrustCode, choose, load
from pyro_vae.cli.output import show, table, tell, write_columns

__all__ = ["ROUTES", "compare", "evidence", "infer"]

ROUTES = ("guide", "analytic", "quadrature", "map", "laplace", "HMC", "NUTS", "MALA", "RandomWalk", "ChEES")
_Samples = Annotated[int, typer.Option(min=2, help="Draws a chain, or draws to score a posterior with.")]


def _complete_route(incomplete: str) -> list[str]:
    return [route for route in ROUTES if route.lower().startswith(incomplete.lower())]


_Route = Annotated[str, typer.Option(help=f"One of {', '.join(ROUTES)}.", autocompletion=_complete_route)]


def _posterior(trained: Any, x: Any, route: str, *, num_samples: int, progress: bool) -> Any:
    """Infer by a route."""
    import pyro_vae as pv
    from pyro_vae.checks import among
    from pyro_vae.runs.parts import KERNELS

    among(route, ROUTES, "a route")
    if route == "guide":
        return trained.guide
    if route in KERNELS:
        kernel = KERNELS[route].load()()
        return pv.mcmc(trained.model, x, kernel=kernel, num_samples=num_samples, num_chains=4, progress=progress)
    routes = {
        "analytic": pv.analytic,
        "quadrature": pv.quadrature,
        "map": pv.maximum_a_posteriori,
        "laplace": pv.laplace,
    }
    return routes[route](trained.model, x)


def infer(
    run: RunFolder,
    route: _Route = "guide",
    data: Data = None,
    split: Split = "test",
    rows: Rows = 10**9,
    num_samples: _Samples = 500,
    output: Output = None,
    json: Json = False,
    trust_code: TrustCode = False,
) -> None:
    """Infer z from data by any route: means and standard deviations, and the evidence where the route knows it.

    Examples:
    pyro-vae infer runs/first --output z.csv

    pyro-vae infer runs/first --route NUTS --data new.csv --rows 20 --output z.npz
    """
    trained = load(run, trust_code=trust_code)
    x = choose(trained, data, split, rows)
    from pyro_vae.inference.posterior import answer
    from pyro_vae.inference.target import Target

    posterior = _posterior(trained, x, route, num_samples=num_samples, progress=not json)
    known = answer(Target(trained.model, x), posterior, num_samples=num_samples)
    L = known.mean.shape[-1]
    columns: dict[str, Any] = {f"mean_{i + 1}": known.mean[:, i].detach().cpu().numpy() for i in range(L)}
    columns |= {f"sd_{i + 1}": known.std[:, i].detach().cpu().numpy() for i in range(L)}
    if hasattr(posterior, "log_evidence"):
        columns["log_evidence"] = posterior.log_evidence.detach().cpu().numpy()
    if hasattr(posterior, "rhat"):
        columns["rhat"] = next(iter(posterior.rhat.values())).flatten(1).max(-1).values.cpu().numpy()
    if output is not None:
        write_columns(output, columns)
        tell(f"wrote {output}")
    import pandas as pd

    text = f"{len(x)} posteriors by {route}\n" + table(pd.DataFrame(columns).head(10))
    show({"route": route, "num_data": len(x), **columns}, text, as_json=json)


def compare(
    run: RunFolder,
    routes: Annotated[str, typer.Option(help="Routes, with commas between.")] = "guide,laplace,HMC",
    data: Data = None,
    split: Split = "test",
    rows: Rows = 100,
    num_samples: _Samples = 500,
    output: Output = None,
    json: Json = False,
    trust_code: TrustCode = False,
) -> None:
    """Compare routes on the same data with the exact posterior, where up to three latent dimensions allow one.

    Examples:
    pyro-vae compare runs/first

    pyro-vae compare runs/first --routes guide,laplace,NUTS --rows 50 --output per-datum.csv
    """
    trained = load(run, trust_code=trust_code)
    x = choose(trained, data, split, rows)
    import pyro_vae as pv

    names = [name.strip() for name in routes.split(",") if name.strip()]
    posteriors = {
        name: _posterior(trained, x, name, num_samples=num_samples, progress=not json) for name in dict.fromkeys(names)
    }
    comparison = pv.compare(trained.model, x, posteriors, num_samples=num_samples)
    if output is not None:
        frame = comparison.to_dataframe(per_datum=True)
        write_columns(output, {name: frame[name].to_numpy() for name in frame.columns})
        tell(f"wrote {output}")
    frame = comparison.to_dataframe()
    evidence_mean = float(comparison.log_evidence.mean())
    result = {"num_data": len(x), "log_evidence": evidence_mean, "routes": frame.to_dict("index")}
    show(result, str(comparison), as_json=json)


def evidence(
    run: RunFolder,
    method: Annotated[str, typer.Option(help="auto, analytic, quadrature, ais, importance or elbo.")] = "auto",
    data: Data = None,
    split: Split = "test",
    rows: Rows = 100,
    output: Output = None,
    json: Json = False,
    trust_code: TrustCode = False,
) -> None:
    """Say how probable data are under the model: log p(x) per datum, with its standard error.

    Example:
    pyro-vae evidence runs/first --method ais --rows 20
    """
    trained = load(run, trust_code=trust_code)
    x = choose(trained, data, split, rows)
    from pyro_vae.evaluation.evidence import evidence as estimate

    found = estimate(trained.model, x, trained.guide if method in {"importance", "elbo"} else None, method=method)
    columns = {
        "log_evidence": found.log_evidence.detach().cpu().numpy(),
        "standard_error": found.standard_error.detach().cpu().numpy(),
    }
    if output is not None:
        write_columns(output, columns)
        tell(f"wrote {output}")
    mean = float(columns["log_evidence"].mean())
    error = float((columns["standard_error"] ** 2).sum() ** 0.5 / len(x))
    text = f"log p(x) = {mean:.3f} nats per datum over {len(x)} data, standard error {error:.3f}, by {found.method}"
    show({"method": found.method, "mean": mean, "mean_error": error, **columns}, text, as_json=json)
