"""The programs of the atlas: their densities against SciPy, their truths against integrals of other kinds."""

import math
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats

import pyro_vae as pv
from pyro_vae.atlas.archive import Stored, read
from pyro_vae.atlas.chains import LongChains
from pyro_vae.atlas.programs import NAMES, banana, donut, heavy_tails, local_level, many_modes, two_modes
from pyro_vae.atlas.truth import NUM_DRAWS
from pyro_vae.atlas.values import number
from tests.truth import STANDARD_ERRORS

FORMULAE = {}  # name: log p(x, z) on the scale of the sites, from z and the data by site, in NumPy and SciPy


def formula(name):
    def register(function):
        FORMULAE[name] = function
        return function

    return register


norm = stats.norm.logpdf


def half(x, scale):
    return stats.halfnorm.logpdf(x, scale=scale)


@formula("linear_regression")
def _(z, X, y):
    prior = norm(z["intercept"], 0, 5) + norm(z["beta"], 0, 2).sum()
    return prior + norm(y, z["intercept"] + X @ z["beta"], 1).sum()


@formula("logistic_regression")
def _(z, X, y):
    p = special.expit(z["intercept"] + X @ z["beta"])
    return norm(z["intercept"], 0, 5) + norm(z["beta"], 0, 5).sum() + stats.bernoulli.logpmf(y, p).sum()


@formula("poisson_regression")
def _(z, X, exposure, y):
    rate = exposure * np.exp(z["intercept"] + X @ z["beta"])
    return norm(z["intercept"], 0, 3) + norm(z["beta"], 0, 1).sum() + stats.poisson.logpmf(y, rate).sum()


@formula("robust_regression")
def _(z, x, y):
    prior = norm(z["intercept"], 0, 5) + norm(z["slope"], 0, 5) + half(z["scale"], 2)
    prior += stats.gamma.logpdf(z["freedom"], 2, scale=10)
    return prior + stats.t.logpdf(y, z["freedom"], z["intercept"] + z["slope"] * x, z["scale"]).sum()


@formula("horseshoe")
def _(z, X, y):
    total, local = np.exp(z["log_total"]), np.exp(z["log_local"])
    prior = stats.halfcauchy.logpdf(total, scale=0.3) + np.log(total)
    prior += (stats.halfcauchy.logpdf(local) + np.log(local)).sum()
    return prior + norm(z["beta"], 0, local * total).sum() + norm(y, X @ z["beta"], 1).sum()


@formula("eight_schools_centred")
def _(z, y, error):
    prior = norm(z["mu"], 0, 5) + stats.halfcauchy.logpdf(z["tau"], scale=5)
    return prior + norm(z["theta"], z["mu"], z["tau"]).sum() + norm(y, z["theta"], error).sum()


@formula("eight_schools_noncentred")
def _(z, y, error):
    prior = norm(z["mu"], 0, 5) + stats.halfcauchy.logpdf(z["tau"], scale=5) + norm(z["eta"]).sum()
    return prior + norm(y, z["mu"] + z["tau"] * z["eta"], error).sum()


@formula("radon")
def _(z, county, floor, y):
    a, b = z["intercept"], z["slope"]
    prior = norm(z["mean"], 0, 2).sum() + half(z["spread"], 1).sum() + half(z["noise"], 1)
    prior += norm(a, z["mean"][0], z["spread"][0]).sum() + norm(b, z["mean"][1], z["spread"][1]).sum()
    return prior + norm(y, a[county] + b[county] * floor, z["noise"]).sum()


@formula("seeds")
def _(z, X, n, y):
    prior = norm(z["beta"], 0, 2).sum() + half(z["spread"], 1) + norm(z["logit"], X @ z["beta"], z["spread"]).sum()
    return prior + stats.binom.logpmf(y, n, special.expit(z["logit"])).sum()


@formula("item_response")
def _(z, y):
    a, b, c = z["ability"], z["difficulty"], z["discrimination"]
    p = special.expit(c * (a[:, None] - b))
    prior = norm(a).sum() + norm(b, 0, 1.5).sum() + stats.lognorm.logpdf(c, 0.5).sum()
    return prior + stats.bernoulli.logpmf(y, p).sum()


