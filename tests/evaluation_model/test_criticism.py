"""What criticise finds, and what it leaves alone."""

import math
from dataclasses import replace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

import pyro_vae as pv
from pyro_vae.evaluation.evidence.evidence import Evidence
from pyro_vae.evaluation.model.baselines import Baselines
from pyro_vae.evaluation.model.paired import told_apart
from pyro_vae.evaluation.model.replicates import as_columns
from pyro_vae.evaluation.model.words import Finding, against_baselines, verdict_of
from pyro_vae.runs.judgement import Judgement
from tests.truth import STANDARD_ERRORS, linear_gaussian, linear_gaussian_posterior

QUICK = {"num_replicates": 60}
NAMES = ["age", "weight", "height", "pulse", "sugar"]


@pytest.fixture
def model():
    return linear_gaussian(2, 5)[0]


def test_a_right_model_is_left_alone_at_the_level_promised(model):
    repeats = 40
    alarms = sum(
        not pv.criticise(model, model.sample(19)["x"], num_replicates=59, level=0.2, seed=s).ok for s in range(repeats)
    )
    assert alarms <= stats.binom(repeats, 0.2).isf(stats.norm.sf(STANDARD_ERRORS))


def test_what_is_wrong_is_named_with_its_direction(model):
    x = model.sample(200)["x"]
    x[:, 1] += 3 * x[:, 1].std()
    found = pv.criticise(model, x, names=NAMES, **QUICK)
    assert not found.ok
    assert "'weight': mean too low in the model" in found.verdict
    assert "training for longer" in found.verdict
    assert all("weight" in f.where(NAMES) for f in found.failed)
    assert found.failed[0].observed == pytest.approx(float(x[:, 1].mean()), rel=1e-5) or found.failed
    assert found.two_sample.auc > 0.7
    assert "weight" in str(found)
    assert len(found.to_dataframe()) == 5 * 11 + 10


def test_a_permuted_column_is_named_by_its_correlations(model):
    x = model.sample(300)["x"]
    x[:, 3] = x[torch.randperm(300), 3]
    found = pv.criticise(model, x, names=NAMES, **QUICK)
    assert {f.statistic for f in found.failed} == {"rank correlation"}
    assert all("pulse" in f.where(NAMES) for f in found.failed)
    assert "a look at 'pulse'" in found.verdict


def test_too_few_latents_ask_for_more(model):
    x = model.sample(300)["x"]
    alone = pv.likelihoods.Gaussian(torch.nn.Linear(1, 5), scale=1.0)
    torch.nn.init.zeros_(alone.network.weight)
    narrow = pv.Model(pv.priors.StandardNormal(1), alone)
    found = pv.criticise(narrow, (x - x.mean(0)) / x.std(0) + alone.network.bias, **QUICK)
    assert not found.ok
    assert "a larger latent_dim" in found.verdict


def test_long_tails_and_zeros_ask_for_another_likelihood(model):
    with torch.no_grad():
        x = model.sample(400)["x"]
        x[:, 2] += 5 * (torch.rand(400) < 0.03) * torch.randn(400) * x[:, 2].std()
    assert "heavier tails, such as StudentT or Laplace (" in pv.criticise(model, x, names=NAMES, **QUICK).verdict
    heavy = pv.Model(model.prior, pv.likelihoods.StudentT(model.likelihood.network, df=3.0, scale=0.5))
    verdict = pv.criticise(heavy, x.clamp(-1e3, 1e3), names=NAMES, **QUICK).verdict
    assert "StudentT" not in verdict  # which it has
    counts = dist.Poisson(1.0).sample((300, 2))

    def gaussian(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(1 + 0 * z[:, None], 1.0).expand((len(x), 2)).to_event(1), obs=x)

    found = pv.criticise(gaussian, counts, names=["a", "b"], **QUICK)
    assert "share of zeros too low in the model" in found.verdict
    assert "zero-inflated or another discrete" in found.verdict
    assert found.laws == ("Normal", "Normal")


