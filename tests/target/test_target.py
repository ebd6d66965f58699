"""Target: any Pyro program as batched densities over an unconstrained vector."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from scipy import stats

import pyro_vae as pv
from pyro_vae import Target
from tests.truth import bernoulli_joint


def _moving_supports(x):
    """Three sites in the plate, one whose support moves with another, one on the simplex."""
    with pyro.plate("rows", x.shape[0], dim=-2):
        a = pyro.sample("a", dist.Uniform(0.0, 1.0))
        b = pyro.sample("b", dist.Uniform(0.0, a))
        pyro.sample("p", dist.Dirichlet(torch.ones(3)))
        with pyro.plate("columns", x.shape[1], dim=-1):
            pyro.sample("x", dist.Normal(b, a), obs=x)


def _schools(y, s):
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("school", len(y)):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, s), obs=y)


def _vae(data_dim=10):
    return pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(pv.networks.mlp(2, 8, data_dim)))


def test_the_joint_density_is_scipys(float64):
    model, x = _vae(), (torch.rand(6, 10) > 0.5).double()
    u = torch.randn(3, 4, 6, 2)
    np.testing.assert_allclose(Target(model, x).log_joint(u).detach(), bernoulli_joint(model, x, u), rtol=1e-12)


def test_shared_points_give_what_each_datum_would_see(float64):
    target = Target(_vae(), (torch.rand(6, 10) > 0.5).double())
    u = torch.randn(5, 1, 2)
    torch.testing.assert_close(target.log_joint(u), target.log_joint(u.expand(5, 6, 2)), rtol=1e-13, atol=1e-13)


def test_points_are_not_shared_by_a_program_that_would_go_wrong(float64):
    weight = torch.randn(6, 10)

    def program(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            mean = z.mean(0, keepdim=True).mean(-1, keepdim=True) * weight  # mixes data: depends on the axis' length
            pyro.sample("x", dist.Normal(mean + z[:, :1] ** 2, 1.0).to_event(1), obs=x)

    target = Target(program, torch.randn(6, 10), independent=True)
    u = torch.randn(5, 1, 2)
    torch.testing.assert_close(target.log_joint(u), target.log_joint(u.expand(5, 6, 2)))


def test_gradient_is_the_finite_difference(float64):
    target = Target(_vae(), (torch.rand(3, 10) > 0.5).double())
    u, h = torch.randn(4, 3, 2), 1e-6
    value, grad = target.value_and_grad(u)
    torch.testing.assert_close(value, target.log_joint(u).detach())
    for i in range(2):
        step = h * torch.eye(2)[i]
        numeric = (target.log_joint(u + step) - target.log_joint(u - step)) / (2 * h)
        torch.testing.assert_close(grad[..., i], numeric.detach(), rtol=1e-6, atol=1e-6)


def test_tempering_weighs_the_likelihood_alone(float64):
    target = Target(_vae(), (torch.rand(3, 10) > 0.5).double())
    u = torch.randn(4, 3, 2)
    prior, likelihood = target.log_parts(u)
    torch.testing.assert_close(target.log_joint(u, beta=0.3), prior + 0.3 * likelihood)
    torch.testing.assert_close(prior.detach().numpy(), stats.norm.logpdf(u).sum(-1), check_dtype=False)


def test_the_jacobian_makes_a_density_over_u(float64):
    """Integrated over u, exp(log_prior) is one; without the Jacobian it would not be."""

    def program(x):
        with pyro.plate("data", len(x)):
            s = pyro.sample("s", dist.Gamma(2.0, 3.0))
            pyro.sample("x", dist.Normal(0.0, s), obs=x)

    target = Target(program, torch.ones(1))
    u = torch.linspace(-20, 6, 20001).reshape(-1, 1, 1)
    step = float(u[1] - u[0])
    assert float(target.log_prior(u).exp().sum() * step) == pytest.approx(1.0, abs=1e-8)
    exact = stats.gamma(2, scale=1 / 3).logpdf(u.exp().flatten()) + u.flatten().numpy()
    np.testing.assert_allclose(target.log_prior(u).flatten(), exact, rtol=1e-10)
    torch.testing.assert_close(target.log_jacobian(u), u.squeeze(-1))


@pytest.mark.parametrize("plate", ["rows", None])
def test_constrain_and_unconstrain_are_inverse_also_where_supports_move(plate, float64):
    target = Target(_moving_supports, torch.randn(5, 7), plate=plate)
    assert (target.num_data, target.latent_dim) == ((5, 4) if plate else (1, 20))
    u = target.sample_prior(6).reshape(2, 3, *target.origin.shape)
    values = target.constrain(u)
    assert values["p"].shape == (2, 3, 5, 1, 3)
    assert bool((values["b"] < values["a"]).all())
    torch.testing.assert_close(target.unconstrain(values), u)
    one = {name: value[0, 0] for name, value in values.items()}
    torch.testing.assert_close(target.pack(one), u[0, 0])


def test_the_data_axis_may_come_after_another(float64):
    def program(x):
        with pyro.plate("groups", 3, dim=-2), pyro.plate("rows", x.shape[1], dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    x, u = torch.randn(3, 5), torch.randn(2, 5, 3)
    target = Target(program, x, plate="rows")
    assert (target.num_data, target.latent_dim) == (5, 3)
    expected = stats.norm.logpdf(u).sum(-1) + stats.norm.logpdf(x.T, u, 0.5).sum(-1)
    np.testing.assert_allclose(target.log_joint(u), expected, rtol=1e-12)
    values = target.constrain(u)
    torch.testing.assert_close(values["z"], u)
    torch.testing.assert_close(target.unconstrain(values), u)
    torch.testing.assert_close(target.pack({"z": u[0].T}), u[0])


def test_a_whole_program_is_one_posterior(float64):
    y, s = torch.randn(8), torch.full((8,), 2.0)
    target = Target(_schools, (y, s), plate="school")
    assert (target.num_data, target.latent_dim, target.per_datum) == (1, 10, False)
    u = target.sample_prior(4)
    values = target.constrain(u)
    assert values["theta"].shape == (4, 8)
    log_det = u[..., 1]  # tau = exp(u), so log dtau/du = u
    for i in range(4):
        conditioned = poutine.condition(_schools, data={name: value[i] for name, value in values.items()})
        expected = poutine.trace(conditioned).get_trace(y, s).log_prob_sum() + log_det[i, 0]
        assert float(target.log_joint(u[i])) == pytest.approx(float(expected), rel=1e-12)


def test_scaled_and_masked_sites_count_as_in_pyro(float64):
    keep = torch.tensor([True, False, True])

    def program(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with poutine.scale(scale=3.0), poutine.mask(mask=keep):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    x = torch.randn(3)
    target, u = Target(program, x), torch.randn(3, 1)
    expected = 3.0 * stats.norm.logpdf(x, u.flatten()) * keep.numpy()
    np.testing.assert_allclose(target.log_likelihood(u), expected, rtol=1e-12)


def test_prior_samples_have_the_prior_and_follow_the_seed():
    target = Target(_moving_supports, torch.randn(50, 3), plate="rows")
    pyro.set_rng_seed(3)
    u = target.sample_prior(400)
    pyro.set_rng_seed(3)
    assert torch.equal(u, target.sample_prior(400))
    a = target.constrain(u)["a"].flatten()
    assert stats.kstest(a.numpy(), "uniform").pvalue > 1e-4


@pytest.mark.parametrize("prior", [dist.Normal, dist.LogNormal, dist.Cauchy, dist.Laplace, dist.Gumbel, dist.Gamma])
def test_prior_samples_need_few_runs_of_the_program(prior, float64):
    runs = []

    def program(x):
        runs.append(1)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", prior(torch.tensor(1.0), torch.tensor(2.0)))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    target = Target(program, torch.zeros(3))
    runs.clear()
    z = target.constrain(target.sample_prior(700))["z"]
    assert len(runs) == 1
    assert stats.ks_1samp(z.flatten().numpy(), lambda q: prior(1.0, 2.0).cdf(torch.tensor(q)).numpy()).pvalue > 1e-4


def test_looking_takes_nothing_from_the_random_stream():
    model, x = _vae(), (torch.rand(3, 10) > 0.5).float()
    pyro.set_rng_seed(0)
    expected = torch.rand(1)
    pyro.set_rng_seed(0)
    target = Target(model, x)
    target.log_joint(torch.zeros(2, 3, 2))
    assert torch.equal(torch.rand(1), expected)


def test_modules_are_evaluated_in_evaluation_mode_and_put_back():
    network = torch.nn.Sequential(torch.nn.Linear(2, 10), torch.nn.Dropout(0.5))
    model = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(network))
    target, u = Target(model, torch.ones(3, 10)), torch.randn(3, 2)
    assert torch.equal(target.log_joint(u), target.log_joint(u))
    assert model.training
    assert network[1].training


def test_rows_are_the_targets_of_those_data():
    model, x = _vae(), (torch.rand(6, 10) > 0.5).float()
    u = torch.randn(4, 6, 2)
    torch.testing.assert_close(
        Target(model, x).rows([4, 1]).log_joint(u[:, [4, 1]]), Target(model, x).log_joint(u)[:, [4, 1]]
    )


def _subsampled(x):
    with pyro.plate("data", len(x), subsample_size=2) as rows:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x[rows])


def _outside(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
    pyro.sample("x", dist.Normal(z.sum(), 1.0), obs=x.sum())


def _branching(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        loc = z if z.sum() > 0 else -z
        pyro.sample("x", dist.Normal(loc, 1.0), obs=x)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Target(_vae(), torch.full((3, 10), 200.0)), r"support of Bernoulli.*200"),
        (lambda: Target(_vae(), torch.full((3, 10), 0.5)), "dynamic_binarisation"),
        (lambda: Target(_vae(), torch.tensor([[0.0] * 10, [math.nan] * 10])), "NaN in row 1"),
        (lambda: Target(_vae(), torch.full((3, 10), math.inf)), "infinite value in row 0"),
        (lambda: Target(_vae(), torch.zeros(0, 10)), "at least one datum"),
        (lambda: Target(_vae(), torch.zeros(3, 9)), r"event shape \(10,\)"),
        (lambda: Target(_vae(), [0.0]), "torch.Tensor"),
        (lambda: Target(_vae(), torch.zeros(3, 10).double()), r"x of torch.float32, as the parameters of Model; got"),
        (lambda: Target(_vae(), torch.zeros(3, 10)).rows([3]), "rows from 0 to 2; got 3"),
        (lambda: Target(3, torch.zeros(3, 10)), "a Pyro program"),
        (lambda: Target(_vae(), torch.zeros(3, 10), plate="dta"), "plate='data'"),
        (lambda: Target(_subsampled, torch.zeros(3)), "2 of 3 rows"),
        (lambda: Target(_outside, torch.zeros(3)), "inside plate 'data'"),
        (lambda: Target(lambda x: pyro.sample("x", dist.Normal(0.0, 1.0), obs=x), torch.zeros(())), "one latent site"),
        (lambda: Target(lambda x: pyro.sample("z", dist.Normal(0.0, 1.0)), torch.zeros(3)), "one observed site"),
        (lambda: Target(_branching, torch.zeros(3)).log_joint(torch.zeros(2, 3, 1)), "vectorise.*'z'"),
        (lambda: Target(_vae(), torch.zeros(3, 10)).log_joint(torch.zeros(4, 2)), r"\(..., 3, 2\)"),
        (lambda: Target(_vae(), torch.zeros(3, 10)).pack({"y": torch.zeros(3, 2)}), r"\['z'\]"),
        (lambda: Target(_schools, (torch.zeros(8), torch.ones(8)), plate=None).rows([0]), "a whole posterior"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_words(make, words):
    with pytest.raises((TypeError, ValueError), match=words):
        make()