@formula("ar2")
def _(z, y):
    mean = [z["constant"] + z["phi"][0] * y[t - 1] + z["phi"][1] * y[t - 2] for t in range(2, len(y))]
    prior = half(z["scale"], 1) + norm(z["constant"]) + norm(z["phi"]).sum()
    return prior + norm(y[2:], mean, z["scale"]).sum()


@formula("local_level")
def _(z, y):
    level = z["level"]
    prior = half(z["step"], 1) + half(z["noise"], 1) + norm(level[0], 0, 3)
    return prior + norm(np.diff(level), 0, z["step"]).sum() + norm(y, level, z["noise"]).sum()


@formula("seasonal")
def _(z, y):
    t = np.arange(len(y))
    mean = z["trend"][0] + z["trend"][1] * (t / 12 - 1.5) + z["month"][t % 12]
    prior = half(z["spread"], 1) + half(z["noise"], 1) + norm(z["trend"], 0, 2).sum()
    return prior + norm(z["month"], 0, z["spread"]).sum() + norm(y, mean, z["noise"]).sum()


@formula("stochastic_volatility")
def _(z, y):
    h, phi = z["h"] - z["mean"], z["phi"]
    prior = norm(z["mean"], 0, 2) + stats.beta.logpdf(phi, 20, 1.5) + half(z["sigma"], 0.5)
    prior += norm(h[0], 0, z["sigma"] / math.sqrt(1 - phi**2)) + norm(h[1:], phi * h[:-1], z["sigma"]).sum()
    return prior + norm(y, 0, np.exp(z["h"] / 2)).sum()


@formula("gaussian_process")
def _(z, x, y):
    kernel = np.exp(-((x[:, None] - x) ** 2) / (2 * z["length"] ** 2))
    covariance = kernel + (z["noise"] ** 2 + 1e-6) * np.eye(len(x))
    prior = stats.lognorm.logpdf(z["length"], 1) + half(z["noise"], 1)
    return prior + stats.multivariate_normal(np.zeros(len(x)), covariance).logpdf(y)


@formula("changepoint")
def _(z, y):
    T = len(y)
    terms = [stats.poisson.logpmf(y, np.where(np.arange(T) < s, z["early"], z["late"])).sum() for s in range(T)]
    return sum(stats.gamma.logpdf(z[each], 2) for each in ("early", "late")) + special.logsumexp(terms) - math.log(T)


@formula("gaussian_mixture")
def _(z, x):
    prior = stats.dirichlet.logpdf(z["share"], np.full(3, 2.0)) + norm(z["place"], 0, 4).sum() + half(z["width"], 2)
    return prior + special.logsumexp(np.log(z["share"]) + norm(x[:, None], z["place"], z["width"]), axis=1).sum()


@formula("latent_class")
def _(z, y):
    prior = stats.beta.logpdf(z["share"], 2, 2) + stats.beta.logpdf(z["yes"], 1, 1).sum()
    terms = stats.bernoulli.logpmf(y[:, None], z["yes"]).sum(-1)
    return prior + special.logsumexp(terms + np.log([z["share"], 1 - z["share"]]), axis=1).sum()


@formula("hidden_markov")
def _(z, y):
    prior = stats.dirichlet.logpdf(z["move"][0], [4, 1]) + stats.dirichlet.logpdf(z["move"][1], [1, 4])
    prior += norm(z["level"], 0, 2).sum() + half(z["noise"], 1)
    forward = math.log(0.5) + norm(y[0], z["level"], z["noise"])
    for value in y[1:]:
        forward = special.logsumexp(forward[:, None] + np.log(z["move"]), axis=0) + norm(value, z["level"], z["noise"])
    return prior + special.logsumexp(forward)


@formula("factor_analysis")
def _(z, y):
    W = np.zeros((6, 2))
    W[0, 0], W[1, 1], W[1:, 0], W[2:, 1] = z["top"][0], z["top"][1], z["below"][:5], z["below"][5:]
    prior = half(z["top"], 1).sum() + norm(z["below"]).sum()
    prior += stats.lognorm.logpdf(z["unique"], 0.5, scale=math.exp(-1)).sum()
    return prior + stats.multivariate_normal(np.zeros(6), W @ W.T + np.diag(z["unique"])).logpdf(y).sum()


