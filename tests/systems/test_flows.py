"""NICE and Real NVP: the map, its Jacobian, the density that follows, its programs, and what they refuse."""

import copy
import math
import pickle

import numpy as np
import pyro
import pytest
import torch
from scipy import stats
from sklearn.covariance import LedoitWolf

import pyro_vae as pv
from pyro_vae.inference.compiled.step import CompiledStep
from pyro_vae.runs.checkpoints import Checkpoints
from pyro_vae.systems.densities.batch_norm import BatchNorm
from pyro_vae.systems.densities.image_couplings import ChannelCoupling, CheckerboardCoupling
from pyro_vae.systems.densities.multi_scale import MultiScale, Squeeze
from tests.truth import STANDARD_ERRORS

NICE, RealNVP = pv.systems.NICE, pv.systems.RealNVP
SMALL = {"hidden": (8,)}
IMAGE = {"width": 4}
SYSTEMS = {
    "NICE": lambda: NICE(5, **SMALL),
    "NICE, normal": lambda: NICE(4, base="normal", **SMALL),
    "NICE of intensities": lambda: NICE(4, num_levels=8, intensities=True, alpha=0.05, **SMALL),
    "Real NVP": lambda: RealNVP(5, **SMALL),
    "Real NVP, batch norm, logistic": lambda: RealNVP(4, batch_norm=True, base="logistic", **SMALL),
    "Real NVP, bounded": lambda: RealNVP(4, max_log_scale=0.2, **SMALL),
    "Real NVP of the unit interval": lambda: RealNVP(3, alpha=0.1, **SMALL),
    "Real NVP of images": lambda: RealNVP((4, 4), **IMAGE),
    "Real NVP of levels": lambda: RealNVP((4, 8), num_levels=17, alpha=0.05, num_scales=3, batch_norm=False, **IMAGE),
    "Real NVP of colours": lambda: RealNVP((3, 3, 5), num_scales=1, **IMAGE),
}


def moved(system, scale=0.3):
    """The system with weights, and batch norm's averages, that are not those of the identity."""
    with torch.no_grad():
        for parameter in system.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
        for name, buffer in system.named_buffers():
            if name.endswith(".mean"):
                buffer.normal_()
            if name.endswith(".var"):
                buffer.exponential_().add_(0.5)
    return system.eval()


