"""Systems of the literature as runs: built for the data by name, trained, and made a model that every command takes.

Four forms. A pair of model and guide, or a density of x itself, goes through ``fit``. A generator is trained by
itself, gets the observation noise of the highest evidence, and then a guide that learns its posteriors. One with codes
or captions is trained by itself and sampled.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae.checks import say
from pyro_vae.datasets import digit_labels, digits
from pyro_vae.datasets.encoding import decode
from pyro_vae.datasets.kinds import Schema
from pyro_vae.inference.variational.fit import History, fit
from pyro_vae.likelihoods import Gaussian
from pyro_vae.model import Model
from pyro_vae.runs.build import build_guide
from pyro_vae.runs.checkpoints import Checkpoints
from pyro_vae.runs.data import Prepared, split_rows
from pyro_vae.runs.parts import LIKELIHOODS, SYSTEMS, parse
from pyro_vae.runs.recipe import Recipe
from pyro_vae.systems.adversaries.adversarial import AdversarialHistory, AdversarialWarning, fit_adversarial
from pyro_vae.systems.adversaries.captions import Captions
from pyro_vae.systems.adversaries.game import Game
from pyro_vae.systems.adversaries.gan import GAN
from pyro_vae.systems.adversaries.gmmn import GMMN
from pyro_vae.systems.adversaries.infogan import InfoGAN
from pyro_vae.systems.adversaries.stackgan import StackGAN
from pyro_vae.systems.densities.density import DensityProgram
from pyro_vae.systems.drawing.draw import DrawGuide
from pyro_vae.systems.observation import observation_model

__all__ = [
    "ConditionalGenerator",
    "GeneratorModel",
    "build_system",
    "learn_conditional",
    "learn_generator",
    "resolved_system",
    "start_from_data",
]

_LATENT_DIM = {"DRAW": 2}  # of one glimpse; 10 of a generator
_MOST_LEVELS = 256  # of whole numbers that are dequantised
_LEVELS = (2, 17, 256)  # of images whose values are k / (levels - 1)
_STEPS = 3000  # of a game, where the recipe leaves it open
_MOMENT_BATCH = 500  # a discrepancy between sets needs sets
_NOISE_ROWS = 50
_GUIDE_EPOCHS = 30


class GeneratorModel(Model):
    """A trained generator with observation noise; the system that trains it is no part of its weights.

    Args:
        game: has generator and prior.
    """

    def __init__(self, game: GAN) -> None:
        super().__init__(game.prior, Gaussian(game.generator, scale=1.0))
        self._game = [game]  # in a list: what it needs to train is not the model's

    @property
    def game(self) -> GAN:
        """The system that trains the generator."""
        return self._game[0]


class ConditionalGenerator(nn.Module):
    """A generator with codes or captions.

    Args:
        game: an InfoGAN or a StackGAN.
    """

    def __init__(self, game: InfoGAN | StackGAN) -> None:
        super().__init__()
        self.game = game

    def sample(self, num_samples: int, condition: str | None = None) -> Tensor:
        """Draw images, ``(S, D)``, of a caption or category, or of drawn ones.

        Raises:
            ValueError: if it is unknown.
        """
        if isinstance(self.game, StackGAN):
            if condition is not None:
                return self.game.sample([condition] * num_samples)
            unsaid = torch.full((num_samples, 3), -1)
            unsaid[:, 0] = torch.randint(10, (num_samples,))
            return self.game.sample(unsaid)
        if condition is not None and not condition.isdecimal():
            raise ValueError(say("the number of a category", repr(condition), "--condition 3"))
        return self.game.sample(num_samples, category=None if condition is None else int(condition))


def resolved_system(recipe: Recipe, prepared: Prepared) -> Recipe:
    """Return the recipe with what its system takes from the data: L, and the levels of whole numbers.

    Raises:
        ValueError: if the system is not for such data.
    """
    schema, (part, options) = prepared.schema, parse(recipe.system, SYSTEMS, "the system")
    name = recipe.system.partition(":")[0]
    _must_be_left_open(recipe, name)
    if prepared.schema.missing:
        raise ValueError(say(f"data without gaps for {name}", "missing entries", "a VAE, without --system"))
    if not part.density:
        L = str(_LATENT_DIM.get(name, 10)) if recipe.latent_dim == "auto" else recipe.latent_dim
        guide = "DiagonalGaussian" if recipe.guide == "auto" else recipe.guide
        recipe = replace(recipe, latent_dim=L, prior="StandardNormal", guide=guide)
        _must_be_images(name, schema, prepared.x["all"][:])
        if name == "StackGAN" and recipe.data != "digits":
            remedy = "pv.systems.StackGAN in Python, with pv.systems.Captions(x, labels)"
            raise ValueError(say("the embedded digits, whose classes are known", recipe.data, remedy))
        likelihood = schema.groups()[0][0] if recipe.likelihood == "auto" else recipe.likelihood
        return replace(recipe, likelihood=likelihood if name == "DRAW" else "Gaussian")
    if not schema.tabular:
        levels = _levels(prepared.x["all"][:])
        if levels and "num_levels" not in options:
            recipe = replace(recipe, system=_with(recipe.system, levels))
        return recipe
    if set(schema.kinds) != {"real"}:
        kind = next(kind for kind in schema.kinds if kind != "real")
        at = schema.name(schema.kinds.index(kind))
        values = decode(schema, prepared.x["all"][:])
        whole = values.min() > -1e-4 and abs(values - values.round()).max() < 1e-4 and values.max() < _MOST_LEVELS
        levels = f"--system {name}:num_levels={round(values.max()) + 1} --kind real --no-standardise"
        remedy = levels if whole else f"--kind real, or --drop {at.strip(chr(39))}"
        raise ValueError(say(f"columns of real numbers for {name}, a density", f"column {at} of {kind}", remedy))
    return recipe


def _must_be_left_open(recipe: Recipe, name: str) -> None:
    """A system brings its own parts: what was asked for besides would be dropped in silence."""
    given = {"prior": recipe.prior, "likelihood": recipe.likelihood, "model": recipe.model}
    own = {"prior": {"auto", "StandardNormal"}, "likelihood": {"auto", "Gaussian"}, "model": {""}}
    if name == "DRAW":
        own["likelihood"] = {"auto", "Bernoulli", "ContinuousBernoulli"}
    for setting, value in given.items():
        if value not in own[setting]:
            raise ValueError(say(f"{name} with parts of its own", f"{setting}={value}", f"leaving --{setting} out"))


def _levels(x: Tensor) -> str:
    """The options that say which levels the pixels of images are; nothing where they are real numbers."""
    low, high = float(x.min()), float(x.max())
    if low >= 0 and high > 1 and bool((x == x.round()).all()):
        return f"num_levels={int(high) + 1}"
    if low < 0 or high > 1:
        return ""
    levels = next((K for K in _LEVELS if bool(((x * (K - 1)) - (x * (K - 1)).round()).abs().max() < 1e-3)), 0)
    return f"num_levels={levels},intensities=true" if levels else ""


def _with(system: str, option: str) -> str:
    return f"{system}{',' if ':' in system else ':'}{option}"


def _must_be_images(name: str, schema: Schema, x: Tensor) -> None:
    """DRAW draws, and the generators' networks make, images in [0, 1]."""
    low, high = float(x.min()), float(x.max())
    if len(schema.shape) == 2 and low >= 0 and high <= 1 and (name == "DRAW" or schema.shape[0] == schema.shape[1]):
        return
    square = "" if name == "DRAW" else "square "
    got = f"data of shape {schema.shape} with values from {low:g} to {high:g}"
    raise ValueError(say(f"{square}images in [0, 1] for {name}", got, "digits, or NICE and RealNVP, which take tables"))


