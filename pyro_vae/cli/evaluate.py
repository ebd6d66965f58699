"""``pyro-vae infer``, ``compare`` and ``evidence``: posteriors of data, and how far they are from the truth."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from pyro_vae.cli.options import Data, Json, Output, Rows, RunFolder, Split, TrustCode, choose, opened
from pyro_vae.cli.output import show, table, write_columns
from pyro_vae.runs.parts import KERNELS

__all__ = ["ROUTES", "compare", "evidence", "infer"]

_FUNCTIONS = {  # of this package, by the route's name
    "analytic": "analytic",
    "quadrature": "quadrature",
    "map": "maximum_a_posteriori",
    "laplace": "laplace",
}
ROUTES = ("guide", *_FUNCTIONS, *KERNELS)
METHODS = ("auto", "analytic", "quadrature", "elbo", "importance", "ais", "bridge")
_Samples = Annotated[int, typer.Option(min=2, help="Draws a chain, or draws to score a posterior with.")]


def _complete_route(incomplete: str) -> list[str]:
    return [route for route in ROUTES if route.lower().startswith(incomplete.lower())]


_Route = Annotated[str, typer.Option(help=f"One of {', '.join(ROUTES)}.", autocompletion=_complete_route)]


def _posterior(trained: Any, x: Any, route: str, *, num_samples: int, progress: bool) -> Any:
    """Infer by a route."""
    import pyro_vae as pv
    from pyro_vae.checks import among

    among(route, ROUTES, "a route")
    if route == "guide":
        return trained.guide
    if route in _FUNCTIONS:
        return getattr(pv, _FUNCTIONS[route])(trained.model, x)
    kernel = KERNELS[route].load()()
    return pv.mcmc(trained.model, x, kernel=kernel, num_samples=num_samples, num_chains=4, progress=progress)


def infer(
    run: RunFolder,
    route: _Route = "guide",
    data: Data = None,
    split: Split = "test",
    rows: Rows = None,
    num_samples: _Samples = 500,
    output: Output = None,
    json: Json = False,
    trust_code: TrustCode = False,
) -> None:
    """Infer z from data by any route: means and standard deviations, and the evidence where the route knows it.

    Under torchrun each process takes a share of the data, and the first writes the whole in their order.

    Examples:
    pyro-vae infer runs/first --output z.csv

    pyro-vae infer runs/first --route NUTS --data new.csv --rows 20 --output z.npz
    """
    from pyro_vae.datasets.rows import pieces
    from pyro_vae.distributed import gathered, joined, own_share
    from pyro_vae.runs.judgement import units

    with joined() as rank, opened(run, trust_code=trust_code) as trained:
        x = own_share(choose(trained, data, split, rows))
        columns: dict[str, Any] = {}
        for piece in pieces(x):
            found = _moments(trained, piece, route, num_samples=num_samples, progress=not (json or rank))
            columns = {name: [*columns.get(name, []), values] for name, values in found.items()}
        columns = gathered(_joined(columns))
    if rank:
        return
    write_columns(output, columns)
    import pandas as pd

    count = len(columns["mean_1"])
    text = f"{count} posteriors by {route}\n" + table(pd.DataFrame(columns).head(10))
    known = {}
    if "log_evidence" in columns:
        known = {"units": units(trained)}
        text += f"\nlog p(x) is {known['units']}"
    show({"route": route, "num_data": count, **known, **columns}, text, as_json=json)


def _moments(trained: Any, x: Any, route: str, *, num_samples: int, progress: bool) -> dict[str, Any]:
    """Columns about each datum's posterior by a route."""
    from pyro_vae.inference.posterior import answer
    from pyro_vae.inference.target.target import Target
    from pyro_vae.runs.judgement import jacobian

    posterior = _posterior(trained, x, route, num_samples=num_samples, progress=progress)
    known = answer(Target(trained.model, x), posterior, num_samples=num_samples)
    found = {f"mean_{i + 1}": column for i, column in enumerate(known.mean.unbind(-1))}
    found |= {f"sd_{i + 1}": column for i, column in enumerate(known.std.unbind(-1))}
    if hasattr(posterior, "log_evidence"):
        found["log_evidence"] = posterior.log_evidence + jacobian(trained, x).to(posterior.log_evidence)
    if hasattr(posterior, "rhat"):
        found["rhat"] = next(iter(posterior.rhat.values())).flatten(1).max(-1).values
    return {name: column.detach().cpu().numpy() for name, column in found.items()}