@formula("matrix_factorisation")
def _(z, y, seen):
    mean = np.array([z["row"][i] @ z["column"][j] for i, j in seen])
    return norm(z["row"]).sum() + norm(z["column"]).sum() + norm(y, mean, 0.5).sum()


@formula("neural_network")
def _(z, x, y):
    mean = sum(c * np.tanh(a * x + b) for a, b, c in zip(z["a"], z["b"], z["c"], strict=True))
    return sum(norm(z[name]).sum() for name in "abc") + norm(y, mean, 0.4).sum()


@formula("lotka_volterra")
def _(z, y):
    """By SciPy's own solver, which the fixed steps come close to where the rates are slow."""
    birth, predation, death, growth = rates = z["rates"]

    def slope(_, u):
        return [birth - predation * math.exp(u[1]), growth * math.exp(u[0]) - death]

    steps = 0.5 * np.arange(1, 13)
    path = integrate.solve_ivp(slope, (0, 6), [0.7, -0.3], t_eval=steps, rtol=1e-8, atol=1e-8).y.T
    prior = stats.lognorm.logpdf(rates, 0.4, scale=np.array([0.8, 0.6, 0.9, 0.7]) * math.exp(-0.1)).sum()
    return prior + stats.lognorm.logpdf(z["noise"], 0.5, scale=math.exp(-1)) + norm(y, path, z["noise"]).sum()


@formula("ill_conditioned")
def _(z, A, y):
    return norm(z["z"], 0, 10).sum() + norm(y, A @ z["z"], 1).sum()


@formula("heavy_tails")
def _(z, width):
    return stats.multivariate_t(np.zeros(5), np.eye(5), df=3).logpdf(z["z"])


@formula("funnel")
def _(z, width):
    return norm(z["v"], 0, 3) + norm(z["x"], 0, np.exp(z["v"] / 2)).sum()


@formula("two_modes")
def _(z, width):
    parts = (
        (0.7, stats.multivariate_normal(np.full(5, -2.0), np.eye(5))),
        (
            0.3,
            stats.multivariate_normal(np.full(5, 2.0), 0.25 * np.eye(5)),
        ),
    )
    return special.logsumexp([math.log(share) + part.logpdf(z["z"]) for share, part in parts])


@formula("many_modes")
def _(z, width):
    places = np.array([-4, -2, 0, 2, 4])
    return special.logsumexp(norm(z["z"][:, None], places, 0.3), axis=1).sum() - 2 * math.log(5)


@formula("vae_digit")
def _(z, x, first, first_bias, second, second_bias):
    hidden = first @ z["z"] + first_bias
    logits = second @ (hidden * special.expit(hidden)) + second_bias
    return norm(z["z"]).sum() + stats.bernoulli.logpmf(x, special.expit(logits)).sum()


@pytest.mark.parametrize("name", sorted(FORMULAE))
def test_the_density_is_scipys(name):
    """At prior draws, and at the truth's own, where the likelihood is not negligible."""
    problem = pv.atlas.load(name)
    target = problem.target
    torch.manual_seed(2)
    u = target.sample_prior(2)
    if name in NAMES:
        near = {site: value[:2].to(target.origin) for site, value in problem.truth.draws.items()}
        u = torch.cat([u, target.unconstrain(near)])
    args = [arg.numpy() for arg in problem.args]
    # a fixed Runge-Kutta step is not the solution: it is as near as its step allows, at rates that are not fast
    tolerance = 2e-2 if name == "lotka_volterra" else 1e-6
    sites = {site: value.numpy() for site, value in target.constrain(u).items()}
    found = (target.log_joint(u) - target.log_jacobian(u)).squeeze(-1)
    for s, value in enumerate(found.tolist()):
        z = {site: each[s] for site, each in sites.items()}
        assert value == pytest.approx(FORMULAE[name](z, *args), rel=tolerance, abs=tolerance)


