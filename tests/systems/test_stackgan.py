"""Captions are measured in images whose slant and width are known; stages learn from their captions."""

import warnings

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

import pyro_vae as pv
from pyro_vae.systems import Captions, StackGAN, slant, thickness
from pyro_vae.systems.adversaries.stage import ConditioningAugmentation
from tests.truth import STANDARD_ERRORS


def _bar(rows, columns, side=40):
    image = torch.zeros(side, side, dtype=torch.float64)
    image[(side - rows) // 2 :][:rows, (side - columns) // 2 :][:, :columns] = 1
    return image


def _sheared(image, by):
    """Every row moved by so many columns more than the one below it: to the right at the top, if positive."""
    middle = len(image) // 2
    return torch.stack([row.roll(by * (middle - i)) for i, row in enumerate(image)])


@pytest.mark.parametrize("by", [-1, 0, 1, 2])
def test_a_sheared_image_is_measured_to_its_shear(by):
    image = _bar(13, 4) + 0.5 * _bar(7, 9)
    before = slant(image.reshape(1, -1))
    torch.testing.assert_close(before, torch.zeros(1, dtype=torch.float64))
    lean = torch.rand(40, 40, dtype=torch.float64) * _bar(12, 12)
    first = slant(lean.reshape(1, -1))
    torch.testing.assert_close(slant(_sheared(lean, by).reshape(1, -1)) - first, torch.full_like(first, by))
    torch.testing.assert_close(slant(_sheared(image, by).reshape(1, -1)), torch.full_like(first, by))


@pytest.mark.parametrize(("rows", "columns"), [(20, 2), (20, 5), (3, 30), (10, 10)])
def test_thickness_of_a_bar_is_area_over_half_its_perimeter(rows, columns):
    found = float(thickness(_bar(rows, columns).reshape(1, -1)))
    corner = 2 - 2**0.5  # one corner of four is cut: forward differences take its diagonal
    assert abs(found - 2 * rows * columns / (2 * (rows + columns) - corner)) < 1e-12
    assert abs(float(thickness(0.5 * _bar(rows, columns).reshape(1, -1))) - found) < 1e-12  # ink does not matter


@pytest.mark.parametrize("angle", [0.2, 0.7, 1.3])
def test_thickness_of_a_smooth_stroke_at_any_angle(angle):
    index = torch.arange(80, dtype=torch.float64) - 39.5
    across = index[:, None] * torch.cos(torch.tensor(angle)) + index * torch.sin(torch.tensor(angle))
    along = -index[:, None] * torch.sin(torch.tensor(angle)) + index * torch.cos(torch.tensor(angle))
    stroke = ((3.0 - across.abs()).clamp(-1, 1) + 1) / 2 * ((30.0 - along.abs()).clamp(-1, 1) + 1) / 2
    expected = 6 * 60 / 66
    assert abs(float(thickness(stroke.reshape(1, -1))) / expected - 1) < 0.03


def test_blank_images_measure_nothing():
    assert float(slant(torch.zeros(1, 16))) == float(thickness(torch.zeros(1, 16))) == 0


def test_words_are_thirds_and_captions_parse_back():
    x, labels = pv.datasets.digits(values="intensity"), pv.datasets.digit_labels()
    captions = Captions(x, labels)
    codes = captions.codes(x, labels)
    assert torch.equal(codes[:, 0], labels)
    for column in (1, 2):
        assert (torch.bincount(codes[:, column], minlength=3) - len(x) / 3).abs().max() < 3
    assert bool(slant(x)[codes[:, 1] == 2].min() > slant(x)[codes[:, 1] == 1].max())
    assert torch.equal(captions.encode(captions.describe(codes)), codes)
    assert captions.one_hot(codes).shape == (len(x), captions.width)
    assert captions.one_hot(codes).sum() == 3 * len(x)
    assert captions.parse("THICK,  a three") == (3, -1, 2)
    assert captions.describe(torch.tensor([[8, -1, 0]])) == ["a eight, thin"]
    completed = captions.complete(torch.tensor([[8, -1, 0]]).expand(3000, -1))
    counts = torch.bincount(completed[:, 1])
    assert (counts - 1000).abs().max() < STANDARD_ERRORS * (3000 * 2 / 9) ** 0.5
    assert bool((completed[:, [0, 2]] == torch.tensor([8, 0])).all())


def test_the_divergence_of_conditioning_augmentation_is_torchs(float64):
    augmentation = ConditioningAugmentation(5, 3)
    e = torch.randn(4, 5)
    loc, log_scale = augmentation.layer(e).chunk(2, -1)
    q = Normal(loc, log_scale.exp())
    torch.testing.assert_close(augmentation.kl(e), kl_divergence(q, Normal(0.0, 1.0)).sum(-1))
    noise = torch.randn(50_000, 4, 3)
    drawn = augmentation(e, noise)
    error = q.scale / len(noise) ** 0.5
    assert bool(((drawn.mean(0) - loc).abs() < STANDARD_ERRORS * error).all())
    assert bool(((drawn.std(0) / q.scale - 1).abs() < STANDARD_ERRORS / (2 * len(noise)) ** 0.5).all())


@pytest.fixture(scope="module")
def bars():
    """8 x 8 images of one of two classes: a line that stands, or one that lies, somewhere."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(2, (400,), generator=generator)
    place = torch.randint(1, 7, (400,), generator=generator)
    x = torch.zeros(400, 8, 8)
    for i in range(400):
        x[i, :, place[i]] = 1
        x[i] = x[i].T.clone() if labels[i] else x[i]
    return x.flatten(1), labels


@pytest.fixture(scope="module")
def trained(bars):
    torch.manual_seed(0)
    x, labels = bars
    captions = Captions(x + 1e-3 * torch.rand_like(x) * (1 - x), labels, classes=("post", "plank"))
    system = StackGAN(captions, 64, latent_dim=4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pv.AdversarialWarning)  # long enough for the caption, not for every place
        history = pv.fit_adversarial(
            system, x, captions.codes(x, labels), steps=400, lr=2e-3, average=0.98, seed=0, progress=False
        )
    return system, history


def test_a_caption_is_what_its_image_shows_in_both_stages(trained):
    system, history = trained
    assert len(history.losses["kl"]) == 800
    assert len(history.diversity) == 2
    for stage, side in ((1, 4), (2, 8)):
        right = []
        for noun, even in (("post", 0), ("plank", 1)):
            image = system.sample([f"a {noun}"] * 100, stage=stage).reshape(-1, side, side)
            spread = torch.stack([image.sum(-2).var(-1), image.sum(-1).var(-1)])  # of columns, of rows
            right.append((spread.argmax(0) == even).double().mean())
        assert float(sum(right)) / 2 > 0.7, stage  # chance is 0.5, with a standard error of 0.035


def test_a_stage_makes_its_image_of_the_one_below_and_given_is_a_function_of_noise(trained):
    system, _ = trained
    system.eval()
    torch.manual_seed(3)
    large = system.sample(torch.tensor([[0, 0, 0]]))
    torch.manual_seed(3)
    small = system.sample(torch.tensor([[0, 0, 0]]), stage=1)
    assert small.shape == (1, 16)
    torch.manual_seed(3)
    system.captions.complete(torch.tensor([[0, 0, 0]]))  # what was unsaid is drawn first, said or not
    z = torch.randn(1, system.latent_dim)
    fixed = system.given("a post, leaning back, thin")
    torch.testing.assert_close(fixed(z), large)
    assert fixed(z.expand(2, 3, 1, -1)).shape == (2, 3, 1, 64)
    model = pv.Model(system.prior, pv.likelihoods.Gaussian(fixed, scale=0.1))
    assert model.sample(2)["x"].shape == (2, 64)


def test_stage_one_is_not_touched_by_stage_two(bars):
    x, labels = bars
    captions = Captions(x, labels)
    system = StackGAN(captions, 64, latent_dim=2)
    system.eval()  # as fit_adversarial leaves the stages that it does not play
    before = {name: value.clone() for name, value in system.first.state_dict().items()}
    batch = system.prepare(x[:20], captions.codes(x[:20], labels[:20]))
    move = system.second.train().play(*batch)
    sum(system.second.generator_loss(move, *batch).values()).backward()
    assert all(parameter.grad is None for parameter in system.first.parameters())
    assert all(torch.equal(before[name], value) for name, value in system.first.state_dict().items())
    shown = {id(parameter) for parameter in system.parameters()}
    trained = {id(p) for stage in system.stages() for player in stage.players() for p in player}
    assert trained == shown


def _captions():
    return Captions(torch.rand(30, 64), torch.arange(30) % 10)


BAD = [
    (lambda: _captions().parse("a tree, slanted"), ValueError, r"'zero', 'one'.*'upright'.*got 'tree' in 'a tree"),
    (lambda: _captions().parse("a two, a three"), ValueError, "one of its kind was said before"),
    (lambda: _captions().parse("slanted"), ValueError, "names one of"),
    (lambda: _captions().parse(3), TypeError, "a caption as a string"),
    (lambda: _captions().encode(torch.tensor([[0, 3, 0]])), ValueError, "row 0"),
    (lambda: _captions().encode(torch.zeros(2, 3)), ValueError, "whole numbers"),
    (lambda: Captions(torch.rand(9, 63), torch.arange(9)), ValueError, "square images"),
    (lambda: Captions(2 * torch.rand(9, 64), torch.arange(9)), ValueError, r"images in \[0, 1\]"),
    (lambda: Captions(torch.rand(11, 64), torch.arange(11)), ValueError, "labels from 0 to 9"),
    (lambda: StackGAN(_captions(), 49), ValueError, "multiple of 2"),
    (lambda: StackGAN(_captions(), 81, factor=3), ValueError, "a power of two"),
    (lambda: StackGAN(nn.Linear(1, 1), 64), TypeError, "captions, the words"),
    (lambda: StackGAN(_captions(), 64).sample("a dog"), ValueError, "got 'dog'"),
    (lambda: StackGAN(_captions(), 64).sample("a one", stage=3), ValueError, "stage 1 or 2"),
    (lambda: StackGAN(_captions(), 64).prepare(torch.rand(5, 64)), ValueError, "images and their captions"),
    (lambda: StackGAN(_captions(), 64).prepare(torch.rand(5, 64), ["a one"] * 4), ValueError, "same number of data"),
    (lambda: StackGAN(_captions(), 64).prepare(torch.rand(5, 49), ["a one"] * 5), ValueError, "laid flat"),
    (lambda: StackGAN(_captions(), 64).prepare(3 * torch.rand(5, 64), ["a one"] * 5), ValueError, r"in \[0, 1\]"),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD)
def test_what_does_not_fit_is_said(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_the_discriminator_is_shown_right_pairs_wrong_pairs_and_made_images():
    """Reed et al. 2016, algorithm 1, by hand; the caption of another that is the same is no wrong pair."""
    x, labels = pv.datasets.digits(values="intensity")[:40], pv.datasets.digit_labels()[:40]
    captions = pv.systems.Captions(x, labels)
    system = pv.systems.StackGAN(captions, 64, penalty=0.0)
    stage = system.second.eval()
    codes = captions.codes(x, labels)[:6]
    codes[3] = codes[2]
    with torch.no_grad():
        move = stage.play(x[:6], codes)
        found = stage.discriminator_loss(move, x[:6], codes)
        e = move["embedding"]
        right, made = (
            stage.discriminator(x[:6], e).sigmoid().log(),
            (1 - stage.discriminator(move["fake"], e).sigmoid()),
        )
        pairs = [(i, (i - 1) % 6) for i in range(6) if not torch.equal(e[i], e[i - 1])]
        assert (3, 2) not in pairs
        wrong = torch.stack([1 - stage.discriminator(x[i : i + 1], e[j : j + 1]).sigmoid() for i, j in pairs])
    truth = -right.mean() - 0.5 * (wrong.log().mean() + made.log().mean())
    torch.testing.assert_close(found, {"discriminator": truth}, rtol=1e-5, atol=1e-6)
