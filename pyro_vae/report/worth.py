"""The verdict on the model: how far it is from the data, before how far the posterior is from the model's."""

from __future__ import annotations

from torch import Tensor

from pyro_vae import plots
from pyro_vae.report.page import Section
from pyro_vae.runs.judgement import criticise_run, judge
from pyro_vae.runs.training import Trained

__all__ = ["worth"]

_MOST_ROWS = 500  # to criticise on
_FEWEST_ROWS = 10


def worth(trained: Trained) -> list[Section]:
    """Say what a model is worth on its held-out rows; nothing where there is nothing to compare it with."""
    judgement, x_test = judge(trained), trained.prepared.x.get("test")
    if judgement is None or not isinstance(x_test, Tensor):
        return []
    text = f"{judgement.sentence[0].upper()}{judgement.sentence[1:]}. Log p(x) is the log of {judgement.units}."
    table = judgement.baselines.to_dataframe().rename(columns={"log_prob": "log p(x)"})
    value = judgement.evidence.log_evidence
    table.loc["this model"] = [float(value.mean()), float(value.std()) / len(value) ** 0.5]
    table = table.sort_values("log p(x)", ascending=False)
    table.index.name = None
    table.columns = [name.replace("_", " ") for name in table.columns]
    figure = None
    if len(x_test) >= _FEWEST_ROWS and trained.prepared.schema.columns:
        found = criticise_run(trained, x_test[:_MOST_ROWS], baselines=False)
        said = found.verdict
        text += f"\n\n{said[0].upper()}{said[1:].rstrip('.')}."
        figure = plots.criticism(found)
    return [Section("Verdict on the model", text, figure=figure, table=table)]
