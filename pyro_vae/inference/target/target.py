"""A Pyro program seen as N independent densities over an unconstrained vector u.

This is all that a route sees of a model. Pyro stays behind it: routes and kernels are pure tensor code.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from pyro_vae import checks
from pyro_vae.checks import say
from pyro_vae.inference.target import discrete
from pyro_vae.inference.target.coordinates import Coordinates
from pyro_vae.inference.target.coupling import Coupled
from pyro_vae.inference.target.densities import log_parts, log_prob, per_datum
from pyro_vae.inference.target.enumeration import Enumeration
from pyro_vae.inference.target.independence import check_discrete_rows, rows_are_tied
from pyro_vae.inference.target.layout import LatentSite, Layout
from pyro_vae.inference.target.legality import (
    DEFAULT_PLATE,
    check_arguments,
    check_missing,
    check_sites,
    check_whole_plates,
    data_plate,
    flat_sites,
    improper_sites,
    without_data,
)
from pyro_vae.inference.target.modules import beside
from pyro_vae.inference.target.products import SharedPoints
from pyro_vae.inference.target.program import Program, Trace
from pyro_vae.inference.target.rows import arguments_over_data
from pyro_vae.inference.target.substitution import each, run_at, run_prior, vectorised
from pyro_vae.inference.target.supports import is_real, same_support
from pyro_vae.randomness import fork_rng

__all__ = ["LatentSite", "Target", "as_target"]

_LOOKS = 3  # runs of a program before anything else is done with it


class Target(Coordinates):
    r"""The densities :math:`\log p(x_n, z_n)` of a Pyro program, as batched functions of unconstrained u.

    If every latent site lies in the data plate, the program is N independent posteriors: u is ``(..., N, L)``. If
    some lie outside, there is one posterior of the whole program: N = 1 and L counts all latent numbers. With
    :math:`z = T(u)` by ``biject_to`` of each site's support,
    :math:`\log p(u) = \log p(z) + \log |\det \partial T / \partial u|`, so that densities over u integrate to the
    same evidence. Supports may depend on other sites: the transform is taken while the program runs. Leading
    dimensions of u are vectorised with ``torch.vmap``. Modules are evaluated in evaluation mode.

    Where the support of an observed site depends on latents, those whose support the data leave have likelihood zero.

    Discrete latent sites are summed out of every density, exactly: u holds the continuous ones alone, and
    :math:`p(x, u) = \sum_c p(x, u, c)`. Sites of a ``pyro.plate`` are summed each for itself, those of a chain in
    ``pyro.markov`` by message passing. :meth:`infer_discrete` draws them again, :meth:`compute_marginals` gives
    their probabilities.

    A u whose data axis has length 1 is shared by all data: the program's decoder runs once for all of them.

    Args:
        model: any Pyro program; called as ``model(x)``, or ``model(*x)`` if x is a tuple.
        x: the data; dimension 0 runs over data.
        plate: name of the data plate; None for the posterior of the whole program, which it also is where no plate
            holds every latent site and none has the default name, and, with a warning, where the latents of one row act
            on the data of another (``z.cumsum(-1)``, ``z - z.mean()``; looked for by gradients at one draw, up to
            10,000 rows).
        independent: the data are known to be independent given the latents of each; not to be looked at.

    Attributes:
        num_data: N.
        latent_dim: L; 0 where every latent site is discrete.
        layout: where the latent sites lie in u.
        sites: the continuous latent sites by name, in the program's order.
        discrete: the discrete latent sites by name.
        observed: names of the observed sites.
        per_datum: whether there are N posteriors, or one of the whole program.
        improper: names of sites whose mask, scale or missing draws make the prior's density another than that of
            :meth:`sample_prior`.
        flat: names of sites whose prior has no integral, unless a site that latents determine may give it one.
        largest_sum: numbers in the largest tensor of a sum over discrete sites, at one u; 0 without any.
        plain: whether u is the value of the one latent site itself.
        origin: u = 0, ``(N, L)``, in the program's dtype and on its device.

    Raises:
        TypeError: if ``model`` is not callable or ``x`` not made of tensors.
        ValueError: if the data are empty, not finite, outside a site's support or of another precision than a module's
            parameters; if the plate does not exist, or one is sub-sampled; if no site is latent or none observed; if a
            discrete latent site takes values without end, or a sum over discrete ones is too large.

    Example:
        >>> from pyro_vae import Model, likelihoods, networks, priors
        >>> model = Model(priors.StandardNormal(2), likelihoods.Bernoulli(networks.mlp(2, 16, 64)))
        >>> target = Target(model, torch.zeros(7, 64))
        >>> target.log_joint(torch.zeros(4, 3, 7, 2)).shape
        torch.Size([4, 3, 7])
    """

    def __init__(
        self,
        model: Program,
        x: Tensor | tuple[Any, ...],
        *,
        plate: str | None = DEFAULT_PLATE,
        independent: bool = False,
    ) -> None:
        if not callable(model):
            raise TypeError(say("a Pyro program", type(model).__name__, "a function or module that calls pyro.sample"))
        self.model = model
        self.args: tuple[Any, ...] = beside(model, x if isinstance(x, tuple) else (x,))
        check_arguments(model, self.args, single=not isinstance(x, tuple))
        self.plate = plate
        with torch.no_grad(), fork_rng(seed=0):  # looking takes nothing from the random stream, nor depends on it
            runs = [run_prior(model, self.args) for _ in range(_LOOKS)]  # several, to see which supports move
        check_whole_plates(runs[0])
        check_missing(model, self.args, runs[0])
        self._determined = without_data(runs)
        self.improper = improper_sites(runs[0], self._determined)
        self.flat = [] if set(self._determined) & set(self.improper) else flat_sites(runs[0])
        runs = [{name: site for name, site in run.items() if name not in self._determined} for run in runs]
        first = runs[0]
        used_plate = data_plate(first, plate)
        self._arrange(runs, used_plate)
        with fork_rng(seed=0):
            tied = self.per_datum and not independent and rows_are_tied(self.log_joint, self.layout.pack(first))
            if self.discrete and not independent:
                check_discrete_rows(model, self.args, first, self.discrete)
        if tied:
            warnings.warn(
                f"the latents of plate {used_plate!r} act on data of other rows: one posterior of the whole program, "
                "as with plate=None",
                stacklevel=2,
            )
            self._arrange(runs, None)

    def _arrange(self, runs: list[Trace], used_plate: str | None) -> None:
        """Take up the sites, as N posteriors over the rows of a plate, or as one posterior without."""
        first = runs[0]
        self._moving = check_sites(runs, used_plate, self._determined)
        self._enumeration = Enumeration.of(first, used_plate)
        self.discrete = self._enumeration.sites
        self.layout = Layout.of(first, used_plate)
        self.sites, self.observed = self.layout.sites, self.layout.observed
        self.per_datum, self.num_data = self.layout.per_datum, self.layout.num_data
        self.latent_dim = self.layout.latent_dim
        supports = {name: [run[name]["fn"].support for run in runs if name in run] for name in self.sites}
        self._static = all(same_support(own[0], other) for own in supports.values() for other in own[1:])
        self.plain = self.per_datum and len(supports) == 1 and all(is_real(own[0]) for own in supports.values())
        values = [first[name]["value"] for name in (*self.sites, *self.observed)]
        real = next((value for value in values if value.is_floating_point()), torch.empty(0))
        self.origin = real.new_zeros(self.num_data, self.latent_dim)
        self.largest_sum = discrete.largest_sum(self, self.layout.pack(first)) if self.discrete else 0

    # -- densities -----------------------------------------------------------------------------------------------

    def log_parts(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return log p(u) and log p(x|u), each ``(..., N)``, in nats, from one run of the program.

        Args:
            u: ``(..., N, L)``, or ``(..., 1, L)`` for points shared by all data.
        """
        if u.shape[-1] != self.latent_dim or u.shape[-2:-1] not in {(self.num_data,), (1,)}:
            raise ValueError(
                say(f"u of shape (..., {self.num_data}, {self.latent_dim})", f"{tuple(u.shape)}", "target.pack(values)")
            )
        if u.shape[-2] != self.num_data and not self._can_share:
            u = u.expand(*u.shape[:-2], self.num_data, self.latent_dim)
        return vectorised(self._densities, u)

    def log_prior(self, u: Tensor) -> Tensor:
        """Return log p(u), the Jacobian of the transforms included, ``(..., N)``."""
        return self.log_parts(u)[0]

    def log_likelihood(self, u: Tensor) -> Tensor:
        """Return log p(x|u), ``(..., N)``."""
        return self.log_parts(u)[1]

    def log_likelihood_by_site(self, u: Tensor) -> dict[str, Tensor]:
        """Return log p(x|u) of each observed site by name, in nats.

        One value a datum, ``(..., N)``; of a whole program one an observation, ``(..., *batch_shape)`` of the site.
        Observations that discrete sites tie together have one value; several such sites each its density given those
        before.
        """

        def by_site(v: Tensor) -> dict[str, Tensor]:
            sites = self._run(v)
            terms = dict(self._coupled(sites).by_observation()) if self.discrete else {}
            plate = self.layout.plate
            for name in self.observed:
                if name not in terms:
                    term = log_prob(sites[name], self._moving)
                    terms[name] = per_datum(sites[name], term, plate) if plate else term
            return {name: terms[name] for name in self.observed}

        return vectorised(by_site, u)

    def log_joint(self, u: Tensor, *, beta: float | Tensor = 1.0) -> Tensor:
        """Return log p(u) + beta log p(x|u), ``(..., N)``; beta tempers the likelihood and broadcasts.

        At beta = 0 it is the prior, also where the likelihood is zero.
        """
        log_prior, log_likelihood = self.log_parts(u)
        if isinstance(beta, Tensor):
            return log_prior + torch.where(beta == 0, 0.0, beta * log_likelihood)
        return log_prior + beta * log_likelihood if beta else log_prior

    def log_jacobian(self, u: Tensor) -> Tensor:
        """Return ``log |det dz/du|``, ``(..., N)``: what log_prior adds to the prior's density over z."""

        def log_det(v: Tensor) -> Tensor:
            trace = self._run(v)
            terms = [per_datum(trace[name], trace[name]["infer"]["log_det"], self.layout.plate) for name in self.sites]
            return torch.stack(torch.broadcast_tensors(v.new_zeros(()), *terms)).sum(0).expand(self.num_data)

        return vectorised(log_det, u)

    def value_and_grad(self, u: Tensor, *, beta: float | Tensor = 1.0) -> tuple[Tensor, Tensor]:
        """Return log_joint ``(..., N)`` and its gradient with respect to u ``(..., N, L)``, both detached."""
        u = u.detach().requires_grad_()
        with torch.enable_grad():
            value = self.log_joint(u, beta=beta)
            (grad,) = torch.autograd.grad(value.sum(), u)
        return value.detach(), grad

    # -- discrete sites, which the densities sum out ---------------------------------------------------------------

    @torch.no_grad()
    def infer_discrete(self, u: Tensor) -> dict[str, Tensor]:
        """Draw the discrete latent sites from p(c|x, u), jointly and exactly, as Pyro's ``infer_discrete`` does.

        Args:
            u: ``(..., N, L)``; each gets a draw of its own.

        Returns:
            By name whole numbers ``(..., N, *event)``; of a whole program ``(..., *site shape)``.
        """
        return discrete.in_order(
            self.discrete, u, lambda rows: each(lambda v: self._coupled(self._run(v)).draws(), rows)
        )

    @torch.no_grad()
    def compute_marginals(self, u: Tensor) -> dict[str, Tensor]:
        """Return p(c|x, u) of each discrete latent site, as ``TraceEnum_ELBO.compute_marginals`` does.

        Args:
            u: ``(..., N, L)``.

        Returns:
            By name the probabilities of its K values, ``(..., N, K)``; of a whole program ``(..., *batch, K)``.
        """
        return discrete.in_order(
            self.discrete, u, partial(vectorised, lambda v: self._coupled(self._run(v)).marginals())
        )

    # -- other targets, and Pyro's own view ------------------------------------------------------------------------

    def rows(self, index: Sequence[int] | Tensor) -> Target:
        """Return the target of the data at ``index``; this one if those are all data in their order.

        Which tensor arguments run over the data is found out by trying.

        Raises:
            TypeError: if the rows are not whole numbers.
            ValueError: if a row is no datum's; if the program is one posterior as a whole, or its data cannot be taken
                apart.
        """
        if not self.per_datum:
            raise ValueError(say("a program whose latents lie in the data plate", "a whole posterior", "all its data"))
        keep = checks.rows(index, self.num_data)
        if keep.tolist() == list(range(self.num_data)):
            return self
        return self._indexed(keep, self._over_data)

    @cached_property
    def _over_data(self) -> tuple[int, ...]:
        return arguments_over_data(self, self._indexed)

    def _indexed(self, keep: Tensor, positions: tuple[int, ...]) -> Target:
        args = tuple(arg[keep.to(arg.device)] if i in positions else arg for i, arg in enumerate(self.args))
        return Target(self.model, args, plate=self.plate, independent=True)

    def trace(self, u: Tensor) -> Trace:
        """Return the Pyro sample sites at one u ``(N, L)`` by name, each with ``fn`` and ``value``.

        Discrete latent sites have the first of their values.
        """
        return self._marked(run_at(self.model, self.args, self.layout, u))

    def _run(self, u: Tensor) -> Trace:
        """The sites at u, discrete latent ones with all their values."""
        return self._marked(run_at(self.model, self.args, self.layout, u, self._enumeration if self.discrete else None))

    def _marked(self, trace: Trace) -> Trace:
        """Note that what latents determine is no observation."""
        for name in self._determined:
            trace[name]["is_observed"] = False
        return trace

    def _coupled(self, trace: Trace) -> Coupled:
        return Coupled.of(trace, self._enumeration, self._moving)

    def _densities(self, u: Tensor) -> tuple[Tensor, Tensor]:
        if u.shape[-2] != self.num_data and self._shared is not None:
            return self._shared(u)
        trace = self._run(u)
        if not self.discrete:
            return log_parts(trace, self.layout, self._moving, u)
        coupled = self._coupled(trace)
        prior, likelihood = log_parts(trace, self.layout, self._moving, u, coupled.names)
        summed_prior, summed_likelihood = coupled.log_parts(self.layout.plate)
        return prior + summed_prior, likelihood + summed_likelihood

    @cached_property
    def _shared(self) -> SharedPoints | None:
        if self.discrete or not self.per_datum or self._moving or self.num_data == 1:
            return None
        return SharedPoints.of(self, lambda: self._indexed(torch.zeros(1, dtype=torch.long), self._over_data))

    @property
    def has_products(self) -> bool:
        """Whether densities at points that all data share are matrix products, and so cost next to nothing a datum."""
        return self._shared is not None

    @cached_property
    def _can_share(self) -> bool:
        """Whether points that all data share may go through the program once: tried at one point."""
        if self._shared is not None:
            return True
        probe = torch.linspace(0.3, 0.7, self.latent_dim).to(self.origin).expand(1, 1, -1)
        try:
            shared, apart = (vectorised(self._densities, v) for v in (probe, probe.expand(1, *self.origin.shape)))
            return all(torch.allclose(a, b, rtol=1e-4) for a, b in zip(shared, apart, strict=True))
        except (RuntimeError, ValueError):
            return False


def as_target(
    model: Program | Target, x: Tensor | tuple[Any, ...] | None = None, *, plate: str | None = DEFAULT_PLATE
) -> Target:
    """Return the target of a program and its data: the border at which ``(model, x)`` becomes one, once.

    Every route and every measure takes a :class:`Target` in place of a program and its data; x is left out then.

    Raises:
        TypeError, ValueError: as :class:`Target`; if data are given beside a target, or none beside a program.
    """
    if isinstance(model, Target):
        if x is not None:
            raise ValueError(say("a Target alone, which holds its data", "data beside it", "leaving x out"))
        return model
    if x is None:
        raise ValueError(say("data x beside a program", "none", "x, or Target(model, x) in place of both"))
    return Target(model, x, plate=plate)