def data_of(system, num_data=6):
    """Points of the density's support, y of levels."""
    x = torch.randn(num_data, system.data_dim)
    if system.alpha is None:
        return x if system.num_levels is None else system.num_levels * torch.sigmoid(x)
    return torch.sigmoid(x) * (system.num_levels or 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", SYSTEMS)
def test_the_inverse_comes_back(name, dtype):
    torch.set_default_dtype(dtype)
    system = moved(SYSTEMS[name](), 0.1)
    x = data_of(system, 200)
    with torch.no_grad():
        z, log_det = system(x)
        back, back_log_det = system.inverse(z)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-10
    assert float((z - x).abs().max()) > 0.1
    assert float((back - x).abs().max()) <= tolerance * (system.num_levels or 1)
    assert torch.allclose(back_log_det, -log_det, atol=100 * tolerance)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", SYSTEMS)
def test_the_log_determinant_is_that_of_the_jacobian(name):
    system = moved(SYSTEMS[name](), 0.15)
    x = data_of(system, 2)
    z, log_det = system(x)
    for i in range(len(x)):
        jacobian = torch.autograd.functional.jacobian(lambda row: system(row[None])[0][0], x[i])
        assert torch.linalg.slogdet(jacobian)[1].item() == pytest.approx(log_det[i].item(), abs=1e-9)
        backwards = torch.autograd.functional.jacobian(lambda row: system.inverse(row[None])[0][0], z[i].detach())
        assert torch.linalg.slogdet(backwards)[1].item() == pytest.approx(-log_det[i].item(), abs=1e-6)
    base = stats.logistic(scale=3**0.5 / math.pi) if system.base == "logistic" else stats.norm
    expected = base.logpdf(z.detach().numpy()).sum(-1) + log_det.detach().numpy()
    assert np.allclose(system.log_prob(x).detach().numpy(), expected, atol=1e-9)


def test_additive_couplings_preserve_volume_and_affine_ones_do_not():
    nice, nvp = moved(NICE(4, **SMALL)), moved(RealNVP(4, **SMALL))
    with torch.no_grad():
        nice.layers.layers[1].log_scale.zero_()
        x = torch.randn(50, 4)
        assert torch.equal(nice(x)[1], torch.zeros(50))
        assert nvp(x)[1].std() > 0.1


@pytest.mark.usefixtures("float64")
def test_a_bounded_scale_follows_the_row_within_its_bound_and_a_column_has_one_of_its_own():
    bound, x = 0.1, 10 * torch.randn(200, 4)
    system = moved(RealNVP(4, num_transforms=6, max_log_scale=bound, **SMALL), 1.0)
    with torch.no_grad():
        of_columns = system.layers.layers[1].log_scale.sum()
        of_rows = system(x)[1] - of_columns
        assert 0.1 < of_rows.abs().max() <= 6 * 2 * bound  # six couplings, each of two entries
        assert of_rows.std() > 0.05
        system.layers.layers[1].log_scale.add_(1.0)
        torch.testing.assert_close(system(x)[1] - of_rows, (of_columns + 4).expand(200))


GRID = {
    "NICE": (lambda: NICE(2, **SMALL), -30.0, 30.0),
    "Real NVP": (lambda: RealNVP(2, num_transforms=4, **SMALL), -12.0, 12.0),
    "Real NVP, batch norm": (lambda: RealNVP(2, num_transforms=4, batch_norm=True, **SMALL), -25.0, 25.0),
    # alpha = 0.1 leaves room for [-1/8, 9/8], of which data use [0, 1]
    "Real NVP after logits": (lambda: RealNVP(2, num_transforms=4, alpha=0.1, **SMALL), -0.125, 1.125),
}


def on_a_grid(system, low, high, num=500):
    """Midpoints and the density there."""
    step = (high - low) / num
    line = low + step * (torch.arange(num, dtype=torch.get_default_dtype()) + 0.5)
    points = torch.cartesian_prod(line, line)
    with torch.no_grad():
        return points, system.distribution().log_prob(points), step**2


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", GRID)
def test_the_density_integrates_to_one_and_samples_follow_it(name):
    make, low, high = GRID[name]
    system = moved(make(), 0.25)
    points, log_p, area = on_a_grid(system, low, high)
    p = log_p.exp() * area
    assert p.sum().item() == pytest.approx(1.0, abs=1e-3)
    x = system.sample(4000)
    with torch.no_grad():
        own = system.distribution().log_prob(x)
    for of_draws, of_grid in ((own, log_p), (x[:, 0], points[:, 0]), (x.prod(-1), points.prod(-1))):
        expected = (p * of_grid).sum().item()
        standard_error = of_draws.std().item() / len(x) ** 0.5
        assert of_draws.mean().item() == pytest.approx(expected, abs=STANDARD_ERRORS * standard_error)
    direction = points @ torch.tensor([0.6, 0.8])
    order = direction.argsort()
    cdf = p[order].cumsum(0)
    own = (x @ torch.tensor([0.6, 0.8])).numpy()
    found = stats.kstest(own, lambda t: np.interp(t, direction[order].numpy(), cdf.numpy()))
    assert found.pvalue > 1e-3


@pytest.mark.parametrize(
    "make", [lambda: NICE(3, base="normal", **SMALL), lambda: RealNVP(3, num_transforms=4, **SMALL)]
)
def test_a_trained_flow_meets_the_truth_of_gaussian_data(make):
    data = pv.datasets.linear_gaussian(4000, latent_dim=1, data_dim=3)
    scale = torch.tensor([1.0, 100.0, 0.01])
    x = data.x * scale + 3
    covariance = scale[:, None] * (data.weight @ data.weight.T + torch.diag(data.scale**2)) * scale
    truth = torch.distributions.MultivariateNormal(data.bias * scale + 3, covariance)
    system = make().standardise(x[:2000])
    options = {"epochs": 8, "batch_size": 200, "lr": 2e-2, "patience": 12, "progress": False, "compile": False}
    pv.fit(system.model, system.guide, x[:2000], **options)
    with torch.no_grad():
        gain = system.log_prob(x[2000:]) - truth.log_prob(x[2000:])
    assert gain.mean() > -0.08
    assert gain.mean() < STANDARD_ERRORS * gain.std() / len(gain) ** 0.5


@pytest.mark.parametrize("whiten", [False, True])
def test_standardised_columns_count_their_jacobian(whiten):
    torch.set_default_dtype(torch.float64)
    x = torch.randn(60, 3) @ torch.randn(3, 3) * torch.tensor([1.0, 50.0, 0.02]) + 7
    system = NICE(3, base="normal").standardise(x, whiten=whiten)  # its couplings start as the identity
    rows = x.numpy()
    mean, sd = rows.mean(0), rows.std(0)
    own = LedoitWolf().fit((rows - mean) / sd).covariance_ if whiten else np.eye(3)
    expected = stats.multivariate_normal(mean, sd[:, None] * own * sd).logpdf(rows)
    assert np.allclose(system.log_prob(x).detach().numpy(), expected, atol=1e-9)
    assert np.allclose(system.bits_per_dimension(x).numpy(), -expected / 3 / math.log(2), atol=1e-9)


# -- batch norm and images ------------------------------------------------------------------------------------------


def test_batch_norm_averages_in_training_and_rests_in_evaluation():
    torch.set_default_dtype(torch.float64)
    layer, x = BatchNorm(3, momentum=0.75), 2 * torch.randn(40, 3, 2, 2) + 1
    y, log_det = layer(x)
    mean, var = 0.25 * x.mean((0, 2, 3)), 0.75 + 0.25 * x.var((0, 2, 3), correction=0)
    assert torch.allclose(layer.mean, mean)
    assert torch.allclose(layer.var, var)
    expected = torch.nn.functional.batch_norm(x, mean, var, eps=layer.eps)
    assert torch.allclose(y, expected)
    assert torch.allclose(log_det, -0.5 * 4 * (var + layer.eps).log().sum() * torch.ones(40))
    layer.eval()
    assert torch.allclose(layer(x)[0], expected)
    assert torch.allclose(layer(x[:1])[0], y[:1])
    assert torch.allclose(layer.mean, mean)
    assert torch.allclose(layer.train().inverse(y)[0], x)
    assert torch.allclose(layer.mean, mean)


def test_batch_norm_without_memory_normalises_each_batch():
    y, _ = BatchNorm(3, momentum=0.0)(torch.randn(500, 3) * 7 + 2)
    assert torch.allclose(y.mean(0), torch.zeros(3), atol=1e-5)
    assert torch.allclose(y.std(0, correction=0), torch.ones(3), atol=1e-3)


def test_the_gradient_of_batch_norm_goes_through_the_batch_at_hand():
    torch.set_default_dtype(torch.float64)
    x, rho = torch.randn(6, 1), 0.6

    def loss(x):
        return sum(term.sum() for term in BatchNorm(1, momentum=rho)(x))

    leaf = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(loss(leaf), leaf)
    step = torch.zeros_like(x)
    step[2] = 1e-6
    assert grad[2].item() == pytest.approx(((loss(x + step) - loss(x - step)) / 2e-6).item(), rel=1e-5)


def test_scales_give_out_half_of_their_channels():
    scale = Squeeze()
    map_of = MultiScale((1, 8, 8), [scale, Squeeze(), CheckerboardCoupling(4, even=True, width=4, num_blocks=1)])
    z, log_det = map_of(x := torch.arange(64.0).expand(2, 64))
    first = torch.nn.functional.pixel_unshuffle(x.unflatten(-1, (1, 8, 8)), 2)
    assert torch.equal(z[:, :32], first[:, 2:].flatten(1))
    assert torch.equal(map_of.inverse(z)[0], x)
    assert log_det.shape == (2,)
    assert [tuple(shape) for shape in map_of._shapes()] == [(2, 4, 4), (4, 2, 2), (4, 2, 2)]


@pytest.mark.parametrize("even", [True, False])
def test_masks_hold_what_the_network_sees(even):
    checkers = moved(CheckerboardCoupling(2, even=even, width=4, num_blocks=1))
    x = torch.randn(3, 2, 4, 4)
    still = (checkers(x)[0] == x).all(0).all(0)
    rows, columns = np.indices((4, 4))
    assert np.array_equal(still.numpy(), ((rows + columns) % 2 == 0) == even)
    channels = moved(ChannelCoupling(4, first=even, width=4, num_blocks=1))
    x = torch.randn(3, 4, 4, 4)
    still = (channels(x)[0] == x).flatten(2).all(-1).all(0)
    assert still.tolist() == [even, even, not even, not even]


# -- whole numbers ---------------------------------------------------------------------------------------------------


def true_log_probability(system, level, num=400):
    """log of the integral of the density over a cell, by midpoints."""
    line = (torch.arange(num, dtype=torch.float64) + 0.5) / num
    points = level + torch.cartesian_prod(*[line] * system.data_dim).reshape(-1, system.data_dim)
    with torch.no_grad():
        return system.distribution().log_prob(points).logsumexp(0) - math.log(len(points))


@pytest.mark.usefixtures("float64")
def test_bounds_stay_below_the_probability_and_variational_noise_is_nearer():
    system = moved(RealNVP(2, num_levels=3, dequantisation="variational", num_transforms=4, **SMALL))
    levels = torch.cartesian_prod(torch.arange(3.0), torch.arange(3.0))
    with torch.no_grad():  # an uneven density within cells
        system.standardised.factor.mul_(0.3)
        for parameter in system.dequantiser.parameters():
            parameter.mul_(0.0)
    truth = torch.stack([true_log_probability(system, level) for level in levels])
    assert truth.exp().sum() < 1 + 1e-6

    def bound(repeats=500):
        with torch.no_grad():
            draws = system.bound(levels.repeat(repeats, 1)).reshape(repeats, -1)
        return draws.mean(0), draws.std(0) / repeats**0.5

    uniform, uniform_error = bound()
    assert (uniform < truth + STANDARD_ERRORS * uniform_error).all()
    assert (truth - uniform).mean() > 0.3
    for parameter in [*system.layers.parameters(), *system.standardised.parameters()]:
        parameter.requires_grad_(requires_grad=False)
    torch.nn.init.normal_(system.dequantiser.features[0].weight)
    torch.nn.init.normal_(system.dequantiser.features[2].weight, std=0.3)
    for module in system.dequantiser.flow.modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight, std=0.1)
    options = {"lr": 2e-2, "batch_size": 180, "validation": None, "progress": False, "compile": False}
    pv.fit(system.model, system.guide, levels.repeat(20, 1), epochs=40, **options)
    variational, error = bound()
    assert (variational < truth + STANDARD_ERRORS * error).all()
    both = (error.square() + uniform_error.square()).sqrt()
    assert (variational > uniform - STANDARD_ERRORS * both).all()
    assert (truth - variational).mean() < 0.5 * (truth - uniform).mean()
    found = pv.evidence(system.model, levels, system.guide, method="importance", num_samples=2000)
    assert torch.allclose(found.log_evidence, truth, atol=0.05)


