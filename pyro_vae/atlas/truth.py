"""What is known of one posterior, site by site, and how it is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pyro_vae.atlas.values import Symmetry, Values, numbers
from pyro_vae.checks import say
from pyro_vae.inference.exact.grids import QuadraturePosterior
from pyro_vae.inference.mcmc.draws import Draws
from pyro_vae.inference.target.target import Target
from pyro_vae.randomness import fork_rng

__all__ = ["NUM_DRAWS", "Truth", "grid_moments", "one_posterior"]

NUM_DRAWS = 1000  # reference draws kept of each posterior
_MOST_DRAWS = 100_000  # for quantiles that have no formula
_MOST_NUMBERS = 1_000_000  # of all of them together
_MOST_ERROR = 0.05  # of a grid's evidence, nats
_SEED = 20261128
_NORMAL_95 = 1.6448536269514722


@dataclass(frozen=True, eq=False)
class Truth:
    """Moments, quantiles and independent draws of one posterior of a whole program, by continuous latent site.

    Every dictionary is by site; values have the site's shape in the program, on the constrained scale.

    Attributes:
        how: "closed form", "quadrature", "enumeration" or "chains".
        mean: posterior means.
        std: posterior standard deviations.
        low: 5 % quantiles.
        high: 95 % quantiles.
        mean_error: standard errors of the means; 0 where they are exact.
        draws: (nearly) independent reference draws, ``(S, *site shape)``, S = 1,000.
        log_evidence: log p(x), nats; None where it is not known.
        log_evidence_error: its error, nats; 0 where exact, None where it is not known.
        provenance: where stored numbers come from: command, versions, the worst R-hat and the least effective size.
    """

    how: str
    mean: Values
    std: Values
    low: Values
    high: Values
    mean_error: Values
    draws: Values
    log_evidence: float | None = None
    log_evidence_error: float | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of_sampler(
        cls,
        sample: Callable[[int], Values],
        *,
        how: str = "closed form",
        mean: Values | None = None,
        std: Values | None = None,
        low: Values | None = None,
        high: Values | None = None,
        log_evidence: float | None = None,
        log_evidence_error: float | None = 0.0,
    ) -> Truth:
        """Return the truth of a posterior that can be sampled exactly.

        What is given by formula is taken; the rest is estimated from many draws, and its error said. The user's
        random stream is not touched, and the same call gives the same truth.

        Args:
            sample: from a number n to n independent draws by site, ``(n, *site shape)``.
            how: by which reasoning it is exact.
            mean: posterior means of some sites, where there are formulas; and so the following three.
            std: posterior standard deviations.
            low: 5 % quantiles.
            high: 95 % quantiles.
            log_evidence: log p(x), nats.
            log_evidence_error: its error, nats.

        Example:
            >>> truth = Truth.of_sampler(lambda n: {"z": torch.randn(n, 2)}, mean={"z": torch.zeros(2)})
            >>> truth.mean["z"], truth.mean_error["z"], truth.draws["z"].shape
            (tensor([0., 0.]), tensor([0., 0.]), torch.Size([1000, 2]))
        """
        with fork_rng(seed=_SEED), torch.no_grad():
            draws = sample(NUM_DRAWS)
            size = sum(value[0].numel() for value in draws.values())
            many = sample(max(NUM_DRAWS, min(_MOST_DRAWS, _MOST_NUMBERS // size)))
        given = mean or {}
        errors = {
            name: torch.zeros_like(value[0]) if name in given else value.std(0) / math.sqrt(len(value))
            for name, value in many.items()
        }
        return cls(
            how=how,
            mean={name: value.mean(0) for name, value in many.items()} | given,
            std={name: value.std(0) for name, value in many.items()} | (std or {}),
            low={name: _quantile(value, 0.05) for name, value in many.items()} | (low or {}),
            high={name: _quantile(value, 0.95) for name, value in many.items()} | (high or {}),
            mean_error=errors,
            draws=draws,
            log_evidence=log_evidence,
            log_evidence_error=None if log_evidence is None else log_evidence_error,
        )

    @classmethod
    def of_distribution(cls, target: Target, posterior: Any, *, how: str) -> Truth:
        """Return the truth that a distribution over u is, such as those of ``analytic`` and ``quadrature``.

        Moments of a grid are sums over it. Those of a distribution are its own where u is the latent sites themselves,
        and quantiles too where it is Gaussian. All others come from many of its draws.

        Args:
            target: one posterior of a whole program.
            posterior: ``batch_shape (1,)`` and ``event_shape (L,)`` over u, drawn from exactly.
            how: "closed form", "quadrature" or "enumeration".

        Raises:
            ValueError: if there are several posteriors, or a grid's error bound is above a twentieth of a nat.

        Example:
            >>> import pyro, pyro.distributions as dist, pyro_vae as pv
            >>> def model(x):
            ...     z = pyro.sample("z", dist.Normal(0.0, 1.0))
            ...     pyro.sample("x", dist.Normal(z, 1.0), obs=x)
            >>> target = pv.Target(model, torch.tensor(1.0))
            >>> truth = Truth.of_distribution(target, pv.analytic(target), how="closed form")
            >>> float(truth.mean["z"]), round(truth.log_evidence, 4)
            (0.5, -1.5155)
        """
        one_posterior(target)

        def sample(n: int) -> Values:
            return target.constrain(posterior.sample((n,)))

        known: dict[str, Values] = {}
        if isinstance(posterior, QuadraturePosterior):
            known = grid_moments(target, posterior)
        elif all(_is_identity(target, name) for name in target.sites):
            known = _own_moments(target, posterior)
        evidence = getattr(posterior, "log_evidence", None)
        bound = getattr(posterior, "error_bound", None)
        return cls.of_sampler(
            sample,
            how=how,
            **known,
            log_evidence=None if evidence is None else float(evidence),
            log_evidence_error=0.0 if bound is None else float(bound),
        )

    @classmethod
    def of_chains(
        cls,
        target: Target,
        draws: Draws,
        *,
        symmetry: Symmetry | None = None,
        max_rhat: float = 1.01,
        min_ess: float = 4000.0,
        max_diverging: float = 1e-3,
    ) -> Truth:
        """Return the truth that long chains tell, if they have converged.

        Args:
            target: one posterior of a whole program.
            draws: chains of it; at least its continuous latent sites.
            symmetry: maps under which the posterior is the same; chains are then judged modulo these.
            max_rhat: the largest R-hat of any number.
            min_ess: the least effective sample size, of bulk and tails, of any number.
            max_diverging: the largest share of draws whose trajectory diverged.

        Raises:
            ValueError: if there are several posteriors, or the chains have not converged; it says where.

        Example:
            >>> import pyro, pyro.distributions as dist, pyro_vae as pv
            >>> def model(x):
            ...     z = pyro.sample("z", dist.Normal(0.0, 1.0))
            ...     pyro.sample("x", dist.Normal(z, 1.0), obs=x)
            >>> target = pv.Target(model, torch.tensor(1.0))
            >>> draws = pv.mcmc(target, num_samples=20, warmup_steps=20)
            >>> Truth.of_chains(target, draws)
            Traceback (most recent call last):
            ...
            ValueError: expected chains with R-hat below 1.01 and an effective size above 4000; got ...
        """
        one_posterior(target)
        values = {name: draws.samples[name].squeeze(2) for name in target.sites}  # (C, S, *shape)
        if symmetry is not None:
            values = symmetry.fold(values)
        judged = Draws({name: value.unsqueeze(2) for name, value in values.items()}, draws.acceptance)
        share = 0.0 if draws.diverging is None else float(draws.diverging.double().mean())
        if share > max_diverging:
            got, remedy = f"{share:.2%}", "a larger target acceptance, or another parametrisation of the same posterior"
            raise ValueError(say(f"at most {max_diverging:.2%} of the draws to diverge", got, remedy))
        worst = _worst(judged)
        _must_have_converged(worst, max_rhat, min_ess)
        images = (dict,) if symmetry is None else symmetry.images
        pooled = {name: value.flatten(0, 1) for name, value in values.items()}
        spread = [image(pooled) for image in images]
        joined = {name: torch.cat([image[name] for image in spread]) for name in pooled}
        # an image's mean has the error of its own chains; all of them come from the same draws, so errors may add up
        errors = [
            Draws({n: v.unsqueeze(2) for n, v in image(values).items()}, draws.acceptance).mcse for image in images
        ]
        order = torch.linspace(0, len(next(iter(pooled.values()))) - 1, NUM_DRAWS).long()
        which = torch.arange(NUM_DRAWS) % len(images)
        return cls(
            how="chains",
            mean={name: value.mean(0) for name, value in joined.items()},
            std={name: value.std(0) for name, value in joined.items()},
            low={name: _quantile(value, 0.05) for name, value in joined.items()},
            high={name: _quantile(value, 0.95) for name, value in joined.items()},
            mean_error={name: torch.stack([e[name].squeeze(0) for e in errors]).mean(0) for name in joined},
            draws={name: torch.stack([image[name] for image in spread])[which, order].clone() for name in joined},
            provenance={"rhat": worst[0][1], "ess": worst[1][1], "diverging": share, "engine": draws.engine},
        )


def one_posterior(target: Target) -> None:
    """Check that a target is one posterior, as everything in the atlas is.

    Raises:
        ValueError: if it is several.
    """
    if target.num_data != 1:
        got = f"{target.num_data} posteriors, one a datum"
        raise ValueError(say("one posterior of a whole program", got, "plate=None"))


def _quantile(draws: Tensor, p: float) -> Tensor:
    """A quantile over the first dimension, by sorting: ``torch.quantile`` takes no large tensors."""
    ordered = draws.sort(0).values
    place = p * (len(draws) - 1)
    below = math.floor(place)
    return torch.lerp(ordered[below], ordered[min(below + 1, len(draws) - 1)], place - below)


def _is_identity(target: Target, name: str) -> bool:
    u = torch.linspace(-1.3, 0.7, target.latent_dim).to(target.origin).expand_as(target.origin)
    raw = u[..., target.sites[name].columns].flatten()
    value = target.constrain(u)[name].flatten()
    return raw.shape == value.shape and bool(torch.equal(raw, value))


def _own_moments(target: Target, posterior: Any) -> dict[str, Values]:
    """Moments by a distribution's own formulas, where it has finite ones."""
    try:
        mean, std = posterior.mean, posterior.variance.sqrt()
    except NotImplementedError:
        return {}
    if not bool(mean.isfinite().all() and std.isfinite().all()):
        return {}
    moments = {"mean": mean, "std": std}
    if isinstance(posterior, torch.distributions.MultivariateNormal):
        moments |= {"low": mean - _NORMAL_95 * std, "high": mean + _NORMAL_95 * std}
    return {name: target.constrain(value) for name, value in moments.items()}


