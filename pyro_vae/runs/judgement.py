"""What a trained model is worth: its held-out log p(x) beside that of simple models, in the table's own units."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pyro_vae.datasets.encoding import log_jacobian
from pyro_vae.datasets.kinds import DISCRETE
from pyro_vae.evaluation.evidence.evidence import Evidence, evidence
from pyro_vae.evaluation.model.baselines import Baselines, baselines
from pyro_vae.evaluation.model.words import against_baselines
from pyro_vae.inference.variational.fit import History
from pyro_vae.model import Model
from pyro_vae.runs.training import Trained

__all__ = ["Judgement", "history_in_own_units", "judge"]

_MOST_ROWS = 1_000  # to judge on


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
        return "\n".join([f"log p(x) is {self.units}", str(self.baselines), self.sentence])


def judge(trained: Trained) -> Judgement | None:
    """Judge a run's model on its held-out rows; None where there are none in memory, or the model is the user's own.

    Log p(x) is estimated by importance sampling from the guide, a lower bound in expectation.
    """
    prepared = trained.prepared
    schema, x, x_test = prepared.schema, prepared.x.get("train"), prepared.x.get("test")
    if not isinstance(x, Tensor) or not isinstance(x_test, Tensor) or not len(x_test):
        return None
    if not isinstance(trained.model, Model) or not schema.columns:
        return None
    x_test = x_test[:_MOST_ROWS]
    found = evidence(trained.model, x_test, trained.guide, method="importance", num_samples=1_000)
    discrete = [schema.likelihoods[i].partition(":")[0] in DISCRETE for i in schema.order]
    names = [schema.name(i).strip("'") for i in schema.order]
    simple = baselines(x, x_test, latent_dim=trained.recipe.num_latents, discrete=discrete, names=names)
    return _in_own_units(found, simple, log_jacobian(schema, x_test), schema)


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


def _in_own_units(found: Evidence, simple: Baselines, jacobian: Tensor, schema: Any) -> Judgement:
    """Count the Jacobian of the standardisation: the same in every row's every figure."""
    log_prob = {name: value + jacobian.to(value) for name, value in simple.log_prob.items()}
    own = replace(found, log_evidence=found.log_evidence + torch.as_tensor(jacobian).to(found.log_evidence))
    return Judgement(own, replace(simple, log_prob=log_prob), schema.units)
