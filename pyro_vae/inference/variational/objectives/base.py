"""What the objectives share: drawing from the guide, and log weights with a particle axis first."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer import ELBO
from pyro.infer.enum import get_importance_trace
from pyro.infer.util import get_dependent_plate_dims
from torch import Tensor

from pyro_vae.checks import positive_integer, say
from pyro_vae.inference.compiled.kl_weight import KLWeight
from pyro_vae.inference.target.program import Program
from pyro_vae.randomness import fork_rng

__all__ = ["Draw", "Objective", "latent_sites"]

Site = dict[str, Any]


class Draw(NamedTuple):
    """A latent site's draw.

    Attributes:
        value: as the guide drew it.
        leaf: the same, cut off the guide's parameters.
        seen: the same, as the model sees it.
        event_dim: how many dimensions one draw has.
        run: in which run of the programs it was drawn.
    """

    value: Tensor
    leaf: Tensor
    seen: Tensor
    event_dim: int
    run: int


class Objective(ELBO):
    """Base class of objectives: a Pyro ELBO for ``pyro.infer.SVI(model, guide, optimiser, loss=...)``.

    To write one, subclass it and define ``estimate(model, guide, args, kwargs)``, which returns two tensors: the
    value of the objective (a bound of log p(x), summed over data), and a surrogate whose gradient is the direction to
    climb; the same tensor twice if autograd is to do it all, minus the value to bring an upper bound down:

        >>> class Average(Objective):
        ...     def estimate(self, model, guide, args, kwargs):
        ...         log_p, log_q = self._log_densities(model, guide, args, kwargs)  # (K, *plates) each
        ...         bound = (log_p - log_q).mean(0).sum()
        ...         return bound, bound
        >>> from pyro_vae import Model, guides, likelihoods, networks, priors
        >>> model = Model(priors.StandardNormal(2), likelihoods.Bernoulli(networks.mlp(2, 20)))
        >>> Average(num_particles=2).loss(model, guides.DiagonalGaussian(networks.mlp(20, 4)), torch.zeros(7, 20)) > 0
        True

    ``_at_leaves`` gives the same at draws cut off the guide's parameters. Its line in ``OBJECTIVES`` of
    ``tests/table_of_parts.py`` is for one that equals log p(x) where the guide is the posterior; any other lower bound
    goes into ``OTHER_OBJECTIVES``.

    Args:
        num_particles: K, how many draws from the guide are averaged; ``default_particles`` of the class if None.
        vectorize_particles: draw them in one run, inside a plate to the left of the program's own; switch it off for
            a program that cannot be run so.
        max_plate_nesting: how many plates the program nests; found by a first run if not given.

    Raises:
        TypeError: if ``num_particles`` is no whole number.
        ValueError: if it is too small for the objective.
    """

    weight: float = 1.0  # of latent sites' log densities at the present step; a subclass may make it a property
    min_particles = 1
    default_particles = 1

    def __init__(
        self,
        *,
        num_particles: int | None = None,
        vectorize_particles: bool = True,
        max_plate_nesting: float = math.inf,
    ) -> None:
        K = self.default_particles if num_particles is None else num_particles
        positive_integer(K, "num_particles", minimum=self.min_particles)
        super().__init__(
            num_particles=K, vectorize_particles=vectorize_particles and K > 1, max_plate_nesting=max_plate_nesting
        )

    def estimate(
        self, model: Program, guide: Program, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """Return the value to be raised and the surrogate whose gradient estimates its gradient, both scalars."""
        raise NotImplementedError(f"{type(self).__name__} must define estimate(self, model, guide, args, kwargs)")

    def differentiable_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """Return minus the objective, summed over data, with the estimator's gradient."""
        weigh = KLWeight(self.weight)
        return self.unweighted_loss(weigh(model), weigh(guide), *args, **kwargs)

    def unweighted_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """Return the same at weight 1, by tensor operations alone: what a compiled graph holds."""
        value, surrogate = self.estimate(model, guide, args, kwargs)
        if surrogate is value:
            return -value
        return -(value.detach() + (surrogate - surrogate.detach()))

    def loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """Return minus the objective, summed over data."""
        with torch.no_grad():
            return float(self.differentiable_loss(model, guide, *args, **kwargs))

    def loss_and_grads(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """Return the loss, and add its gradient to the parameters'."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward(retain_graph=self.retain_graph)
        self.advance()
        return float(loss.detach())

    def advance(self) -> None:
        """Count a step with gradients, for a weight that follows a schedule."""

    def _get_trace(self, model: Program, guide: Program, args: Any, kwargs: Any) -> tuple[Any, Any]:
        return get_importance_trace("flat", self.max_plate_nesting, model, guide, args, kwargs)

    def _guess_max_plate_nesting(self, model: Program, guide: Program, args: Any, kwargs: Any) -> None:
        """Count the nested plates in one run, as Pyro does, but leave the random numbers as they were."""
        with torch.no_grad(), fork_rng(), poutine.block():
            guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
            model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*args, **kwargs)
        frames = [f for t in (guide_trace, model_trace) for s in _sample(t).values() for f in s["cond_indep_stack"]]
        self.max_plate_nesting = max((-f.dim for f in frames if f.vectorized), default=0) + int(
            self.vectorize_particles
        )

    # -- log weights ---------------------------------------------------------------------------------------------

    def _log_densities(
        self, model: Program, guide: Program, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """Return log p(x, z) and log q(z|x), each ``(K, *plates)``: one entry an independent datum."""
        pairs = []
        for model_trace, guide_trace in self._get_traces(model, guide, args, kwargs):
            self._check(guide_trace)
            pairs.append(self._sums(model_trace, guide_trace))
        return self._particles([p for p, _ in pairs]), self._particles([q for _, q in pairs])

    def _sums(self, model_trace: Any, guide_trace: Any) -> tuple[Tensor, Tensor]:
        """Sum log densities over sites, and over plates that not every site lies in."""
        model_sites = _sample(model_trace)
        sum_dims = get_dependent_plate_dims(model_sites.values())
        log_p = sum(_summed(site["log_prob"], sum_dims) for site in model_sites.values())
        log_q = sum(_summed(site["log_prob"], sum_dims) for site in _sample(guide_trace).values())
        return torch.as_tensor(log_p), torch.as_tensor(log_q)

    def _particles(self, runs: list[Tensor]) -> Tensor:
        if self.vectorize_particles:  # the plate of particles is the leftmost
            return runs[0]
        return torch.stack(runs)

    def _check(self, guide_trace: Any) -> None:
        """Refuse a guide whose draws carry no gradient; an objective that needs none overrides this."""
        for name, site in latent_sites(guide_trace).items():
            if not site["fn"].has_rsample:
                got = f"{type(root(site['fn'])).__name__} at site {name!r}, which has none"
                remedy = "objectives.ReweightedWakeSleep, or pyro.infer.Trace_ELBO with its score-function gradient"
                raise ValueError(say(f"a guide with reparameterised draws for {type(self).__name__}", got, remedy))

    # -- log weights at leaves -----------------------------------------------------------------------------------

    def _at_leaves(
        self, model: Program, guide: Program, args: tuple[Any, ...], kwargs: dict[str, Any], *, through: bool
    ) -> tuple[list[Draw], Tensor, Tensor]:
        """Draw z from the guide, and evaluate the guide at leaves with the same values, cut off its parameters.

        Args:
            model: a Pyro program.
            guide: its guide.
            args: their arguments.
            kwargs: the rest of these.
            through: whether the model is evaluated at copies of the draws, so that one backward pass goes through it
                to its own parameters and on to the guide's; or at the leaves.

        Returns:
            The draws, and log p and log q ``(K, *plates)``.
        """
        draws: list[Draw] = []
        pairs = []
        for run, (run_model, run_guide) in enumerate(self._programs(model, guide, args, kwargs)):
            guide_trace = poutine.util.prune_subsample_sites(poutine.trace(run_guide).get_trace(*args, **kwargs))
            self._check(guide_trace)
            cut, seen = guide_trace.copy(), guide_trace.copy()
            latent = latent_sites(guide_trace)
            for name, site in latent.items():
                value = site["value"]
                leaf = value.detach().requires_grad_()
                draw = Draw(value, leaf, value.view_as(value) if through else leaf, site["fn"].event_dim, run)
                draws.append(draw)
                for trace, z in ((cut, leaf), (seen, draw.seen)):
                    node: Any = site.copy()
                    node["value"] = z
                    trace.nodes[name] = node
            if len(latent) > 1:  # a site's density may depend on the sites before it
                cut = poutine.trace(poutine.replay(run_guide, trace=cut)).get_trace(*args, **kwargs)
                cut = poutine.util.prune_subsample_sites(cut)
            model_trace = poutine.trace(poutine.replay(run_model, trace=seen)).get_trace(*args, **kwargs)
            model_trace = poutine.util.prune_subsample_sites(model_trace)
            for trace in (model_trace, cut):
                for site in _sample(trace).values():
                    log_prob = site["fn"].log_prob(site["value"])
                    site["log_prob"] = scale_and_mask(log_prob, site["scale"], site["mask"])
            pairs.append(self._sums(model_trace, cut))
        return draws, self._particles([p for p, _ in pairs]), self._particles([q for _, q in pairs])

    def _programs(self, model: Program, guide: Program, args: Any, kwargs: Any) -> list[tuple[Program, Program]]:
        if not self.vectorize_particles:
            return [(model, guide)] * self.num_particles
        if self.max_plate_nesting == math.inf:
            self._guess_max_plate_nesting(model, guide, args, kwargs)
        return [(self._vectorized_num_particles(model), self._vectorized_num_particles(guide))]


def latent_sites(guide_trace: Any) -> dict[str, Site]:
    """The latent sites of a guide's trace by name."""
    return {name: site for name, site in _sample(guide_trace).items() if not site["is_observed"]}


def _sample(trace: Any) -> dict[str, Site]:
    return {name: site for name, site in trace.nodes.items() if site["type"] == "sample"}


def _summed(log_prob: Tensor, dims: list[int]) -> Tensor:
    dims = [dim for dim in dims if -dim <= log_prob.dim()]
    return log_prob.sum(dims, keepdim=True) if dims else log_prob


def root(fn: Any) -> Any:
    """Return the distribution under its wrappers."""
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return fn
