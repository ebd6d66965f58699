"""Where training starts: at independent columns, or at the best linear model of them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from pyro_vae.datasets.kinds import Schema
from pyro_vae.factor_analysis import FactorAnalysis, factor_analysis
from pyro_vae.guides import DiagonalGaussian
from pyro_vae.likelihoods import Likelihood, Mixed
from pyro_vae.likelihoods.marginal import fit_marginal
from pyro_vae.likelihoods.observed import ObservedEntries
from pyro_vae.model import Model
from pyro_vae.networks import ColumnFeatures, SkipHead
from pyro_vae.priors import GaussianMixture, StandardNormal
from pyro_vae.runs.build import make_likelihood
from pyro_vae.scales import raw_scale

__all__ = ["can_start_linearly", "choose_factors", "linear_start", "marginal_start"]

_MOST_ROWS = 4_000  # to fit a start to
_LATENT_DIMS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
_MOST_COMPONENTS = 8
_CHOOSING_ROWS = 1_000
_FOLDS = 4
_PSEUDO_ROWS = 0.5
_GAIN = 0.01  # nats a row that a candidate must be better by


def marginal_start(model: Model, guide: nn.Module, schema: Schema, x: Tensor) -> None:
    r"""Let the decoder start at each column's own marginal, so that the first ELBO is that of independent columns.

    Its last bias becomes the columns' maximum-likelihood parameters, its weights 0; the encoder starts near the prior,
    with means that depend a little on x, so that there is something to rise on.

    Args:
        model: of ``build``.
        guide: of ``build``.
        schema: of the table.
        x: training data ``(N, D)``; some thousand rows are enough.
    """
    x = x[:_MOST_ROWS]
    for part, columns, text, K in _parts(model.likelihood, schema):
        D = columns.stop - columns.start
        marginal = fit_marginal(partial(make_likelihood, text, D, K), x[:, columns])
        with torch.no_grad():
            for name, value in marginal.likelihood.named_parameters():
                if not name.startswith("network."):
                    part.get_parameter(name).copy_(value)
            head = _head(part)
            head.linear.weight.zero_()
            head.linear.bias.copy_(marginal.output)
    network = getattr(guide, "network", None)
    if isinstance(network, ColumnFeatures):
        network.standardise(x)
        if isinstance(network.network, SkipHead):
            with torch.no_grad():
                network.network.linear.weight.mul_(0.3)


def can_start_linearly(model: nn.Module, guide: nn.Module) -> bool:
    """Say whether a linear start has a place: a diagonal Gaussian guide over columns, a normal or mixture prior."""
    return (
        isinstance(model, Model)
        and isinstance(model.prior, StandardNormal | GaussianMixture)
        and isinstance(guide, DiagonalGaussian)
        and isinstance(guide.network, ColumnFeatures)
    )


def linear_start(model: Model, guide: nn.Module, schema: Schema, x: Tensor, *, seed: int = 0) -> None:
    r"""Start at factor analysis of the columns on the encoder's scale.

    The guide's linear part becomes the posterior of the factors, exact where all columns are Gaussian and complete.
    The decoder's becomes the regression of the columns on draws from it, by maximum likelihood of each column's own
    family; of Gaussian columns that is factor analysis again.

    Args:
        model: of ``build``.
        guide: of ``build``, a diagonal Gaussian.
        schema: of the table.
        x: training data ``(N, D)``.
        seed: of the draws.
    """
    marginal_start(model, guide, schema, x)
    x = x[:_MOST_ROWS]
    columns: ColumnFeatures = guide.network  # type: ignore[assignment]
    features = columns.features(x).double()
    K = len(model.prior.logits) if isinstance(model.prior, GaussianMixture) else 1
    factors = factor_analysis(features, model.latent_dim, num_components=K, pseudo_rows=_PSEUDO_ROWS, seed=seed)
    _start_encoder(columns, factors, model.latent_dim)
    generator = torch.Generator().manual_seed(seed)
    draws = max(1, min(32, 8_000 // len(x)))
    z = factors.sample_posterior(features, draws, generator=generator)
    if isinstance(model.prior, GaussianMixture):
        model.prior.start_at(factors.weights, factors.means, factors.covariances)
    for part, own, _, _ in _parts(model.likelihood, schema):
        _regress(part, z.flatten(0, 1), x[:, own].double().repeat(draws, 1), num_rows=len(x), missing=schema.missing)


def choose_factors(
    features: Tensor, *, latent_dim: int | None = None, num_components: int | None = None, seed: int = 0
) -> tuple[int, int]:
    """Return L, and how many components the factors have, by the likelihood of rows held out of factor analysis.

    The best L of one component comes first, then the best number of components of that L, then the best L of those,
    at most as large.

    Args:
        features: ``(N, F)`` on one scale; NaN is missing.
        latent_dim: L, where it is not to be chosen.
        num_components: of the factors, where that is not to be chosen.
        seed: of the folds.
    """
    generator = torch.Generator().manual_seed(seed)
    features = features[torch.randperm(len(features), generator=generator)[:_CHOOSING_ROWS]].double()
    N, F = features.shape
    most = max(1, min(F - 1, N // 4))
    dims = [latent_dim] if latent_dim else [L for L in _LATENT_DIMS if most >= L]
    components = [num_components] if num_components else list(range(1, min(_MOST_COMPONENTS, N // 10) + 1))
    L = _best(dims, lambda L: _held_out(features, L, 1))
    K = _best(components, lambda K: _held_out(features, L, K))
    if K > 1:  # what one component needs factors for, several may say with fewer
        L = _best([fewer for fewer in reversed(dims) if fewer <= L], lambda L: _held_out(features, L, K))
    return L, K


def _best(candidates: Sequence[int], score: Callable[[int], float]) -> int:
    """The candidate of the highest score; two in a row that are no better end the search."""
    best, highest, worse = 1, -math.inf, 0
    for candidate in candidates:
        value = score(candidate) if len(candidates) > 1 else 0.0
        best, highest, worse = (candidate, value, 0) if value > highest + _GAIN else (best, highest, worse + 1)
        if worse == 2:
            break
    return best


def _held_out(features: Tensor, L: int, K: int) -> float:
    """Log likelihood a row, by fits to the other folds."""
    N = len(features)
    fold = torch.arange(N) % min(_FOLDS, N)
    total = 0.0
    for k in fold.unique() if N > 1 else ():
        rest = features[fold != k]
        found = factor_analysis(rest, L, num_components=K, pseudo_rows=_PSEUDO_ROWS, steps=60, tolerance=1e-3)
        total += float(found.log_prob(features[fold == k]).sum())
    return total / N


def _parts(likelihood: Likelihood, schema: Schema) -> list[tuple[Likelihood, slice, str, int]]:
    """The likelihood's parts with their columns of x, their names and K."""
    groups, parts = schema.groups(), [likelihood]
    if isinstance(likelihood, Mixed):
        parts = [part for part in likelihood.parts if isinstance(part, Likelihood)]
    else:
        groups = [(groups[0][0], schema.data_dim, max(schema.num_categories))]
    found, first = [], 0
    for part, (text, D, K) in zip(parts, groups, strict=True):
        found.append((part, slice(first, first + D), text, K))
        first += D
    return found