@pytest.mark.parametrize(
    ("statistic", "model", "kind", "law", "advice"),
    [
        ("maximum", 5.0, "real", "Normal", "heavier tails, such as StudentT or Laplace"),
        ("maximum", 5.0, "real", "Laplace", "heavier tails, such as StudentT"),
        ("maximum", 5.0, "real", "StudentT", "heavier tails, with a smaller df"),
        ("standard deviation", 20.0, "real", "StudentT", "lighter tails, such as Gaussian or Gamma"),
        ("standard deviation", 20.0, "real", "Normal", "lighter tails, such as Gamma"),
        ("standard deviation", 5.0, "discrete", "Poisson", "more spread, such as NegativeBinomial or OrderedLogistic"),
        ("standard deviation", 5.0, "discrete", "NegativeBinomial", "more spread, such as OrderedLogistic"),
        ("standard deviation", 20.0, "discrete", "NegativeBinomial", "less spread, such as DiscretisedLogistic or"),
        ("standard deviation", 20.0, "discrete", "DiscretisedLogisticDistribution", "less spread, such as Poisson"),
        ("share of zeros", 5.0, "real", "LogNormal", "zeros of their own, such as a zero-inflated"),
        ("share of zeros", 5.0, "real", "Hurdle", "training for longer"),
        ("share of zeros", 5.0, "discrete", "ZeroInflatedPoisson", "training for longer"),
        ("share of zeros", 5.0, "discrete", "Categorical", "training for longer"),
        ("standard deviation", 5.0, "discrete", "Categorical", "training for longer"),
        ("maximum", 5.0, "real", "Hurdle", "HurdleLogNormal (heavier)"),
    ],
)
def test_advice_knows_what_the_model_has_and_which_way_it_errs(statistic, model, kind, law, advice):
    finding = Finding(statistic, (0,), 10.0, model, model - 1, model + 1, 9.0, 0.001, 0.001)
    assert advice in verdict_of(False, [finding], ("a",), (kind,), (law,))


def test_missing_entries_are_missing_in_the_replicates_alike(model):
    x = model.sample(150)["x"]
    x[torch.rand(150, 5) < 0.2] = torch.nan
    x[:, 4] = torch.nan
    told = pv.Model(model.prior, model.likelihood, missing=True)
    found = pv.criticise(told, x, **QUICK)
    assert found.ok
    assert np.array_equal(np.isnan(found.pit), x.isnan().numpy())
    assert not any(4 in f.columns for f in found.findings if f.statistic != "rank correlation")


def test_columns_of_two_kinds_know_which_are_discrete():
    trunk = torch.nn.Linear(2, 4)
    parts = [
        pv.likelihoods.Gaussian(torch.nn.Sequential(trunk, torch.nn.Linear(4, 2)), scale=0.5),
        pv.likelihoods.Bernoulli(torch.nn.Sequential(trunk, torch.nn.Linear(4, 1))),
        pv.likelihoods.Categorical(torch.nn.Sequential(trunk, torch.nn.Linear(4, 3)), num_categories=3),
    ]
    model = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Mixed(parts), missing=True)
    train, x = model.sample(200)["x"], model.sample(150)["x"]
    x[::7, 1] = torch.nan
    assert as_columns(pv.Target(model, x)).discrete.tolist() == [False, False, True, True]
    found = pv.criticise(model, x, x_train=train, **QUICK)
    assert found.ok
    assert set(found.baselines.log_prob) == {"independent columns", "Gaussian copula"}
    assert found.evidence.method == "quadrature"