def build_system(recipe: Recipe, schema: Schema) -> tuple[Any, Any]:
    """Return model and guide of a resolved recipe's system, with fresh weights."""
    part, options = parse(recipe.system, SYSTEMS, "the system")
    name, made = recipe.system.partition(":")[0], part.load()
    if part.density:
        image = not schema.tabular and name == "RealNVP"
        density = made(schema.shape if image else schema.data_dim, **options)
        return density.model, density.guide
    if name == "DRAW":
        likelihood = parse(recipe.likelihood, LIKELIHOODS, "the likelihood")[0].load()
        draw = made(schema.shape, latent_dim=recipe.num_latents, likelihood=likelihood, **options)
        return draw.model, draw.guide
    if name == "StackGAN":
        words = Captions(digits("all", values="intensity"), digit_labels("all"))
        return ConditionalGenerator(made(words, schema.data_dim, recipe.num_latents, **options)), None
    game = made(schema.data_dim, recipe.num_latents, **options)
    if name == "InfoGAN":
        return ConditionalGenerator(game), None
    return GeneratorModel(game), build_guide(recipe, schema)


def start_from_data(model: Any, guide: Any, x: Tensor) -> None:
    """Let a density take location and scale of its training data, and DRAW its first canvas."""
    if isinstance(model, DensityProgram):
        model.density.standardise(x)
    if isinstance(guide, DrawGuide):
        guide.start_from(x)


