"""The evidence by every route, against closed forms and quadrature."""

import math
from dataclasses import replace

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_vae as pv
from pyro_vae.evaluation.evidence.bracket import bracket
from pyro_vae.evaluation.evidence.bridge import bridge
from pyro_vae.evaluation.evidence.evidence import Evidence, evidence
from pyro_vae.evaluation.evidence.importance import importance_weights, log_mean_exp, pareto_k
from pyro_vae.evaluation.simulation import simulate
from pyro_vae.inference.mcmc.draws import Draws
from pyro_vae.inference.target.target import Target

REPEATS = 200
TWO_SIGMA = 0.9545
SLACK = 4.5 * math.sqrt(TWO_SIGMA * (1 - TWO_SIGMA) / REPEATS)  # of a rate over 200 repeats


def linear_gaussian(latent_dim, num_data, *, data_dim=4, scale=1.0):
    data = pv.datasets.linear_gaussian(num_data, latent_dim=latent_dim, data_dim=data_dim, scale=scale)
    network = nn.Linear(latent_dim, data_dim)
    with torch.no_grad():
        network.weight.copy_(data.weight)
        network.bias.copy_(data.bias)
    return pv.Model(pv.priors.StandardNormal(latent_dim), pv.likelihoods.Gaussian(network, scale=scale)), data.x


def repeated(latent_dim=2):
    """One datum, 200 times: each row is an independent repeat."""
    model, x = linear_gaussian(latent_dim, 1)
    x = x.expand(REPEATS, -1).contiguous()
    return model, x, pv.analytic(model, x)


def widened(exact, factor):
    return dist.MultivariateNormal(exact.loc, scale_tril=factor * exact.scale_tril)


def coverage(estimate, error, truth):
    return float(((estimate - truth).abs() <= 2 * error).double().mean())


def draws_of(u, plate="data"):
    return Draws({"z": u}, acceptance=torch.ones(u.shape[0], u.shape[2]), plate=plate, kernel="exact")


# -- identities without noise --------------------------------------------------------------------------------------


@pytest.mark.parametrize("latent_dim", [1, 10, 50])
def test_every_weight_of_the_exact_posterior_is_the_evidence(latent_dim):
    torch.set_default_dtype(torch.float64)
    model, x = linear_gaussian(latent_dim, 3, data_dim=8)
    exact = pv.analytic(model, x)
    w = importance_weights(Target(model, x), exact, num_samples=50)
    for value in (w.elbo, w.log_evidence):
        torch.testing.assert_close(value, exact.log_evidence, atol=1e-8, rtol=0)
    torch.testing.assert_close(w.ess, torch.full((3,), 50.0), atol=1e-5, rtol=0)
    assert (w.pareto_k == 0).all()


def test_sums_do_not_depend_on_how_draws_fall_into_blocks(monkeypatch):
    model, x = linear_gaussian(2, 5)
    exact = pv.analytic(model, x)
    results = []
    for block in (2**22, 64 * 5 * 7):  # all at once, and seven draws at a time
        monkeypatch.setattr("pyro_vae.inference.target.blocks.NUMBERS", block)
        generator_state = torch.random.get_rng_state()
        results.append(importance_weights(Target(model, x), _Fixed(widened(exact, 1.3)), num_samples=101))
        torch.random.set_rng_state(generator_state)
    for name in ("elbo", "elbo_error", "log_evidence", "log_evidence_error", "ess", "mean", "std", "own_std"):
        torch.testing.assert_close(getattr(results[0], name), getattr(results[1], name), rtol=1e-6, atol=1e-6)


class _Fixed(dist.TorchDistribution):
    """The same stream of draws, however many are asked for at a time."""

    arg_constraints = {}  # noqa: RUF012  torch's own convention

    def __init__(self, base):
        self.base, self.place = base, 0
        self.stream = base.sample((101,))
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    def sample(self, sample_shape=()):
        self.place += sample_shape[0]
        return self.stream[self.place - sample_shape[0] : self.place]

    def log_prob(self, value):
        return self.base.log_prob(value)


