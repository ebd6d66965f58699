"""Moment matching: its loss by hand, a Gaussian learned, and a game without an adversary that resumes to the bit."""

import pyro
import pytest
import torch

import pyro_vae as pv
from tests.checkpoints import InMemory, Stop
from tests.truth import STANDARD_ERRORS


@pytest.fixture(autouse=True)
def _seed():
    pyro.set_rng_seed(0)


def gmmn(data_dim=1, latent_dim=1):
    return pv.systems.GMMN(data_dim, latent_dim, generator=torch.nn.Linear(latent_dim, data_dim), bandwidths=(0.5, 2.0))


def test_the_loss_is_the_root_of_the_discrepancy():
    system, x = gmmn(4, 2), 2 + torch.randn(50, 4)
    move = system.play(x)
    squared = pv.systems.maximum_mean_discrepancy(x, move["fake"], bandwidths=(1.0, 4.0))  # times the root of D
    loss = system.generator_loss(move, x)["generator"]
    assert loss.item() == pytest.approx(squared.item() ** 0.5, rel=1e-6)
    assert system.discriminator_loss(move, x) == {}


def test_a_gaussian_is_learned():
    x = 3 + 0.5 * torch.randn(2000, 1)
    system = gmmn()
    history = pv.fit_adversarial(system, x, steps=200, batch_size=100, lr=5e-2, progress=False)
    weight, bias = (float(p.detach()) for p in system.generator.parameters())
    assert bias == pytest.approx(3, abs=0.1)
    assert abs(weight) == pytest.approx(0.5, abs=0.1)
    assert set(history.losses) == {"generator"}
    drawn = system.sample(4000)
    assert abs(float(drawn.mean()) - bias) < STANDARD_ERRORS * abs(weight) / 4000**0.5


def test_a_run_that_was_stopped_ends_with_the_bits_of_one_that_was_not():
    x = torch.randn(60, 1)

    settings = {"steps": 12, "batch_size": 20, "seed": 4, "progress": False}
    pyro.set_rng_seed(1)
    whole = gmmn()
    pv.fit_adversarial(whole, x, **settings)
    pyro.set_rng_seed(1)
    broken, kept = gmmn(), InMemory(stop=2)
    with pytest.raises(Stop):
        pv.fit_adversarial(broken, x, checkpoint=kept, **settings)
    pyro.set_rng_seed(9)
    resumed = gmmn()
    pv.fit_adversarial(resumed, x, checkpoint=kept, **settings)
    assert all(map(torch.equal, whole.parameters(), resumed.parameters()))


def test_batches_of_one_are_refused():
    with pytest.raises(ValueError, match="a bandwidth"):
        pv.systems.GMMN(4, 2, bandwidths=(0.0,))
    with pytest.raises(ValueError, match="batch_size to be at least 2"):
        pv.fit_adversarial(gmmn(), torch.randn(9, 1), batch_size=1, steps=1, progress=False)
