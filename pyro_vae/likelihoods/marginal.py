"""Maximum likelihood without a latent variable: where a decoder starts, and how a column's candidates are judged."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributions import Independent

from pyro_vae.checks import say
from pyro_vae.likelihoods.base import Likelihood
from pyro_vae.likelihoods.counts import Counts
from pyro_vae.likelihoods.discrete import OrderedLogistic

__all__ = ["Marginal", "fit_marginal"]


class _Constant(nn.Module):
    """A network that does not look at z."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.zeros(width))

    def forward(self, z: Tensor) -> Tensor:
        return self.value.expand(*z.shape[:-1], -1)


class Marginal:
    r"""Independent columns, each of a likelihood's family at one parameter: :math:`p(x) = \prod_d p(x_d; \theta_d)`.

    Attributes:
        likelihood: the family, over a network that does not look at z.
        output: what its network gives, ``(P,)``: the last bias at which a decoder starts.
    """

    def __init__(self, likelihood: Likelihood, constant: _Constant) -> None:
        self.likelihood = likelihood
        self._constant = constant

    @property
    def output(self) -> Tensor:
        """What the network gives, ``(P,)``."""
        return self._constant.value.detach()

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log p(x_d) of every entry ``(N, D)``, nats; 0 where it is missing."""
        p = self.likelihood(x.new_zeros(len(x), 1))
        if not isinstance(p, Independent) or p.reinterpreted_batch_ndims != 1:
            got = f"{type(self.likelihood).__name__}, which gives {type(p).__name__}"
            raise ValueError(say("a likelihood of independent columns", got, "likelihoods.Gaussian"))
        missing = x.isnan()
        return p.base_dist.log_prob(torch.where(missing, _present(x), x)).masked_fill(missing, 0.0)


def fit_marginal(make: Callable[[Callable[[int], nn.Module]], Likelihood], x: Tensor, *, steps: int = 100) -> Marginal:
    r"""Fit every column by itself by maximum likelihood, :math:`\max_\theta \sum_n \log p(x_{nd}; \theta_d)`.

    By L-BFGS in double precision over all that the family learns, from the network's output 0 or from the columns' log
    means, whichever is likelier; of free margins by counting.

    Args:
        make: makes the likelihood of a function that makes its network, given the network's width.
        x: the columns ``(N, D)``; NaN is missing.
        steps: of L-BFGS at most.

    Example:
        >>> from pyro_vae.likelihoods import Poisson
        >>> counts = torch.tensor([[0.0, 4.0], [2.0, 6.0]])
        >>> fit_marginal(lambda network: Poisson(network(2)), counts).output.exp().round()
        tensor([1., 5.])
    """
    made: list[_Constant] = []

    def network(width: int) -> nn.Module:
        made.append(_Constant(width))
        return made[-1]

    likelihood = make(network).double()
    marginal, values = Marginal(likelihood, made[-1]), x.double()
    if isinstance(likelihood, OrderedLogistic):  # whose margins are free
        likelihood.start_at(values)
        likelihood.to(x.dtype)
        return marginal
    if isinstance(likelihood, Counts):
        likelihood.bound_by(values)
    count = (~x.isnan()).sum(0).clamp_min(1)

    def loss() -> Tensor:
        return -(marginal.log_prob(values) / count).sum()

    _take_likelier_start(marginal, values, loss)
    optimiser = torch.optim.LBFGS(
        likelihood.parameters(), max_iter=steps, history_size=10, tolerance_grad=1e-6, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss()
        value.backward()
        return value

    optimiser.step(closure)
    likelihood.to(x.dtype)
    return marginal


@torch.no_grad()
def _take_likelier_start(marginal: Marginal, x: Tensor, loss: Callable[[], Tensor]) -> None:
    """Start from the columns' log means in place of 0, where that is likelier."""
    output = marginal.likelihood.get_parameter("network.value")
    if output.numel() < x.shape[1]:
        return
    at_zero = loss()
    output[: x.shape[1]] = x.nanmean(0).clamp_min(1e-6).log()
    if not bool(loss() < at_zero):
        output.zero_()


def _present(x: Tensor) -> Tensor:
    """For each column some value that it holds, ``(D,)``: in the support, whatever that is."""
    there = ~x.isnan()
    first = there.to(torch.uint8).argmax(0)
    return x.gather(0, first[None]).squeeze(0).nan_to_num(0.0)
