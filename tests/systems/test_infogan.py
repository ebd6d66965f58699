"""InfoGAN's bound against the mutual information itself, where it can be had."""

import math

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import nn

import pyro_vae as pv
from pyro_vae.systems.adversaries.invariance import invariance_loss, warped
from tests.truth import STANDARD_ERRORS

MEANS = torch.tensor([-2.0, 0.0, 1.5])


class Mixture(nn.Module):
    """x = mean of c + s z, in one dimension: p(x|c) is normal."""

    def __init__(self, scale):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale), requires_grad=False)

    def forward(self, z):
        return self.scale * z[..., :1] + z[..., 1:4] @ MEANS.to(z)[:, None]


def _mixture(scale):
    trunk = nn.Sequential(pv.networks.mlp(1, 32, 32), nn.SiLU())
    return pv.systems.InfoGAN(
        1, 1, num_categories=3, num_continuous=0, generator=Mixture(scale), trunk=trunk, penalty=0
    )


def _train_recogniser(gan):
    optimiser = torch.optim.Adam([*gan.discriminator.parameters(), *gan.recogniser.parameters()], lr=1e-2)
    for _ in range(120):
        x = torch.zeros(256, 1)
        optimiser.zero_grad()
        gan.discriminator_loss(gan.play(x), x)["information"].backward()
        optimiser.step()


def _log_likelihood(x, scale):
    return torch.distributions.Normal(MEANS.to(x), scale).log_prob(x)


def _entropy_by_quadrature(scale):
    """I(c; x) = h(x) - h(x|c), h(x) by the trapezoidal rule."""
    grid = torch.linspace(-12, 12, 20_001, dtype=torch.float64)
    log_p = _log_likelihood(grid[:, None], scale).logsumexp(-1) - math.log(3)
    return -float(torch.trapezoid(log_p.exp() * log_p, grid)) - 0.5 * math.log(2 * math.pi * math.e * scale**2)


@pytest.mark.parametrize("scale", [0.3, 1.0, 20.0])
def test_mutual_information_is_the_integral(scale):
    c = torch.randint(3, (20_000,))
    x = MEANS[c] + scale * torch.randn(20_000)
    value, error = pv.systems.mutual_information(_log_likelihood(x[:, None], scale), c)
    grid = torch.linspace(-200, 200, 200_001, dtype=torch.float64)
    log_p = _log_likelihood(grid[:, None], scale).logsumexp(-1) - math.log(3)
    truth = -float(torch.trapezoid(log_p.exp() * log_p, grid)) - 0.5 * math.log(2 * math.pi * math.e * scale**2)
    assert abs(float(value) - truth) < STANDARD_ERRORS * float(error) + 1e-6
    assert 0 <= truth < math.log(3)


def test_the_bound_is_under_the_truth_and_reaches_it_when_the_recogniser_is_trained():
    gan = _mixture(0.8)
    truth = _entropy_by_quadrature(0.8)
    untrained = gan.information_bound(4000).category
    assert float(untrained) < truth - 0.2
    _train_recogniser(gan)
    found = gan.information_bound(40_000)
    assert float(found.category) < truth + STANDARD_ERRORS * float(found.category_error)
    assert float(found.category) > truth - 0.03 - STANDARD_ERRORS * float(found.category_error)
    # Q is Bayes' posterior
    x = torch.linspace(-3, 3, 13)[:, None]
    torch.testing.assert_close(gan.recognise(x)[0].probs, _log_likelihood(x, 0.8).softmax(-1), atol=0.1, rtol=0)


def test_the_evidence_of_the_generator_at_a_code_is_its_likelihood():
    gan = _mixture(0.8)
    x = torch.linspace(-3, 3, 5)[:, None]
    for k in range(3):
        model = pv.Model(gan.prior, pv.likelihoods.Gaussian(gan.given(k), scale=0.6))
        torch.testing.assert_close(
            pv.quadrature(model, x).log_evidence,
            torch.distributions.Normal(MEANS[k], 1.0).log_prob(x[:, 0]),  # 0.6^2 + 0.8^2 = 1
            atol=1e-3,
            rtol=0,
        )


def test_continuous_codes_are_bounded_by_what_noise_leaves_of_them():
    class Shift(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, z):
            return z[..., 3:4] + 0.5 * z[..., :1]  # c + noise

    trunk = nn.Sequential(pv.networks.mlp(1, 32, 32), nn.SiLU())
    gan = pv.systems.InfoGAN(
        1, 1, num_categories=2, num_continuous=1, generator=Shift(), trunk=trunk, penalty=0, continuous_weight=1.0
    )
    grid = torch.linspace(-6, 6, 20_001, dtype=torch.float64)
    normal = torch.distributions.Normal(0.0, 1.0)
    p = (normal.cdf((grid + 1) / 0.5) - normal.cdf((grid - 1) / 0.5)) / 2
    truth = -float(torch.trapezoid(torch.special.xlogy(p, p), grid)) - 0.5 * math.log(2 * math.pi * math.e * 0.25)
    _train_recogniser(gan)
    found = gan.information_bound(20_000)
    error = STANDARD_ERRORS * float(found.continuous_error)
    assert truth - 0.05 - error < float(found.continuous) < truth + error  # a beta is not quite the posterior
    assert abs(float(found.category)) < 0.02  # x does not depend on it


