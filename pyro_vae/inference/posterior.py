"""The one place where a guide, a distribution or chains become draws of u with their density log q."""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoContinuous, AutoNormal
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae.checks import say
from pyro_vae.inference.target.densities import per_datum
from pyro_vae.inference.target.discrete import must_have_continuous
from pyro_vae.inference.target.modules import beside, evaluating
from pyro_vae.inference.target.program import Trace, run_once
from pyro_vae.inference.target.substitution import each
from pyro_vae.inference.target.supports import bijection, underlying
from pyro_vae.inference.target.target import Target
from pyro_vae.randomness import fork_rng

__all__ = ["Answer", "GuideSampler", "answer", "is_point_mass", "named_posterior"]


@dataclass(frozen=True)
class Answer:
    """What a route says of N posteriors, over the unconstrained vector u.

    Attributes:
        u: draws ``(S, N, L)``.
        log_q: the route's own log density at them, ``(S, N)``, nats; None if it has none (chains, a point mass).
        mean: ``(N, L)``.
        std: ``(N, L)``.
        ess: effective number of draws, the smallest over latent numbers, ``(N,)``; None for independent draws.
        seconds: wall time from the data to the posteriors of all of them; NaN where nobody measured.
        log_prob: the density as a function of u ``(..., N, L)``, where there is one.
    """

    u: Tensor
    log_q: Tensor | None
    mean: Tensor
    std: Tensor
    ess: Tensor | None
    seconds: float
    log_prob: Callable[[Tensor], Tensor] | None = None


@torch.no_grad()
def answer(target: Target, posterior: Any, *, num_samples: int = 1000) -> Answer:
    """Return what a posterior says, whatever it is.

    Args:
        target: the densities that it is a posterior of.
        posterior: a guide (of this package, or any Pyro program over the same latent sites), a distribution with
            ``batch_shape (N,)`` and ``event_shape (L,)`` over u, or Draws.
        num_samples: S, draws to take where there are none yet.

    Raises:
        TypeError: if it is none of these.
        ValueError: if it is of other data or another latent dimension.
    """
    if hasattr(posterior, "num_chains"):  # Draws, which lie above this file in the flow
        found = _of_chains(target, posterior)
    else:
        found = _of_sampler(GuideSampler(target, posterior), num_samples)
    if found.mean.shape != target.origin.shape:
        want, got = tuple(target.origin.shape), tuple(found.mean.shape)
        remedy = "the posterior of the same data, with the model's latent dimension"
        raise ValueError(say(f"a posterior of N data in L dimensions, {want}", f"{got}", remedy))
    return found


def _of_sampler(sampler: GuideSampler, num_samples: int) -> Answer:
    """Draws of a guide or a distribution; its own moments where it knows them, its place where it is a point mass."""
    q = sampler.distribution
    u, log_q = sampler.draw(1 if q is not None and is_point_mass(q) else num_samples)
    if log_q is None and bool((u == u[0]).all()):
        return Answer(u[:1], None, u[0], torch.zeros_like(u[0]), None, sampler.seconds)
    mean, std = u.mean(0), u.std(0)
    if q is not None:
        with suppress(NotImplementedError):  # a flow, say, has the moments of its draws
            mean, std = (m.expand(u.shape[1:]).to(u) for m in (q.mean, q.variance.clamp_min(0).sqrt()))
    return Answer(u, log_q, mean, std, None, sampler.seconds, None if q is None or log_q is None else q.log_prob)


def _of_chains(target: Target, draws: Any) -> Answer:
    """The draws ``(C S, N, L)`` of a :class:`pyro_vae.Draws`, on the unconstrained scale."""
    if draws.num_data != target.num_data:
        raise ValueError(say(f"draws of {target.num_data} posteriors", f"{draws.num_data}", "the same data for both"))
    own = {name: v for name, v in draws.samples.items() if name not in target.discrete}
    samples = {name: v if target.per_datum else v.squeeze(2) for name, v in own.items()}
    u = target.unconstrain({name: v.to(target.origin.device) for name, v in samples.items()}).flatten(0, 1)
    ess = torch.stack([value.reshape(target.num_data, -1).amin(-1) for value in draws.ess_bulk.values()]).amin(0)
    return Answer(u, None, u.mean(0), u.std(0), ess, draws.seconds)


def is_point_mass(q: Any) -> bool:
    """Whether a distribution is a point mass, transformed or not: it has no density, and so neither KL nor bound."""
    while hasattr(q, "base_dist"):
        q = q.base_dist
    return isinstance(q, dist.Delta)