def test_elbo_is_the_evidence_less_the_kl():
    model, x = linear_gaussian(2, 6)
    exact = pv.analytic(model, x)
    q = widened(exact, 1.5)
    kl = torch.distributions.kl_divergence(
        torch.distributions.MultivariateNormal(q.loc, scale_tril=q.scale_tril),
        torch.distributions.MultivariateNormal(exact.loc, scale_tril=exact.scale_tril),
    )
    found = evidence(model, x, q, method="elbo", num_samples=20_000)
    assert ((found.log_evidence - exact.log_evidence + kl).abs() < 4.5 * found.standard_error).all()
    assert not found.resolved.any()  # a bound, never the evidence


def test_jackknife_is_the_jackknife():
    log_w = torch.randn(20, 3, dtype=torch.float64)
    value, error = log_mean_exp(log_w)
    left_out = torch.stack([torch.cat([log_w[:i], log_w[i + 1 :]]).logsumexp(0) - math.log(19) for i in range(20)])
    expected = (19 / 20 * (left_out - left_out.mean(0)).square().sum(0)).sqrt()
    torch.testing.assert_close(value, log_w.exp().mean(0).log())
    torch.testing.assert_close(error, expected)


def test_one_weight_that_holds_everything_has_an_infinite_error():
    log_w = torch.zeros(50, 1, dtype=torch.float64)
    log_w[0] = 60.0
    assert log_mean_exp(log_w)[1].isinf().all()


# -- stated errors are honest, bounds are on their side ------------------------------------------------------------


def test_importance_sampling_states_its_error_honestly():
    model, x, exact = repeated()
    found = evidence(model, x, widened(exact, 1.4), method="importance", num_samples=1000)
    assert found.resolved.all()
    assert abs(coverage(found.log_evidence, found.standard_error, exact.log_evidence) - TWO_SIGMA) < SLACK


def test_importance_weighted_bound_rises_to_the_evidence_from_below():
    model, x, exact = repeated()
    q = widened(exact, 1.8)
    means = []
    for K in (2, 10, 100):
        w = importance_weights(Target(model, x), q, num_samples=K)
        error = (w.log_evidence - exact.log_evidence).double()
        means.append(float(error.mean()))
        assert means[-1] < 4.5 * float(error.std()) / math.sqrt(REPEATS)
    assert means[0] < means[1] < means[2]


def test_annealing_states_its_error_honestly_and_bounds_from_both_sides():
    model, x, exact = repeated()
    found = evidence(model, x, method="ais", num_temperatures=60, num_chains=32)
    assert found.resolved.double().mean() > 0.95
    # 32 chains: Student's t with 31 degrees of freedom has 94.6 % within two errors
    assert abs(coverage(found.log_evidence, found.standard_error, exact.log_evidence) - 0.946) < 1.3 * SLACK
    off = (found.log_evidence - exact.log_evidence).double()
    assert off.mean() < 4.5 * off.std() / math.sqrt(REPEATS)
    assert off.mean().abs() < 0.02


@pytest.mark.parametrize("start", ["chains", None])
def test_a_bracket_holds_the_exact_evidence_of_what_it_simulated(start):
    model, x = linear_gaussian(5, 40, data_dim=8)
    found = bracket(model, x, start=start, num_temperatures=40, num_chains=8, tolerance=1.0)
    exact = pv.analytic(model, found.x).log_evidence
    for off, side in ((found.lower - exact, 1), (exact - found.upper, 1)):
        assert side * float(off.mean()) < 4.5 * float(off.std()) / math.sqrt(len(x))
        assert off.abs().mean() < (0.05 if start == "chains" else 0.5)
    tight = bracket(model, x[:10], start=start, num_temperatures=3, num_chains=4, tolerance=1e-6)
    assert tight.log_evidence.isnan().all()  # too wide: no number


def test_a_bracket_is_narrow_in_twenty_dimensions():
    model, x = linear_gaussian(20, 12, data_dim=25)
    found = bracket(model, x, num_temperatures=100, tolerance=0.2)
    assert found.resolved.all(), str(found)
    error = (found.lower_error.square() + found.upper_error.square()).sum().sqrt() / len(found.width)
    assert f"{float(found.width.mean()):.3f} ± {float(error):.3f} nats wide" in str(found)
    assert ((found.log_evidence - pv.analytic(model, found.x).log_evidence).abs() < 0.1).all()


