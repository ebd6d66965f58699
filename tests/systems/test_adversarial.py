"""The game against its closed forms: losses, penalty, optimal discriminator; training that resumes."""

import math
import re
import warnings

import pytest
import torch
from torch import nn

import pyro_vae as pv
from pyro_vae.runs.checkpoints import Checkpoints
from pyro_vae.runs.folder import Run
from pyro_vae.systems.adversaries.adversarial import AdversarialWarning
from pyro_vae.systems.adversaries.diversity import diversity, effective_number
from pyro_vae.systems.adversaries.gan import discriminator_loss, generator_loss, r1_penalty
from tests.truth import STANDARD_ERRORS

QUIET = {"progress": False}


def test_losses_are_the_published_ones_of_probabilities():
    real, fake = torch.randn(50, 1, dtype=torch.float64), torch.randn(50, 1, dtype=torch.float64, requires_grad=True)
    D_real, D_fake = real.sigmoid(), fake.sigmoid()
    torch.testing.assert_close(discriminator_loss(real, fake), -(D_real.log().mean() + (1 - D_fake).log().mean()))
    torch.testing.assert_close(generator_loss(fake), -D_fake.log().mean())
    (slope,) = torch.autograd.grad(generator_loss(fake), fake)
    torch.testing.assert_close(slope, -(1 - D_fake.detach()) / 50)  # does not vanish where D is sure of a fake


def test_the_penalty_and_its_gradient_of_a_quadratic_discriminator():
    A = torch.randn(3, 3, dtype=torch.float64)
    A = (A + A.T).requires_grad_()
    x = torch.randn(40, 3, dtype=torch.float64, requires_grad=True)
    found = r1_penalty(0.5 * (x @ A * x).sum(-1, keepdim=True), x, 3.0)
    torch.testing.assert_close(found, 1.5 * (x @ A).square().sum(-1).mean())  # the slope is A x
    (slope,) = torch.autograd.grad(found, A)
    expected = 3.0 * A @ (x.T @ x) / 40
    torch.testing.assert_close(slope + slope.T, expected + expected.T)


def test_the_optimal_discriminator_is_the_log_ratio_and_its_loss_the_jensen_shannon_divergence(float64):
    p, q = torch.distributions.Normal(0.0, 1.0), torch.distributions.Normal(1.0, 1.0)
    gan = pv.systems.GAN(1, 1, generator=nn.Linear(1, 1), discriminator=nn.Linear(1, 1), penalty=0)
    nn.init.ones_(gan.generator.weight), nn.init.ones_(gan.generator.bias)  # G(z) ~ q
    N = 40_000
    x = p.sample((N, 1))
    fake = gan.play(x)["fake"].detach()
    optimiser = torch.optim.LBFGS(gan.discriminator.parameters(), line_search_fn="strong_wolfe", max_iter=100)

    def loss():
        optimiser.zero_grad()
        value = gan.discriminator_loss({"fake": fake}, x)["discriminator"]
        value.backward()
        return value

    optimiser.step(loss)
    # log p/q = 1/2 - x; the errors of a logistic regression from its Fisher information
    both = torch.cat([x, fake])
    D = gan.discriminator(both).detach().sigmoid()
    features = torch.cat([both, torch.ones_like(both)], -1)
    error = torch.linalg.inv(features.T @ (D * (1 - D) * features)).diagonal().sqrt()
    off = torch.cat([gan.discriminator.weight[0], gan.discriminator.bias]).detach() - torch.tensor([-1.0, 0.5])
    assert bool((off.abs() < STANDARD_ERRORS * error).all())
    grid = torch.linspace(-12, 13, 20_001)
    P, Q = p.log_prob(grid), q.log_prob(grid)
    mixture = torch.logaddexp(P, Q) - math.log(2)
    js = torch.trapezoid(0.5 * P.exp() * (P - mixture) + 0.5 * Q.exp() * (Q - mixture), grid)
    terms = nn.functional.softplus(-gan.discriminator(x)) + nn.functional.softplus(gan.discriminator(fake))
    assert (
        abs(float(terms.detach().mean()) - float(2 * math.log(2) - 2 * js))
        < STANDARD_ERRORS * float(terms.detach().std()) / N**0.5
    )


