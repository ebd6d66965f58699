"""What MCMC returns: the draws, the sampler's statistics, and how far they can be trusted."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae import checks
from pyro_vae.arviz_import import from_groups
from pyro_vae.checks import say
from pyro_vae.inference.mcmc import diagnostics
from pyro_vae.inference.mcmc.verdict import verdict

__all__ = ["Draws"]


@dataclass(frozen=True, eq=False, repr=False)
class Draws:
    """Draws of N posteriors from C chains each, by latent site, on the constrained scale.

    Diagnostics and moments are of the continuous sites. They are computed when first asked for, with ArviZ'
    definitions; each is a dictionary by site whose values have the shape of the site without chains and draws,
    ``(N, *event)``, ``(N, L)`` for a latent vector.

    Attributes:
        samples: by site, ``(C, S, N, *event)``; N = 1 for the posterior of a whole program. Discrete sites, which are
            summed out while the chains run, are drawn given the others: whole numbers.
        marginals: of each discrete site the probability of each of its K values, ``(N, *batch, K)``, in the mean over
            draws of the others, and so with less noise than counts of its own draws.
        deterministic: what ``pyro.deterministic`` and reparametrisers name, at each draw, shaped as ``samples``.
        axes: by site, where the program's value has the data axis; 0 where nothing is said.
        diverging: whether the move to each draw diverged, ``(C, S, N)``; None where a kernel knows no divergence.
        acceptance: mean acceptance probability of the kept draws, ``(C, N)``.
        step_size: the kernel's step size while draws were kept, ``(N,)`` or ``(C, N)``; None where it has none.
        exchange: mean acceptance of exchanges between neighbouring temperatures, from the posterior to the prior,
            ``(R - 1, N)``; None where a kernel has no temperatures.
        tree_depth: doublings of each draw's trajectory, ``(C, S, 1)``, of NUTS on a whole program.
        max_tree_depth: their limit.
        energy: the Hamiltonian of each draw's trajectory, ``(C, S, 1)``, in nats, of a kernel with a momentum on a
            whole program.
        num_gradients: gradients of the batched log joint evaluated, warm-up included (one counts for all chains and
            data together; of nutpie's chains, which run each for itself, the most that one took); None if not counted.
        num_evaluations: the same for the log joint without its gradient.
        seconds: wall-clock time of warm-up and sampling, compilation included.
        compile_seconds: the part of ``seconds`` spent on compilation.
        complete: False if sampling was interrupted; the draws are then those kept until that moment.
        plate: name of the data plate; None for the posterior of a whole program.
        kernel: the kernel's name.
        engine: what evaluated the log joint, and why, in words: "compiled", or "Pyro: ..." with a reason; "nutpie"
            where that was the sampler too, and why Python calls the density there where no C function could be made.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> draws = Draws({"z": torch.randn(4, 500, 3, 2)}, acceptance=torch.full((4, 3), 0.8), plate="data")
        >>> draws.rhat["z"].shape, draws.mean()["z"].shape
        (torch.Size([3, 2]), torch.Size([3, 2]))
        >>> draws.verdict
        '3 of 3 posteriors converged (R-hat < 1.01, ESS > 400)'
    """

    samples: dict[str, Tensor]
    acceptance: Tensor
    marginals: dict[str, Tensor] = field(default_factory=dict)
    deterministic: dict[str, Tensor] = field(default_factory=dict)
    axes: dict[str, int] = field(default_factory=dict)
    diverging: Tensor | None = None
    step_size: Tensor | None = None
    exchange: Tensor | None = None
    max_tree_depth: int | None = None
    tree_depth: Tensor | None = None
    energy: Tensor | None = None
    num_gradients: int | None = None
    num_evaluations: int | None = None
    seconds: float = 0.0
    compile_seconds: float = 0.0
    complete: bool = True
    plate: str | None = None
    kernel: str = ""
    engine: str = ""

    # -- sizes ---------------------------------------------------------------------------------------------------

    @property
    def num_chains(self) -> int:
        """C."""
        return next(iter(self.samples.values())).shape[0]

    @property
    def num_samples(self) -> int:
        """S, draws kept a chain."""
        return next(iter(self.samples.values())).shape[1]

    @property
    def num_data(self) -> int:
        """N, posteriors."""
        return next(iter(self.samples.values())).shape[2]

    @property
    def _continuous(self) -> dict[str, Tensor]:
        return {name: value for name, value in self.samples.items() if name not in self.marginals}

    # -- diagnostics ---------------------------------------------------------------------------------------------

    @cached_property
    def _convergence(self) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
        """R-hat, bulk and tail effective sample size by site, computed together."""
        return {name: diagnostics.convergence(value) for name, value in self._continuous.items()}

    @property
    def rhat(self) -> dict[str, Tensor]:
        """Rank-normalised split R-hat by site, ``(N, *event)``; NaN for a number that never moves."""
        return {name: found[0] for name, found in self._convergence.items()}

    @property
    def ess_bulk(self) -> dict[str, Tensor]:
        """Effective sample size of the bulk by site, ``(N, *event)``."""
        return {name: found[1] for name, found in self._convergence.items()}

    @property
    def ess_tail(self) -> dict[str, Tensor]:
        """Effective sample size of the 5 % and 95 % quantiles by site, ``(N, *event)``."""
        return {name: found[2] for name, found in self._convergence.items()}

    @cached_property
    def mcse(self) -> dict[str, Tensor]:
        """Monte Carlo standard error of the mean by site, ``(N, *event)``, in units of the site."""
        return {name: diagnostics.mcse_mean(value) for name, value in self._continuous.items()}

    @cached_property
    def mcse_std(self) -> dict[str, Tensor]:
        """Monte Carlo standard error of the standard deviation by site, ``(N, *event)``, in units of the site."""
        return {name: diagnostics.mcse_std(value) for name, value in self._continuous.items()}

    @property
    def divergences(self) -> Tensor:
        """How many kept draws of each posterior diverged, ``(N,)``."""
        if self.diverging is None:
            return torch.zeros(self.num_data, dtype=torch.long)
        return self.diverging.sum((0, 1))

    def converged(self, *, max_rhat: float = 1.01, min_ess: float = 400.0) -> Tensor:
        """Say of each posterior whether every number's R-hat and effective sample sizes are good enough, ``(N,)``.

        The thresholds are those of Vehtari et al. 2021. A number that is the same in every draw (the zeros of a
        triangular factor) is not judged; a NaN among the draws never passes.
        """
        good = torch.ones(self.num_data, dtype=torch.bool, device=self.acceptance.device)
        for name, value in self._continuous.items():
            fixed = (value == value[:1, :1]).all(1).all(0)
            fine = (self.rhat[name] < max_rhat) & (self.ess_bulk[name] > min_ess) & (self.ess_tail[name] > min_ess)
            good = good & (fine | fixed).reshape(self.num_data, -1).all(-1)
        return good

    @property
    def verdict(self) -> str:
        """One line: how many posteriors converged, what is wrong with the others and where, and what to try."""
        return verdict(self)

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name}: {tuple(value.shape)}" for name, value in self.samples.items())
        return f"Draws({shapes}; {self.num_chains} chains of {self.num_samples} draws)"

    # -- moments -------------------------------------------------------------------------------------------------

    def mean(self) -> dict[str, Tensor]:
        """Posterior means by site, ``(N, *event)``."""
        return {name: value.mean((0, 1)) for name, value in self._continuous.items()}

    def std(self) -> dict[str, Tensor]:
        """Posterior standard deviations by site, ``(N, *event)``."""
        return {name: value.flatten(0, 1).std(0) for name, value in self._continuous.items()}

    def thin(self, every: int) -> Draws:
        """Return every ``every``-th draw of each chain."""
        every = checks.positive_integer(every, "every")

        def thinned(value: Tensor | None) -> Tensor | None:
            return None if value is None else value[:, every - 1 :: every]

        samples, deterministic = (
            {name: value[:, every - 1 :: every] for name, value in values.items()}
            for values in (self.samples, self.deterministic)
        )
        return replace(
            self,
            samples=samples,
            deterministic=deterministic,
            diverging=thinned(self.diverging),
            tree_depth=thinned(self.tree_depth),
            energy=thinned(self.energy),
        )

    def rows(self, index: Any) -> Draws:
        """Return the draws of the posteriors at ``index`` (anything that indexes a tensor's first dimension)."""
        return replace(
            self,
            samples={name: value[:, :, index] for name, value in self.samples.items()},
            marginals={name: value[index] for name, value in self.marginals.items()},
            deterministic={name: value[:, :, index] for name, value in self.deterministic.items()},
            diverging=None if self.diverging is None else self.diverging[:, :, index],
            acceptance=self.acceptance[:, index],
            step_size=None if self.step_size is None else self.step_size[..., index],
            exchange=None if self.exchange is None else self.exchange[:, index],
        )

    # -- other forms ---------------------------------------------------------------------------------------------

    def get_samples(self, num_samples: int | None = None, group_by_chain: bool = False) -> dict[str, Tensor]:
        """Return the draws of the continuous sites as ``pyro.infer.MCMC`` does, in the shapes that the program has.

        ``pyro.infer.Predictive(model, draws.get_samples())(x_new)`` takes them.

        Args:
            num_samples: draw so many of them, with replacement, in place of all.
            group_by_chain: keep the dimension of chains, ``(C, S, *shape)`` in place of ``(C S, *shape)``.

        Example:
            >>> import pyro, pyro.distributions as dist, pyro_vae as pv
            >>> def model(x):
            ...     mean = pyro.sample("mean", dist.Normal(0.0, 10.0))
            ...     with pyro.plate("data", len(x)):
            ...         pyro.sample("x", dist.Normal(mean, 1.0), obs=x)
            >>> draws = pv.mcmc(model, torch.tensor([1.0, 2.0]), num_samples=50, warmup_steps=50)
            >>> predictive = pyro.infer.Predictive(pyro.poutine.uncondition(model), draws.get_samples())
            >>> predictive(torch.zeros(7))["x"].shape
            torch.Size([200, 7])
        """
        samples = {}
        for name, value in self._continuous.items():
            shaped = value.squeeze(2) if self.plate is None else value.movedim(2, 2 + self.axes.get(name, 0))
            samples[name] = shaped if group_by_chain else shaped.flatten(0, 1)
        if num_samples is None:
            return samples
        S = self.num_samples if group_by_chain else self.num_chains * self.num_samples
        index = torch.randint(S, (num_samples,))
        axis = int(group_by_chain)
        return {name: value.index_select(axis, index.to(value.device)) for name, value in samples.items()}

    def site(self, name: str | None = None) -> str:
        """Return ``name``, or the only site's name.

        Raises:
            ValueError: if there is no such site, or several and none is named.
        """
        if name is None:
            if len(self.samples) == 1:
                return next(iter(self.samples))
            raise ValueError(say("the name of one site", f"{len(self.samples)} sites", f"site={min(self.samples)!r}"))
        return checks.among(name, self.samples, "site")

    def to_empirical(self, site: str | None = None) -> dist.Empirical:
        """Return one site's draws, equally weighted, as Pyro's ``Empirical``: ``batch_shape (N,)``, event the site's.

        Args:
            site: its name; not needed if there is but one.
        """
        pooled = self.samples[self.site(site)].flatten(0, 1).movedim(0, 1)  # (N, C S, *event)
        return dist.Empirical(pooled, self.acceptance.new_zeros(pooled.shape[:2]))

    def to_arviz(self) -> Any:
        """Return ArviZ' InferenceData (DataTree from ArviZ 1 on): groups ``posterior`` and ``sample_stats``.

        Dimensions are ``chain, draw`` and, if there is a data plate, its name. :func:`pyro_vae.to_arviz` adds what
        needs the program: log likelihood, predictive draws and data.
        """
        plate = [] if self.plate is None else [self.plate]

        def shaped(value: Tensor) -> Any:
            return (value if plate else value.squeeze(2)).cpu().numpy()

        values = self.samples | self.deterministic
        posterior = {name: shaped(value) for name, value in values.items()}
        dims = {name: plate + [f"{name}_dim_{i}" for i in range(value.dim() - 3)] for name, value in values.items()}
        statistics = {} if self.diverging is None else {"diverging": shaped(self.diverging)}
        groups = {"posterior": posterior, "sample_stats": statistics}
        return from_groups(groups, {"posterior": dims, "sample_stats": {"diverging": plate}})