def grid_moments(target: Target, posterior: QuadraturePosterior) -> dict[str, Values]:
    """Mean and standard deviation of the constrained sites, summed over the grid.

    Raises:
        ValueError: if the grid has not resolved the posterior.
    """
    bound = float(posterior.error_bound)
    if not bound <= _MOST_ERROR:
        remedy = "more points (max_points), or fewer latent numbers"
        raise ValueError(say(f"a grid with an error bound of at most {_MOST_ERROR} nats", f"{bound:.3g}", remedy))
    shapes = {name: value.shape for name, value in target.constrain(target.origin).items()}

    def flat(u: Tensor) -> Tensor:
        values = target.constrain(u)
        return torch.cat([values[name].reshape(len(u), 1, -1) for name in shapes], -1)

    mean = posterior.expectation(flat)
    std = posterior.expectation(lambda u: (flat(u) - mean).square()).sqrt()
    sizes = [shape.numel() for shape in shapes.values()]
    return {
        what: {
            name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), value[0].split(sizes), strict=True)
        }
        for what, value in (("mean", mean), ("std", std))
    }


def _worst(draws: Draws) -> list[tuple[str, float]]:
    """The number with the largest R-hat and the one with the least effective size; what never moves is not judged."""
    moves = {name: (value != value[:1, :1]).any(1).any(0).flatten() for name, value in draws.samples.items()}
    found = []
    sizes = {name: torch.minimum(draws.ess_bulk[name], draws.ess_tail[name]) for name in draws.samples}
    for values, sign in ((draws.rhat, 1.0), (sizes, -1.0)):
        named = [
            (label, float(value))
            for name, each in values.items()
            for (label, value), moving in zip(numbers({name: each.squeeze(0)}), moves[name], strict=True)
            if moving
        ]
        found.append(max(named, key=lambda pair: math.inf if math.isnan(pair[1]) else sign * pair[1]))
    return found


def _must_have_converged(worst: list[tuple[str, float]], max_rhat: float, min_ess: float) -> None:
    (rhat_name, rhat), (ess_name, ess) = worst
    if rhat < max_rhat and ess > min_ess:
        return
    expected = f"chains with R-hat below {max_rhat:g} and an effective size above {min_ess:g}"
    got = f"R-hat {rhat:.4f} of {rhat_name} and an effective size of {ess:.0f} of {ess_name}"
    raise ValueError(say(expected, got, "longer chains, or a symmetry under which they agree"))