def named_posterior(guide: Any, args: tuple[Any, ...]) -> Any:
    """Return ``guide.posterior(x, ...)`` in evaluation mode; the model's covariates go to guides that take them."""
    with evaluating(guide):
        return guide.posterior(*_taken(guide.posterior, beside(guide, args)))


def _taken(function: Callable[..., Any], args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments that a guide takes: all of the model's, or x alone."""
    try:
        inspect.signature(getattr(function, "forward", function)).bind(*args)  # a module's __call__ takes anything
    except TypeError:
        return args[:1]
    return args


class GuideSampler:
    """Draws of a guide in the target's unconstrained coordinates, with their densities.

    Args:
        target: the densities whose coordinates to use.
        guide: a Pyro program over the latent sites, called with the model's arguments; or a distribution over u with
            ``batch_shape (N,)`` and ``event_shape (L,)``, such as the result of a route.

    Attributes:
        distribution: the distribution over u, where the guide names one; else None.
        seconds: wall time of one call of the guide on all data, or what a distribution says it took; NaN where it says
            nothing, and before the first call.

    Raises:
        TypeError: if it is neither.
        ValueError: if the guide's latent site or plate has another name than the model's, or every site is discrete.
    """

    def __init__(self, target: Target, guide: Any) -> None:
        must_have_continuous(target)
        self.target = target
        self.guide = guide
        self.distribution: Any = None
        self.seconds = math.nan
        if isinstance(guide, Distribution):
            self.distribution = guide
            self.seconds = getattr(guide, "seconds", math.nan)
        elif not callable(guide):
            remedy = "the result of laplace, quadrature, mcmc or a guide"
            raise TypeError(say("a guide, a distribution over u or Draws", type(guide).__name__, remedy))
        elif target.plain and hasattr(guide, "posterior"):
            (name,) = target.sites
            _check_names(target, [getattr(guide, "latent", name)])
            _check_plates(target, {name: [getattr(guide, "plate", str(target.plate))]})
            self.distribution = self._timed(lambda: named_posterior(guide, target.args))  # once, not once a draw
        elif isinstance(guide, AutoContinuous | AutoNormal):
            self.distribution = self._timed(lambda: _gaussian(target, guide))

    @torch.no_grad()
    def _timed(self, call: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        found = call()
        self.seconds = time.perf_counter() - start
        return found

    def sample(self, num_samples: int) -> tuple[Tensor, Tensor]:
        """Return u ``(num_samples, N, L)`` and log q(u), the Jacobian included, ``(num_samples, N)``.

        Raises:
            ValueError: if it has no density over u, as a point mass; or as :meth:`draw`.
        """
        u, log_q = self.draw(num_samples)
        if log_q is None:
            got = "a point mass, or auxiliary sites beside the latent ones"
            raise ValueError(say("a posterior with a density", got, "laplace in place of the mode"))
        return u, log_q

    @torch.no_grad()
    def draw(self, num_samples: int) -> tuple[Tensor, Tensor | None]:
        """Return u ``(num_samples, N, L)`` and log q(u) ``(num_samples, N)``, None where there is no density over u.

        Raises:
            ValueError: if a guide program does not sample the target's latent sites, or samples more than those, or
                samples them outside the data plate.
        """
        target, q, device = self.target, self.distribution, self.target.origin.device
        if q is not None:
            u = q.sample((num_samples,))
            return u.to(device), None if is_point_mass(q) else q.log_prob(u).to(device)
        exists = _has_density(target, self._timed(self._run))

        def draw(_: Tensor) -> tuple[dict[str, Tensor], Tensor]:
            run = self._run()
            values = {name: run[name]["value"] for name in target.sites}
            return values, _log_density(target, run) if exists else target.origin.new_zeros(target.num_data)

        values, log_q = each(draw, torch.zeros(num_samples))
        u = target.pack_batch({name: value.to(device) for name, value in values.items()})
        return u, log_q.to(device) + target.log_jacobian(u) if exists else None

    @torch.no_grad()
    def log_prob(self, u: Tensor) -> Tensor:
        """Return log q at points u ``(S, N, L)``, ``(S, N)``: a guide program is run with its sites put there.

        Raises:
            ValueError: if the guide has no density over u, such as one that samples more than the latent sites.
        """
        if self.distribution is not None:
            log_q: Tensor = self.distribution.log_prob(u)
            return log_q
        target = self.target

        def density(point: Tensor) -> Tensor:
            values = {name: site["value"] for name, site in target.trace(point).items() if name in target.sites}
            sites = self._run(values)
            if not _has_density(target, sites):
                got, remedy = f"also {[name for name in sites if name not in values]}", "a guide over the latent sites"
                raise ValueError(say("a guide whose density at given points is known", got, remedy))
            return _log_density(target, sites)

        return each(density, u) + target.log_jacobian(u)

    def _run(self, values: dict[str, Tensor] | None = None) -> Trace:
        """The sample sites of one call of the guide, which must be the target's latent ones and lie in its plate.

        Args:
            values: where to put the latent sites; drawn if None.
        """
        args = _taken(self.guide, beside(self.guide, self.target.args))
        program = self.guide if values is None else poutine.condition(self.guide, data=values)
        with evaluating(self.guide), pyro.validation_enabled(False), poutine.block():
            trace = run_once(program, *args)
        sites = {name: site for name, site in trace.items() if not site["is_observed"] or name in (values or ())}
        named = [name for name, site in sites.items() if not site["infer"].get("is_auxiliary", False)]
        _check_names(self.target, named)
        _check_plates(self.target, {name: [f.name for f in sites[name]["cond_indep_stack"]] for name in sites})
        return sites


def _log_density(target: Target, sites: Trace) -> Tensor:
    """Log density of one run of a guide over the sites' own scale, ``(N,)``, nats."""
    terms = (per_datum(s, s["fn"].log_prob(s["value"]), target.layout.plate) for s in sites.values())
    return torch.stack(torch.broadcast_tensors(*terms)).sum(0).expand(target.num_data)


def _has_density(target: Target, sites: Trace) -> bool:
    """Whether a guide's randomness has as many dimensions as u, so that its density is one over u.

    Pyro's automatic guides sample an auxiliary site, and put a point mass with the Jacobian as its log density at each
    latent one. Fewer dimensions leave a point mass somewhere; more would have to be integrated out.
    """
    random = [site["fn"] for site in sites.values() if not is_point_mass(site["fn"])]
    dimensions = sum(torch.Size(bijection(fn.support).inverse_shape(fn.shape())).numel() for fn in random)
    return dimensions == target.origin.numel()


def _gaussian(target: Target, guide: AutoContinuous | AutoNormal) -> Distribution | None:
    """The marginals over each datum's u of an automatic guide that is one Gaussian over all latent numbers."""
    with evaluating(guide), pyro.validation_enabled(False), poutine.block(), fork_rng():
        guide(*target.args)  # a guide that was not trained has no parameters before
        if isinstance(guide, AutoContinuous):
            joint = underlying(guide.get_posterior(*target.args))
        else:
            known: Any = guide.prototype_trace
            if not set(known.stochastic_nodes) >= set(target.sites):
                return None
            pairs = [guide._get_loc_and_scale(name) for name in target.sites]
            loc, scale = (torch.cat([each.flatten() for each in part]) for part in zip(*pairs, strict=True))
            joint = dist.Normal(loc, scale)
    plain = isinstance(joint, torch.distributions.Normal)
    if not plain and not hasattr(joint, "covariance_matrix"):
        return None
    place = target.layout.places(joint.mean.device)  # (N, L): where each number lies among the guide's
    if place.numel() != joint.mean.numel():
        return None
    mean = joint.mean[place]
    if plain:
        return dist.Normal(mean, joint.stddev[place]).to_event(1)
    return dist.MultivariateNormal(mean, joint.covariance_matrix[place.unsqueeze(-1), place.unsqueeze(-2)])


def _check_names(target: Target, names: Iterable[str]) -> None:
    if set(names) != set(target.sites):
        remedy = "naming them alike (latent= of guide and Model)"
        raise ValueError(say(f"a guide with the latent sites {sorted(target.sites)}", f"{sorted(names)}", remedy))


def _check_plates(target: Target, plates: Mapping[str, Iterable[str]]) -> None:
    """Check that a guide's sites lie in the data plate, without which its density has no value a datum."""
    for name, around in plates.items():
        if target.per_datum and target.plate not in set(around):
            got = f"plates {sorted(around)}" if around else "no plate"
            remedy = "naming them alike (plate= of guide and Model)"
            raise ValueError(say(f"site {name!r} of the guide in plate {target.plate!r}", got, remedy))
