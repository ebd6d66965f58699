"""Variational inference of any program, in one line and without tuning."""

from __future__ import annotations

import time
from typing import Any

from torch import Tensor

from pyro_vae.checks import among, positive_integer, say
from pyro_vae.inference.target.discrete import must_have_continuous
from pyro_vae.inference.target.program import Program
from pyro_vae.inference.target.target import Target, as_target
from pyro_vae.inference.variational.whole.families import FullRank, LowRank, MeanField
from pyro_vae.inference.variational.whole.fixed_noise import maximise
from pyro_vae.inference.variational.whole.flow_family import Flow
from pyro_vae.inference.variational.whole.objective import Objective
from pyro_vae.inference.variational.whole.pyro_guides import is_auto_guide, train_guide
from pyro_vae.inference.variational.whole.result import Search, VIPosterior
from pyro_vae.inference.variational.whole.start import Start, gaussian_start
from pyro_vae.inference.variational.whole.stochastic import train

__all__ = ["vi"]

_GUIDES = ("auto", "flow", "full_rank", "low_rank", "mean_field")
_MOST_FULL = 200  # latent dimension up to which "auto" tries a full covariance
_EXACT = 0.05  # nats: the spread of log w where no other family has anything to win


def vi(
    model: Program | Target,
    x: Tensor | tuple[Any, ...] | None = None,
    guide: Any = "auto",
    *,
    objective: str = "elbo",
    max_gradients: int = 500_000,
    rank: int = 4,
    num_particles: int = 16,
    alpha: float = 0.5,
    plate: str | None = "data",
) -> VIPosterior:
    r"""Return the best member of a family of distributions over u, for every datum, with nothing to be tuned.

    .. math:: q^* = \arg\max_q E_q[\log p(x, u) - \log q(u)]

    1. **Start**: Pathfinder's best Gaussian, moved by natural-gradient steps while they raise the bound.
    2. **Gaussians** (mean_field, full_rank, low_rank): L-BFGS on the mean over draws whose noise is held fixed; then
       four times as many draws, until q stays where it is. Noise is spread evenly, with mean and covariance exactly
       standard, so that on a Gaussian posterior the answer is exact.
    3. **flow**: Real NVP on top of the start, by Adam on fresh draws; steps shrink where the bound stands still, the
       last are averaged.
    4. **auto**: the full covariance (mean field and low rank above 200 latent numbers); and a flow, where the weights
       p / q say that something is left to win. Of these the last whose ELBO is higher by two standard errors.

    Args:
        model: a Pyro program, or a Target in place of program and data.
        x: data ``(N, *D)``, or the program's arguments as a tuple.
        guide: "auto", "mean_field", "full_rank", "low_rank" or "flow"; or one of Pyro's automatic guides over one
            vector, its class or an instance, such as ``AutoNormal`` or ``AutoIAFNormal``.
        objective: what is raised: "elbo", "importance" (the importance-weighted bound) or "renyi" (of order alpha).
        max_gradients: gradient evaluations of log p at one u that may be spent on a posterior, particles and
            "auto"'s every try counted; where they run out, ``converged`` is False and ``reason`` says so.
        rank: r of "low_rank".
        num_particles: K of "importance".
        alpha: order of "renyi".
        plate: the data plate; None for one posterior of the whole program.

    Returns:
        A distribution over u, ``batch_shape (N,)``, ``event_shape (L,)``, with what was spent and how it ended.

    Raises:
        TypeError: if ``guide`` is none of these; as :class:`~pyro_vae.inference.target.target.Target`.
        ValueError: for an unknown name or a number out of range; if every latent site is discrete, or no start of
            finite density is found; as :class:`~pyro_vae.inference.target.target.Target`.

    Source:
        Zhang et al. 2022 (Pathfinder); Khan & Rue 2023 (natural gradients); Giordano, Ingram & Broderick 2024 (fixed
        noise); Agrawal & Domke 2024, arXiv 2412.08824 (flows). docs/vi.md has the measurements behind the choice.

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> def regression(X, y):
        ...     w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        ...     with pyro.plate("rows", len(y)):
        ...         pyro.sample("y", dist.Normal(X @ w, 0.5), obs=y)
        >>> pyro.set_rng_seed(0)
        >>> q = vi(regression, (torch.eye(2), torch.ones(2)), guide="full_rank", plate=None)
        >>> q.mean, bool(q.converged)
        (tensor([[0.8000, 0.8000]]), True)
    """
    begun = time.perf_counter()
    goal = Objective(objective, num_particles, alpha)
    budget = positive_integer(max_gradients, "max_gradients", minimum=100)
    positive_integer(rank, "rank")
    known = isinstance(guide, str)
    if known:
        among(guide, _GUIDES, "guide")
    elif not is_auto_guide(guide):
        remedy = 'guide="auto", or pv.fit for a guide program'
        raise TypeError(say(f"guide as one of {_GUIDES} or an automatic guide of Pyro", repr(guide), remedy))
    target = as_target(model, x, plate=plate)
    must_have_continuous(target)
    start = gaussian_start(target, budget=budget)
    left = budget - start.num_gradients
    if not known:
        found = VIPosterior(target, train_guide(target, guide, start.q.loc, goal, budget=left))
    elif guide == "auto":
        found = _best(target, start, goal, left, rank)
    else:
        found = VIPosterior(target, _search(target, start, guide, goal, budget=left, rank=rank))
    found.num_gradients += start.num_gradients
    found.num_sequential += start.num_sequential
    found.seconds = time.perf_counter() - begun
    return found


def _search(target: Target, start: Start, name: str, goal: Objective, *, budget: int, rank: int) -> Search:
    """The best member of one family."""
    if name == "flow":
        return train(target, Flow(start.q), goal, name=name, budget=budget)
    makers = {"mean_field": MeanField, "full_rank": FullRank, "low_rank": lambda q: LowRank(q, rank)}
    return maximise(target, makers[name](start.q), goal, name=name, budget=budget)


def _best(target: Target, start: Start, goal: Objective, budget: int, rank: int) -> VIPosterior:
    """Families from small to large, while the bound rises by more than its error and the budget lasts."""
    names = ["full_rank", "flow"] if target.latent_dim <= _MOST_FULL else ["mean_field", "low_rank", "flow"]
    best = VIPosterior(target, _search(target, start, names[0], goal, budget=budget, rank=rank))
    gradients, sequential = best.num_gradients, best.num_sequential
    said: list[str] = []
    for name in names[1:]:
        if float(best.elbo_error.max()) * best.num_checks**0.5 < _EXACT:
            said.append(f"{name} was not tried: the weights p / q of {best.guide} are as good as constant")
            break
        if budget - gradients < 0.1 * budget:
            said.append(f"{name} was not tried: the budget of {budget} gradients was nearly spent")
            break
        found = VIPosterior(target, _search(target, start, name, goal, budget=budget - gradients, rank=rank))
        gradients, sequential = gradients + found.num_gradients, sequential + found.num_sequential
        rise = float((found.elbo - best.elbo).mean())
        error = float((found.elbo_error.square() + best.elbo_error.square()).sum().sqrt()) / target.num_data
        said.append(f"{name} raised the bound of {best.guide} by {rise:.3g} +- {error:.1g} nats")
        if not rise > 2 * error:
            break
        best = found
    best.reason = f"{best.guide}: {'; '.join([best.reason, *said])}"
    best.num_gradients, best.num_sequential = gradients, sequential
    return best
