"""The batched samplers behind the interface of Pyro's own ``MCMC``."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Sequence
from typing import Any, cast

from torch import Tensor, nn

from pyro_vae import checks
from pyro_vae.checks import say
from pyro_vae.inference.mcmc.draws import Draws
from pyro_vae.inference.mcmc.kernels.base import Kernel
from pyro_vae.inference.mcmc.run import mcmc
from pyro_vae.inference.target.legality import DEFAULT_PLATE, PlateError
from pyro_vae.inference.target.target import Target

__all__ = ["MCMC"]


class MCMC:
    """Takes and gives what ``pyro.infer.MCMC`` does, and moves all chains (and all data of a plate) as one tensor.

    Chains cost no processes: ``num_chains=100`` is as good a number as 4. Samples have the shapes that the program
    gives its sites, behind one dimension of draws, or two of chains and draws.

    Args:
        kernel: a kernel that was given its model, such as ``pv.NUTS(model)``.
        num_samples: S, draws kept a chain.
        warmup_steps: steps on which to adapt; as many as draws if not given, as in Pyro.
        num_chains: C.
        plate: name of the data plate: its rows are sampled as posteriors of their own where it holds every latent
            site; otherwise, and with None, there is one posterior of the whole program.
        disable_progbar: show no progress.
        initial_params: where to start: as in Pyro, one value a site on the unconstrained scale, behind a dimension of
            chains unless there is but one.
        hook_fn: called as ``hook_fn(kernel, samples, stage, i)`` after every step, as Pyro does: ``samples`` are
            unconstrained values by site, behind a dimension of chains unless there is but one; the stage is "Warmup"
            or "Sample".
        mp_context: taken for Pyro's sake, with a warning: chains are no processes here.
        disable_validation: as mp_context, where it is False: a chain that ran away is a density of zero, not an error.
        transforms: only None: a site's transform is that of its support.
        save_params: the sites to keep, all if None.
        compile: as in :func:`pyro_vae.mcmc`.

    Raises:
        TypeError, ValueError: for a kernel without model, transforms, or numbers that cannot be meant.

    Example:
        >>> import pyro, pyro.distributions as dist, torch
        >>> from pyro_vae.inference.mcmc.kernels.nuts import NUTS
        >>> def model(x):
        ...     mean = pyro.sample("mean", dist.Normal(0.0, 10.0))
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("x", dist.Normal(mean, 1.0), obs=x)
        >>> mcmc = MCMC(NUTS(model), num_samples=50, warmup_steps=50, num_chains=4, disable_progbar=True)
        >>> mcmc.run(torch.tensor([1.0, 2.0, 3.0]))
        >>> mcmc.get_samples()["mean"].shape, mcmc.get_samples(group_by_chain=True)["mean"].shape
        (torch.Size([200]), torch.Size([4, 50]))
    """

    def __init__(
        self,
        kernel: Kernel,
        num_samples: int,
        warmup_steps: int | None = None,
        num_chains: int = 1,
        *,
        plate: str | None = DEFAULT_PLATE,
        disable_progbar: bool = False,
        initial_params: dict[str, Tensor] | None = None,
        hook_fn: Callable[..., None] | None = None,
        mp_context: str | None = None,
        disable_validation: bool | None = True,
        transforms: dict[str, Any] | None = None,
        save_params: Sequence[str] | None = None,
        compile: bool | None = None,
    ) -> None:
        if not isinstance(kernel, Kernel):
            raise TypeError(say("a kernel of pyro_vae", type(kernel).__name__, "pyro_vae.NUTS(model)"))
        if kernel.model is None:
            name = type(kernel).__name__
            raise ValueError(say("a kernel with its model", f"{name}()", f"{name}(model)"))
        self.kernel = kernel
        self.num_samples = checks.positive_integer(num_samples, "num_samples")
        steps = num_samples if warmup_steps is None else warmup_steps
        self.warmup_steps = checks.positive_integer(steps, "warmup_steps", minimum=0)
        self.num_chains = checks.positive_integer(num_chains, "num_chains")
        self.plate = plate
        self.disable_progbar = disable_progbar
        self.initial_params = initial_params
        self.hook_fn = hook_fn
        self.save_params = None if save_params is None else list(save_params)
        if transforms is not None:
            raise ValueError(
                say("transforms=None", f"those of {sorted(transforms)}", "a program whose supports have them")
            )
        ignored = {"mp_context": mp_context is not None, "disable_validation": disable_validation is False}
        for name in (name for name, given in ignored.items() if given):
            warnings.warn(f"{name} changes nothing: all chains move as one tensor in this process", stacklevel=2)
        self.compile = compile
        self._draws: Draws | None = None

    def run(self, *args: Any, **kwargs: Any) -> None:
        """Sample the posterior of ``model(*args, **kwargs)``.

        Raises:
            TypeError: if the model does not take these arguments, or takes some by name alone.
        """
        model, arguments = self.kernel.model, _positional(self.kernel.model, args, kwargs)
        try:
            target = Target(model, arguments, plate=self.plate)
        except PlateError:
            if self.plate != DEFAULT_PLATE:
                raise
            target = Target(model, arguments, plate=None)
        unknown = set(self.save_params or ()) - set(target.sites)
        if unknown:
            raise ValueError(say(f"save_params among {list(target.sites)}", f"{sorted(unknown)}", "the sites' names"))
        initial = None if self.initial_params is None else _start(target, self.initial_params, self.num_chains)
        self._draws = mcmc(
            target,
            kernel=self.kernel,
            num_samples=self.num_samples,
            warmup_steps=self.warmup_steps,
            num_chains=self.num_chains,
            initial=initial,
            compile=self.compile,
            callback=None if self.hook_fn is None else self._hook(target),
            progress=not self.disable_progbar,
        )

    def _hook(self, target: Target) -> Callable[[str, int, Tensor], None]:
        """Pyro's hook as what :func:`mcmc` calls."""
        stages = {"warm-up": "Warmup", "sampling": "Sample"}

        def told(stage: str, step: int, u: Tensor) -> None:
            raw = {name: target.layout.unpack(u, site) for name, site in target.sites.items()}
            samples = raw if self.num_chains > 1 else {name: value.squeeze(0) for name, value in raw.items()}
            cast(Any, self.hook_fn)(self.kernel, samples, stages[stage], step)

        return told

    @property
    def draws(self) -> Draws:
        """The run's result in this package's own form.

        Raises:
            RuntimeError: before ``run``.
        """
        if self._draws is None:
            raise RuntimeError(say("samples", "none yet", "run(x) first"))
        return self._draws

    def get_samples(self, num_samples: int | None = None, group_by_chain: bool = False) -> dict[str, Tensor]:
        """Return the draws by site, ``(C S, *shape)``, or ``(C, S, *shape)`` if they are grouped by chain.

        Args:
            num_samples: draw so many of them, with replacement, in place of all.
            group_by_chain: keep the dimension of chains.
        """
        found = self.draws.get_samples(num_samples, group_by_chain)
        return found if self.save_params is None else {name: found[name] for name in self.save_params}

    def diagnostics(self) -> dict[str, Any]:
        """Return ``n_eff`` and ``r_hat`` by site, and ``divergences`` and ``acceptance rate`` by chain, as Pyro does.

        R-hat and effective sample size are the rank-normalised ones of :class:`pyro_vae.Draws`.
        """
        draws = self.draws
        report: dict[str, Any] = {
            name: {"n_eff": draws.ess_bulk[name], "r_hat": draws.rhat[name]}
            for name in (draws.rhat if self.save_params is None else self.save_params)
        }
        chains = range(draws.num_chains)
        diverging = draws.diverging
        report["divergences"] = {
            f"chain {c}": [] if diverging is None else diverging[c].any(-1).nonzero().flatten().tolist() for c in chains
        }
        report["acceptance rate"] = {f"chain {c}": float(draws.acceptance[c].mean()) for c in chains}
        return report

    def summary(self, prob: float = 0.9) -> None:
        """Print Pyro's table of means, quantiles and diagnostics.

        Args:
            prob: probability of the interval shown.
        """
        from pyro.infer.mcmc.util import print_summary

        print_summary(self.get_samples(group_by_chain=True), prob)
        print(self.draws.verdict)