def test_codes_given_are_codes_made():
    gan = _mixture(1e-4)
    assert gan.sample(4, category=2).sub(1.5).abs().max() < 1e-3
    torch.testing.assert_close(gan.sample(3, category=torch.arange(3))[:, 0], MEANS, atol=1e-3, rtol=0)
    other = pv.systems.InfoGAN(16, 2, num_continuous=2).eval()
    z, code = torch.randn(5, 2), torch.tensor([0.5, -1.0])
    whole = torch.cat([z, nn.functional.one_hot(torch.tensor(4), 10).expand(5, -1), code.expand(5, -1)], -1)
    torch.testing.assert_close(other.given(4, code)(z), other.generator(whole))


def test_a_traversal_moves_one_code_and_keeps_the_noise():
    gan = pv.systems.InfoGAN(16, 2, num_categories=3, num_continuous=2).eval()
    torch.manual_seed(5)
    images = gan.traverse(1, num_values=5, continuous=torch.tensor([0.3, 9e-1]))
    torch.manual_seed(5)
    z = gan.prior().sample((1,))
    for k in range(3):
        for v, value in enumerate((-1.0, -0.5, 0.0, 0.5, 1.0)):
            torch.testing.assert_close(images[k, v], gan.given(k, torch.tensor([0.3, value]))(z)[0])


def test_learning_makes_the_code_readable():
    x = torch.cat([torch.randn(300, 2) * 0.1 + torch.tensor(m) for m in ([0.0, 2.0], [-2.0, -1.0], [2.0, -1.0])])
    trunk = nn.Sequential(pv.networks.mlp(2, 32, 32), nn.SiLU())
    gan = pv.systems.InfoGAN(
        2, 2, num_categories=3, num_continuous=0, generator=pv.networks.mlp(5, 32, 2), trunk=trunk, penalty=0.1
    )
    history = pv.fit_adversarial(gan, x, steps=160, lr=5e-3, seed=0, progress=False)
    bound = gan.information_bound(2000)
    assert 0.8 * math.log(3) < float(bound.category) <= math.log(3)
    assert set(history.losses) == {"discriminator", "generator", "information"} | {"penalty"}


def test_invariance_asks_for_even_certain_classes_that_stay():
    x = torch.rand(40, 64)
    mu, balance = 0.25, 4.0
    flat = invariance_loss(lambda x: torch.zeros(len(x), 5), x)
    torch.testing.assert_close(float(flat), mu * (1 - balance) * math.log(5))
    sure = 1e4 * nn.functional.one_hot(torch.arange(40) % 5, 5).float()
    torch.testing.assert_close(
        float(invariance_loss(lambda x: sure, x)), -mu * balance * math.log(5), atol=1e-5, rtol=0
    )
    moved = iter([torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, math.log(3.0)]])])  # KL((1/2, 1/2) || (1/4, 3/4))
    found = float(invariance_loss(lambda x: next(moved), x[:1]))
    kl = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    torch.testing.assert_close(found, kl + mu * (1 - balance) * math.log(2))


def test_a_warp_keeps_about_the_ink_and_moves_it():
    x = pv.datasets.digits(values="intensity")[:300]
    other = warped(x)
    assert float((other - x).abs().mean()) > 0.02
    assert abs(float(other.sum() / x.sum()) - 1) < 0.1
    assert float(torch.nn.functional.cosine_similarity(x, other).mean()) > 0.8


@pytest.mark.filterwarnings("ignore::pyro_vae.AdversarialWarning")  # too short for images
def test_with_invariance_the_code_is_of_class():
    x, labels = pv.datasets.digits(values="intensity"), pv.datasets.digit_labels()
    gan = pv.systems.InfoGAN(64, 4, invariance=1.0)
    pv.fit_adversarial(gan, x, steps=100, batch_size=128, seed=0, progress=False)
    table = torch.zeros(10, 10)
    with torch.no_grad():
        table.index_put_((gan.recognise(x)[0].logits.argmax(-1), labels), torch.ones(len(x)), accumulate=True)
    rows, columns = linear_sum_assignment(-table.numpy())
    assert float(table[rows, columns].sum()) / len(x) > 0.6  # chance is 0.1; without invariance about 0.4


BAD = [
    (lambda gan: gan.sample(2, category=3), ValueError, "category from 0 to 2"),
    (lambda gan: gan.sample(2, category=-1), ValueError, "category from 0 to 2"),
    (lambda gan: gan.sample(2, category=0.5), TypeError, "category as whole numbers"),
    (lambda gan: gan.sample(2, category=torch.tensor([0, 1, 2])), ValueError, "one or 2"),
    (lambda gan: gan.sample(2, continuous=torch.zeros(1)), ValueError, r"continuous codes in \[-1, 1\]"),
    (lambda gan: gan.traverse(), ValueError, "one of the continuous codes, from 0 on; got code 0 of 0"),
    (lambda gan: gan.recognise(torch.zeros(2, 7)), ValueError, r"data \(..., 1\)"),
    (lambda gan: pv.systems.InfoGAN(1, 1, generator=nn.Linear(3, 1)), ValueError, "the generator's network"),
    (lambda gan: pv.systems.InfoGAN(4, 1, trunk=nn.Unflatten(1, (2, 2))), ValueError, "a trunk that makes"),
    (lambda gan: pv.systems.InfoGAN(5, 1, invariance=1.0), ValueError, "square images"),
    (lambda gan: pv.systems.InfoGAN(4, 1, num_categories=1), ValueError, "num_categories to be at least 2"),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD)
def test_what_does_not_fit_is_said(call, error, message):
    with pytest.raises(error, match=message):
        call(_mixture(1.0))