def test_bits_do_not_depend_on_how_levels_are_coded():
    counts = torch.randint(17, (30, 64)).float()
    found = []
    for x, intensities in ((counts, False), (counts / 16, True)):
        pyro.set_rng_seed(3)
        system = moved(RealNVP((8, 8), num_levels=17, intensities=intensities, alpha=0.05, **IMAGE), 0.05)
        found.append(system.bits_per_dimension(x, num_samples=2))
        assert system.sample(4).max() <= (1 if intensities else 16)
    assert torch.allclose(*found, atol=1e-4)


@pytest.mark.usefixtures("float64")
def test_uniform_noise_has_density_one_in_levels():
    system = NICE(3, num_levels=256, base="normal", **SMALL)
    x = torch.tensor([[0.0, 255.0, 17.0]])
    assert torch.equal(system.dequantise(x).floor(), x)
    flat = -3 * math.log(256) + stats.norm.logpdf(system.dequantise(x).numpy() / 256).sum()
    with torch.no_grad():
        assert system.bound(x).item() == pytest.approx(flat, abs=0.05)


# -- as Pyro programs ------------------------------------------------------------------------------------------------


PROGRAMS = {
    "NICE": (lambda: NICE(16, base="normal", **SMALL), None),
    "Real NVP, batch norm, variational noise": (
        lambda: RealNVP((4, 4), num_levels=5, alpha=0.05, dequantisation="variational", num_scales=1, **IMAGE),
        5,
    ),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_compiled_step_is_pyros_to_rounding(name):
    make, num_levels = PROGRAMS[name]
    x = torch.randn(7, 32, 16) if num_levels is None else torch.randint(num_levels, (7, 32, 16)).float()
    found = []
    for compiled in (False, True):
        pyro.set_rng_seed(1)
        system = make().train()
        if compiled:
            step = CompiledStep(system.model, system.guide, lr=5e-3, backend="eager")
            losses = [step(batch).item() for batch in x]
            assert step.num_graphs == 1
        else:
            svi = pyro.infer.SVI(system.model, system.guide, pyro.optim.Adam({"lr": 5e-3}), pyro.infer.Trace_ELBO())
            losses = [svi.step(batch) for batch in x]
        found.append((losses, [tensor.clone() for tensor in (*system.parameters(), *system.buffers())]))
    (by_pyro, one), (by_graph, two) = found
    assert by_graph == pytest.approx(by_pyro, rel=1e-4)
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(one, two, strict=True))