@pytest.mark.parametrize("name", NAMES)
def test_a_program_is_one_posterior_in_double_precision_with_gradients_at_prior_draws(name):
    problem = pv.atlas.load(name)
    target = problem.target
    assert (problem.name, target.num_data, problem.plate) == (name, 1, None)
    assert 2 <= target.latent_dim <= 120
    torch.manual_seed(1)
    u = target.sample_prior(8)
    assert all(value.dtype == torch.float64 for value in target.constrain(u).values())
    value, gradient = target.value_and_grad(u)
    assert bool(value.isfinite().all() and gradient.isfinite().all())
    assert torch.get_default_dtype() == torch.float32
    assert not target.improper
    assert len(problem.why.split()) > 30
    assert problem.source.endswith(".")


@pytest.mark.parametrize("name", NAMES)
def test_a_truth_has_the_shapes_of_the_sites_and_its_parts_agree(name):
    problem = pv.atlas.load(name)
    truth, target = problem.truth, problem.target
    assert truth.how in {"closed form", "quadrature", "enumeration", "chains"}
    shapes = {site: value.shape for site, value in target.constrain(target.origin).items()}
    for part in ("mean", "std", "low", "high", "mean_error"):
        values = getattr(truth, part)
        assert {site: value.shape for site, value in values.items()} == shapes
        assert all(bool(value.isfinite().all()) for value in values.values())
    for telling in problem.telling:
        assert number(truth.draws, telling).shape == (NUM_DRAWS,)
    # the kept draws lie below the quantiles as often as draws do: about 1,000 numbers in all are compared
    noise = STANDARD_ERRORS * math.sqrt(0.05 * 0.95 / NUM_DRAWS) * 1.2  # of chains, they are not quite independent
    for site, draws in truth.draws.items():
        assert draws.shape == (NUM_DRAWS, *shapes[site])
        assert bool(((draws <= truth.low[site]).double().mean(0) - 0.05).abs().max() < noise)
        assert bool(((draws >= truth.high[site]).double().mean(0) - 0.05).abs().max() < noise)
        below = (draws <= truth.low[site] + 1e-12) | (draws >= truth.high[site] - 1e-12)
        assert bool((below.double().mean(0) < 0.2).all())
        spread = STANDARD_ERRORS * truth.std[site] / math.sqrt(NUM_DRAWS) * 1.2
        assert bool(((draws.mean(0) - truth.mean[site]).abs() < spread + 1e-12).all())
        assert bool((truth.mean_error[site] < 0.03 * truth.std[site]).all())


def test_every_file_of_the_folder_is_listed_once():
    here = {path.stem for path in Path(pv.atlas.programs.__file__).parent.glob("*.py")} - {"__init__"}
    assert sorted(NAMES) == sorted(here)
    assert pv.atlas.names() == list(NAMES)


def test_a_program_without_a_stored_truth_says_how_to_find_it():
    with pytest.raises(ValueError, match=r"got none; try python -m pyro_vae.atlas.stored tomorrow"):
        read("tomorrow")


def test_an_unknown_name_is_told_the_nearest():
    with pytest.raises(ValueError, match="try 'radon'"):
        pv.atlas.load("random")


def test_stored_truths_are_small_and_their_chains_have_converged():
    folder = files("pyro_vae.atlas.stored")
    assert sum(len(path.read_bytes()) for path in folder.iterdir() if path.name.endswith(".npz")) < 3_000_000
    for name in NAMES:
        find = pv.atlas.load(name).find_truth
        if isinstance(find, Stored) and isinstance(find.find, LongChains):
            told = pv.atlas.load(name).truth.provenance
            assert told["rhat"] < 1.01
            assert told["ess"] > find.find.min_ess
            assert told["diverging"] <= 1e-3


