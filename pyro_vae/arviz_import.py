"""ArviZ 0.x and 1.x, imported where they are used and nowhere else: what differs between the two is written here.

ArviZ costs a second to import, and 0.23 announces its next version aloud.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["arviz", "from_groups", "pareto_k", "pareto_shape"]


def arviz() -> Any:
    """Return the ArviZ module, without its announcement.

    Example:
        >>> arviz().__name__
        'arviz'
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        import arviz as module
    return module


def _is_first() -> bool:
    """Whether ArviZ is of the series 0, which has InferenceData in place of xarray's DataTree."""
    return int(arviz().__version__.split(".")[0]) < 1


def from_groups(groups: dict[str, dict[str, np.ndarray]], dims: dict[str, dict[str, list[str]]]) -> Any:
    """Return InferenceData of ArviZ 0.x, or the DataTree of ArviZ 1.x.

    Args:
        groups: arrays by group and name, chains and draws first but for ``observed_data``.
        dims: by group and name, the names of an array's own dimensions behind chains and draws. A name may have others
            in another group, as a datum's log likelihood has fewer than the datum.

    Example:
        >>> found = from_groups({"posterior": {"z": np.zeros((4, 100, 3))}}, {"posterior": {"z": ["data"]}})
        >>> found.posterior["z"].dims
        ('chain', 'draw', 'data')
    """
    make: Any = arviz().from_dict
    parts = [(group, values, dims.get(group, {})) for group, values in groups.items() if values]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of more chains than draws
        if _is_first():
            made = [make(**{group: values}, dims=names) for group, values, names in parts]
            for other in made[1:]:
                made[0].extend(other)
            return made[0]
        made = [make({group: values}, dims=names) for group, values, names in parts]
    for other in made[1:]:
        made[0].update(other)
    return made[0]


def pareto_k(log_weights: Tensor) -> Tensor:
    """Shape of a generalised Pareto distribution fitted to the largest weights, ``(N,)``, by ArviZ.

    Weights that are constant to 1e-3 nats (q is the posterior, up to rounding) have no tail: 0.

    Source: Vehtari, Simpson, Gelman, Yao & Gabry 2024, "Pareto smoothed importance sampling".

    Args:
        log_weights: ``(K, N)``.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> u = torch.distributions.Exponential(1.0).sample((40000, 1))  # exp(u / 2) has a Pareto tail, k = 1/2
        >>> bool((pareto_k(0.5 * u) - 0.5).abs() < 0.2)
        True
    """
    constant = log_weights.amax(0) - log_weights.amin(0) < 1e-3
    values = log_weights.detach().double().cpu().T.contiguous().numpy()
    found = torch.as_tensor(pareto_shape(values), dtype=torch.float64, device=log_weights.device)
    return torch.where(constant, 0.0, found)


def pareto_shape(log_weights: np.ndarray) -> np.ndarray:
    """Return the shape k of a generalised Pareto distribution fitted to the largest of K weights, ``(N, K)``: ``(N,)``.

    Where none can be fitted, for too few weights or a tail of equal ones, it is infinite.

    Example:
        >>> pareto_shape(np.log(np.linspace(1.0, 2.0, 500))[None]).shape
        (1,)
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a k above 0.7 is a result here
        if _is_first():
            found = np.asarray(arviz().psislw(log_weights)[1]).reshape(-1)
        else:
            found = np.array([_shape_of(row) for row in log_weights])
    return np.where(np.isnan(found), np.inf, found)


def _shape_of(log_weights: np.ndarray) -> float:
    """That of one row by ArviZ 1.x, which takes minus the log weights, and raises where 0.x does not."""
    from arviz_stats.base import array_stats

    try:
        return float(array_stats.psislw(-log_weights)[1])
    except (ValueError, IndexError):
        return math.inf
