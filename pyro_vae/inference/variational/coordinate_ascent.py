"""Mean-field variational inference of the linear-Gaussian model by closed-form coordinate ascent (CAVI)."""

from __future__ import annotations

import time
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.checks import positive_integer, positive_number
from pyro_vae.inference.exact.analytic import analytic
from pyro_vae.inference.target.program import Program
from pyro_vae.inference.target.target import Target

__all__ = ["MeanFieldPosterior", "coordinate_ascent"]


class MeanFieldPosterior(dist.Independent):
    """The mean-field Gaussian, ``batch_shape (N,)``, ``event_shape (L,)``.

    Attributes:
        elbo: the evidence lower bound after every sweep, ``(sweeps + 1, N)``, nats per datum; it never falls.
        num_sweeps: how many sweeps were made.
        seconds: wall time.
    """

    elbo: Tensor
    num_sweeps: int
    seconds: float


@torch.no_grad()
def coordinate_ascent(
    model: Program | Target,
    x: Tensor | tuple[Any, ...] | None = None,
    *,
    max_sweeps: int = 1000,
    tolerance: float = 1e-10,
    plate: str | None = "data",
) -> MeanFieldPosterior:
    r"""Return the best Gaussian with independent dimensions, one dimension at a time.

    With the exact posterior :math:`N(m, \Lambda^{-1})`, the optimal factor given the others is

    .. math:: q(z_l) = N\big(m_l - \Lambda_{ll}^{-1} \textstyle\sum_{k \ne l} \Lambda_{lk} (\mu_k - m_k),\;
              \Lambda_{ll}^{-1}\big).

    Sweeps are made over l until no mean moves; they converge to mu = m, with variances that are too small wherever
    the posterior is correlated, and :math:`ELBO = \log p(x) - KL`, where
    :math:`KL = \tfrac12 (\sum_l \log \Lambda_{ll} - \log|\Lambda|) + \tfrac12 (\mu - m)^\top \Lambda (\mu - m)`.

    Source: Bishop 2006, Pattern Recognition and Machine Learning, section 10.1.2.

    Args:
        model: a linear-Gaussian Pyro program, as for :func:`~pyro_vae.inference.exact.analytic.analytic`,
            or a Target in place of program and data.
        x: data ``(N, *D)``, or the program's arguments as a tuple.
        max_sweeps: at most so many sweeps.
        tolerance: the sweeps end once no mean moves by more, in posterior standard deviations.
        plate: the data plate.

    Raises:
        TypeError: if ``max_sweeps`` is no whole number.
        ValueError: if the program is not linear-Gaussian, or a number not positive.

    Example:
        >>> from pyro_vae import Model, likelihoods, networks, priors
        >>> model = Model(priors.StandardNormal(2), likelihoods.Gaussian(networks.mlp(2, 5), scale=0.5))
        >>> coordinate_ascent(model, torch.zeros(7, 5)).event_shape
        torch.Size([2])
    """
    start = time.perf_counter()
    positive_integer(max_sweeps, "max_sweeps")
    positive_number(tolerance, "tolerance", example=1e-10)
    exact = analytic(model, x, plate=plate)
    m, precision = exact.mean.double(), exact.precision_matrix.double()  # (N, L), (N, L, L)
    diagonal = precision.diagonal(dim1=-2, dim2=-1)
    spread = 0.5 * (diagonal.log().sum(-1) - torch.linalg.slogdet(precision)[1])

    def elbo(mu: Tensor) -> Tensor:
        off = mu - m
        return exact.log_evidence.double() - spread - 0.5 * torch.einsum("nl,nlk,nk->n", off, precision, off)

    mu = torch.zeros_like(m)
    values, sweeps = [elbo(mu)], 0
    while sweeps < max_sweeps:
        before = mu.clone()
        for dim in range(mu.shape[-1]):
            pull = (precision[:, dim] * (mu - m)).sum(-1) - diagonal[:, dim] * (mu - m)[:, dim]
            mu[:, dim] = m[:, dim] - pull / diagonal[:, dim]
        sweeps += 1
        values.append(elbo(mu))
        if float(((mu - before) * diagonal.sqrt()).abs().max()) < tolerance:
            break

    like = exact.mean
    posterior = MeanFieldPosterior(dist.Normal(mu.to(like), diagonal.rsqrt().to(like)), 1)
    posterior.elbo = torch.stack(values).to(like)
    posterior.num_sweeps, posterior.seconds = sweeps, time.perf_counter() - start
    return posterior