# -- truths by other integrals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["banana", "donut", "changepoint", "many_modes"])
def test_a_closed_form_is_what_a_plain_sum_over_a_grid_gives(name):
    problem = pv.atlas.load(name)
    if name == "changepoint":
        (y,) = problem.args
        line = second = torch.linspace(0.02, 8, 500).double()
        grid = torch.cartesian_prod(line, line)
        prior = (grid.log() - grid).sum(-1) - math.log(len(y))
        early, late = grid.log().unbind(-1)
        log = torch.full_like(early, -math.inf)
        for s in range(len(y)):
            terms = early * y[:s].sum() - s * grid[:, 0] + late * y[s:].sum() - (len(y) - s) * grid[:, 1]
            log = torch.logaddexp(log, terms)
        log = log + prior - (y + 1).lgamma().sum()
        names = ["early", "late"]
    else:
        density = {"banana": banana, "donut": donut, "many_modes": many_modes}[name].log_density
        line = torch.linspace(-9, 9, 901).double()
        second = torch.linspace(-4, 96, 2001).double() if name == "banana" else line
        line = 1.5 * line if name == "banana" else line
        grid = torch.cartesian_prod(line, second)
        log = density(grid)
        names = ["z[0]", "z[1]"]
    weight = log.softmax(0)
    evidence = float(log.logsumexp(0)) + math.log(float(line[1] - line[0]) * float(second[1] - second[0]))
    truth = problem.truth
    assert truth.log_evidence == pytest.approx(evidence, abs=1e-4)
    for column, each in zip(grid.unbind(-1), names, strict=True):
        mean = float(weight @ column)
        std = math.sqrt(float(weight @ column.square()) - mean**2)
        assert float(number(truth.mean, each)) == pytest.approx(mean, abs=2e-3)
        assert float(number(truth.std, each)) == pytest.approx(std, abs=2e-3)
        assert float(weight[column <= number(truth.low, each)].sum()) == pytest.approx(0.05, abs=0.006)
        assert float(weight[column >= number(truth.high, each)].sum()) == pytest.approx(0.05, abs=0.006)


def test_quantiles_of_the_funnel_the_tails_and_the_two_modes_by_scipy():
    """One-dimensional marginals, integrated."""
    v = np.linspace(-24, 24, 4001)
    weight = stats.norm.pdf(v, 0, 3) * (v[1] - v[0])
    truth = pv.atlas.load("funnel").truth
    low = truth.low["x"].numpy()
    share = np.array([(weight * stats.norm.cdf(x, 0, np.exp(v / 2))).sum() for x in low])
    assert np.abs(share - 0.05).max() < STANDARD_ERRORS * math.sqrt(0.05 * 0.95 / 100_000)
    tails = pv.atlas.load("heavy_tails").truth
    assert float(tails.high["z"][0]) == pytest.approx(stats.t.ppf(0.95, heavy_tails.FREEDOM))
    assert float(tails.std["z"][0]) == pytest.approx(stats.t.std(3))
    modes = pv.atlas.load("two_modes").truth
    parts = list(zip(two_modes.SHARES, two_modes.PLACES, two_modes.WIDTHS, strict=True))
    for bound, tail in ((modes.low, 0.05), (modes.high, 0.95)):
        found = sum(share * stats.norm.cdf(bound["z"].numpy(), place, width) for share, place, width in parts)
        assert np.abs(found - tail).max() < STANDARD_ERRORS * math.sqrt(0.05 * 0.95 / 100_000)
    x = np.linspace(-12, 12, 100_001)
    density = sum(share * stats.norm.pdf(x, place, width) for share, place, width in parts) * (x[1] - x[0])
    assert float(modes.mean["z"][0]) == pytest.approx((x * density).sum(), abs=1e-6)
    assert float(modes.std["z"][0]) == pytest.approx(math.sqrt((x**2 * density).sum() - (x * density).sum() ** 2))


def test_eight_schools_are_what_the_literature_says():
    """posteriordb's reference draws of eight_schools_noncentered: mu 4.41, tau 3.60, theta of the first school 6.2."""
    truth, other = pv.atlas.load("eight_schools_centred").truth, pv.atlas.load("eight_schools_noncentred").truth
    assert float(truth.mean["mu"]) == pytest.approx(4.41, abs=0.06)
    assert float(truth.std["mu"]) == pytest.approx(3.31, abs=0.06)
    assert float(truth.mean["tau"]) == pytest.approx(3.60, abs=0.06)
    assert float(truth.std["tau"]) == pytest.approx(3.20, abs=0.08)
    assert float(truth.mean["theta"][0]) == pytest.approx(6.2, abs=0.1)
    assert float(truth.mean["tau"]) == pytest.approx(float(other.mean["tau"]), rel=1e-6)
    assert truth.log_evidence == pytest.approx(other.log_evidence, abs=1e-6)