def test_a_bracket_may_start_at_any_distribution_of_the_simulated_data():
    model, x = linear_gaussian(3, 10)
    found = bracket(model, x, start=lambda drawn: widened(pv.analytic(model, drawn), 1.2), num_temperatures=20)
    assert found.width.abs().max() < 0.2
    with pytest.raises(ValueError, match="chains"):
        bracket(model, x, start="chain")


def test_a_fitted_start_covers_both_modes():
    model = pv.Model(pv.priors.StandardNormal(1), pv.likelihoods.Gaussian(Square(), scale=0.5))
    x = torch.linspace(3.0, 5.0, 20).unsqueeze(-1)
    found = evidence(model, x, method="ais", num_chains=24, tolerance=0.3)
    assert found.resolved.all()
    z = (found.log_evidence - pv.quadrature(model, x).log_evidence) / found.standard_error
    assert z.abs().max() < 4.5
    assert z.square().mean() < 2.5


@pytest.mark.parametrize("latent_dim", [2, 20])
def test_bridge_sampling_states_its_error_honestly(latent_dim):
    model, x, exact = repeated(latent_dim)
    u = exact.sample((4, 400))
    found = evidence(model, x, draws_of(u), method="bridge", tolerance=0.5)
    assert abs(coverage(found.log_evidence, found.standard_error, exact.log_evidence) - TWO_SIGMA) < SLACK
    assert found.resolved.double().mean() > 0.95  # R-hat of one draw in thousands is above 1.05 by chance


class Square(nn.Module):
    """Two modes of equal mass."""

    def forward(self, z):
        return 2.0 * z.square()


class Bent(nn.Module):
    """A mean that is not linear, so that the posterior is no Gaussian."""

    def forward(self, z):
        return 1.5 * z + z.square()


def test_bridge_sampling_counts_effective_draws():
    model = pv.Model(pv.priors.StandardNormal(1), pv.likelihoods.Gaussian(Bent(), scale=1.0))
    x = torch.full((REPEATS, 1), 0.5)
    exact = pv.quadrature(model, x)
    draws = exact.sample((80,)).reshape(4, 20, REPEATS, 1)
    value, error = bridge(Target(model, x), draws.repeat_interleave(10, 1))  # chains that stay ten steps
    # without the count, two errors cover 63 %
    assert abs(coverage(value, error, exact.log_evidence) - TWO_SIGMA) < SLACK


# -- beyond the closed form ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("likelihood", ["Bernoulli", "Gaussian"])
def test_routes_agree_with_quadrature(likelihood):
    network = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 10))
    part = (
        pv.likelihoods.Bernoulli(network) if likelihood == "Bernoulli" else pv.likelihoods.Gaussian(network, scale=0.4)
    )
    model = pv.Model(pv.priors.StandardNormal(2), part)
    x = model.sample(40)["x"]
    exact = evidence(model, x)
    assert exact.method == "quadrature"
    q = pv.laplace(model, x)
    for method in ("importance", "ais"):
        found = evidence(model, x, widened(q, 1.3), method=method, num_samples=2000)
        z = ((found.log_evidence - exact.log_evidence) / found.standard_error)[found.resolved]
        assert len(z) > 30
        assert z.square().mean() < 2.5  # chi-square of 40 over 40, five sigma


def test_annealing_from_a_guide_needs_fewer_temperatures():
    model, x, exact = repeated(2)
    near = evidence(model, x, method="ais", start=widened(exact, 1.2), num_temperatures=5, num_steps=2)
    far = evidence(model, x, method="ais", start=None, num_temperatures=5, num_steps=2)
    assert (near.log_evidence - exact.log_evidence).abs().mean() < 0.2 * (
        far.log_evidence - exact.log_evidence
    ).abs().mean()


def test_any_program_has_an_evidence():
    def program(x):
        with pyro.plate("data", len(x)):
            rate = pyro.sample("rate", dist.Gamma(3.0, 2.0))
            pyro.sample("count", dist.Poisson(rate), obs=x)

    x = torch.tensor([0.0, 1.0, 2.0, 7.0])
    expected = dist.GammaPoisson(3.0, 2.0).log_prob(x)
    found = evidence(program, x)
    assert found.method == "quadrature"
    torch.testing.assert_close(found.log_evidence, expected, atol=1e-4, rtol=0)
    annealed = evidence(program, x, method="ais", num_chains=64)
    assert ((annealed.log_evidence - expected).abs() < 4.5 * annealed.standard_error).all()
    simulated, u = simulate(program, torch.zeros(4000))
    assert u.shape == (4000, 1)
    torch.testing.assert_close(u.exp().mean(), torch.tensor(1.5), atol=4.5 * math.sqrt(0.75 / 4000), rtol=0)
    torch.testing.assert_close(simulated.mean(), torch.tensor(1.5), atol=4.5 * math.sqrt(2.25 / 4000), rtol=0)


