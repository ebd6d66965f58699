"""Where training starts: at independent columns, or at the best linear model of them."""

from __future__ import annotations

import copy
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

__all__ = ["can_start_linearly", "choose_latent_dim", "choose_num_components", "linear_start", "marginal_start"]

_MOST_ROWS = 4_000  # to fit a start to
_LATENT_DIMS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
_FOLDS = 5


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
    factors = factor_analysis(features, model.latent_dim)
    _start_encoder(columns, factors, model.latent_dim)
    mean, covariance = factors.posterior(features)
    generator = torch.Generator().manual_seed(seed)
    draws = max(1, min(8, 8_000 // len(x)))
    noise = torch.randn(draws, *mean.shape, generator=generator, dtype=mean.dtype)
    z = mean + torch.einsum("nkl,snl->snk", torch.linalg.cholesky(covariance), noise)
    if isinstance(model.prior, GaussianMixture):
        _start_mixture(model.prior, z.flatten(0, 1), seed=seed)
    for part, own, _, _ in _parts(model.likelihood, schema):
        _regress(part, z.flatten(0, 1), x[:, own].double().repeat(draws, 1), num_rows=len(x), missing=schema.missing)


def choose_latent_dim(features: Tensor, *, seed: int = 0) -> int:
    """Return the L whose factor analysis gives rows held out of its fit the highest likelihood, in five folds.

    Of those not worse than the best by a paired standard error the smallest is taken.

    Args:
        features: ``(N, F)`` on one scale; NaN is missing.
        seed: of the folds.
    """
    generator = torch.Generator().manual_seed(seed)
    features = features[torch.randperm(len(features), generator=generator)[:_MOST_ROWS]].double()
    N, F = features.shape
    fold = torch.arange(N) % min(_FOLDS, N)
    scores: dict[int, Tensor] = {}
    for L in _LATENT_DIMS:
        if L > 1 and (L >= F or L > N // 4):
            break
        scores[L] = features.new_empty(N)
        for k in fold.unique():
            found = factor_analysis(features[fold != k], L, steps=200, tolerance=1e-4)
            scores[L][fold == k] = found.log_prob(features[fold == k])
        best = max(scores, key=lambda one: float(scores[one].mean()))
        if best < L and sum(other > best for other in scores) == 2:  # twice no better: it falls from here on
            break
    return next(L for L in scores if _behind(scores[best], scores[L]) <= 0)


def _behind(best: Tensor, other: Tensor) -> float:
    """By how much scores lie behind the best, beyond a paired standard error."""
    difference = best - other
    return float(difference.mean()) - float(difference.std().nan_to_num(0.0)) / len(difference) ** 0.5


def choose_num_components(features: Tensor, latent_dim: int, *, seed: int = 0) -> int:
    """Return how many components BIC finds among the factors of L-dimensional factor analysis, at most 8.

    Args:
        features: ``(N, F)`` on one scale; NaN is missing.
        latent_dim: L.
        seed: of the mixtures' starts.
    """
    from sklearn.mixture import GaussianMixture as Mixture

    features = features[:_MOST_ROWS].double()
    mean, _ = factor_analysis(features, latent_dim).posterior(features)
    z = mean.numpy()
    bic = []
    for K in range(1, min(8, len(z) // 10) + 1):
        bic.append(Mixture(K, covariance_type="diag", random_state=seed, reg_covar=1e-2, n_init=3).fit(z).bic(z))
    return 1 + int(torch.tensor(bic).argmin()) if bic else 1


def _start_mixture(prior: GaussianMixture, z: Tensor, *, seed: int) -> None:
    """Let the prior start at the mixture that draws of the factors are of."""
    from sklearn.mixture import GaussianMixture as Mixture

    found = Mixture(len(prior.logits), covariance_type="diag", random_state=seed, reg_covar=1e-2, n_init=3).fit(
        z.numpy()
    )
    with torch.no_grad():
        prior.logits.copy_(torch.as_tensor(found.weights_).log())
        prior.loc.copy_(torch.as_tensor(found.means_))
        prior.raw_scale.copy_(raw_scale(torch.as_tensor(found.covariances_).sqrt()))


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