def test_eight_schools_by_one_integral():
    """Given tau, each effect is Gaussian around mu with variance tau^2 + error^2."""
    y, error = (arg.numpy() for arg in pv.atlas.load("eight_schools_centred").args)

    def density(tau):
        covariance = 25.0 + np.diag(tau**2 + error**2)
        return stats.multivariate_normal(np.zeros(8), covariance).pdf(y) * stats.halfcauchy.pdf(tau, scale=5) * 1e13

    top = 400.0
    total, first = (
        integrate.quad(lambda t, p=p: t**p * density(t), 0, top, points=[1, 5, 20], limit=200)[0] for p in (0, 1)
    )
    truth = pv.atlas.load("eight_schools_centred").truth
    assert truth.log_evidence == pytest.approx(math.log(total) - 13 * math.log(10), abs=1e-3)
    assert float(truth.mean["tau"]) == pytest.approx(first / total, rel=1e-3)


def test_the_local_level_by_a_kalman_filter_on_a_grid():
    (y,) = (arg.numpy() for arg in pv.atlas.load("local_level").args)
    line = np.linspace(0.005, 3.0, 400)
    step, noise = np.meshgrid(line, line, indexing="ij")
    log = half(step, 1) + half(noise, 1)
    mean, variance = np.zeros_like(step), np.full_like(step, local_level.START**2)
    for value in y:
        total = variance + noise**2
        log = log + norm(value, mean, np.sqrt(total))
        gain = variance / total
        mean, variance = mean + gain * (value - mean), (1 - gain) * variance + step**2
    weight = np.exp(log - special.logsumexp(log))
    truth = pv.atlas.load("local_level").truth
    assert truth.log_evidence == pytest.approx(special.logsumexp(log) + 2 * math.log(line[1] - line[0]), abs=5e-3)
    assert float(truth.mean["step"]) == pytest.approx((weight * step).sum(), rel=5e-3)
    assert float(truth.std["noise"]) == pytest.approx(
        math.sqrt((weight * noise**2).sum() - (weight * noise).sum() ** 2), rel=5e-3
    )
    last = (weight * (mean)).sum()  # the filter's last mean is the smoother's
    assert float(truth.mean["level"][-1]) == pytest.approx(
        last, abs=STANDARD_ERRORS * float(truth.mean_error["level"][-1])
    )


def test_ar2_and_seasonal_by_grids_over_their_scales():
    """The data are Gaussian given the scales; mean and evidence by plain sums."""
    (y,) = (arg.numpy() for arg in pv.atlas.load("ar2").args)
    A = np.stack([np.ones(len(y) - 2), y[1:-1], y[:-2]], -1)
    line = np.linspace(0.2, 1.2, 400)
    log = [
        half(s, 1) + stats.multivariate_normal(np.zeros(len(A)), A @ A.T + s**2 * np.eye(len(A))).logpdf(y[2:])
        for s in line
    ]
    phi = [np.linalg.solve(A.T @ A / s**2 + np.eye(3), A.T @ y[2:] / s**2)[1] for s in line]
    truth, weight = pv.atlas.load("ar2").truth, special.softmax(log)
    assert truth.log_evidence == pytest.approx(special.logsumexp(log) + math.log(line[1] - line[0]), abs=1e-4)
    error = STANDARD_ERRORS * float(truth.mean_error["phi"][0])
    assert float(truth.mean["phi"][0]) == pytest.approx(weight @ phi, abs=error)

    (y,) = (arg.numpy() for arg in pv.atlas.load("seasonal").args)
    t = np.arange(36)
    A = np.concatenate([np.ones((36, 1)), (t / 12 - 1.5)[:, None], np.eye(12)[t % 12]], 1)
    line = np.linspace(0.02, 3.5, 60)
    log = np.array(
        [
            [
                half(s, 1)
                + half(n, 1)
                + stats.multivariate_normal(
                    np.zeros(36), A @ np.diag([4.0, 4.0] + [s**2] * 12) @ A.T + n**2 * np.eye(36)
                ).logpdf(y)
                for n in line[:30]
            ]
            for s in line
        ]
    )
    truth = pv.atlas.load("seasonal").truth
    assert truth.log_evidence == pytest.approx(special.logsumexp(log) + 2 * math.log(line[1] - line[0]), abs=0.02)
    weight = np.exp(log - special.logsumexp(log)).sum(1)
    assert float(truth.mean["spread"]) == pytest.approx(weight @ line, rel=0.01)