def _play(
    recipe: Recipe,
    prepared: Prepared,
    game: Game,
    checkpoints: Checkpoints,
    *,
    progress: bool,
    notify: Callable[[str], None],
) -> AdversarialHistory:
    """Train a game as the recipe says, and say what went wrong."""
    x = prepared.x["train"][:]
    alone = isinstance(game, GMMN)
    size = min(_MOMENT_BATCH if alone else recipe.batch_size, len(x))
    steps = recipe.epochs * (len(x) // size) or _STEPS // (4 if alone else 1)
    conditions: tuple[Any, ...] = (x,)
    if isinstance(game, StackGAN):
        rows = split_rows(recipe, len(prepared.x["all"]))["train"]
        conditions = (x, game.captions.codes(x, digit_labels("all")[rows]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AdversarialWarning)  # said below
        history = fit_adversarial(
            game,
            *conditions,
            steps=steps,
            batch_size=size,
            lr=recipe.lr,
            checkpoint=checkpoints,
            device=recipe.device,
            progress=progress,
        )
    for warning in history.warnings:
        notify(f"note: {warning}")
    return history


def learn_conditional(
    recipe: Recipe,
    prepared: Prepared,
    model: ConditionalGenerator,
    checkpoints: Checkpoints,
    *,
    progress: bool,
    notify: Callable[[str], None],
) -> History:
    """Train a generator with codes or captions; there is no ELBO to record."""
    history = _play(recipe, prepared, model.game, checkpoints, progress=progress, notify=notify)
    return History(seconds=history.seconds, num_steps=history.num_steps, engine=repr(history))


def learn_generator(
    recipe: Recipe,
    prepared: Prepared,
    model: GeneratorModel,
    guide: nn.Module,
    checkpoints: Checkpoints,
    *,
    progress: bool,
    notify: Callable[[str], None],
) -> History:
    """Train a generator, choose its noise on validation data, and let the guide learn its posteriors.

    The run is resumed within the generator's training; what follows it is done again.
    """
    x, validation = prepared.x["train"][:], prepared.x["validation"][:]
    history = _play(recipe, prepared, model.game, checkpoints, progress=progress, notify=notify)
    began = time.perf_counter()
    kind, rows = ("held-out", validation) if len(validation) else ("training", x)
    rows = rows[:_NOISE_ROWS].to(next(model.parameters()).device)
    notify(f"choosing the observation noise by the evidence of {len(rows)} {kind} rows, which may take a minute")
    noisy = observation_model(model.game.generator, rows, prior=model.prior, accuracy=0.05)
    scale: Any = noisy.likelihood.scale
    model.likelihood.register_buffer("scale", scale)
    notify(f"observation noise: {float(scale):.3g}")
    seconds = history.seconds + time.perf_counter() - began
    model.requires_grad_(False)
    found = fit(
        model,
        guide,
        x,
        epochs=recipe.epochs or _GUIDE_EPOCHS,
        batch_size=recipe.batch_size,
        lr=recipe.lr,
        validation=validation if len(validation) else None,
        compile=recipe.compiled,
        device=recipe.device,
        progress=progress,
    )
    words = f"{history.num_steps} steps of the generator, then its guide by {found.engine}"
    return replace(found, seconds=found.seconds + seconds, engine=words)
