"""Where training starts: at independent columns, or at the best linear model of them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae.datasets.kinds import Schema
from pyro_vae.factor_analysis import FactorAnalysis, factor_analysis
from pyro_vae.guides import DiagonalGaussian, ProductOfExperts
from pyro_vae.likelihoods import Likelihood, Mixed
from pyro_vae.likelihoods.counts import Counts
from pyro_vae.likelihoods.location_scale import LocationScale
from pyro_vae.likelihoods.marginal import fit_marginal
from pyro_vae.likelihoods.observed import ObservedEntries
from pyro_vae.model import Model
from pyro_vae.networks import ColumnFeatures, SkipHead
from pyro_vae.priors import GaussianMixture, StandardNormal
from pyro_vae.runs.build import make_likelihood
from pyro_vae.scales import raw_scale, to_scale

__all__ = ["bound_counts", "can_start_linearly", "choose_factors", "linear_start", "marginal_start", "widen_scales"]

_MOST_ROWS = 4_000  # to fit a start to
_LATENT_DIMS = (1, 2, 3, 4, 6, 8, 12, 16)
_MOST_COMPONENTS = 8
_START_DRAWS = 8_000  # of the factors, to regress columns on
_CHOOSING_ROWS = 1_000
_FOLDS = 4
_ENOUGH_ROWS = 200  # held out: no more folds are needed
_PSEUDO_ROWS = 0.5
_NO_PRECISION = 0.02  # that a network adds at first: one that it can learn from
_FAR = 4.0  # standard deviations
_STILL = 0.2  # standard deviations, of a column that has hardly any in a fold
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
            own = part.state_dict()
            for name, value in marginal.likelihood.state_dict().items():
                if not name.startswith("network."):
                    own[name].copy_(value)
            head = _head(part)
            head.linear.weight.zero_()
            head.linear.bias.copy_(marginal.output)
    network = getattr(guide, "network", None)
    if isinstance(network, ColumnFeatures):
        network.standardise(x)
        if isinstance(network.network, SkipHead):
            with torch.no_grad():
                network.network.linear.weight.mul_(0.3)


def bound_counts(likelihood: Likelihood, schema: Schema, x: Tensor) -> None:
    """Let the means of counts that are bounded by the data be bounded by these, ``(N, D)``."""
    for part, columns, _, _ in _parts(likelihood, schema):
        if isinstance(part, Counts):
            part.bound_by(x[:, columns])


def can_start_linearly(model: nn.Module, guide: nn.Module) -> bool:
    """Say whether a linear start has a place: a guide over columns that can hold it, a normal or mixture prior."""
    return (
        isinstance(model, Model)
        and isinstance(model.prior, StandardNormal | GaussianMixture)
        and isinstance(guide, DiagonalGaussian | ProductOfExperts)
        and isinstance(guide.network, ColumnFeatures)
    )


def linear_start(model: Model, guide: Any, schema: Schema, x: Tensor, *, seed: int = 0) -> None:
    r"""Start at factor analysis of the columns on the encoder's scale.

    The guide's linear part becomes the posterior of the factors, exact where all columns are Gaussian and complete.
    The decoder's becomes the regression of the columns on draws from it, by maximum likelihood of each column's own
    family; of Gaussian columns that is factor analysis again.

    Args:
        model: of ``build``.
        guide: of ``build``, one that can start linearly.
        schema: of the table.
        x: training data ``(N, D)``.
        seed: of the draws.
    """
    marginal_start(model, guide, schema, x)
    x = x[:_MOST_ROWS]
    columns: ColumnFeatures = guide.network
    generator = torch.Generator().manual_seed(seed)
    features = columns.dequantised(x, generator).double()
    K = len(model.prior.logits) if isinstance(model.prior, GaussianMixture) else 1
    factors = factor_analysis(features, model.latent_dim, num_components=K, pseudo_rows=_PSEUDO_ROWS, seed=seed)
    _start_encoder(guide, factors)
    draws = max(1, min(32, _START_DRAWS // len(x)))
    z = factors.sample_posterior(columns.features(x).double(), draws, generator=generator)
    if isinstance(model.prior, GaussianMixture):
        model.prior.start_at(factors.weights, factors.means, factors.covariances)
    for part, own, _, _ in _parts(model.likelihood, schema):
        _regress(part, z.flatten(0, 1), x[:, own].double().repeat(draws, 1), num_rows=len(x), missing=schema.missing)


@torch.no_grad()
def widen_scales(model: Model, schema: Schema, x: Tensor, num_rows: int) -> None:
    r"""Let learnt scales be those of new rows, :math:`\sqrt{(N + p) / (N - p)}` times those of the rows learnt from.

    A regression with p weights errs by less on its own N rows than on others: p = L + 1 here, the least that a column
    has. Akaike 1969, Fitting autoregressive models for prediction, equation 4 (final prediction error).

    Args:
        model: of ``build``, trained.
        schema: of the table.
        x: some of the rows that it learnt from ``(n, D)``.
        num_rows: N, how many they are.
    """
    for part, columns, _, _ in _parts(model.likelihood, schema):
        if isinstance(part, LocationScale) and part.scale_from == "learned":
            there, p = (~x[:, columns].isnan()).to(part.raw_scale).mean(0), model.latent_dim + 1
            N = num_rows * there
            scale = to_scale(part.raw_scale, floor=part.min_scale) * ((N + p) / (N - p).clamp_min(1)).sqrt()
            part.raw_scale.copy_(raw_scale(scale, floor=part.min_scale))


def choose_factors(
    features: Tensor, *, latent_dim: int | None = None, num_components: int | None = None, seed: int = 0
) -> tuple[int, int]:
    """Return L, and how many components the factors have, by the likelihood of rows held out of factor analysis.

    The best L of one component comes first, then the best number of components of that L, then the best L of those.

    Args:
        features: ``(N, F)`` on one scale; NaN is missing.
        latent_dim: L, where it is not to be chosen.
        num_components: of the factors, where that is not to be chosen.
        seed: of the folds.
    """
    generator = torch.Generator().manual_seed(seed)
    features = features[torch.randperm(len(features), generator=generator)[:_CHOOSING_ROWS]].double()
    features = features.clamp(-_FAR, _FAR)  # a few far values must not outvote the rest
    N, F = features.shape
    most = max(1, min(F - 1, N // 4))
    dims = [latent_dim] if latent_dim else [L for L in _LATENT_DIMS if most >= L]
    components = [num_components] if num_components else list(range(1, min(_MOST_COMPONENTS, N // 10) + 1))
    score = partial(_cross_validated, features, {})
    L = _best(dims, lambda L: score(L, 1))
    K = _best(components, lambda K: score(L, K))
    if K > 1:  # what one component needs factors for, several may say with fewer; or they have more to say
        L = _best([fewer for fewer in reversed(dims) if fewer <= L], lambda L: score(L, K))
        L = _best([more for more in dims if more >= L], lambda L: score(L, K))
    return L, K


def _best(candidates: Sequence[int], score: Callable[[int], float]) -> int:
    """The candidate of the highest score; two in a row that are no better end the search."""
    best, highest, worse = candidates[0], -math.inf, 0
    for candidate in candidates:
        value = score(candidate) if len(candidates) > 1 else 0.0
        best, highest, worse = (candidate, value, 0) if value > highest + _GAIN else (best, highest, worse + 1)
        if worse == 2:
            break
    return best


def _cross_validated(features: Tensor, known: dict[tuple[int, int], FactorAnalysis], L: int, K: int) -> float:
    """Log likelihood a row, by fits to the other folds; those of one component, where others start, are kept."""
    N = len(features)
    fold = torch.arange(N) % min(_FOLDS, N)
    total, count = 0.0, 0
    for k in range(int(fold.max()) + 1) if N > 1 else ():
        varied = _spread(features[fold != k]) > _STILL  # of a column that stands still, other folds have no density
        rest = features[fold != k][:, varied]
        fit = partial(factor_analysis, rest, L, pseudo_rows=_PSEUDO_ROWS, steps=60, tolerance=1e-3)
        found = known.get((L, k)) or known.setdefault((L, k), fit())
        found = fit(num_components=K, start=found) if K > 1 else found
        total += float(found.log_prob(features[fold == k][:, varied]).sum())
        count += int((fold == k).sum())
        if count >= _ENOUGH_ROWS:
            break
    return total / max(count, 1)


def _spread(x: Tensor) -> Tensor:
    """Standard deviation of each column over its values, ``(D,)``."""
    return (x - x.nanmean(0)).square().nanmean(0).sqrt()


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
def _start_encoder(guide: DiagonalGaussian | ProductOfExperts, factors: FactorAnalysis) -> None:
    """Let a guide on features give the posterior of the factors, by the head of its network."""
    columns: ColumnFeatures = guide.network  # type: ignore[assignment]
    head: SkipHead = columns.network  # type: ignore[assignment]
    linear = head.linear
    linear.weight.zero_()
    linear.bias.zero_()
    pull = factors.loadings / factors.variance.unsqueeze(-1)  # (F, L): what a feature adds to the precision times z
    F, L = pull.shape
    if isinstance(guide, ProductOfExperts):
        widths = columns.widths
        linear.weight[:L, :F] = pull.T.to(linear.weight)
        constant = -pull * factors.loc.unsqueeze(-1)
        if columns.missing:  # a feature that is not there adds none
            linear.weight[:L, F:] = torch.stack([own.sum(0) for own in constant.split(widths)], -1).to(linear.weight)
        else:
            linear.bias[:L] = constant.sum(0).to(linear.bias)
        scaled = factors.loadings / factors.variance.sqrt().unsqueeze(-1)
        for expert, own in zip(guide.experts, scaled.split(widths), strict=True):
            _, size, direction = torch.linalg.svd(own, full_matrices=False)  # of a category its largest part
            expert.copy_((size[0] * direction[0]).to(expert))
        within = torch.einsum("k,kij->ij", factors.weights, factors.covariances)
        guide.base.copy_(torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(within))).to(guide.base))
        linear.bias[L:] = raw_scale(_NO_PRECISION)
        return
    precision = 1 + (factors.loadings * pull).sum(0)  # diagonal, by the rotation
    to_mean = pull.T / precision.unsqueeze(-1)  # (L, F)
    linear.weight[:L, :F] = to_mean.to(linear.weight)
    linear.bias[:L] = -(to_mean @ factors.loc).to(linear.bias)
    linear.bias[L:] = raw_scale(precision.rsqrt().clamp_min(1e-4)).to(linear.bias)


def _regress(part: Likelihood, z: Tensor, x: Tensor, *, num_rows: int, missing: bool) -> None:
    """Fit a part's linear head to columns given z, by penalised maximum likelihood: a weight is N(0, 1 / L) beforehand.

    What a column takes from all of z then has variance 1 beforehand, whatever L: rare counts draw no huge ones.
    """
    working: Any = copy.deepcopy(part).double()
    linear = working.network = _head(working).linear  # the rest of the head is 0
    optimiser = torch.optim.LBFGS(
        working.parameters(), max_iter=100, history_size=10, tolerance_grad=1e-6, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimiser.zero_grad()
        p = working(z)
        log_prob = (ObservedEntries(p) if missing else p).log_prob(x).mean()
        value: Tensor = -log_prob + z.shape[-1] * linear.weight.square().sum() / (2 * num_rows)
        value.backward()
        return value

    before = float(loss().detach())
    saved = copy.deepcopy(working.state_dict())
    optimiser.step(loss)
    after = float(loss().detach())
    if not after < before:  # a climb that went astray leaves the margins
        working.load_state_dict(saved)
    with torch.no_grad():
        for name, value in working.named_parameters():
            part.get_parameter(name.replace("network.", "network.linear.")).copy_(value)