@pytest.mark.parametrize(
    ("name", "num_draws"),
    [("robust_regression", 8_000), ("lotka_volterra", 8_000), ("hidden_markov", 60_000), ("factor_analysis", 60_000)],
)
def test_chains_agree_with_importance_sampling(name, num_draws):
    """A Student-t fitted to the stored draws, wider than they are, weighted by the density: nothing of the chains."""
    problem = pv.atlas.load(name)
    target, truth = problem.target, problem.truth
    near = target.unconstrain({site: value.to(target.origin) for site, value in truth.draws.items()})[:, 0].numpy()
    q = stats.multivariate_t(near.mean(0), 1.3 * np.cov(near.T), df=5, seed=np.random.default_rng(1))
    u = torch.from_numpy(q.rvs(num_draws)).unsqueeze(1)
    log = target.log_joint(u).squeeze(1) - torch.from_numpy(q.logpdf(u.squeeze(1).numpy()))
    weight = log.softmax(0)
    assert 1 / float(weight.square().sum()) > 2000
    for site, value in target.constrain(u).items():
        draws = value.reshape(len(u), -1)
        mean = weight @ draws
        error = (weight.square() @ (draws - mean).square()).sqrt()
        both = (error.square() + truth.mean_error[site].reshape(-1).square()).sqrt()
        assert bool(((mean - truth.mean[site].reshape(-1)).abs() < STANDARD_ERRORS * both).all())
    if truth.log_evidence is None:  # several modes, which a bridge would not join
        return
    ratio = (log - log.max()).exp()
    error = float(ratio.std() / ratio.mean()) / math.sqrt(len(u))
    evidence = float(log.logsumexp(0)) - math.log(len(u))
    assert abs(truth.log_evidence - evidence) < STANDARD_ERRORS * math.hypot(error, truth.log_evidence_error)


# -- symmetries ------------------------------------------------------------------------------------------------------

FLIPS = {"neural_network": ["a", "c"], "matrix_factorisation": ["row", "column"]}
EXCHANGES = {
    "gaussian_mixture": [("share", -1), ("place", -1)],
    "latent_class": [("yes", -2)],
    "hidden_markov": [("level", -1)],
}


@pytest.mark.parametrize("name", sorted(FLIPS))
def test_what_may_be_turned_over_has_mean_zero(name):
    truth = pv.atlas.load(name).truth
    for site in FLIPS[name]:
        torch.testing.assert_close(truth.mean[site], torch.zeros_like(truth.mean[site]), atol=1e-9, rtol=0)
        torch.testing.assert_close(truth.low[site], -truth.high[site], atol=0.03, rtol=0.03)


@pytest.mark.parametrize("name", sorted(EXCHANGES))
def test_what_may_be_exchanged_has_one_distribution(name):
    truth = pv.atlas.load(name).truth
    for site, dim in EXCHANGES[name]:
        for part in ("mean", "std", "low", "high"):
            value = getattr(truth, part)[site]
            torch.testing.assert_close(value, value.flip(dim), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    "name", ["gaussian_mixture", "latent_class", "hidden_markov", "neural_network", "matrix_factorisation"]
)
def test_a_symmetry_leaves_the_density_as_it_is_and_folds_every_image_to_one(name):
    problem = pv.atlas.load(name)
    target, symmetry = problem.target, problem.find_truth.find.symmetry
    torch.manual_seed(6)
    values = target.constrain(target.sample_prior(5))

    def density(each):
        u = target.unconstrain(each)
        return target.log_joint(u) - target.log_jacobian(u)

    folded = symmetry.fold(values)
    torch.testing.assert_close(density(folded), density(values))
    for image in symmetry.images:
        moved = image(folded)
        torch.testing.assert_close(density(moved), density(values))
        for site, value in symmetry.fold(moved).items():
            torch.testing.assert_close(value, folded[site])
