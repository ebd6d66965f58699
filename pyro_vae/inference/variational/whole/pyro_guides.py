"""Pyro's automatic guides, trained on a target."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoContinuous, AutoLaplaceApproximation, AutoNormal, init_to_value
from torch import Tensor
from torch.distributions import constraints

from pyro_vae.checks import say
from pyro_vae.inference.posterior import GuideSampler
from pyro_vae.inference.target.modules import evaluating
from pyro_vae.inference.target.supports import underlying
from pyro_vae.inference.target.target import Target
from pyro_vae.inference.variational.whole.objective import Objective
from pyro_vae.inference.variational.whole.result import Search
from pyro_vae.inference.variational.whole.stochastic import Drawn, ascend

__all__ = ["is_auto_guide", "train_guide"]


def is_auto_guide(guide: Any) -> bool:
    """Whether this is one of Pyro's automatic guides over one vector, or the class of one.

    Raises:
        ValueError: if it is AutoLaplaceApproximation, which nothing trains.
    """
    kind = guide if isinstance(guide, type) else type(guide)
    if issubclass(kind, AutoLaplaceApproximation):
        raise ValueError(say("a guide that an ELBO trains", kind.__name__, "pv.laplace(model, x)"))
    return issubclass(kind, AutoContinuous | AutoNormal)


def train_guide(target: Target, guide: Any, start: Tensor, objective: Objective, *, budget: int) -> Search:
    """Train one of Pyro's automatic guides by Adam, many draws a step through the target at once.

    Args:
        target: the densities.
        guide: the class, made here with its location at the start; or a guide, trained on from where it is.
        start: u ``(N, L)``.
        objective: of log weights.
        budget: gradient evaluations of log p at one u.

    Raises:
        ValueError: if the guide's vector is not that of the target's sites.
    """
    if isinstance(guide, type):
        sites = target.trace(start)
        values = {name: sites[name]["value"] for name in target.sites}
        guide = guide(target.model, init_loc_fn=init_to_value(values=values))
    with evaluating(guide), pyro.validation_enabled(False), poutine.block():
        guide(*target.args)  # makes its parameters
    place = target.layout.places(target.origin.device)
    if _joint(target, guide).event_shape.numel() != place.numel():
        got = f"{_joint(target, guide).event_shape.numel()}"
        raise ValueError(say(f"a guide over {place.numel()} latent numbers", got, "a guide of the same program"))

    def draw(K: int, _: bool) -> Drawn:
        q = _joint(target, guide)
        flat = q.rsample((K,))
        return flat[:, place], q.log_prob(flat).unsqueeze(-1), False

    went = ascend(target, list(guide.parameters()), draw, objective, budget=budget)
    q = GuideSampler(target, guide).distribution
    if q is None:
        q = _Placed(_joint(target, guide), place)
    converged = torch.full((target.num_data,), went.converged, device=start.device)
    spent = went.num_steps * went.particles
    return Search(q, type(guide).__name__, converged, went.reason, spent, went.num_steps, went.num_steps, went.elbos)


def _joint(target: Target, guide: Any) -> Any:
    """The guide's law of all latent numbers, flattened site by site."""
    with pyro.validation_enabled(False), poutine.block():
        if isinstance(guide, AutoContinuous):
            return underlying(guide.get_posterior(*target.args))
        pairs = [guide._get_loc_and_scale(name) for name in target.sites]
    loc, scale = (torch.cat([each.flatten() for each in part]) for part in zip(*pairs, strict=True))
    return dist.Normal(loc, scale, validate_args=False).to_event(1)


class _Placed(dist.TorchDistribution):
    """A law of one flat vector, in the order of u ``(1, L)``."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012  torch's own convention
    support = constraints.real_vector

    def __init__(self, joint: Any, place: Tensor) -> None:
        if len(place) > 1:
            remedy = "AutoNormal, or a guide of the posterior of one datum"
            raise ValueError(say("a guide whose posteriors of data are known apart", "one of all together", remedy))
        self.joint, self.place = joint, place[0]
        super().__init__(torch.Size([1]), place.shape[1:], validate_args=False)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            return self.joint.sample(torch.Size(sample_shape))[..., self.place].unsqueeze(-2)

    def log_prob(self, value: Tensor) -> Tensor:
        flat = value.squeeze(-2)[..., self.place.argsort()]
        return self.joint.log_prob(flat).unsqueeze(-1)

    @property
    def mean(self) -> Tensor:
        return self._draws.mean(0)

    @property
    def variance(self) -> Tensor:
        return self._draws.var(0)

    @property
    def _draws(self) -> Tensor:
        return self.sample((4096,))
