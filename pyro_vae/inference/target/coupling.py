"""What of a program's densities depends on discrete sites: summed, drawn backwards, and split among observations."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.ops import packed
from torch import Tensor

from pyro_vae.checks import say
from pyro_vae.inference.target.densities import log_density
from pyro_vae.inference.target.elimination import Factor, aligned, backward_draws, eliminate, named
from pyro_vae.inference.target.enumeration import Enumeration
from pyro_vae.inference.target.program import Trace

__all__ = ["Coupled"]


@dataclass(frozen=True)
class Coupled:
    """The log densities of one enumerated run that depend on discrete sites, the discrete sites' own among them.

    As in Pyro's ``TraceEnum_ELBO``, a mask around a discrete site leaves it its probabilities, and a scale multiplies
    the log of the sum.

    Attributes:
        enumeration: the discrete sites.
        factors: the densities, in the program's order.
        sizes: of each symbol, a plate's or an enumerated site's.
        symbols: of each plate.
        scale: what multiplies the log of the sum.
        dims: for each discrete site, its symbol of each of its batch's dimensions, and its own.
    """

    enumeration: Enumeration
    factors: list[Factor]
    sizes: dict[str, int]
    symbols: dict[str, str]
    scale: Any
    dims: dict[str, tuple[dict[int, str], str]]

    @classmethod
    def of(cls, trace: Trace, enumeration: Enumeration, moving: Set[str]) -> Coupled:
        """Pack the densities as Pyro does: a symbol for each plate and each enumerated site."""
        whole: Any = poutine.Trace()
        whole.nodes.update(trace)
        whole.symbolize_dims()
        symbols = dict(whole.plate_to_symbol)
        sizes: dict[str, int] = {}
        factors: list[Factor] = []
        scales: list[Any] = []
        for name, site in trace.items():
            frames = [frame for frame in site["cond_indep_stack"] if frame.vectorized]
            sizes |= {symbols[frame.name]: int(frame.size) for frame in frames}
            own = name in enumeration.sites
            term = scale_and_mask(log_density(site, moving), mask=None if own else site["mask"])
            enumerated = term.shape[: max(0, term.dim() + enumeration.first_available_dim + 1)]
            if not own and enumerated.numel() == 1:
                continue
            known = site["infer"]["_dim_to_symbol"]
            loose = [dim for dim in range(-term.dim(), 0) if term.shape[dim] > 1 and dim not in known]
            _check_places(name, term, loose, enumeration.first_available_dim)
            term = packed.pack(term.sum(loose, keepdim=True) if loose else term[...], known)
            sizes |= dict(zip(term._pyro_dims, term.shape, strict=True))
            plates = frozenset(symbols[frame.name] for frame in frames)
            factors.append(Factor(name, plates, term, bool(site["is_observed"])))
            scales.append(site["scale"])
        infer = {name: trace[name]["infer"] for name in enumeration.sites}
        dims = {name: (found["_dim_to_symbol"], found["_enumerate_symbol"]) for name, found in infer.items()}
        return cls(enumeration, factors, sizes, symbols, _common(scales), dims)

    @property
    def names(self) -> set[str]:
        """Of the sites that depend on discrete ones, and of these."""
        return {factor.name for factor in self.factors}

    def log_parts(self, plate: str | None) -> tuple[Tensor, Tensor]:
        """The latent sites' log density, and the observed ones' given them, all values summed, ``(N,)`` or ``()`` each.

        A sum over discrete sites alone is one.
        """
        keep = frozenset() if plate is None else frozenset(self.symbols[plate])
        both = self._log_sum(self.factors, keep)
        latent = [factor for factor in self.factors if not factor.is_observed]
        if all(factor.name in self.enumeration.sites for factor in latent):
            return torch.zeros_like(both), both
        prior = self._log_sum(latent, keep)
        return prior, torch.where(prior == -math.inf, -math.inf, both - prior)

    def by_observation(self) -> Iterator[tuple[str, Tensor]]:
        """Each observed site's log density given the latents and the sites before it, as far as sums tie them.

        One value for each element of the plates that hold all that is tied together.
        """
        for tied in _components(self.factors, set(self.symbols.values())):
            keep = frozenset.intersection(*(factor.plates for factor in tied))
            seen = [factor for factor in tied if not factor.is_observed]
            before = self._log_sum(seen, keep)
            for factor in tied:
                if factor.is_observed:
                    seen = [*seen, factor]
                    total = self._log_sum(seen, keep)
                    yield factor.name, total - before
                    before = total

    def draws(self) -> dict[str, Tensor]:
        """One exact draw of every discrete site given the rest, as its values ``(*shape, *event)``."""
        _, steps = eliminate(self.factors, self.sizes, frozenset())
        drawn = backward_draws(steps)
        found = {}
        for name, site in self.enumeration.sites.items():
            _, symbol = self.dims[name]
            index = drawn.get(symbol)
            place = torch.zeros(site.shape, dtype=torch.long) if index is None else self._unpacked(name, index)
            found[name] = site.values[place]
        return found

    def marginals(self) -> dict[str, Tensor]:
        """The probability of every value of each discrete site given the rest, ``(*shape, K)``.

        That of a site's and its parents' values is the derivative of the log of the sum by the site's log density.
        """
        own = [i for i, factor in enumerate(self.factors) if factor.name in self.enumeration.sites]

        def log_sum(terms: list[Tensor]) -> Tensor:
            factors = list(self.factors)
            for i, term in zip(own, terms, strict=True):
                factors[i] = factors[i]._replace(log_prob=named(term, factors[i].log_prob._pyro_dims))
            return eliminate(factors, self.sizes, frozenset())[0]

        joint = torch.func.grad(log_sum)([self.factors[i].log_prob for i in own])
        found = {}
        for i, probability in zip(own, joint, strict=True):
            factor = self.factors[i]
            dims, symbol = factor.log_prob._pyro_dims, self.dims[factor.name][1]
            parents = [k for k, dim in enumerate(dims) if dim != symbol and dim not in factor.plates]
            own_dims = "".join(dim for k, dim in enumerate(dims) if k not in parents)
            packed_own = named(probability.sum(parents) if parents else probability, own_dims)
            found[factor.name] = self._unpacked(factor.name, packed_own, symbol)
        return found

    def _log_sum(self, factors: Sequence[Factor], keep: frozenset[str]) -> Tensor:
        total = eliminate(factors, self.sizes, keep)[0] if factors else torch.zeros(())
        return self.scale * total

    def _unpacked(self, name: str, value: Any, last: str = "") -> Tensor:
        """A packed tensor as the program holds a discrete site, ``(*shape)``, or ``(*shape, K)``."""
        site, (known, _) = self.enumeration.sites[name], self.dims[name]
        batch = [known.get(dim, "") for dim in range(-len(site.shape), 0)]
        value = aligned(value, "".join([*batch, last]))
        K = len(site.values)
        sizes = iter(value.shape)
        spread = [next(sizes) if symbol else 1 for symbol in batch] + ([next(sizes)] if last else [])
        return value.reshape(spread).expand(site.shape + ((K,) if last else ()))


def _check_places(name: str, term: Tensor, loose: Sequence[int], first_available_dim: int) -> None:
    """Check that a log density has no dimension where enumerated values lie and none is.

    Raises:
        ValueError: if it has: a program moved the dimensions of a discrete value.
    """
    if any(dim <= first_available_dim for dim in loose):
        expected = f"values of discrete sites in the dimensions left of {first_available_dim + 1} where Pyro puts them"
        remedy = "pyro.ops.indexing.Vindex, or broadcasting in place of unsqueeze, stack and reshape of these values"
        raise ValueError(say(expected, f"a density of shape {tuple(term.shape)} at site {name!r}", remedy))


def _common(scales: Sequence[Any]) -> Any:
    """The one scale of sites that a sum ties together.

    Raises:
        ValueError: if they have several.
    """
    first = scales[0]
    if (isinstance(first, Tensor) and first.dim()) or any(not _same(first, scale) for scale in scales):
        got = "several, or one of several numbers"
        raise ValueError(say("one poutine.scale around all that depends on discrete sites", got, "scaling all of it"))
    return first


def _same(a: Any, b: Any) -> bool:
    return a is b or (not (isinstance(a, Tensor) or isinstance(b, Tensor)) and a == b)


def _components(factors: Sequence[Factor], plates: Set[str]) -> list[list[Factor]]:
    """The factors that sums tie together, those that share a symbol which is no plate's."""
    groups: list[tuple[set[str], list[int]]] = []
    for i, factor in enumerate(factors):
        dims, members = set(factor.log_prob._pyro_dims) - plates, [i]
        apart = []
        for other, others in groups:
            if dims & other:
                dims, members = dims | other, members + others
            else:
                apart.append((other, others))
        groups = [*apart, (dims, members)]
    return [[factors[i] for i in sorted(members)] for _, members in groups]