def test_a_gaussian_is_learnt_and_no_warning_comes():
    x = 1 + 0.5 * torch.randn(4000, 1)
    gan = pv.systems.GAN(1, 1, generator=nn.Linear(1, 1), discriminator=pv.networks.mlp(1, 16, 1), penalty=0.05)
    nn.init.ones_(gan.generator.weight), nn.init.zeros_(gan.generator.bias)
    history = pv.fit_adversarial(gan, x, steps=500, lr=5e-3, batch_size=256, seed=1, **QUIET)
    fake = gan.sample(20_000)
    assert abs(float(fake.mean()) - 1) < 0.05
    assert abs(float(fake.std()) - 0.5) < 0.05
    assert history.warnings == ()
    assert abs(history.losses["discriminator"][-1] - 2 * math.log(2)) < 0.05  # whatever the quality: it is a game
    assert {name: len(values) for name, values in history.losses.items()} == dict.fromkeys(history.losses, 500)


def test_a_generator_with_an_observation_model_is_a_model():
    gan = pv.systems.GAN(16, latent_dim=2).eval()
    model = pv.Model(gan.prior, pv.likelihoods.Gaussian(gan.generator, scale=0.1))
    x = model.sample(6)["x"]
    truth = pv.quadrature(model, x)
    assert truth.log_evidence.shape == (6,)
    assert float(truth.error_bound.max()) < 0.1


def test_effective_numbers_and_diversity():
    far = torch.eye(4).repeat_interleave(5, 0) * 100
    torch.testing.assert_close(float(effective_number(far, 1.0)), 4.0)
    x = torch.randn(200, 2)
    assert diversity(x, x) == 1.0
    assert diversity(x[:2].repeat(100, 1), x) < 0.3


# -- training that stops, breaks, and says so -------------------------------------------------------------------------


class _Stopping(Checkpoints):
    """Is interrupted after so many states are safe."""

    def __init__(self, folder, stop_after):
        super().__init__(Run(folder), every=1)
        self.left = stop_after

    def save(self, state):
        super().save(state)
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def _seeded(seed):
    torch.manual_seed(seed)


def _gan(x):
    return pv.systems.GAN(64, 3), (x,)


def _infogan(x):
    return pv.systems.InfoGAN(64, 3), (x,)


def _stackgan(x):
    captions = pv.systems.Captions(x, pv.datasets.digit_labels()[: len(x)])
    return pv.systems.StackGAN(captions, 64), (x, captions.codes(x, pv.datasets.digit_labels()[: len(x)]))


@pytest.mark.filterwarnings("ignore::pyro_vae.AdversarialWarning")  # too short to be good
@pytest.mark.parametrize(("make", "stop_after"), [(_gan, 2), (_infogan, 1), (_stackgan, 1), (_stackgan, 5)])
def test_a_run_that_was_stopped_ends_with_the_bits_of_one_that_was_not(make, stop_after, tmp_path):
    x = pv.datasets.digits(values="intensity")[:100]
    ends = []
    for stops in (None, stop_after):
        _seeded(7)
        system, data = make(x)
        if stops is not None:
            with pytest.raises(KeyboardInterrupt):
                pv.fit_adversarial(
                    system, *data, steps=10, batch_size=32, seed=3, checkpoint=_Stopping(tmp_path, stops)
                )
            _seeded(8)  # another process, with other first weights and another random state
            system, data = make(x)
        checkpoint = None if stops is None else Checkpoints(Run(tmp_path), every=1)
        history = pv.fit_adversarial(system, *data, steps=10, batch_size=32, seed=3, checkpoint=checkpoint, **QUIET)
        ends.append((system.state_dict(), history.losses, torch.rand(3)))
    (weights, losses, drawn), (weights_again, losses_again, drawn_again) = ends
    assert losses == losses_again
    assert torch.equal(drawn, drawn_again)
    assert weights.keys() == weights_again.keys()
    assert all(torch.equal(weights[name], weights_again[name]) for name in weights)


def test_a_loss_that_is_no_number_is_named_with_its_step_and_the_weights_are_the_last_good_ones():
    class Breaking(pv.systems.GAN):
        def generator_loss(self, move, *batch):
            terms = super().generator_loss(move, *batch)
            self.count = getattr(self, "count", 0) + 1
            return {"generator": terms["generator"] * (math.nan if self.count == 8 else 1.0)}

    x = pv.datasets.digits(values="intensity")[:160]
    gan = Breaking(64, 2)
    with pytest.raises(FloatingPointError, match=r"nan in the term 'generator' at step 7; try a smaller lr"):
        pv.fit_adversarial(gan, x, steps=30, batch_size=32, **QUIET)
    assert all(bool(value.isfinite().all()) for value in gan.state_dict().values())
    assert not gan.training
    assert all(parameter.grad is None and parameter.requires_grad for parameter in gan.parameters())


