"""The batched samplers behind the interface of Pyro's own ``MCMC``."""

from __future__ import annotations

import inspect
from typing import Any

import torch
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
        compile: as in :func:`pyro_vae.mcmc`.

    Raises:
        TypeError, ValueError: for a kernel without model, or numbers that cannot be meant.

    Example:
        >>> import pyro, pyro.distributions as dist
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
        self.compile = compile
        self._draws: Draws | None = None
        self._samples: dict[str, Tensor] = {}

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
        initial = None if self.initial_params is None else _start(target, self.initial_params, self.num_chains)
        self._draws = mcmc(
            target,
            kernel=self.kernel,
            num_samples=self.num_samples,
            warmup_steps=self.warmup_steps,
            num_chains=self.num_chains,
            initial=initial,
            compile=self.compile,
            progress=not self.disable_progbar,
        )
        self._samples = {
            name: value.squeeze(2) if axis is None else value.movedim(2, 2 + axis)
            for name, value in self._draws.samples.items()
            if name in target.sites  # as Pyro's, which does not draw what it sums out: draws.samples has that
            for axis in (target.sites[name].axis,)
        }

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
        samples = self._samples if self.draws else {}
        if num_samples is None:
            return samples if group_by_chain else {name: value.flatten(0, 1) for name, value in samples.items()}
        S = self.draws.num_samples
        if group_by_chain:
            index = torch.randint(S, (num_samples,))
            return {name: value[:, index.to(value.device)] for name, value in samples.items()}
        index = torch.randint(self.draws.num_chains * S, (num_samples,))
        return {name: value.flatten(0, 1)[index.to(value.device)] for name, value in samples.items()}

    def diagnostics(self) -> dict[str, Any]:
        """Return ``n_eff`` and ``r_hat`` by site, and ``divergences`` and ``acceptance rate`` by chain, as Pyro does.

        R-hat and effective sample size are the rank-normalised ones of :class:`pyro_vae.Draws`.
        """
        draws = self.draws
        report: dict[str, Any] = {
            name: {"n_eff": draws.ess_bulk[name], "r_hat": draws.rhat[name]} for name in draws.rhat
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
