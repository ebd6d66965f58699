"""What a criticism found: a table, a verdict in words, and what to try."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pyro_vae.evaluation.evidence.evidence import Evidence
from pyro_vae.evaluation.model.baselines import Baselines
from pyro_vae.evaluation.model.two_sample import TwoSample
from pyro_vae.evaluation.model.words import Finding, against_baselines, verdict_of

__all__ = ["Criticism", "worst_rows"]


def worst_rows(log_p: Evidence | None) -> tuple[int, ...]:
    """The ten rows of the lowest log p(x), lowest first; none of a whole program."""
    return () if log_p is None else tuple(log_p.log_evidence.argsort()[:10].tolist())


@dataclass(frozen=True)
class Criticism:
    """How far data from a model are from the data. Prints as a table with its verdict.

    Attributes:
        findings: every statistic: its columns, the data's value, the interval of the replicates, its p-value, and its
            p-value adjusted for looking at all.
        names: of the D columns.
        kinds: of the D columns: "real", "binary" or "discrete".
        laws: of the D columns by the program: the names of their distributions.
        replicated_from: "the prior predictive" or "the posterior predictive".
        pit: where each entry lies among its replicates, ``(N, D)``, NaN where missing; uniform if the model is right.
        two_sample: the classifier's verdict on the rows against replicated ones; None where rows are not independent.
        evidence: log p(x) of each row; None of a whole program.
        worst: rows in the order of log p(x), lowest first; the ten worst.
        baselines: simple models on the same rows; None without ``x_train``.
        notes: what was left out, and why.
        level: of false alarms in all.
    """

    findings: tuple[Finding, ...]
    names: tuple[str, ...]
    kinds: tuple[str, ...]
    laws: tuple[str, ...]
    replicated_from: str
    pit: np.ndarray = field(repr=False)
    two_sample: TwoSample | None
    evidence: Evidence | None = field(repr=False)
    worst: tuple[int, ...]
    baselines: Baselines | None
    notes: tuple[str, ...]
    level: float = 0.05

    @property
    def families(self) -> dict[str, float]:
        """The p-value of each group of checks, valid for the group as a whole."""
        own = [f for f in self.findings if f.columns]
        given = [f for f in self.findings if not f.columns]
        found = {"statistics": min((f.adjusted for f in own), default=1.0)}
        if self.two_sample is not None:
            found["two-sample test"] = self.two_sample.p_value
        if given:
            found["own statistics"] = min(f.adjusted for f in given)
        return found

    @property
    def p_value(self) -> float:
        """Of all checks together (Bonferroni over the groups)."""
        return min(1.0, min(self.families.values()) * len(self.families))

    @property
    def ok(self) -> bool:
        """Whether nothing was found, at ``level`` in all."""
        return self.p_value > self.level

    @property
    def failed(self) -> tuple[Finding, ...]:
        """The statistics that give the model away, worst first."""
        sharp = self.level / len(self.families)
        return tuple(sorted((f for f in self.findings if f.adjusted <= sharp), key=lambda f: -f.size))

    @property
    def against_baselines(self) -> str:
        """Better or worse than which baseline, by how many nats a row; empty without baselines."""
        if self.baselines is None or self.evidence is None:
            return ""
        return against_baselines(self.evidence, self.baselines)

    @property
    def verdict(self) -> str:
        """What is wrong, by name of column and in which direction, and what to try."""
        give_away = self.two_sample is not None and self.two_sample.p_value <= self.level / len(self.families)
        told_apart = self.two_sample if give_away else None
        return verdict_of(self.ok, self.failed, self.names, self.kinds, self.laws, two_sample=told_apart)

    def to_dataframe(self) -> Any:
        """Return a pandas DataFrame, one row a statistic."""
        import pandas as pd

        return pd.DataFrame([{**vars(f), "columns": f.where(self.names)} for f in self.findings])

    def __rich__(self) -> Any:
        from rich.console import Group
        from rich.table import Table

        table = Table(title=f"{len(self.pit)} rows against {self.replicated_from}", title_justify="left")
        for name in ("column", "statistic", "data", "replicates, 95 %", "p", "adjusted"):
            table.add_column(name, justify="left" if name in {"column", "statistic"} else "right")
        shown = self.failed[:12] or sorted(self.findings, key=lambda f: f.adjusted)[:5]
        for f in shown:
            interval = f"{f.low:.4g} to {f.high:.4g}"
            cells = (f.where(self.names), f.statistic, f"{f.observed:.4g}", interval, f"{f.p_value:.3g}")
            table.add_row(*cells, f"{f.adjusted:.3g}")
        if len(shown) < len(self.findings):
            table.caption, table.caption_justify = f"{len(shown)} of {len(self.findings)} statistics", "left"
        lines = [str(self.two_sample)] if self.two_sample else []
        if self.evidence is not None:
            lines += [f"{self.evidence}", f"rows that fit worst: {', '.join(map(str, self.worst))}"]
        lines += [text for text in (self.against_baselines, *(f"note: {note}" for note in self.notes)) if text]
        return Group(self.verdict, table, *lines)

    def __str__(self) -> str:
        from rich.console import Console

        out = io.StringIO()
        Console(file=out, width=110, no_color=True, highlight=False).print(self)
        return out.getvalue().rstrip()