def _joined(columns: dict[str, Any]) -> dict[str, Any]:
    """Columns from their pieces."""
    import numpy as np

    return {name: np.concatenate(values) for name, values in columns.items()}


def compare(
    run: RunFolder,
    routes: Annotated[str, typer.Option(help=f"Of {', '.join(ROUTES)}, with commas between.")] = "guide,laplace,HMC",
    data: Data = None,
    split: Split = "test",
    rows: Rows = 100,
    num_samples: _Samples = 500,
    output: Output = None,
    json: Json = False,
    trust_code: TrustCode = False,
) -> None:
    """Compare routes on the same data with the exact posterior, where up to three latent dimensions allow one.

    Under torchrun each process takes a share of the data, and the first joins them.

    Examples:
    pyro-vae compare runs/first

    pyro-vae compare runs/first --routes guide,laplace,NUTS --rows 50 --output per-datum.csv
    """
    from pyro_vae.distributed import everyones, joined, own_share
    from pyro_vae.runs.judgement import in_own_units, units

    with joined() as rank, opened(run, trust_code=trust_code) as trained:
        import pyro_vae as pv

        x = own_share(choose(trained, data, split, rows))
        show_bar = not (json or rank)
        names = dict.fromkeys(name.strip() for name in routes.split(",") if name.strip())
        posteriors = {name: _posterior(trained, x, name, num_samples=num_samples, progress=show_bar) for name in names}
        found = pv.compare(trained.model, x, posteriors, num_samples=num_samples)
        comparison = pv.Comparison.joined(everyones(in_own_units(trained, x[:], found)))
    if rank:
        return
    if output is not None:
        frame = comparison.to_dataframe(per_datum=True)
        write_columns(output, {name: frame[name].to_numpy() for name in frame.columns})
    result = {
        "num_data": len(comparison.log_evidence),
        "log_evidence": float(comparison.log_evidence.mean()),
        "units": units(trained),
        "routes": comparison.to_dataframe().to_dict("index"),
    }
    show(result, f"{comparison}\nlog p(x) and bound: the log of {result['units']}", as_json=json)


def evidence(
    run: RunFolder,
    method: Annotated[str, typer.Option(help=f"One of {', '.join(METHODS)}.")] = "auto",
    data: Data = None,
    split: Split = "test",
    rows: Rows = 100,
    output: Output = None,
    json: Json = False,
    trust_code: TrustCode = False,
) -> None:
    """Say how probable data are under the model: log p(x) per datum, with its standard error.

    Under torchrun each process takes a share of the data.

    Example:
    pyro-vae evidence runs/first --method ais --rows 20
    """
    from pyro_vae.datasets.rows import pieces
    from pyro_vae.distributed import gathered, joined, own_share
    from pyro_vae.evaluation.evidence.evidence import evidence as estimate
    from pyro_vae.runs.judgement import density_evidence, in_own_units, units

    with joined() as rank, opened(run, trust_code=trust_code, needs="density") as trained:
        found = []
        for piece in pieces(own_share(choose(trained, data, split, rows))):
            if (of_density := density_evidence(trained, piece)) is not None:
                found.append(in_own_units(trained, piece, of_density))
                continue
            posterior = trained.guide if method in {"importance", "elbo"} else None
            if method == "bridge":
                posterior = _posterior(trained, piece, "HMC", num_samples=500, progress=not (json or rank))
            found.append(in_own_units(trained, piece, estimate(trained.model, piece, posterior, method=method)))
        names = ("log_evidence", "standard_error")
        parts = {name: [getattr(part, name).detach().cpu().numpy() for part in found] for name in names}
        columns = gathered(_joined(parts))
    if rank:
        return
    write_columns(output, columns)
    count, by = len(columns["log_evidence"]), found[0].method
    mean = float(columns["log_evidence"].mean())
    error = float((columns["standard_error"] ** 2).sum() ** 0.5 / count)
    text = f"log p(x) = {mean:.3f} nats per datum over {count} data, standard error {error:.3f}, by {by}; "
    result = {"method": by, "mean": mean, "mean_error": error, "units": units(trained), **columns}
    show(result, f"{text}the log of {result['units']}", as_json=json)