def _positional(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """The model's arguments in order: a target knows no others."""
    if not kwargs:
        return args
    signature = inspect.signature(model.forward if isinstance(model, nn.Module) else model)
    bound = signature.bind(*args, **kwargs)
    if bound.kwargs:
        got = f"{sorted(bound.kwargs)} by name alone"
        raise TypeError(say("arguments that can be given by position", got, "functools.partial(model, ...)"))
    return bound.args


def _start(target: Target, values: dict[str, Tensor], num_chains: int) -> Tensor:
    """Pyro's ``initial_params`` as u ``(C, N, L)``."""
    if set(values) != set(target.sites):
        raise ValueError(say(f"initial_params of the sites {list(target.sites)}", f"{list(values)}", "naming each"))
    raw = {}
    for name, site in target.sites.items():
        raw[name] = values[name] if num_chains > 1 else values[name].unsqueeze(0)
        if raw[name].shape != (num_chains, *site.program_shape):
            shape = site.program_shape if num_chains == 1 else (num_chains, *site.program_shape)
            remedy = "unconstrained values as the program samples them, chains first"
            expected = f"initial_params[{name!r}] of shape {tuple(shape)}"
            raise ValueError(say(expected, f"{tuple(values[name].shape)}", remedy))
    return target.layout.join(raw)