def test_fit_takes_an_empty_guide_and_goes_on_from_a_checkpoint(tmp_path):
    x, found = torch.randn(60, 3), []
    for parts in ([6], [3, 6]):
        pyro.set_rng_seed(2)
        system = RealNVP(3, batch_norm=True, **SMALL)
        for epochs in parts:
            folder = tmp_path / str(len(parts))
            folder.mkdir(exist_ok=True)
            kept = Checkpoints(folder)
            options = {"batch_size": 20, "validation": 0.2, "patience": 6, "progress": False, "seed": 0}
            history = pv.fit(system.model, system.guide, x, epochs=epochs, checkpoint=kept, **options)
            assert not system.training
        found.append((history.validation_elbo, [tensor.clone() for tensor in system.state_dict().values()]))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(a, b) for a, b in zip(found[0][1], found[1][1], strict=True))


def test_the_program_is_the_density():
    system = moved(RealNVP(3, **SMALL))
    again = pickle.loads(pickle.dumps(system))  # once Pyro has seen a parameter it holds a weak reference
    x = torch.randn(7, 3)
    trace = pyro.poutine.trace(system.model).get_trace(x)
    trace.compute_log_prob()
    assert torch.allclose(trace.nodes["x"]["log_prob"], system.log_prob(x))
    assert system.guide(x) is None
    assert system.model(num_data=5).shape == (5, 3)
    twin = copy.deepcopy(system)
    for other in (again, twin):
        assert torch.equal(other.log_prob(x), system.log_prob(x))
        assert other.model.density is other
        assert other.model._store_name != system.model._store_name
    fresh = RealNVP(3, **SMALL)
    fresh.load_state_dict(system.state_dict())
    assert torch.equal(fresh.log_prob(x), system.log_prob(x))


