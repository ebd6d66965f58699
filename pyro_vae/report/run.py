"""The report of a run: verdicts on model and posterior, data, model, learning, samples, reproduction."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae import plots
from pyro_vae.datasets.encoding import decode, named
from pyro_vae.datasets.kinds import Schema
from pyro_vae.inference.variational.fit import History
from pyro_vae.model import Model
from pyro_vae.report.comparison import compared
from pyro_vae.report.page import Section, write_report
from pyro_vae.report.worth import worth
from pyro_vae.runs.build import likelihood_name
from pyro_vae.runs.folder import versions, write_whole
from pyro_vae.runs.isolation import isolated
from pyro_vae.runs.judgement import history_in_own_units
from pyro_vae.runs.parts import GUIDES, LIKELIHOODS, OBJECTIVES, PRIORS, SYSTEMS, parse
from pyro_vae.runs.recipe import Recipe
from pyro_vae.runs.training import Trained

__all__ = ["write_page"]

_SHOWN = 2000  # points in the latent plane


def write_page(
    folder: Path,
    trained: Trained,
    *,
    output: Path | None = None,
    rows: int | None = 60,
    num_samples: int = 300,
    notify: Callable[[str], None] = lambda message: None,
) -> Path:
    """Write a run's report and return its path.

    Args:
        folder: of the run; figures go to its ``figures``.
        trained: the run.
        output: the HTML file; ``report.html`` in the folder if None.
        rows: how many held-out data to compare the routes on; all if None.
        num_samples: draws a chain.
        notify: called with what is being worked out, each of which may take minutes.
    """
    with isolated(trained.recipe):
        test = trained.prepared.split("test")
        x = (test if len(test) else trained.prepared.split("train"))[:rows]
        notify("report: how far the model is from the data")
        sections = worth(trained)
        notify(f"report: posteriors of {len(x)} rows by every route")
        sections += [*compared(trained, x, num_samples=num_samples), _data(trained), _model(trained)]
        notify("report: figures")
        history = history_in_own_units(trained)
        sections.append(Section("Learning", _learning(history), figure=plots.learning_curve(history)))
        if isinstance(trained.model, Model):
            sections += _pictures(trained, x)
        sections.append(_again(trained, folder))
    figures = folder / "figures"
    figures.mkdir(exist_ok=True)
    for section in sections:
        if section.figure is not None:
            write_whole(figures / f"{section.heading.lower().replace(' ', '-')}.png", section.png)
    return write_report(output or folder / "report.html", f"The run {folder.name}", sections)


def _data(trained: Trained) -> Section:
    import pandas as pd

    prepared, schema = trained.prepared, trained.prepared.schema
    sizes = ", ".join(f"{len(x)} {name}" for name, x in prepared.x.items() if name != "all")
    text = f"{trained.recipe.data}: {len(prepared.x['all'])} rows of {schema.summary()}. Split by seed: {sizes}."
    for note in prepared.notes:
        text += f"\n\nNote: {note}."
    if not schema.columns:
        return Section("Data", text)
    values = decode(schema, prepared.x["train"][:])
    frame = pd.DataFrame(values, columns=list(schema.columns)).describe().T[["count", "mean", "std", "min", "max"]]
    frame = frame.rename(columns={"std": "sd"}).astype({"count": int})
    frame.insert(0, "kind", schema.kinds)
    if "categories" in schema.kinds:
        words = named(schema, values)
        chosen = [kind == "categories" for kind in schema.kinds]
        frame.loc[chosen, ["mean", "sd", "min", "max"]] = float("nan")
        frame["most frequent"] = [
            str(pd.Series(words[name]).mode()[0]) if some else ""
            for name, some in zip(schema.columns, chosen, strict=True)
        ]
    return Section("Data", text + "\n\nThe training rows, in the table's own units:", table=frame)


def _model(trained: Trained) -> Section:
    recipe, schema = trained.recipe, trained.prepared.schema
    if recipe.model:
        return Section("Model", f"The user's own, {recipe.model}.")
    if recipe.system:
        part, _ = parse(recipe.system, SYSTEMS, "the system")
        return Section("Model", f"{recipe.system}: {_plain(part.summary())}")
    name = likelihood_name(recipe, schema)
    summaries = []
    for what, text, parts in (
        ("Prior", recipe.prior, PRIORS),
        ("Likelihood", name, LIKELIHOODS),
        ("Guide", recipe.guide, GUIDES),
        ("Objective", recipe.objective, OBJECTIVES),
    ):
        part, _ = parse(text, parts, what)
        summaries.append(f"{what} {text}: {_plain(part.summary())}")
    sizes = "-".join(str(size) for size in (recipe.latent_dim, *recipe.hidden_sizes, schema.data_dim))
    text = (
        f"A latent vector z of {recipe.latent_dim} dimensions explains a datum x of {schema.data_dim}.\n\n"
        + "\n\n".join(summaries)
        + f"\n\nThe decoder is a {sizes} network, the guide its mirror. Both are learnt by maximising the bound "
        "below; the gap to log p(x) is the guide's error."
    )
    bound = "log p(x) = ELBO(x) + KL(q(z|x) || p(z|x))\nELBO(x) = E_q[ log p(x, z) - log q(z|x) ]"
    equations = f"{_equations(recipe, schema, name)}\n\n{bound}"
    return Section("Model", text, code=equations)


def _equations(recipe: Recipe, schema: Schema, name: str) -> str:
    """The program in lines: what is drawn from what, with f the decoder and g the guide's network."""
    lines = [f"z ~ {recipe.prior}  in R^{recipe.latent_dim}"]
    if name != "Mixed":
        lines.append(f"x | z ~ {name}(f(z))  in {schema.data_dim} independent columns")
    else:
        for likelihood in dict.fromkeys(schema.likelihoods[i] for i in schema.order):
            names = [schema.name(i).strip("'") for i in schema.order if schema.likelihoods[i] == likelihood]
            shown = ", ".join(names[:6]) + (f", ... ({len(names)} columns)" if len(names) > 6 else "")
            lines.append(f"{shown} | z ~ {likelihood}(f(z))")
    return "\n".join([*lines, f"q(z | x) = {recipe.guide}(g(x))"])