def test_auto_says_what_it_chose():
    model, x = linear_gaussian(5, 3)
    assert evidence(model, x).method == "analytic"
    torch.testing.assert_close(evidence(model, x).log_evidence, pv.analytic(model, x).log_evidence)
    bent = pv.Model(pv.priors.StandardNormal(5), pv.likelihoods.Bernoulli(nn.Linear(5, 4)))
    binary = (x > 0).float()
    assert evidence(bent, binary, num_temperatures=10).method == "ais"
    draws = draws_of(pv.laplace(bent, binary).sample((4, 100)))
    found = evidence(bent, binary, draws)
    assert found.method == "bridge"
    assert "good enough" in str(found)
    assert set(found.to_dataframe()) == {"log_evidence", "standard_error", "resolved", "method"}


def test_chains_that_disagree_leave_the_evidence_unresolved():
    model, x, exact = repeated()
    u = exact.sample((4, 200))
    u[0] += 10 * exact.variance.sqrt()
    assert not evidence(model, x, draws_of(u), method="bridge").resolved.any()


def test_a_hopeless_proposal_is_reported_as_unresolved():
    model, x, exact = repeated()
    found = evidence(model, x, widened(exact, 0.2), method="importance", num_samples=1000)
    assert found.resolved.double().mean() < 0.05
    assert found.to_dataframe()["log_evidence"].isna().mean() > 0.95


def test_pareto_k_recovers_the_tail():
    u = torch.distributions.Exponential(1.0).sample((20_000, 20)).double()
    for k in (0.2, 0.5, 0.9):
        assert abs(float(pareto_k(k * u).mean()) - k) < 0.08  # the fit's prior pulls by about 0.01


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"method": "aiss"}, "'ais'"), ({"tolerance": 0.0}, "tolerance"), ({"method": "bridge"}, "Draws")],
)
def test_errors_say_how_to_mend_them(arguments, message):
    model, x = linear_gaussian(2, 3)
    with pytest.raises((ValueError, TypeError), match=message):
        evidence(model, x, **arguments)


def test_a_point_mass_cannot_be_weighed():
    model, x = linear_gaussian(2, 3)
    with pytest.raises(ValueError, match="laplace"):
        evidence(model, x, pv.maximum_a_posteriori(model, x), method="elbo")


def test_float64_stays_float64(float64):
    model, x = linear_gaussian(2, 3)
    assert evidence(model, x, method="ais", num_temperatures=5).u.dtype == torch.float64


def test_an_unresolved_estimate_says_what_to_try():
    found = Evidence(torch.zeros(2), torch.ones(2), "ais", torch.tensor([True, False]), "16 chains")
    assert str(found).endswith(
        "16 chains; for the rest try posterior=pv.mcmc(model, x), or method='importance' with posterior=pv.vi(model, x)"
    )
    assert str(replace(found, resolved=torch.ones(2, dtype=torch.bool))).endswith("16 chains")


def test_a_heavy_tail_that_passes_for_a_lighter_one_has_an_error_that_holds(float64):
    """Draws of a fifth of the posterior's variance: k = 0.8, estimated below 0.7 where the tail was missed."""
    model = pv.Model(pv.priors.StandardNormal(1), pv.likelihoods.Gaussian(nn.Linear(1, 3), scale=0.5))
    x = model.sample(400)["x"]
    exact = pv.analytic(model, x)
    narrow = dist.Normal(exact.loc, (0.2 * exact.covariance_matrix).sqrt().squeeze(-1)).to_event(1)
    found = pv.evidence(model, x, narrow, method="importance", num_samples=4000)
    known = found.standard_error.isfinite()
    assert 0.2 < float(known.double().mean()) < 0.8
    off = (found.log_evidence - exact.log_evidence).abs()[known] / found.standard_error[known]
    assert float((off < 2).double().mean()) > 0.62  # 0.4 by the jackknife alone