# -- bad input -------------------------------------------------------------------------------------------------------


def nan(x):
    return torch.where(torch.arange(x.numel()).reshape(x.shape) == 1, torch.nan, x)


UNIT, LEVELS = RealNVP(4, alpha=0.05, **SMALL), NICE(4, num_levels=5, **SMALL)
REFUSED = {
    "NaN": (lambda: RealNVP(4).log_prob(nan(torch.zeros(2, 4))), "NaN in row 0"),
    "width": (lambda: NICE(4).log_prob(torch.zeros(2, 5)), "4 columns"),
    "width in training": (lambda: NICE(4).model(torch.zeros(2, 5)), "4 columns"),
    "outside the unit interval": (lambda: UNIT.log_prob(torch.full((2, 4), 1.5)), r"values in \[0, 1\] for logits"),
    "outside, in training": (lambda: pv.fit(UNIT.model, UNIT.guide, torch.full((2, 4), 1.5), epochs=1), "from 0 to 1"),
    "constant column": (lambda: NICE(2).standardise(torch.ones(5, 2)), "columns that vary"),
    "levels": (lambda: LEVELS.bound(torch.full((2, 4), 5.0)), "whole numbers from 0 to 4; got 5 in row 0"),
    "levels that are intensities": (lambda: LEVELS.bound(torch.full((2, 4), 0.5)), "intensities=True"),
    "levels in training": (
        lambda: pv.fit(LEVELS.model, LEVELS.guide, torch.full((2, 4), 5.0), epochs=1),
        "from 0 to 4",
    ),
    "odd side": (lambda: RealNVP((7, 8)), "7 x 8 pixels; try num_scales=1"),
    "shape": (lambda: RealNVP((3, 2, 8, 8)), "an image's shape"),
    "no levels": (lambda: NICE(4).dequantise(torch.zeros(2, 4)), "num_levels"),
    "noise without levels": (lambda: NICE(4, dequantisation="variational"), "num_levels"),
    "alpha": (lambda: NICE(4, alpha=0.5), "alpha below 1/2"),
    "momentum": (lambda: RealNVP(4, momentum=1.0, batch_norm=True), "a momentum"),
    "base": (lambda: NICE(4, base="gaussian"), "base to be one of"),
    "one column": (lambda: NICE(1), "at least 2"),
    "a bound of nothing": (lambda: RealNVP(4, max_log_scale=0.0), "positive, finite max_log_scale"),
    "a bound for an image": (lambda: RealNVP((8, 8), max_log_scale=0.2), "expected a table"),
    "x of another precision": (lambda: NICE(4).log_prob(torch.zeros(2, 4).double()), r"x.to\(torch.float32\)"),
    "z of another precision": (lambda: RealNVP(4).inverse(torch.zeros(2, 4).double()), r"z.to\(torch.float32\)"),
    "evidence of levels, no guide": (
        lambda: pv.evidence(LEVELS.model, torch.ones(2, 4)),
        "with a guide of the program",
    ),
    "quadrature of levels": (
        lambda: pv.quadrature(NICE(2, num_levels=500, **SMALL).model, torch.full((2, 2), 300.0)),
        "none at any point of a grid, for datum 0",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_gets_a_sentence(name):
    call, words = REFUSED[name]
    with pytest.raises(ValueError, match=words):
        call()
