"""What a trained model is worth: its held-out log p(x) beside that of simple models, in the table's own units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pyro_vae.checks import say
from pyro_vae.datasets.encoding import decode, log_jacobian
from pyro_vae.datasets.families import family_of
from pyro_vae.datasets.kinds import Schema
from pyro_vae.evaluation.evidence.evidence import Evidence
from pyro_vae.evaluation.model.baselines import Baselines, baselines
from pyro_vae.evaluation.model.criticism import criticise
from pyro_vae.evaluation.model.density import held_out
from pyro_vae.evaluation.model.result import Criticism
from pyro_vae.evaluation.model.selection import ModelComparison, compare_models
from pyro_vae.evaluation.model.words import against_baselines
from pyro_vae.inference.target.target import Target
from pyro_vae.inference.variational.fit import History
from pyro_vae.model import Model
from pyro_vae.randomness import fork_rng
from pyro_vae.runs.data import split_rows
from pyro_vae.runs.training import Trained

__all__ = [
    "Judgement",
    "compare_runs",
    "criticise_run",
    "density_evidence",
    "history_in_own_units",
    "in_own_units",
    "jacobian",
    "judge",
    "units",
]

_MOST_ROWS = 1_000  # to judge on
_SOME = 0.1  # of the rows: of fewer that are not resolved a mean says what it says
_DEQUANTISED = 16  # draws of a bound
_MOST_IMAGES = 10_000  # to learn independent pixels from


@dataclass(frozen=True)
class Judgement:
    """Held-out log p(x) of a run's model and of baselines, on the same rows, in the table's own units.

    Attributes:
        evidence: of the model.
        baselines: of the simple models, fitted to the training rows.
        units: what the log densities are of, in words.
    """

    evidence: Evidence
    baselines: Baselines
    units: str

    @property
    def sentence(self) -> str:
        """Better or worse than which, by how many nats, with which paired standard error."""
        return against_baselines(self.evidence, self.baselines)

    def __str__(self) -> str:
        lines = [f"log p(x) is {self.units}", str(self.baselines), self.sentence]
        open_rows, N = int((~self.evidence.resolved).sum()), len(self.evidence.resolved)
        if self.evidence.method != "flow" and open_rows > _SOME * N:
            lines.append(f"note: log p(x) of {open_rows} of {N} rows is not resolved; it may well be higher")
        return "\n".join(lines)


def judge(trained: Trained) -> Judgement | None:
    """Judge a run's model on its held-out rows; None where there are none in memory, or the model is the user's own.

    Log p(x) is exact of up to three latents, else estimated by importance sampling, a lower bound in expectation.
    Images are compared with independent pixels; those that are grey to a Bernoulli likelihood have no probability to
    compare.
    """
    prepared = trained.prepared
    schema, x, x_test = prepared.schema, prepared.x.get("train"), prepared.x.get("test")
    if not isinstance(x, Tensor) or not isinstance(x_test, Tensor) or not len(x_test):
        return None
    if trained.density is None and not isinstance(trained.model, Model):
        return None
    x_test = x_test[:_MOST_ROWS]
    grey = "Bernoulli" in schema.likelihoods and bool(((x_test > 0) & (x_test < 1)).any())
    if not schema.columns and grey:
        return None
    with fork_rng(seed=trained.recipe.seed):  # the same weights are worth the same, resumed or not
        found = density_evidence(trained, x_test) or held_out(Target(trained.model, x_test), trained.guide)
    families = [family_of(schema.likelihoods[i]) for i in schema.order]
    names = [schema.name(i).strip("'") for i in schema.order]
    simple = baselines(
        x if schema.columns else x[:_MOST_IMAGES],
        x_test,
        latent_dim=1 if trained.density is not None else trained.num_latents,
        discrete=[family.discrete or _of_levels(trained) for family in families],
        atoms=[family.atom for family in families],
        names=names,
        joint=bool(schema.columns),
    )
    by = log_jacobian(schema, x_test)
    simple = replace(simple, log_prob={name: value + by.to(value) for name, value in simple.log_prob.items()})
    return Judgement(in_own_units(trained, x_test, found), simple, units(trained))


@torch.no_grad()
def density_evidence(trained: Trained, x: Tensor) -> Evidence | None:
    """Return log p(x) of a run whose system is a density; of levels, the mean of some bounds; None of other runs."""
    density = trained.density
    if density is None:
        return None
    if not _of_levels(trained):
        value, reason = density.log_prob(x), "exact"
        return Evidence(value, torch.zeros_like(value), "flow", torch.ones_like(value, dtype=torch.bool), reason)
    draws = torch.stack([density.bound(x) for _ in range(_DEQUANTISED)])
    error = draws.std(0) / _DEQUANTISED**0.5
    reason = "a lower bound, by dequantisation"
    return Evidence(draws.mean(0), error, "flow", torch.zeros_like(error, dtype=torch.bool), reason)


def _of_levels(trained: Trained) -> bool:
    return trained.density is not None and trained.density.num_levels is not None


def history_in_own_units(trained: Trained) -> History:
    """Return a run's history with its ELBOs in the table's own units; as it is where the model is the user's own."""
    history, prepared = trained.history, trained.prepared
    if trained.recipe.model or not prepared.x:
        return history

    def shifted(curve: list[float], split: str) -> list[float]:
        rows = prepared.x[split][:_MOST_ROWS]
        shift = float(log_jacobian(prepared.schema, rows).mean()) if len(rows) else 0.0
        return [elbo + shift for elbo in curve]

    train, validation = shifted(history.train_elbo, "train"), shifted(history.validation_elbo, "validation")
    return replace(history, train_elbo=train, validation_elbo=validation)


