"""What a likelihood's name says of the column that has it: probability or density, its scale, what an encoder sees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

__all__ = ["FAMILIES", "Family", "family_of"]


@dataclass(frozen=True)
class Family:
    """The facts of one likelihood of columns.

    Attributes:
        discrete: it gives probabilities, not densities.
        atom: it gives 0 a probability, and other values a density.
        centred: the model sees the column less its mean, over its standard deviation.
        heavy: these need not exist: of a centred one, less its median, over its interquartile range.
        scaled: the model sees the column over its mean, or the mean of its positive values.
        seen: the scale on which an encoder sees it, one of :class:`~pyro_vae.networks.ColumnFeatures`.
        sized: it is over 0 to K - 1.
        levelled: numbers are seen as their places among the column's values.
        own_spread: the option by which its spread is learnt a column.
        unbounded: its mean may run away; the option by which the data bound it.
    """

    discrete: bool = False
    atom: bool = False
    centred: bool = False
    heavy: bool = False
    scaled: bool = False
    seen: str = "real"
    sized: bool = False
    levelled: bool = False
    own_spread: str = ""
    unbounded: str = ""


_COUNTS = Family(discrete=True, seen="log1p", unbounded="max_mean=data")
_DISPERSED = replace(_COUNTS, own_spread="dispersion=learned")

FAMILIES: Mapping[str, Family] = {
    "Bernoulli": Family(discrete=True),
    "Categorical": Family(discrete=True, seen="category", sized=True, levelled=True),
    "OrderedLogistic": Family(discrete=True, seen="level", sized=True, levelled=True),
    "DiscretisedLogistic": Family(discrete=True, sized=True),
    **dict.fromkeys(("Poisson", "ZeroInflatedPoisson"), _COUNTS),
    **dict.fromkeys(("NegativeBinomial", "ZeroInflatedNegativeBinomial"), _DISPERSED),
    **dict.fromkeys(("Gaussian", "Laplace"), Family(centred=True, own_spread="scale=learned")),
    "StudentT": Family(centred=True, heavy=True, seen="asinh", own_spread="scale=learned"),
    "LogNormal": Family(scaled=True, seen="log", own_spread="scale=learned"),
    **dict.fromkeys(("Gamma", "Exponential"), Family(scaled=True, seen="log")),
    "HurdleLogNormal": Family(atom=True, scaled=True, seen="hurdle", own_spread="scale=learned"),
    "HurdleGamma": Family(atom=True, scaled=True, seen="hurdle"),
    **dict.fromkeys(("Beta", "ContinuousBernoulli"), Family()),
}


def family_of(likelihood: str) -> Family:
    """Return what is known of a likelihood, named with its options or without.

    Example:
        >>> family_of("LogNormal:scale=learned").seen
        'log'
    """
    return FAMILIES[likelihood.partition(":")[0]]
