"""A Pyro program seen as N independent densities over an unconstrained vector u.

This is all that a route sees of a model. Pyro stays behind it: routes and kernels are pure tensor code.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from pyro_vae import checks
from pyro_vae.checks import say
from pyro_vae.inference.target.layout import LatentSite, Layout
from pyro_vae.inference.target.program import (
    Program,
    argument_name,
    check_dtypes,
    evaluating,
    frame_of,
    may_miss,
    run_once,
)
from pyro_vae.inference.target.supports import bijection, is_real, same_support
from pyro_vae.randomness import fork_rng

__all__ = ["LatentSite", "Target", "as_target"]


class Target:
    r"""The densities :math:`\log p(x_n, z_n)` of a Pyro program, as batched functions of unconstrained u.

    If every latent site lies in the data plate, the program is N independent posteriors: u is ``(..., N, L)``. If
    some lie outside, there is one posterior of the whole program: N = 1 and L counts all latent numbers. With
    :math:`z = T(u)` by ``biject_to`` of each site's support,
    :math:`\log p(u) = \log p(z) + \log |\det \partial T / \partial u|`, so that densities over u integrate to the
    same evidence. Supports may depend on other sites: the transform is taken while the program runs. Leading
    dimensions of u are vectorised with ``torch.vmap``. Modules are evaluated in evaluation mode.

    A u whose data axis has length 1 is shared by all data: the program's decoder runs once for all of them.

    Args:
        model: any Pyro program; called as ``model(x)``, or ``model(*x)`` if x is a tuple.
        x: the data; dimension 0 runs over data.
        plate: name of the data plate; None for the posterior of the whole program.

    Attributes:
        num_data: N.
        latent_dim: L.
        layout: where the latent sites lie in u.
        sites: the latent sites by name, in the program's order.
        observed: names of the observed sites.
        per_datum: whether there are N posteriors, or one of the whole program.
        plain: whether u is the value of the one latent site itself.
        origin: u = 0, ``(N, L)``, in the program's dtype and on its device.

    Raises:
        TypeError: if ``model`` is not callable or ``x`` not made of tensors.
        ValueError: if the data are empty, not finite, outside a site's support or of another precision than a module's
            parameters; if the plate does not exist or is
            sub-sampled; if a latent site is discrete; if no site is latent or none observed.

    Example:
        >>> from pyro_vae import Model, likelihoods, networks, priors
        >>> model = Model(priors.StandardNormal(2), likelihoods.Bernoulli(networks.mlp(2, 16, 64)))
        >>> target = Target(model, torch.zeros(7, 64))
        >>> target.log_joint(torch.zeros(4, 3, 7, 2)).shape
        torch.Size([4, 3, 7])
    """

    def __init__(self, model: Program, x: Tensor | tuple[Any, ...], *, plate: str | None = "data") -> None:
        if not callable(model):
            raise TypeError(say("a Pyro program", type(model).__name__, "a function or module that calls pyro.sample"))
        self.model = model
        self.args: tuple[Any, ...] = _beside(model, x if isinstance(x, tuple) else (x,))
        for position, arg in enumerate(self.args):
            if isinstance(arg, Tensor):
                name = argument_name(position)
                checks.finite(checks.tensor(arg, name, min_dim=0), name, missing=may_miss(model, position))
            elif not isinstance(x, tuple):
                checks.tensor(arg)
        check_dtypes(model, self.args)
        self.plate = plate
        with torch.no_grad(), fork_rng():  # looking takes nothing from the random stream
            traces = [self._run(None), self._run(None)]  # two, to see which supports move
        first = traces[0]
        latent = {name: site for name, site in first.items() if not site["is_observed"]}
        self.layout = Layout.of(first, plate)
        self.sites, self.observed = self.layout.sites, self.layout.observed
        self.per_datum, self.num_data = self.layout.per_datum, self.layout.num_data
        self.latent_dim = self.layout.latent_dim
        self._static = all(same_support(traces[0][s]["fn"].support, traces[1][s]["fn"].support) for s in latent)
        self.plain = self.per_datum and len(latent) == 1 and all(is_real(s["fn"].support) for s in latent.values())
        self._shared: bool | None = None
        self._over_data: tuple[int, ...] | None = None
        value = next(iter(latent.values()))["value"]
        self.origin = value.new_zeros(self.num_data, self.latent_dim)

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
        if u.shape[-2] != self.num_data and not self._can_share(u):
            u = u.expand(*u.shape[:-2], self.num_data, self.latent_dim)
        return self._vectorised(self._densities, u)

    def log_prior(self, u: Tensor) -> Tensor:
        """Return log p(u), the Jacobian of the transforms included, ``(..., N)``."""
        return self.log_parts(u)[0]

    def log_likelihood(self, u: Tensor) -> Tensor:
        """Return log p(x|u), ``(..., N)``."""
        return self.log_parts(u)[1]

    def log_likelihood_by_site(self, u: Tensor) -> dict[str, Tensor]:
        """Return log p(x|u) of each observed site by name, in nats.

        One value a datum, ``(..., N)``; of a whole program one an observation, ``(..., *batch_shape)`` of the site.
        """

        def by_site(v: Tensor) -> dict[str, Tensor]:
            sites = {name: site for name, site in self._run(v).items() if site["is_observed"]}
            terms = {name: self._log_prob(site) for name, site in sites.items()}
            return {name: self.reduce(sites[name], term) if self.per_datum else term for name, term in terms.items()}

        return self._vectorised(by_site, u)

    def log_joint(self, u: Tensor, *, beta: float | Tensor = 1.0) -> Tensor:
        """Return log p(u) + beta log p(x|u), ``(..., N)``; beta tempers the likelihood and broadcasts."""
        log_prior, log_likelihood = self.log_parts(u)
        return log_prior + beta * log_likelihood

    def log_jacobian(self, u: Tensor) -> Tensor:
        """Return log |det dz/du|, ``(..., N)``: what log_prior adds to the prior's density over z."""

        def log_det(v: Tensor) -> Tensor:
            terms = [self.reduce(site, site["infer"]["log_det"]) for _, site in self._latent(self._run(v))]
            return torch.stack(torch.broadcast_tensors(*terms)).sum(0).expand(self.num_data)

        return self._vectorised(log_det, u)

    def value_and_grad(self, u: Tensor, *, beta: float | Tensor = 1.0) -> tuple[Tensor, Tensor]:
        """Return log_joint ``(..., N)`` and its gradient with respect to u ``(..., N, L)``, both detached."""
        u = u.detach().requires_grad_()
        with torch.enable_grad():
            value = self.log_joint(u, beta=beta)
            (grad,) = torch.autograd.grad(value.sum(), u)
        return value.detach(), grad

    # -- between u and named sites -------------------------------------------------------------------------------

    def constrain(self, u: Tensor) -> dict[str, Tensor]:
        """Return the latent sites' values at u by name.

        A site of the data plate has shape ``(..., N, *event)``; a site of a whole program ``(..., *site shape)``.
        """
        if self._static:
            values = {name: site.transform(self.layout.unpack(u, site)) for name, site in self.sites.items()}
        else:
            values = self._vectorised(lambda v: {name: s["value"] for name, s in self._latent(self._run(v))}, u)
        lead = u.dim() - 2
        return {name: _move_data_axis(value, self.sites[name], lead, first=True) for name, value in values.items()}

    def pack(self, values: dict[str, Tensor]) -> Tensor:
        """Return u ``(N, L)`` for one value a latent site, as the program would sample it: the inverse of constrain.

        Raises:
            ValueError: if a latent site is missing, or one is unknown.
        """
        self.layout.must_name_all(values)
        with evaluating(self.model):
            trace = run_once(poutine.condition(self.model, data=values), *self.args)
        return self.layout.pack(trace)

    def unconstrain(self, values: dict[str, Tensor]) -> Tensor:
        """Return u ``(..., N, L)`` of values shaped as constrain returns them: its inverse.

        Raises:
            ValueError: if a latent site is missing, or one is unknown.
        """
        self.layout.must_name_all(values)
        first = next(iter(self.sites.values()))
        lead = values[first.name].shape[: values[first.name].dim() - first.value_dim]
        flat = {
            name: _move_data_axis(values[name].reshape(-1, *values[name].shape[len(lead) :]), site, 1, first=False)
            for name, site in self.sites.items()
        }
        if not self._static:
            rows = [self.pack({name: value[i] for name, value in flat.items()}) for i in range(lead.numel())]
            return torch.stack(rows).reshape(*lead, self.num_data, self.latent_dim)
        return self.layout.pack_batch(flat).reshape(*lead, self.num_data, self.latent_dim)

    @torch.no_grad()
    def sample_prior(self, num_samples: int = 1) -> Tensor:
        """Draw u from the prior, ``(num_samples, N, L)``."""

        def draw(_: Tensor) -> Tensor:
            return self.layout.pack(self._run(None))

        dummy = torch.zeros(num_samples)
        try:
            with pyro.validation_enabled(False):
                return _vmap(draw, dummy, randomness="different")
        except (RuntimeError, ValueError, NotImplementedError):  # a sampler without a batching rule: one by one
            return torch.stack([draw(d) for d in dummy])

    def rows(self, index: Sequence[int] | Tensor) -> Target:
        """Return the target of the data at ``index``; this one if those are all data in their order.

        Which tensor arguments run over the data is found out by trying: those whose first dimension is N are indexed
        if the densities of the rows are then what they were among all.

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
        if self._over_data is None:
            self._over_data = self._find_over_data()
        return self._indexed(keep, self._over_data)

    def _indexed(self, keep: Tensor, positions: tuple[int, ...]) -> Target:
        args = tuple(arg[keep.to(arg.device)] if i in positions else arg for i, arg in enumerate(self.args))
        return Target(self.model, args, plate=self.plate)

    @torch.no_grad()
    def _find_over_data(self) -> tuple[int, ...]:
        """Positions of the arguments that run over the data: the most of those that could, as far as that is right."""
        N = self.num_data
        could = [i for i, arg in enumerate(self.args) if isinstance(arg, Tensor) and arg.dim() and len(arg) == N]
        if len(could) == 1:
            return (could[0],)
        with fork_rng(seed=0):
            u = self.sample_prior(1)[0]
        expected = self.log_joint(u)
        some = torch.arange(N).flip(0)[: max(N // 2, 1)]  # fewer than N, and out of order
        for size in range(len(could), 0, -1):
            for positions in itertools.combinations(could, size):
                try:
                    found = self._indexed(some, positions).log_joint(u[some.to(u.device)])
                except (RuntimeError, ValueError, IndexError):
                    continue
                if torch.allclose(found, expected[some.to(u.device)], rtol=1e-4):
                    return positions
        raise ValueError(say("arguments whose rows are the data", "none that can be indexed", "all data at once"))

    def trace(self, u: Tensor) -> dict[str, dict[str, Any]]:
        """Return the Pyro sample sites at one u ``(N, L)`` by name, each with ``fn`` and ``value``."""
        return self._run(u)

    # -- the program ---------------------------------------------------------------------------------------------

    def _run(self, u: Tensor | None) -> dict[str, dict[str, Any]]:
        substitute = _Substitute(self, u)
        with evaluating(self.model), substitute, pyro.validation_enabled(False):
            try:
                return run_once(self.model, *self.args)
            except RuntimeError as error:
                if "vmap" not in str(error):
                    raise
                raise ValueError(
                    say(
                        f"a program that torch.vmap can vectorise (last latent site reached: {substitute.last!r})",
                        str(error).splitlines()[0][:200],
                        "removing .item(), Python branches on values, dropout and sub-sampling",
                    )
                ) from error

    def _densities(self, u: Tensor) -> tuple[Tensor, Tensor]:
        log_prior = u.new_zeros(self.num_data)
        log_likelihood = u.new_zeros(self.num_data)
        for site in self._run(u).values():
            log_prob = self._log_prob(site)
            if site["is_observed"]:
                log_likelihood = log_likelihood + self.reduce(site, log_prob)
            else:
                log_prior = log_prior + self.reduce(site, log_prob) + self.reduce(site, site["infer"]["log_det"])
        return log_prior, log_likelihood

    def _log_prob(self, site: dict[str, Any]) -> Tensor:
        try:
            with pyro.validation_enabled(False):  # a chain that ran away is a density of zero or NaN, not an error
                return scale_and_mask(site["fn"].log_prob(site["value"]), site["scale"], site["mask"])
        except RuntimeError as error:
            if "vmap" not in str(error):
                raise
            where = f"site {site['name']!r}, {type(site['fn']).__name__} of shape {tuple(site['fn'].shape())}"
            raise ValueError(
                say(
                    "densities that torch.vmap can vectorise",
                    f"{where}: {str(error).splitlines()[0][:200]}",
                    "another distribution at that site, or the same density as pyro.factor",
                )
            ) from error

    def reduce(self, site: dict[str, Any], log_prob: Tensor) -> Tensor:
        """Sum a site's log probabilities a datum, ``(N,)``; over all of it for a whole program."""
        frame = frame_of(site, self.plate) if self.per_datum else None
        if frame is None:
            return log_prob.sum()
        per_datum = log_prob.movedim(frame.dim, 0)
        return per_datum.reshape(per_datum.shape[0], -1).sum(-1)

    def _vectorised(self, function: Callable[[Tensor], Any], u: Tensor) -> Any:
        lead = u.shape[:-2]
        if not lead:
            return function(u)
        flat = _vmap(function, u.reshape(-1, *u.shape[-2:]))
        return torch.utils._pytree.tree_map(lambda out: out.reshape(*lead, *out.shape[1:]), flat)

    def _can_share(self, u: Tensor) -> bool:
        if self._shared is None:
            probe = u.detach().reshape(-1, 1, self.latent_dim)[:1]
            every = probe.expand(1, self.num_data, self.latent_dim)
            try:
                shared, apart = (self._vectorised(self._densities, v) for v in (probe, every))
                self._shared = all(torch.allclose(a, b, rtol=1e-4) for a, b in zip(shared, apart, strict=True))
            except (RuntimeError, ValueError):
                self._shared = False
        return self._shared

    def _latent(self, trace: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        return ((name, site) for name, site in trace.items() if not site["is_observed"])


def as_target(
    model: Program | Target, x: Tensor | tuple[Any, ...] | None = None, *, plate: str | None = "data"
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


class _Substitute(Messenger):
    """Give latent sites the values that u holds; note each transform's log |det J| at its site."""

    def __init__(self, target: Target, u: Tensor | None) -> None:
        super().__init__()
        self.target = target
        self.u = u
        self.last: str | None = None

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or poutine.util.site_is_subsample(msg):
            return
        self.last = msg["name"]
        if self.u is None:
            return
        layout = self.target.sites.get(msg["name"])
        if layout is None:
            raise ValueError(
                say(f"the latent sites of the first run, {list(self.target.sites)}", repr(msg["name"]), "fixed sites")
            )
        raw = self.target.layout.unpack(self.u, layout)
        transform = bijection(msg["fn"].support)
        value = transform(raw)
        log_det = transform.log_abs_det_jacobian(raw, value)
        batch = msg["fn"].batch_shape
        extra = log_det.dim() - len(batch)
        msg["value"] = value
        msg["done"] = True
        msg["infer"] = {**msg["infer"], "log_det": log_det.flatten(-extra).sum(-1) if extra > 0 else log_det}


def _move_data_axis(value: Tensor, site: LatentSite, lead: int, *, first: bool) -> Tensor:
    """Put the data axis behind ``lead`` leading dimensions, or from there back to where the program has it."""
    if site.axis is None:
        return value
    own = lead + site.axis
    return value.movedim(own, lead) if first else value.movedim(lead, own)


def _beside(model: Program, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments on the device of a module's parameters: ``fit`` may have moved it."""
    first = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    if first is None:
        return args
    return tuple(arg.to(first.device) if isinstance(arg, Tensor) else arg for arg in args)


def _vmap(function: Callable[[Tensor], Any], x: Tensor, *, randomness: str = "error") -> Any:
    with warnings.catch_warnings():  # an operation without a batching rule is slow, not wrong
        warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
        return torch.vmap(function, randomness=randomness)(x)