def units(trained: Trained) -> str:
    """What the log density of a row is one of, in words."""
    if trained.recipe.model:
        return "a density of the data as the model sees them"
    return "a probability" if _of_levels(trained) else trained.prepared.schema.units


def jacobian(trained: Trained, x: Tensor) -> Tensor:
    """What turns a log density of the model's data ``(N, D)`` into one in the table's own units, ``(N,)``.

    Zero where the model is the user's own: what its density is of, only the user knows.
    """
    return x.new_zeros(len(x)) if trained.recipe.model else log_jacobian(trained.prepared.schema, x)


def in_own_units(trained: Trained, x: Tensor, found: Any) -> Any:
    """Return an Evidence, or a Comparison of posteriors, of data ``(N, D)`` with densities in the table's own units."""
    by = jacobian(trained, x)
    moved = replace(found, log_evidence=found.log_evidence + by.to(found.log_evidence))
    if not hasattr(found, "scores"):
        return moved
    scores = {
        name: replace(score, bound=score.bound + by.to(score.bound)[score.rows]) for name, score in found.scores.items()
    }
    return replace(moved, scores=scores)


def criticise_run(trained: Trained, x: Tensor, *, baselines: bool = True) -> Criticism:
    """Check a run's model against data ``(N, D)``, and say what was found in the table's own units.

    Args:
        trained: the run.
        x: the data, as the model sees them.
        baselines: put simple models beside it, fitted to the training rows.
    """
    schema, own = trained.prepared.schema, not trained.recipe.model
    names = [schema.name(i).strip("'") for i in schema.order] if own and schema.columns else None
    train = trained.prepared.x.get("train") if baselines else None
    seed = trained.recipe.seed
    order = list(schema.order)
    return criticise(
        trained.model,
        x,
        trained.guide,
        x_train=None if train is None else train[:],
        names=names,
        to_units=(lambda values: decode(schema, torch.from_numpy(values))[..., order]) if own else None,
        log_jacobian=jacobian(trained, x) if own else None,
        seed=seed,
    )


def compare_runs(runs: Mapping[str, Trained], *, rows: int | None = None) -> ModelComparison:
    """Compare the models of runs by their log evidence of the rows that all have held out, in the table's own units.

    Args:
        runs: by name, two or more.
        rows: how many of the rows, from the first; a thousand if None.

    Raises:
        ValueError: if the runs are of other data, other columns, or other held-out rows.
    """
    first, *others = runs
    for name in others:
        _must_share_rows(runs[first], runs[name], first, name)
    x = {name: trained.prepared.split("test")[: rows or _MOST_ROWS] for name, trained in runs.items()}
    if not len(x[first]):
        raise ValueError(say("held-out rows to compare on", f"none in {first}", "training with --test 0.1"))
    models = {name: (Target(trained.model, x[name]), trained.guide) for name, trained in runs.items()}
    log_jacobians = {name: log_jacobian(trained.prepared.schema, x[name]) for name, trained in runs.items()}
    return compare_models(models, log_jacobians=log_jacobians)


def _measure(schema: Schema, column: str) -> str:
    """What log p(x) of a column is of."""
    family = family_of(schema.likelihoods[schema.columns.index(column)])
    return "probabilities" if family.discrete else "a probability at 0" if family.atom else "a density"


def _must_share_rows(a: Trained, b: Trained, name: str, other: str) -> None:
    """Check that two runs have held out the same rows of the same columns."""
    if a.prepared.digest != b.prepared.digest:
        got = f"{a.recipe.data} in {name}, another file, or one that has changed, in {other}"
        raise ValueError(say("runs of the same data", got, f"training both on {a.recipe.data}"))
    if set(a.prepared.schema.columns) != set(b.prepared.schema.columns):
        lost = sorted(set(a.prepared.schema.columns) ^ set(b.prepared.schema.columns))
        got = f"{', '.join(map(repr, lost[:5]))} in one of {name} and {other} alone"
        raise ValueError(say("runs of the same columns", got, "training both with the same --drop"))
    for column in a.prepared.schema.columns:
        of = [_measure(one.prepared.schema, column) for one in (a, b)]
        if of[0] != of[1]:
            got = f"column {column!r} with {of[0]} in {name}, {of[1]} in {other}"
            raise ValueError(
                say("columns that are of one kind in both runs", got, "one --likelihood, or auto, for both")
            )
    N = len(a.prepared.x["all"])
    if not torch.equal(split_rows(a.recipe, N)["test"], split_rows(b.recipe, N)["test"]):
        shown = [f"--seed {one.recipe.seed} --test {one.recipe.test:g}" for one in (a, b)]
        got = f"{shown[0]} in {name}, {shown[1]} in {other}"
        raise ValueError(say("runs that hold out the same rows", got, "training both with one --seed and --test"))
