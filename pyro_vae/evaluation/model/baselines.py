"""What simple, well-known models make of the same held-out rows: a model that is worth its name beats them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.checks import positive_integer, say
from pyro_vae.evaluation.model.copula import Copula
from pyro_vae.evaluation.model.gaussians import complete, factor_analysis, gaussian, mixture, probabilistic_pca
from pyro_vae.evaluation.model.marginals import Discrete, density, resolution

__all__ = ["Baselines", "baselines"]

_MAX_COPULA = 256  # columns up to which a copula is fitted
_MAX_ERROR = 0.1  # nats a row, above which a Monte Carlo estimate is noted


@dataclass(frozen=True)
class Baselines:
    """Held-out log p(x) of simple models.

    Attributes:
        log_prob: by baseline, ``(N,)``, nats, in x's own units: a density of real columns, a probability of discrete
            ones; of the observed entries.
        notes: what was chosen, and what a reader should know.
        estimate_error: by baseline whose values are estimates, their standard errors, ``(N,)``.
    """

    log_prob: dict[str, Tensor]
    notes: tuple[str, ...] = ()
    estimate_error: dict[str, Tensor] = field(default_factory=dict)

    @property
    def best(self) -> str:
        """The baseline with the highest mean."""
        return max(self.log_prob, key=lambda name: float(self.log_prob[name].mean()))

    def to_dataframe(self) -> Any:
        """Return a pandas DataFrame: one row a baseline, mean log p(x) and its standard error over rows."""
        import pandas as pd

        rows = [
            {"baseline": name, "log_prob": float(v.mean()), "standard_error": float(v.std() / len(v) ** 0.5)}
            for name, v in self.log_prob.items()
        ]
        return pd.DataFrame(rows).set_index("baseline")

    def __str__(self) -> str:
        lines = ["held-out log p(x), nats a row, in the units given"]
        lines += [f"  {name:20s} {float(v.mean()):10.3f}" for name, v in self.log_prob.items()]
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])


def baselines(
    x: Tensor | np.ndarray,
    x_test: Tensor | np.ndarray,
    *,
    latent_dim: int,
    discrete: Sequence[int] | Sequence[bool] | np.ndarray | None = None,
    atoms: Sequence[int] | Sequence[bool] | np.ndarray | None = None,
    names: Sequence[str] | None = None,
    joint: bool = True,
    seed: int = 0,
) -> Baselines:
    """Fit simple models to x and return their log p(x_test) row by row.

    - *independent columns*: a Gaussian, log-normal or kernel density each, as cross-validation says, a smoothed
      histogram each where discrete (*independent pixels* where all columns hold two values: Laplace's rule).
    - Where all columns are real, on standardised columns, the Jacobian counted: *Gaussian* with full covariance
      (scikit-learn's LedoitWolf, defined when N <= D), *factor analysis* and *probabilistic PCA* with L factors, and a
      *Gaussian mixture* whose number of components, and whether its covariances are full, is chosen by BIC.
    - Where some are discrete: a *Gaussian copula* with L factors (:class:`~pyro_vae.evaluation.model.copula.Copula`).

    Missing entries (NaN) of x are drawn once given the others, from a Gaussian fitted by EM; of x_test they are
    integrated out exactly. Every density is kept finite by a floor: the variance of the column's own rounding.

    Args:
        x: training rows ``(N, *D)``.
        x_test: rows to score, ``(M, *D)``.
        latent_dim: L of factor analysis, probabilistic PCA and the copula; at most D - 1 and N - 1 are used.
        discrete: the discrete columns (numbers, or one True or False a column); None if there is none.
        atoms: the columns of positive numbers of which a share is 0: a probability there, a density above.
        names: of the columns, for the notes; None for their numbers.
        joint: fit the others too, beside independent columns or pixels.
        seed: of what is random.

    Raises:
        ValueError: if the columns differ, or a discrete column, or one with zeros, is none of the table's.

    Example:
        >>> x = torch.randn(200, 3) @ torch.randn(3, 3)
        >>> found = baselines(x[:100], x[100:], latent_dim=1)
        >>> sorted(found.log_prob)
        ['Gaussian', 'Gaussian mixture', 'factor analysis', 'independent columns', 'probabilistic PCA']
    """
    L = positive_integer(latent_dim, "latent_dim")
    train, test = (np.asarray(t.detach().cpu() if isinstance(t, Tensor) else t, dtype=np.float64) for t in (x, x_test))
    train, test = train.reshape(len(train), -1), test.reshape(len(test), -1)
    if train.shape[1] != test.shape[1] or not len(train) or not len(test):
        got = f"{train.shape} and {test.shape}"
        raise ValueError(say("training and test rows of the same columns, some of each", got, "the same table, split"))
    kind, atom = (_mask(given, train.shape[1], what) for given, what in ((discrete, "discrete"), (atoms, "atoms")))
    for d in np.flatnonzero(atom):
        both = np.append(train[:, d], test[:, d])
        if (low := both.min(initial=0.0, where=~np.isnan(both))) < 0:
            raise ValueError(say("numbers from 0 on in a column of atoms", f"{low:g} in column {d}", "atoms=None"))
    called = list(names or map(str, range(train.shape[1])))
    called += [f"{called[d]} > 0" for d in np.flatnonzero(atom)]
    kind = np.append(kind & ~atom, np.ones(atom.sum(), dtype=bool))
    train, test = _without_atoms(train, atom), _without_atoms(test, atom)
    notes: list[str] = []
    use = _columns(train, test, kind, tuple(called), notes)
    if not len(use):
        return Baselines({"independent columns": torch.zeros(len(test), dtype=torch.float64)}, tuple(notes))
    train, test, kind = train[:, use], test[:, use], kind[use]
    rng = np.random.default_rng(seed)
    floor = np.array([0.0 if d else resolution(column) for d, column in zip(kind, train.T, strict=True)])
    errors: dict[str, np.ndarray] = {}
    found = {_independent_name(train, kind): _independent(train, test, kind, floor, notes)}
    factors = min(L, train.shape[1] - 1, len(train) - 1)
    if not joint:
        return Baselines({name: torch.from_numpy(value) for name, value in found.items()}, tuple(notes))
    if factors < L:
        notes.append(f"{factors} factors rather than {L}: of {len(train)} rows and {train.shape[1]} columns that vary")
    if kind.any():
        copula, errors = _mixed(train, test, kind, floor, latent_dim=factors, rng=rng, notes=notes)
        found |= copula
    elif factors:
        found |= _joint(train, test, floor, latent_dim=factors, rng=rng, notes=notes)
    values, known = ({name: torch.from_numpy(row) for name, row in rows.items()} for rows in (found, errors))
    return Baselines(values, tuple(notes), known)


def _without_atoms(x: np.ndarray, atom: np.ndarray) -> np.ndarray:
    """Take the zeros out of columns, and put whether each is above 0 beside them.

    p(x) = P(x = 0) where it is 0, else P(x > 0) p(x|x > 0): the law of a discrete column and of one with gaps.
    """
    own = x[:, atom]
    above = np.where(np.isnan(own), np.nan, (own > 0).astype(float))
    x = x.copy()
    x[:, atom] = np.where(own > 0, own, np.nan)
    return np.concatenate([x, above], 1)


def _mask(chosen: Any, data_dim: int, what: str) -> np.ndarray:
    if chosen is None:
        return np.zeros(data_dim, dtype=bool)
    given = np.asarray(chosen)
    if given.dtype == bool and given.shape == (data_dim,):
        return given
    kind = np.zeros(data_dim, dtype=bool)
    if given.size and (given.dtype.kind not in "iu" or given.min() < 0 or given.max() >= data_dim):
        raise ValueError(say(f"columns from 0 to {data_dim - 1} as {what}", f"{chosen!r}", f"{what}=[0]"))
    kind[given.astype(int)] = True
    return kind


def _columns(
    train: np.ndarray, test: np.ndarray, kind: np.ndarray, names: tuple[str, ...], notes: list[str]
) -> np.ndarray:
    """Return the columns that can be modelled; note those that cannot, and those that are hardly real."""
    groups: dict[str, list[str]] = {"empty": [], "constant": [], "broken": [], "two": []}
    use = []
    for d, column in enumerate(train.T):
        values = np.unique(column[~np.isnan(column)])
        if len(values) > 1 or (kind[d] and len(values)):
            use.append(d)
            groups["two"] += [names[d]] * (len(values) == 2 and not kind[d])
        else:
            groups["constant" if len(values) else "empty"].append(names[d])
            broken = len(values) and (~np.isnan(test[:, d]) & (test[:, d] != values[0])).any()
            groups["broken"] += [names[d]] * bool(broken)
    said = {
        "empty": "no observed entry in training, left out of every baseline",
        "constant": "constant in training, left out of every baseline, though a model's log p(x) counts them",
        "broken": "constant in training but not in the test rows",
        "two": "two values only, taken as real; discrete= would make them a probability",
    }
    notes.extend(f"columns {', '.join(those)}: {said[key]}" for key, those in groups.items() if those)
    return np.array(use, dtype=int)


def _independent_name(train: np.ndarray, kind: np.ndarray) -> str:
    pixels = kind.all() and bool(np.isin(train[~np.isnan(train)], (0.0, 1.0)).all())
    return "independent pixels" if pixels else "independent columns"


def _independent(
    train: np.ndarray, test: np.ndarray, kind: np.ndarray, floor: np.ndarray, notes: list[str]
) -> np.ndarray:
    """Log p of each row if columns are independent, ``(M,)``."""
    total, families = np.zeros(len(test)), []
    for d in range(train.shape[1]):
        if kind[d]:
            total += Discrete(train[:, d], test[:, d]).log_prob(test[:, d])
        else:
            name, log_prob = density(train[:, d], test[:, d], floor[d])
            families.append(name)
            total += log_prob
    if any(name != "Gaussian" for name in families):
        told = ", ".join(f"{name} {families.count(name)}" for name in dict.fromkeys(families))
        notes.append(f"independent columns that are real, by cross-validation: {told}")
    return total


def _joint(
    train: np.ndarray,
    test: np.ndarray,
    floor: np.ndarray,
    *,
    latent_dim: int,
    rng: np.random.Generator,
    notes: list[str],
) -> dict[str, np.ndarray]:
    """Gaussians, factor models and the mixture, over real columns."""
    loc, scale = np.nanmean(train, 0), np.nanstd(train, 0)
    log_det = (~np.isnan(test)) @ np.log(scale)
    filled = complete((train - loc) / scale, rng)
    if filled is None:
        notes.append("too many patterns of missing entries in too many columns: no joint Gaussian was fitted")
        return {}
    floor = floor / scale**2 + 1e-6
    if np.isnan(train).any():
        notes.append("missing entries of the training rows were drawn given the others, by a Gaussian fitted by EM")
    fitted = {
        "Gaussian": gaussian(filled, floor),
        "factor analysis": factor_analysis(filled, latent_dim, floor),
        "probabilistic PCA": probabilistic_pca(filled, latent_dim, floor),
    }
    fitted["Gaussian mixture"], words = mixture(filled, floor, rng)
    notes.append(f"Gaussian mixture by BIC: {words}")
    return {name: one.log_prob((test - loc) / scale) - log_det for name, one in fitted.items()}


def _mixed(
    train: np.ndarray,
    test: np.ndarray,
    kind: np.ndarray,
    floor: np.ndarray,
    *,
    latent_dim: int,
    rng: np.random.Generator,
    notes: list[str],
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The copula, where the columns are not too many: log p of each row, and its standard error."""
    if latent_dim < 1:
        return {}, {}
    if train.shape[1] > _MAX_COPULA:
        notes.append(f"no copula of more than {_MAX_COPULA} columns")
        return {}, {}
    try:
        copula = Copula(train, test, discrete=kind, floor=floor, latent_dim=latent_dim, rng=rng)
    except MemoryError:
        notes.append("too many patterns of missing entries in too many columns: no copula was fitted")
        return {}, {}
    value, error = copula.log_prob(test)
    if (error > _MAX_ERROR).any():
        notes.append(
            f"Gaussian copula: the Monte Carlo error is above {_MAX_ERROR} nats in {int((error > 0.1).sum())} rows"
        )
    return {"Gaussian copula": value}, {"Gaussian copula": error}