def test_covariates_stay_with_their_rows():
    def regression(x, y):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 0.3))
            pyro.sample("y", dist.Normal(2 * x + z, 0.2), obs=y)

    x = torch.randn(200)
    y = 2 * x + 0.3 * torch.randn(200) + 0.2 * torch.randn(200)
    assert pv.criticise(regression, (x, y), **QUICK).ok
    beside = pv.criticise(regression, (x, y), x_train=(x + 1, y + 2), **QUICK)  # y is what is observed, not the first
    scale = float((y + 2).std(correction=0))
    expected = stats.norm(float((y + 2).mean()), scale).logpdf(y.numpy())
    np.testing.assert_allclose(beside.baselines.log_prob["independent columns"], expected, atol=1e-4)
    flipped = pv.criticise(regression, (x, -y), **QUICK)  # each column alone is as it should be
    assert flipped.two_sample.p_value < 1e-3
    assert {f.statistic for f in flipped.failed} == {"PIT"}
    assert flipped.names == ("y",)


def test_evidence_worst_rows_and_the_sentence_on_baselines_are_the_closed_form():
    model, W, b = linear_gaussian(2, 5)
    train, x = model.sample(300)["x"], model.sample(100)["x"]
    x[17] += 20
    found = pv.criticise(model, x, x_train=train, **QUICK)
    exact = linear_gaussian_posterior(x, W, b, 0.5)[2]
    np.testing.assert_allclose(found.evidence.log_evidence, exact, rtol=1e-3)
    assert found.worst[0] == 17
    away = exact - found.baselines.log_prob["independent columns"].numpy()
    wanted = f"independent columns ({away.mean():+.3f} ± {away.std(ddof=1) / 10:.3f})"
    assert wanted[:-4] in found.against_baselines
    assert "nats a row" in found.against_baselines
    same = pv.criticise(pv.Target(model, x), x_train=train, **QUICK)
    assert same.p_value == found.p_value


def test_own_statistics_have_posterior_predictive_p_values(model):
    x = model.sample(100)["x"]
    own = {"spread of residuals": lambda x, z: (x - model.likelihood(z).mean).std(), "mean of z": lambda x, z: z.mean()}
    exact = pv.analytic(model, x)
    good = pv.criticise(model, x, exact, statistics=own, **QUICK)
    p = {f.statistic: f.p_value for f in good.findings if not f.columns}
    assert p["mean of z"] == 1  # of z alone: it is the same for both
    assert p["spread of residuals"] > 0.05
    loose = pv.Model(model.prior, pv.likelihoods.Gaussian(model.likelihood.network, scale=0.8))
    bad = pv.criticise(loose, x, pv.analytic(loose, x), statistics=own, **QUICK)
    assert "spread of residuals: too high in the model" in bad.verdict
    with pytest.raises(ValueError, match="a posterior beside statistics"):
        pv.criticise(model, x, statistics=own)
    with pytest.raises(ValueError, match="one number from 'rows'"):
        pv.criticise(model, x, exact, statistics={"rows": lambda x, z: x.mean(-1)}, **QUICK)


def test_a_whole_program_is_checked_by_its_posterior_predictive():
    y = torch.tensor([28.0, 8, -3, 7, -1, 1, 18, 12])
    sigma = torch.tensor([15.0, 10, 16, 11, 9, 11, 10, 18])

    def schools(y):
        mu = pyro.sample("mu", dist.Normal(0, 5.0))
        tau = pyro.sample("tau", dist.HalfCauchy(5.0))
        with pyro.plate("schools", 8):
            theta = pyro.sample("theta", dist.Normal(mu, tau))
            pyro.sample("y", dist.Normal(theta, sigma), obs=y)

    target = pv.Target(schools, y, plate=None)
    q = dist.Normal(torch.full((1, 10), 1.0), 0.5).to_event(1)
    found = pv.criticise(target, posterior=q, statistics={"largest": lambda y, z: y.max()}, **QUICK)
    assert found.replicated_from == "the posterior predictive"
    assert found.pit.shape == (8, 1)
    assert found.two_sample is None
    assert found.evidence is None
    assert any("whole program" in note for note in found.notes)
    assert found.ok
    far = pv.criticise(schools, y + 300, q, plate=None, **QUICK)
    assert "'y': mean too low" in far.verdict
    assert pv.criticise(schools, y, plate=None, **QUICK).replicated_from == "the prior predictive"