def _plain(summary: str) -> str:
    """The first sentence of a documentation line, without its formula."""
    return summary.partition(":math:")[0].rstrip(", ").partition(". ")[0].rstrip(".") + "."


def _learning(history: History) -> str:
    best = (history.validation_elbo or history.train_elbo)[history.best_epoch]
    kind = "validation" if history.validation_elbo else "training"
    text = (
        f"{history.num_steps} steps in {history.seconds:.1f} seconds ({history.engine}). The best {kind} ELBO, "
        f"{best:.3f} nats per datum, is that of epoch {history.best_epoch + 1} of {len(history.train_elbo)}."
    )
    if _fell(history.validation_elbo):
        text += "\n\nThe validation ELBO has fallen since: the model learns the training data by heart (--patience)."
    return text


def _fell(elbo: list[float]) -> bool:
    """Whether a curve ends below its best stretch of a tenth of its epochs, by three standard errors."""
    width = max(5, len(elbo) // 10)
    if len(elbo) < 3 * width:
        return False
    stretches = torch.tensor(elbo, dtype=torch.float64).unfold(0, width, 1)
    mean, error = stretches.mean(-1), stretches.std(-1) / width**0.5
    top = int(mean.argmax())
    return bool(mean[-1] < mean[top] - 3 * (error[-1] ** 2 + error[top] ** 2).sqrt())


@torch.no_grad()
def _pictures(trained: Trained, x: Tensor) -> list[Section]:
    """Samples, reconstructions and the latent plane: images as such, tables in their own units."""
    import pandas as pd

    model, schema = trained.model, trained.prepared.schema
    q = trained.guide.posterior(x)
    z = q.sample((64,)).mean(0)
    draws = model.sample(10)[model.observed].flatten(1)
    mean = model.decode(z).mean if schema.kind not in {"categories", "mixed"} else model.decode(z).sample()
    made = []
    if len(schema.shape) == 2 and min(schema.shape) >= 4:
        shape = (schema.shape[0], schema.shape[1])
        pair = torch.cat([x[:10], mean[:10]])
        made.append(Section("Samples", "Drawn from the model.", figure=plots.images(draws, image_shape=shape)))
        made.append(
            Section(
                "Reconstructions",
                "Above: held-out data. Below: the mean of p(x|z) at the guide's mean.",
                figure=plots.images(pair, image_shape=shape, columns=len(pair) // 2),
            )
        )
    else:
        table = pd.DataFrame(named(schema, decode(schema, draws)))
        made.append(Section("Samples", "Drawn from the model, in the table's units.", table=table))
        made.append(_reconstructed(schema, decode(schema, x), decode(schema, mean)))
    if z.shape[-1] == 2:
        test = trained.prepared.split("test")[:_SHOWN]
        points = trained.guide.posterior(test).sample((64,)).mean(0) if len(test) else z
        text = f"The guide's means of {len(points)} held-out data."
        made.append(Section("Latent space", text, figure=plots.latent_space(points, title="")))
    return made


def _reconstructed(schema: Schema, x: Any, mean: Any) -> Section:
    """Held-out values against p(x|z) at the guide's mean, column by column."""
    import pandas as pd

    names = list(schema.columns) or [f"x{i}" for i in range(schema.data_dim)]
    seen, made = pd.DataFrame(x, columns=names), pd.DataFrame(mean, columns=names)
    table = pd.DataFrame(
        {
            "held-out mean": seen.mean(),
            "reconstructed mean": made.mean(),
            "held-out sd": seen.std(),
            "reconstructed sd": made.std(),
        }
    )
    codes = [kind == "categories" for kind in schema.kinds]
    table.loc[codes] = float("nan")  # codes have no mean
    with np.errstate(invalid="ignore", divide="ignore"):
        table["agreement"] = [
            (seen[name] == made[name])[seen[name].notna()].mean() if code else seen[name].corr(made[name])
            for name, code in zip(names, codes, strict=True)
        ]
    text = "Means and spreads of p(x|z) at the guide's mean, by column. Agreement is the correlation with the held-out "
    return Section("Reconstructions", text + "values; of categories, the share of equal ones.", table=table)


def _again(trained: Trained, folder: Path) -> Section:
    found = ", ".join(f"{name} {number}" for name, number in versions().items())
    text = f"The settings are those of {folder.name}/config.toml. Same machine, versions and "
    text += f"threads: same bits.\n\n{found}."
    command = f"pyro-vae train --config {folder}/config.toml --output again\npyro-vae report again"
    return Section("How to make this page again", text, code=f"{command}\n\n{trained.recipe.to_toml()}")