def _head(part: Likelihood) -> SkipHead:
    """The network of a part, which ``build`` made a head."""
    head: SkipHead = part.network  # type: ignore[assignment]
    return head


@torch.no_grad()
def _start_encoder(columns: ColumnFeatures, factors: FactorAnalysis, L: int) -> None:
    """Let a head on features give the posterior of the factors: its mean, and the raw scale of its deviations."""
    head: SkipHead = columns.network  # type: ignore[assignment]
    precision = 1 + (factors.loadings.square() / factors.variance.unsqueeze(-1)).sum(0)  # diagonal, by the rotation
    to_mean = (factors.loadings / factors.variance.unsqueeze(-1)).T / precision.unsqueeze(-1)  # (L, F)
    head.linear.weight.zero_()
    head.linear.weight[:L, : to_mean.shape[1]] = to_mean.to(head.linear.weight)
    head.linear.bias[:L] = -(to_mean @ factors.loc).to(head.linear.bias)
    head.linear.bias[L:] = raw_scale(precision.rsqrt().clamp_min(1e-4)).to(head.linear.bias)


def _regress(part: Likelihood, z: Tensor, x: Tensor, *, num_rows: int, missing: bool) -> None:
    """Fit a part's linear head to columns given z, by penalised maximum likelihood: a weight is N(0, 1) beforehand."""
    working = copy.deepcopy(part).double()
    linear = _head(working).linear
    others = [value for name, value in working.named_parameters() if not name.startswith("network.")]
    parameters = [linear.weight, linear.bias, *others]
    optimiser = torch.optim.LBFGS(parameters, max_iter=100, tolerance_grad=1e-6, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        p = working(z)
        log_prob = (ObservedEntries(p) if missing else p).log_prob(x).mean()
        value: Tensor = -log_prob + linear.weight.square().sum() / (2 * num_rows)
        value.backward()
        return value

    before = float(loss().detach())
    saved = copy.deepcopy(working.state_dict())
    optimiser.step(loss)
    after = float(loss().detach())
    if not after < before:  # a climb that went astray leaves the margins
        working.load_state_dict(saved)
    part.load_state_dict({name: value.to(part.state_dict()[name]) for name, value in working.state_dict().items()})
