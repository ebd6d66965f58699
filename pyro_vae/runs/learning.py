"""How a run learns: where it starts, how long it goes on, and which of its weights are kept."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae.datasets.shards import some
from pyro_vae.inference.variational.fit import History, fit
from pyro_vae.inference.variational.training_input import check_programs
from pyro_vae.model import Model
from pyro_vae.randomness import fork_rng
from pyro_vae.runs.build import column_features, objective
from pyro_vae.runs.checkpoints import Checkpoints
from pyro_vae.runs.data import Prepared
from pyro_vae.runs.recipe import Recipe
from pyro_vae.runs.start import (
    can_start_linearly,
    choose_factors,
    linear_start,
    marginal_start,
    widen_scales,
)
from pyro_vae.runs.systems import (
    ConditionalGenerator,
    GeneratorModel,
    learn_conditional,
    learn_generator,
    resolved_system,
    start_from_data,
)

__all__ = ["learn", "resolved", "train_guide"]

_STEPS = 40_000  # at most, where the recipe leaves it open
_PATIENCE = 700  # steps
_LR_DROPS = 1
_EVALUATE_EVERY = 100  # steps
_DRAWN_BATCH = 256
_DRAWN_ROWS = 63 * _DRAWN_BATCH  # that a guide learns on, of a model that stays as it is
_GUIDE_EPOCHS = 6
_START_NUMBERS = 2**18  # that a start is fitted to, at most: 2 MB in double precision
_VALIDATION_ROWS = 2_000  # draws of the guide to judge on, at least

Weights = tuple[dict[str, Tensor], dict[str, Tensor]]  # of model and guide


def resolved(recipe: Recipe, prepared: Prepared) -> Recipe:
    """Return the recipe with L, prior and guide chosen, where it leaves them open; images get 2 and a standard normal.

    Of a table, L and the components of a mixture prior are those of the factor analysis of its columns with the
    highest cross-validated likelihood.
    """
    if recipe.system:
        return resolved_system(recipe, prepared)
    gaps = bool(prepared.schema.columns) and prepared.schema.missing
    guide = ("ProductOfExperts" if gaps else "DiagonalGaussian") if recipe.guide == "auto" else recipe.guide
    if recipe.model or not prepared.schema.columns:
        L = "2" if recipe.latent_dim == "auto" else recipe.latent_dim
        prior = "StandardNormal" if recipe.prior == "auto" else recipe.prior
        return replace(recipe, latent_dim=L, prior=prior, guide=guide)
    recipe = replace(recipe, guide=guide)
    columns = column_features(prepared.schema, nn.Identity())
    x = prepared.x["train"][:]
    columns.standardise(x)
    features = columns.dequantised(x, torch.Generator().manual_seed(recipe.seed))
    fixed = None if recipe.latent_dim == "auto" else recipe.num_latents
    if fixed is None or recipe.prior == "auto":
        known = None if recipe.prior == "auto" else 1
        num_latents, K = choose_factors(features, latent_dim=fixed, num_components=known, seed=recipe.seed)
        mixture = "StandardNormal" if K == 1 else f"GaussianMixture:num_components={K},covariance=full"
        recipe = replace(recipe, latent_dim=str(num_latents), prior=mixture if recipe.prior == "auto" else recipe.prior)
    return recipe


def learn(
    recipe: Recipe,
    prepared: Prepared,
    model: Any,
    guide: Any,
    checkpoints: Checkpoints,
    *,
    progress: bool,
    notify: Callable[[str], None],
) -> History:
    """Train as the recipe says; with ``epochs = 0`` until the validation ELBO stays, and keep what is better for it.

    Args:
        recipe: of the run.
        prepared: its data.
        model: with fresh weights.
        guide: with fresh weights.
        checkpoints: where the run keeps its states.
        progress: show a bar.
        notify: called with what a person should know.
    """
    if isinstance(model, GeneratorModel):
        return learn_generator(recipe, prepared, model, guide, checkpoints, progress=progress, notify=notify)
    if isinstance(model, ConditionalGenerator):
        return learn_conditional(recipe, prepared, model, checkpoints, progress=progress, notify=notify)
    first = None if recipe.model else _begin(recipe, prepared, model, guide)
    x, held_out, length = _course(recipe, prepared)
    history = fit(
        model,
        guide,
        x,
        batch_size=min(recipe.batch_size, len(prepared.x["train"])),
        lr=recipe.lr,
        loss=objective(recipe),
        validation=held_out,
        kl_warmup=recipe.kl_warmup,
        clip_norm=recipe.clip_norm or (None if recipe.epochs else 10.0),
        dynamic_binarisation=recipe.dynamic_binarisation,
        compile=recipe.compiled,
        checkpoint=checkpoints,
        device=recipe.device,
        progress=progress,
        **length,
    )
    if not recipe.epochs and not history.stopped_early:
        notify("note: the validation ELBO was still rising at the end: --epochs with a larger number goes on")
    if first is not None:
        num_rows = _keep_better(recipe, prepared, model, guide, first, notify=notify)
        widen_scales(model, prepared.schema, x[:_VALIDATION_ROWS], num_rows)
    return history


def _begin(recipe: Recipe, prepared: Prepared, model: Any, guide: Any) -> Weights | None:
    """Put both where training starts; return the weights that it must beat, of a linear model, if there are such."""
    x = prepared.x["train"]
    _to_data(model, guide)
    if recipe.system:
        start_from_data(model, guide, x[:])
        return None
    data: Any = (x,)  # rows on disk read like a tensor
    size = min(recipe.batch_size, len(x))
    check_programs(model, guide, data, None, batch_size=size, plate="data", binary=recipe.dynamic_binarisation)
    linear = _start(recipe, prepared, model, guide, ["train"])
    return _state(model, guide) if linear and not recipe.epochs else None


def _course(recipe: Recipe, prepared: Prepared) -> tuple[Any, Any, dict[str, Any]]:
    """The rows of an epoch, those to validate on, and how long ``fit`` goes on."""
    x, validation = prepared.x["train"], prepared.x["validation"]
    held_out: Any = validation if len(validation) else None
    if recipe.epochs:
        return x, held_out, {"epochs": recipe.epochs, "patience": recipe.patience or None}
    size = min(recipe.batch_size, len(x))
    x, held_out = _repeated(x, _EVALUATE_EVERY * size), _repeated(held_out, _VALIDATION_ROWS)
    return x, held_out, _until_it_stays(recipe, steps_per_epoch=-(-len(x) // size), watched=held_out is not None)


def _keep_better(
    recipe: Recipe, prepared: Prepared, model: Model, guide: nn.Module, first: Weights, *, notify: Callable[[str], None]
) -> int:
    """Leave the trained weights, or the linear start where they are no better; say how many rows those learnt from."""
    num_rows, validation = len(prepared.x["train"]), prepared.x["validation"]
    watched = isinstance(validation, Tensor) and len(validation) > 1
    if not watched or _clearly_better(model, guide, first, validation):
        return num_rows
    notify("note: on held-out rows the trained model is not clearly better than its linear start, which is kept")
    notify("note: the start is fitted again, to validation rows too; the ELBO said is that of the trained model")
    _start(recipe, prepared, model, guide, ["train", "validation"])
    return num_rows + len(validation)


def _repeated(x: Any, num_rows: int) -> Any:
    """Data in memory so many times over as make this many rows: an epoch of few rows would be too short to judge."""
    return x.repeat(max(1, num_rows // len(x)), 1) if isinstance(x, Tensor) else x


def _until_it_stays(recipe: Recipe, *, steps_per_epoch: int, watched: bool) -> dict[str, Any]:
    """How long ``fit`` goes on where the recipe leaves that open."""
    length: dict[str, Any] = {"epochs": max(1, _STEPS // steps_per_epoch)}
    if not watched:
        return length
    patience = {"patience": recipe.patience} if recipe.patience else {}
    return length | (patience or {"patience_steps": max(_PATIENCE, 5 * steps_per_epoch)}) | {"lr_drops": _LR_DROPS}


def _start(recipe: Recipe, prepared: Prepared, model: Model, guide: nn.Module, splits: list[str]) -> bool:
    """Put model and guide where training starts, by the rows of these splits; say whether that is a linear model."""
    schema = prepared.schema
    _to_data(model, guide)
    rows = max(64, min(4_000, _START_NUMBERS // schema.data_dim))
    x = torch.cat([some(prepared.x[name], rows) for name in splits])
    x = torch.bernoulli(x) if recipe.dynamic_binarisation else x
    if not (schema.columns and can_start_linearly(model, guide)):
        marginal_start(model, guide, schema, x)
        return False
    linear_start(model, guide, schema, x, seed=recipe.seed)
    if not recipe.epochs:
        train_guide(recipe, model, guide, x)
    return True


def _to_data(model: nn.Module, guide: nn.Module) -> None:
    """Bring both to where the data are; ``fit`` takes them to its device."""
    model.cpu()
    guide.cpu()


def train_guide(recipe: Recipe, model: Model, guide: nn.Module, x: Tensor) -> None:
    """Let the guide learn the posteriors of a model that stays as it is, on rows drawn from it: they are never few.

    Entries are missing in them as in rows of x.
    """
    with fork_rng(seed=recipe.seed):
        drawn = model.sample(_DRAWN_ROWS)[model.observed]
        like = x[torch.randint(len(x), (len(drawn),))]
    drawn = drawn.masked_fill(like.isnan(), torch.nan)
    learnt = [value for value in model.parameters() if value.requires_grad]
    for value in learnt:
        value.requires_grad_(False)
    try:
        fit(
            model,
            guide,
            drawn,
            epochs=_GUIDE_EPOCHS,
            batch_size=_DRAWN_BATCH,
            lr=2 * recipe.lr,
            clip_norm=10.0,
            validation=None,
            device=recipe.device,
            seed=recipe.seed,
            compile=recipe.compiled,
            progress=False,
        )
    finally:
        for value in learnt:
            value.requires_grad_(True)


def _state(model: nn.Module, guide: nn.Module) -> Weights:
    return copy.deepcopy(model.state_dict()), copy.deepcopy(guide.state_dict())


def _load(model: nn.Module, guide: nn.Module, state: Weights) -> None:
    model.load_state_dict(state[0])
    guide.load_state_dict(state[1])


@torch.no_grad()
def _clearly_better(model: Model, guide: Any, first: Weights, x: Any, num_samples: int = 500) -> bool:
    """Whether the weights beat the first ones on held-out rows by a paired standard error of log p(x)."""
    now = _state(model, guide)
    after = _log_evidence(model, guide, x, num_samples)
    _load(model, guide, first)
    before = _log_evidence(model, guide, x, num_samples)
    _load(model, guide, now)
    difference = after - before
    return float(difference.mean()) > float(difference.std()) / math.sqrt(len(x))


def _log_evidence(model: Model, guide: Any, x: Tensor, num_samples: int) -> Tensor:
    """Log p(x) by importance sampling from the guide, ``(N,)``: a lower bound in expectation."""
    x = x.to(next(model.parameters()).device)
    with fork_rng(seed=0):
        q = guide.posterior(x)
        z = q.sample((num_samples,))
        log_weights = model.log_joint(x, z) - q.log_prob(z)
    return torch.logsumexp(log_weights, 0) - math.log(num_samples)