def test_sites_masks_and_plates_of_a_users_own_program():
    mask = torch.rand(80, 3) < 0.7

    def program(a, b):
        with pyro.plate("rows", len(b), dim=-2):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with pyro.plate("columns", 3, dim=-1), pyro.poutine.mask(mask=mask):
                pyro.sample("a", dist.Normal(z, 1.0), obs=a)
            pyro.sample("b", dist.Poisson(z.exp()), obs=b)

    z = torch.randn(80, 1)
    a, b = z + torch.randn(80, 3), dist.Poisson(z.exp()).sample()
    columns = as_columns(pv.Target(program, (a, b), plate="rows"))
    assert columns.names == ("a0", "a1", "a2", "b")
    assert columns.discrete.tolist() == [False, False, False, True]
    assert np.array_equal(np.isnan(columns.values[:, :3]), ~mask.numpy())
    found = pv.criticise(program, (a, b), plate="rows", **QUICK)
    assert found.ok
    assert not pv.criticise(program, (a, b + 2), plate="rows", **QUICK).ok


def test_importance_sampling_serves_where_nothing_is_exact():
    network = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 5))
    model = pv.Model(pv.priors.StandardNormal(4), pv.likelihoods.Gaussian(network, scale=0.5))
    x = model.sample(40)["x"]
    guide = pv.guides.DiagonalGaussian(torch.nn.Linear(5, 8))
    for posterior in (None, guide):
        found = pv.criticise(model, x, posterior, **QUICK)
        assert found.evidence.method == "importance"
        assert found.ok
    assert any("not resolved" in note for note in found.notes) == bool((~found.evidence.resolved).any())


def test_one_row_or_no_entry_at_all_is_no_alarm(model):
    told = pv.Model(model.prior, model.likelihood, missing=True)
    assert pv.criticise(model, model.sample(1)["x"], **QUICK).ok
    empty = pv.criticise(told, torch.full((30, 5), torch.nan), **QUICK)
    assert empty.ok
    assert not empty.findings or all(f.adjusted == 1 for f in empty.findings)


def test_a_pixel_that_is_off_asks_for_training_and_not_for_a_law_of_counts():
    model = pv.Model(pv.priors.StandardNormal(1), pv.likelihoods.Bernoulli(torch.nn.Linear(1, 4)))
    x = model.sample(200)["x"]
    x[:, 2] = 1.0
    found = pv.criticise(model, x, **QUICK)
    assert found.kinds == ("binary",) * 4
    assert "training for longer" in found.verdict
    assert "zero-inflated" not in found.verdict
    assert "StudentT" not in found.verdict


def test_replicates_of_draws_that_have_not_converged_say_so(model):
    x = model.sample(30)["x"]
    apart = torch.randn(4, 50, 30, 2) + torch.arange(4.0)[:, None, None, None]
    draws = pv.Draws({"z": apart}, acceptance=torch.ones(4, 30), plate="data")
    (note,) = [note for note in pv.criticise(model, x, draws, **QUICK).notes if "not to be trusted" in note]
    assert "0 of 30 posteriors converged" in note
    close = pv.Draws({"z": torch.randn(4, 500, 30, 2)}, acceptance=torch.ones(4, 30), plate="data")
    assert not any("not to be trusted" in note for note in pv.criticise(model, x, close, **QUICK).notes)


