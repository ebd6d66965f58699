r"""The log likelihood of all data at one latent point that they share, as a matrix product.

Of an exponential family :math:`\log p(x|z) = \sum_i t_i(x)\, \eta_i(z) - A(z) + h(x)`: what data give and what points
give meet in one product, in place of a density of every entry at every point.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn.functional import one_hot, softplus

from pyro_vae.inference.target.densities import log_parts
from pyro_vae.inference.target.program import frame_of

if TYPE_CHECKING:
    from pyro_vae.inference.target.target import Target

__all__ = ["Product", "SharedPoints"]

_MOST_NUMBERS = 2**26  # that the statistics of the data may hold: half a gigabyte in float64
_FAR = (1.0, -1.0, 0.1, 4.0, -4.0)  # times a point near 0: where products are tried


@dataclass(frozen=True)
class _Family:
    """One exponential family, entry by entry.

    Attributes:
        statistics: t(x), one tensor of the shape of x for each i (or with a last dimension of K).
        parameters: eta of a distribution, as many.
        normaliser: A of a distribution.
        base: h(x).
        exact: whether terms of both signs, each far larger than their sum, ask for double precision.
    """

    statistics: Callable[[Tensor, Any], list[Tensor]]
    parameters: Callable[[Any], list[Tensor]]
    normaliser: Callable[[Any], Tensor]
    base: Callable[[Tensor], Tensor]
    exact: bool = False


def _nothing(x: Tensor) -> Tensor:
    return torch.zeros_like(x)


_HALF_LOG_TWO_PI = 0.9189385332046727

_FAMILIES: dict[type, _Family] = {
    dist.Bernoulli: _Family(lambda x, p: [x], lambda p: [p.logits], lambda p: softplus(p.logits), _nothing),
    dist.Poisson: _Family(
        lambda x, p: [x],
        lambda p: [p.rate.log()],
        lambda p: p.rate,
        lambda x: -torch.lgamma(x + 1),
        exact=True,
    ),
    dist.Categorical: _Family(
        lambda x, p: [one_hot(x.long(), p.logits.shape[-1]).to(p.logits)],
        lambda p: [p.logits],
        lambda p: torch.zeros_like(p.logits[..., 0]),
        _nothing,
    ),
    dist.Normal: _Family(
        lambda x, p: [x, x.square()],
        lambda p: [p.loc / p.scale.square(), -0.5 / p.scale.square()],
        lambda p: 0.5 * (p.loc / p.scale).square() + p.scale.log(),
        lambda x: torch.full_like(x, -_HALF_LOG_TWO_PI),
        exact=True,
    ),
    dist.Exponential: _Family(lambda x, p: [x], lambda p: [-p.rate], lambda p: -p.rate.log(), _nothing, exact=True),
    dist.Gamma: _Family(
        lambda x, p: [x.log(), x],
        lambda p: [p.concentration, -p.rate],
        lambda p: torch.lgamma(p.concentration) - p.concentration * p.rate.log(),
        lambda x: -x.log(),
        exact=True,
    ),
}


class SharedPoints:
    """Log p(u) and log p(x|u) of all data at a u that they share: one datum's run says all that the point gives.

    Args:
        target: of all data.
        first: of the first datum.
        products: of each observed site.
    """

    def __init__(self, target: Target, first: Target, products: dict[str, Product]) -> None:
        self._num_data = target.num_data
        self._first = first
        self._products = products

    @classmethod
    def of(cls, target: Target, first: Callable[[], Target]) -> SharedPoints | None:
        """Return it if every observed site has a product, and its densities are the program's: tried at some points."""
        u = torch.linspace(0.3, 0.7, target.latent_dim).to(target.origin).unsqueeze(0)
        try:
            with torch.no_grad():
                trace = target.trace(u)
                products = {name: Product.of(trace[name], target.layout.plate) for name in target.observed}
                found = {name: product for name, product in products.items() if product is not None}
                made = cls(target, first(), found)
                if len(found) == len(products) and all(made._agrees(target, far * u) for far in _FAR):
                    return made
        except (RuntimeError, ValueError):  # data that cannot be taken apart, or a program of just so many
            pass
        return None

    def _agrees(self, target: Target, u: Tensor) -> bool:
        """Whether both are what the program itself gives for all data at u ``(1, L)``."""
        direct = log_parts(target.trace(u), target.layout, frozenset(), u)
        return all(torch.allclose(a, b, rtol=1e-4, atol=1e-3) for a, b in zip(direct, self(u), strict=True))

    def __call__(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return both at u ``(1, L)``, each ``(N,)``, nats."""
        trace = self._first.trace(u)
        prior, _ = log_parts(trace, self._first.layout, frozenset(), u, frozenset(self._products))
        likelihoods = (product(trace[name]["fn"]) for name, product in self._products.items())
        return prior.expand(self._num_data), reduce(torch.add, likelihoods)


class Product:
    """The log likelihood of one observed site at shared points, as a product with what is known of the data.

    Args:
        fn: the site's distribution at some shared point.
        value: the data ``(N, *event)``.
    """

    def __init__(self, fn: Any, value: Tensor) -> None:
        missing = value.isnan() if hasattr(fn, "_filler") else None
        if missing is not None:
            value = torch.where(missing, fn._filler.to(value), value)
        parts = _parts(fn)
        pieces = value.split([part.event_shape[0] for part in parts], -1) if len(parts) > 1 else (value,)
        families = list(map(_family_of, parts))
        self._own_dtype = families[0].parameters(parts[0].base_dist)[0].dtype
        self.dtype = torch.float64 if any(family.exact for family in families) else self._own_dtype
        self._families = families
        self._masked = missing is not None
        columns: list[Tensor] = []
        base = value.new_zeros(len(value), dtype=self.dtype)
        first = 0
        for part, family, own in zip(parts, families, pieces, strict=True):
            piece = own.to(self.dtype)
            there = torch.ones_like(piece)
            if missing is not None:
                there = (~missing[..., first : first + piece.shape[-1]]).to(piece)
                first += piece.shape[-1]
            for statistic in family.statistics(piece, part.base_dist):
                mask = there.reshape(*there.shape, *[1] * (statistic.dim() - there.dim()))
                columns.append((statistic.to(self.dtype) * mask).flatten(1))
            if missing is not None:
                columns.append(there.flatten(1))
            base = base + (family.base(piece) * there).flatten(1).sum(-1)
        # what neither side shares stands in the product too: sums of its size cost as much as itself
        self.statistics = torch.cat([*columns, base.unsqueeze(-1), torch.ones_like(base).unsqueeze(-1)], -1)

    @classmethod
    def of(cls, site: dict[str, Any], plate: str | None) -> Product | None:
        """The product of a site at a shared point; None where its family has none, or the data's law is not shared."""
        fn, value = site["fn"], site["value"]
        frame = frame_of(site, plate)
        simple = isinstance(site["scale"], float | int) and site["scale"] == 1 and site["mask"] is None
        if not simple or frame is None or frame.dim != -1 or len(fn.batch_shape) != 1:
            return None
        try:
            parts = _parts(fn)
            rows = [(_family_of(part), _Row(part, torch.float64)) for part in parts]
            numbers = sum(eta.numel() for family, row in rows for eta in family.parameters(row))
            if len(value) * numbers > _MOST_NUMBERS:
                return None
            made = cls(fn, value)
            found, direct = made(fn), fn.log_prob(value)
        except (AttributeError, LookupError, RuntimeError, ValueError):  # a distribution of another kind
            return None
        return made if found.isfinite().all() and torch.allclose(found, direct, rtol=1e-4, atol=1e-3) else None

    def __call__(self, fn: Any) -> Tensor:
        """Return log p(x_n) of all data by the site's distribution at a shared point, ``(N,)``, nats."""
        natural: list[Tensor] = []
        constant = self.statistics.new_zeros(())
        for part, family in zip(_parts(fn), self._families, strict=True):
            row = _Row(part, self.dtype)
            for eta in family.parameters(row):
                natural.append(eta.flatten())
            log_normaliser = family.normaliser(row).flatten()
            if self._masked:
                natural.append(-log_normaliser)
            else:
                constant = constant - log_normaliser.sum()
        ends = torch.stack([torch.ones_like(constant), constant])
        return (self.statistics @ torch.cat([*natural, ends])).to(self._own_dtype)


def _family_of(part: Any) -> _Family:
    """The family of a vector's entries, or of what they are a kind of; KeyError if there is none."""
    kinds = type(part.base_dist).__mro__
    return _FAMILIES[next((kind for kind in kinds if kind in _FAMILIES), kinds[0])]


def _parts(fn: Any) -> list[Any]:
    """The independent vectors of a distribution, side by side."""
    inner = fn.base_dist if hasattr(fn, "_filler") else fn
    return list(getattr(inner, "parts", [inner]))


class _Row:
    """The parameters of the first datum, which all data share, in the product's precision."""

    def __init__(self, part: Any, dtype: torch.dtype) -> None:
        self._part = part
        self._dtype = dtype

    def __getattr__(self, name: str) -> Tensor:
        found: Tensor = getattr(self._part.base_dist, name)
        return (found[0] if self._part.batch_shape else found).to(self._dtype)