def test_collapse_and_saturation_are_said():
    class Constant(nn.Module):
        def __init__(self, start):
            super().__init__()
            self.place = nn.Parameter(torch.full((2,), start))

        def forward(self, z):
            return self.place + 0.01 * z

    x = torch.randn(300, 2)
    gan = pv.systems.GAN(2, 2, generator=Constant(0.0), discriminator=pv.networks.mlp(2, 8, 1))
    with pytest.warns(AdversarialWarning, match="collapsed"):
        history = pv.fit_adversarial(gan, x, steps=10, **QUIET)
    assert len(history.warnings) == 1
    assert history.diversity[0] < 0.1
    gan = pv.systems.GAN(2, 2, generator=nn.Linear(2, 2), discriminator=pv.networks.mlp(2, 8, 1), penalty=0)
    nn.init.eye_(gan.generator.weight), nn.init.constant_(gan.generator.bias, 30.0)
    with pytest.warns(AdversarialWarning, match="teaches nothing"):
        pv.fit_adversarial(gan, x, steps=250, lr=1e-6, discriminator_lr=1e-2, **QUIET)


def test_a_generator_far_too_wide_is_said_with_how_far():
    x = torch.randn(300, 2)
    gan = pv.systems.GAN(2, 2, generator=nn.Linear(2, 2), discriminator=pv.networks.mlp(2, 8, 1))
    for times, words in ((10, "10.[0-9] times as far|9.[0-9] times as far"), (1, None)):
        with torch.no_grad():
            gan.generator.weight.copy_(times * torch.eye(2)), gan.generator.bias.zero_()
        history = None
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            history = pv.fit_adversarial(gan, x, steps=2, lr=1e-6, **QUIET)
        assert len(history.warnings) == len(said) == (words is not None)
        assert words is None or re.search(words, history.warnings[0])


def test_the_same_seed_gives_the_same_generator_and_training_is_in_double_too(float64):
    x = torch.rand(100, 4)
    ends = []
    for _ in range(2):
        _seeded(0)
        gan = pv.systems.GAN(4, 2, generator=nn.Linear(2, 4), discriminator=nn.Linear(4, 1))
        pv.fit_adversarial(gan, x, steps=5, batch_size=20, seed=2, **QUIET)
        ends.append(gan.generator.weight.detach())
    assert ends[0].dtype == torch.float64
    assert torch.equal(*ends)


BAD = [
    (lambda: pv.fit_adversarial(nn.Linear(2, 2), torch.rand(9, 64)), TypeError, "an adversarial system"),
    (lambda: pv.fit_adversarial(pv.systems.GAN(64), torch.rand(99, 49)), ValueError, r"data \(N, 64\)"),
    (lambda: pv.fit_adversarial(pv.systems.GAN(64), 2 * torch.rand(99, 64) - 1), ValueError, r"data in \[0, 1\]"),
    (lambda: pv.fit_adversarial(pv.systems.GAN(64), torch.rand(9, 64)), ValueError, "batch_size=64 for 9 data"),
    (lambda: pv.fit_adversarial(pv.systems.GAN(64), torch.rand(99, 64).double()), ValueError, "as the networks are"),
    (lambda: pv.fit_adversarial(pv.systems.GAN(64), torch.rand(99, 64), ["a one"]), ValueError, "takes captions"),
    (lambda: pv.fit_adversarial(pv.systems.GAN(64), torch.rand(99, 64), average=1.0), ValueError, "average below 1"),
    (lambda: pv.systems.GAN(64, 3, generator=nn.Linear(3, 49)), ValueError, r"makes \(2, 64\) of z \(2, 3\)"),
    (lambda: pv.systems.GAN(64, 3, generator=nn.Linear(2, 64)), ValueError, "the generator's network to take z"),
    (lambda: pv.systems.GAN(64, discriminator=nn.Linear(64, 2)), ValueError, "one logit"),
    (lambda: pv.systems.GAN(64, generator=len), TypeError, "generator to be a torch.nn.Module"),
    (lambda: pv.systems.GAN(64, penalty=-1), ValueError, "penalty"),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD)
def test_what_does_not_fit_is_said(call, error, message):
    with pytest.raises(error, match=message):
        call()