def test_the_same_seed_gives_the_same_and_the_users_stream_is_left_alone(model):
    x = model.sample(50)["x"]
    state = torch.get_rng_state()
    first, second = (pv.criticise(model, x, seed=3, **QUICK) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert str(first) == str(second)
    assert math.isclose(first.p_value, min(first.families.values()) * 2) or first.p_value == 1


def test_other_units_move_statistics_baselines_and_log_p_alike(model):
    train, x = model.sample(100)["x"], model.sample(60)["x"]
    own = pv.criticise(model, x, x_train=train, **QUICK)
    scale = torch.tensor([1.0, 10.0, 0.1, 5.0, 2.0])
    to_units = {"to_units": lambda values: 3 + values * scale.numpy(), "log_jacobian": -scale.log().sum().expand(60)}
    moved = pv.criticise(model, x, x_train=train, **to_units, **QUICK)
    away = moved.evidence.log_evidence.mean() - moved.baselines.log_prob["Gaussian"].mean()
    alike = own.evidence.log_evidence.mean() - own.baselines.log_prob["Gaussian"].mean()
    assert float(away) == pytest.approx(float(alike), abs=1e-3)
    torch.testing.assert_close(moved.evidence.log_evidence, own.evidence.log_evidence - scale.log().sum())
    mean = {f.columns: f.observed for f in moved.findings if f.statistic == "mean"}
    assert mean[(1,)] == pytest.approx(3 + 10 * float(x[:, 1].mean()), rel=1e-5)
    for wrong, says in [
        ({"to_units": lambda v: v * 2}, "together"),
        ({"log_jacobian": torch.zeros(60)}, "together"),
        (to_units | {"log_jacobian": torch.zeros(60, 1)}, "number a row"),
        (to_units | {"to_units": lambda v: -v}, "rises"),
    ]:
        with pytest.raises(ValueError, match=says):
            pv.criticise(model, x, **wrong, **QUICK)


def test_wrong_arguments_are_refused(model):
    x = model.sample(30)["x"]
    with pytest.raises(ValueError, match="expected 5 names"):
        pv.criticise(model, x, names=["a"])
    with pytest.raises(ValueError, match="num_replicates to be at least 59"):
        pv.criticise(model, x, num_replicates=10)
    with pytest.raises(ValueError, match="positive, finite level"):
        pv.criticise(model, x, level=0.0)
    with pytest.raises(ValueError, match="data x beside a program"):
        pv.criticise(model)


def test_one_row_has_no_standard_error_and_no_infinite_one():
    one = Evidence(torch.tensor([-2.0]), torch.zeros(1), "quadrature", torch.ones(1, dtype=torch.bool), "")
    said = against_baselines(one, Baselines({"Gaussian": torch.tensor([-3.0], dtype=torch.float64)}))
    assert "not told apart from Gaussian (+1.000, one row)" in said


@pytest.mark.parametrize("num_rows", [2, 3, 10, 200])
def test_noise_is_told_apart_from_nothing_five_times_in_a_hundred(num_rows):
    rng = np.random.default_rng(num_rows)
    trials = 4_000
    away = rng.normal(size=(trials, num_rows))
    errors = away.std(1, ddof=1) / num_rows**0.5
    share = np.mean([told_apart(m, e, num_rows) for m, e in zip(away.mean(1), errors, strict=True)])
    assert abs(share - 0.05) < 4.5 * (0.05 * 0.95 / trials) ** 0.5


def test_what_a_baseline_is_known_to_counts_too():
    value = torch.linspace(-3.0, -2.9, 20, dtype=torch.float64)
    found = Evidence(value + 1.0, torch.zeros(20), "quadrature", torch.ones(20, dtype=bool), "")
    sure = Baselines({"Gaussian copula": value})
    assert "better than Gaussian copula" in against_baselines(found, sure)
    vague = replace(sure, estimate_error={"Gaussian copula": torch.full((20,), 3.0, dtype=torch.float64)})
    assert "not told apart" in against_baselines(found, vague)


def test_a_judgement_says_how_many_rows_are_not_resolved():
    value = torch.zeros(20)
    sure = Evidence(value, value, "importance", torch.arange(20) >= 2, "")
    known = Baselines({"Gaussian": value.double()})
    assert "not resolved" not in str(Judgement(sure, known, "a probability"))
    vague = replace(sure, resolved=torch.arange(20) >= 3)
    assert "log p(x) of 3 of 20 rows is not resolved" in str(Judgement(vague, known, "a probability"))
