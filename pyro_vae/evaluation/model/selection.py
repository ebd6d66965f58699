"""Which model is better: log evidence of the same rows, with both of its errors told apart."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pyro_vae.checks import say
from pyro_vae.evaluation.evidence.evidence import Evidence
from pyro_vae.evaluation.model.density import held_out
from pyro_vae.evaluation.model.observed import check_same, observed_numbers, of_data_alone
from pyro_vae.evaluation.model.paired import told_apart
from pyro_vae.inference.target.target import Target, as_target

__all__ = ["Difference", "ModelComparison", "compare_models"]


@dataclass(frozen=True)
class Difference:
    """One model less another, over the same N rows.

    Attributes:
        better: the model with the higher mean log evidence.
        worse: the other.
        mean: difference of log evidence, nats a row.
        sampling_error: its paired standard error over rows: would other rows say the same? NaN for one posterior.
        estimate_error: what the estimates of log p(x) leave open of it, nats a row.
        log_bayes_factor: sum of the differences, nats: the evidence of these very rows.
        resolved: whether the estimates' errors leave no doubt about the Bayes factor.
        reason: what keeps it from being resolved; empty if it is.
    """

    better: str
    worse: str
    mean: float
    sampling_error: float
    estimate_error: float
    log_bayes_factor: float
    resolved: bool
    reason: str


@dataclass(frozen=True)
class ModelComparison:
    """Models by their log evidence of the same rows. Prints as a table with its verdict.

    Attributes:
        evidence: by model, best first.
        differences: of each pair, the better one first.
        probability: posterior probability of each model given these rows, equal before; NaN for all where the Bayes
            factors are not resolved.
    """

    evidence: dict[str, Evidence]
    differences: tuple[Difference, ...]
    probability: dict[str, float]

    @property
    def best(self) -> str:
        """The model with the highest mean log evidence."""
        return next(iter(self.evidence))

    @property
    def verdict(self) -> str:
        """Which model is better, by how much, and whether that is sure."""
        if not self.differences:
            return f"{self.best!r} is alone"
        first = next(d for d in self.differences if d.better == self.best)
        N = len(self.evidence[self.best].log_evidence)
        if math.isnan(first.sampling_error):
            head = f"{first.better!r} has {first.mean:.3f} nats more evidence than {first.worse!r}"
        elif told_apart(first.mean, first.sampling_error, N, estimate_error=first.estimate_error):
            head = f"{first.better!r} predicts better than {first.worse!r}, by {first.mean:.3f} nats a row"
        else:
            head = f"{first.better!r} and {first.worse!r} are not told apart: {first.mean:.3f} nats a row"
        errors = f"estimates: {first.estimate_error:.2g}"
        if not math.isnan(first.sampling_error):
            errors = f"paired standard error over rows {first.sampling_error:.3f}; " + errors
        if not first.resolved:
            return f"{head} ({errors}). The Bayes factor is not resolved: {first.reason}"
        tail = f"of these rows the log Bayes factor is {first.log_bayes_factor:.2f} nats"
        if not math.isnan(self.probability[self.best]):
            tail += f", the posterior probability of {self.best!r} is {self.probability[self.best]:.3f}"
        return f"{head} ({errors}); {tail}"

    def to_dataframe(self) -> Any:
        """Return a pandas DataFrame, one row a model, best first; differences are to the best."""
        import pandas as pd

        to_best = {d.worse: d for d in self.differences if d.better == self.best}
        rows = []
        for name, found in self.evidence.items():
            d = to_best.get(name)
            rows.append(
                {
                    "model": name,
                    "log_evidence": float(found.log_evidence.double().mean()),
                    "behind": d.mean if d else 0.0,
                    "sampling_error": d.sampling_error if d else math.nan,
                    "estimate_error": d.estimate_error if d else math.nan,
                    "log_bayes_factor": -d.log_bayes_factor if d else 0.0,
                    "probability": self.probability[name],
                    "resolved": d.resolved if d else bool(found.resolved.all()),
                    "method": found.method,
                }
            )
        return pd.DataFrame(rows).set_index("model")

    def __rich__(self) -> Any:
        from rich.console import Group
        from rich.table import Table

        N = len(next(iter(self.evidence.values())).log_evidence)
        table = Table(
            title=f"log p(x) of {N} rows, nats a row" if N > 1 else "log evidence, nats", title_justify="left"
        )
        headings = {
            "log_evidence": "log p(x)",
            "behind": "behind",
            "sampling_error": "± over rows",
            "estimate_error": "± of estimates",
            "log_bayes_factor": "log Bayes factor",
            "probability": "probability",
        }
        table.add_column("model")
        for text in headings.values():
            table.add_column(text, justify="right")
        table.add_column("by")
        for name, row in self.to_dataframe().iterrows():
            cells = ["-" if math.isnan(row[key]) else f"{row[key]:.3f}" for key in headings]
            table.add_row(str(name), *cells, row["method"])
        return Group(table, self.verdict)

    def __str__(self) -> str:
        from rich.console import Console

        out = io.StringIO()
        Console(file=out, width=110, no_color=True, highlight=False).print(self)
        return out.getvalue().rstrip()


def compare_models(
    models: Mapping[str, Any],
    x_test: Tensor | tuple[Any, ...] | None = None,
    *,
    num_samples: int = 1000,
    plate: str | None = "data",
    log_jacobians: Mapping[str, Tensor] | None = None,
) -> ModelComparison:
    r"""Compare models by their log evidence of the same rows.

    With :math:`d_n = \log p_a(x_n) - \log p_b(x_n)`, two errors are told apart: the paired standard error of the mean
    of d over rows, which more rows make smaller, and what the estimates of log p(x) leave open, which more draws do.
    The sum of d is the log Bayes factor of these rows (of a model that was trained on others, its predictive one). It
    is resolved where every row's log p(x) is, and the errors of both sums are below a third of it, or half a nat.
    Then, with equal probabilities before, :math:`P(a|x) = p_a(x) / \sum_b p_b(x)`.

    Log p(x) is exact where it can be (linear-Gaussian programs, L <= 3), from chains by bridge sampling, else by
    importance sampling from the posterior given, or Laplace's approximation.

    Args:
        models: by name, each a Pyro program, or a pair ``(program, posterior)``; a :class:`Target` may stand for a
            program and its data. A program without latents is a point hypothesis, whose density is its evidence.
        x_test: the rows, ``(N, *D)``, or the programs' arguments as a tuple.
        num_samples: K of importance sampling.
        plate: the data plate; None for whole programs.
        log_jacobians: by model, what turns its log p(x) of a row into one in units common to all, ``(N,)``: for models
            that each standardise the same table in their own way.

    Raises:
        TypeError: if the models are no mapping.
        ValueError: if there are fewer than two, or they observe other data.

    Example:
        >>> import pyro_vae as pv
        >>> def gaussian(scale):
        ...     likelihood = pv.likelihoods.Gaussian(torch.nn.Linear(1, 2), scale=scale)
        ...     return pv.Model(pv.priors.StandardNormal(1), likelihood)
        >>> right, wrong = gaussian(0.5), gaussian(3.0)
        >>> compare_models({"right": right, "wrong": wrong}, right.sample(100)["x"]).best
        'right'
    """
    if not isinstance(models, Mapping):
        raise TypeError(say("models by name", type(models).__name__, '{"a": model, "b": (other, guide)}'))
    if len(models) < 2:
        raise ValueError(say("at least two models to compare", f"{len(models)}", '{"a": model, "b": (other, guide)}'))
    found: dict[str, Evidence] = {}
    data: dict[str, Tensor] = {}
    for name, given in models.items():
        model, posterior = given if isinstance(given, tuple) else (given, None)
        alone = of_data_alone(model, x_test, plate)
        if alone is None:
            target = as_target(model, None if isinstance(model, Target) else x_test, plate=plate)
            found[name] = held_out(target, posterior, num_samples=num_samples)
            data[name] = observed_numbers(target)
        else:
            found[name], data[name] = alone
        if log_jacobians:
            value = found[name].log_evidence
            found[name] = replace(found[name], log_evidence=value + log_jacobians[name].to(value))
    check_same(data, converted=bool(log_jacobians))
    lengths = {name: len(e.log_evidence) for name, e in found.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(say("models of the same rows", f"{lengths} rows", "one x_test, and plates of one name"))
    ordered = dict(sorted(found.items(), key=lambda item: -_mean(item[1])))
    differences = tuple(_difference(a, b, ordered) for a, b in itertools.combinations(ordered, 2))
    sure = all(d.resolved for d in differences if d.better == next(iter(ordered)))
    total = torch.stack([e.log_evidence.double().cpu().sum() for e in ordered.values()])
    share = torch.softmax(total, 0).tolist() if sure else [math.nan] * len(total)
    return ModelComparison(ordered, differences, dict(zip(ordered, share, strict=True)))


def _mean(found: Evidence) -> float:
    mean = float(found.log_evidence.double().mean())
    return mean if math.isfinite(mean) else -math.inf


def _difference(a: str, b: str, found: dict[str, Evidence]) -> Difference:
    away = (found[a].log_evidence.double() - found[b].log_evidence.double()).cpu()
    N = len(away)
    total, error = float(away.sum()), _error_of_sum(found[a]) + _error_of_sum(found[b])
    spread = float(away.std()) / math.sqrt(N) if N > 1 else math.nan
    reason = _unresolved({name: found[name] for name in (a, b)}, total, error)
    return Difference(a, b, total / N, spread, error / N, total, not reason, reason)


def _error_of_sum(found: Evidence) -> float:
    """What is open of the sum of log p(x): bounds add up; random errors add in squares, Jensen's bias of each beside.

    The logarithm of an unbiased estimate is too low by half its squared error.
    """
    error = found.standard_error.double().cpu()
    if found.method == "quadrature":
        return float(error.sum())
    square = float(error.square().sum())
    return math.sqrt(square) + 0.5 * square


def _unresolved(found: dict[str, Evidence], total: float, error: float) -> str:
    """What keeps a Bayes factor from being resolved; empty if nothing does."""
    for name, e in found.items():
        left = int((~e.resolved).sum())
        if left:
            return (
                f"log p(x) of {left} of {len(e.resolved)} rows of {name!r} by {e.method} is not resolved ({e.reason})"
            )
    if not error < max(abs(total) / 3, 0.5):
        return f"the estimates' errors add up to {error:.2g} nats against {abs(total):.2g}: more draws (num_samples)"
    return ""
