"""Model and guides are Pyro programs: each use of them here is plain Pyro."""

import copy

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO, TraceMeanField_ELBO

import pyro_vae as pv
from tests.truth import bernoulli_joint


def _parts(latent_dim=2, data_dim=12):
    model = pv.Model(
        pv.priors.StandardNormal(latent_dim), pv.likelihoods.Bernoulli(pv.networks.mlp(latent_dim, 16, data_dim))
    )
    return model, pv.guides.DiagonalGaussian(pv.networks.mlp(data_dim, 16, 2 * latent_dim))


def _binary(num_data, data_dim=12):
    return (torch.rand(num_data, data_dim) > 0.5).float()


def test_trace_has_the_sites_and_the_joint_density(float64):
    model, _ = _parts()
    x = _binary(5).double()
    trace = poutine.trace(model).get_trace(x)
    assert [n for n, s in trace.nodes.items() if s["type"] == "sample"] == ["data", "z", "x"]
    z = trace.nodes["z"]["value"]
    assert trace.log_prob_sum().item() == pytest.approx(bernoulli_joint(model, x, z).sum(), rel=1e-12)


@pytest.mark.parametrize("loss", [Trace_ELBO(num_particles=2), TraceMeanField_ELBO()])
def test_svi_learns_with_plain_pyro(loss):
    model, guide = _parts()
    x = _binary(40)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.02}), loss=loss)
    before = [p.clone() for p in (*model.parameters(), *guide.parameters())]
    losses = [svi.step(x) for _ in range(60)]
    after = [*model.parameters(), *guide.parameters()]
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert sum(losses[-10:]) < sum(losses[:10])


def test_mean_field_and_trace_elbo_agree_in_expectation():
    model, guide = _parts()
    x = _binary(200)
    draws = torch.tensor([Trace_ELBO().loss(model, guide, x) for _ in range(200)])
    other = torch.tensor([TraceMeanField_ELBO().loss(model, guide, x) for _ in range(200)])
    error = (draws.var() / 200 + other.var() / 200).sqrt()
    assert abs(draws.mean() - other.mean()) < 4.5 * error


def test_predictive_samples_every_site():
    model, guide = _parts()
    x = _binary(7)
    prior = Predictive(model, num_samples=11)(num_data=7)
    assert prior["z"].shape == (11, 7, 2)
    assert prior["x"].shape == (11, 7, 12)
    posterior = Predictive(model, guide=guide, num_samples=11, return_sites=["z"])(x)
    assert posterior["z"].shape == (11, 7, 2)


def test_pyro_mcmc_runs_on_the_model():
    model, _ = _parts()
    mcmc = MCMC(NUTS(model.requires_grad_(False)), num_samples=5, warmup_steps=5, disable_progbar=True)
    mcmc.run(_binary(1))
    assert mcmc.get_samples()["z"].shape == (5, 1, 2)


def test_names_are_the_users():
    model = pv.Model(
        pv.priors.StandardNormal(2),
        pv.likelihoods.Bernoulli(pv.networks.mlp(2, 12)),
        latent="w", observed="y", plate="rows",
    )  # fmt: skip
    guide = pv.guides.DiagonalGaussian(pv.networks.mlp(12, 4), latent="w", plate="rows")
    trace = poutine.trace(poutine.replay(model, trace=poutine.trace(guide).get_trace(_binary(3)))).get_trace(_binary(3))
    assert {"w", "y", "rows"} <= set(trace.nodes)


def test_two_models_and_a_copy_share_no_parameter_in_the_store():
    one, _ = _parts()
    two, _ = _parts()
    twin = copy.deepcopy(one)
    for program in (one, two, twin):
        poutine.trace(program).get_trace(_binary(2))
    store = pyro.get_param_store()
    assert len(store) == 3 * len(list(one.parameters()))
    assert len({id(store._params[name]) for name in store}) == len(store)


def test_frozen_parameters_are_left_alone():
    model, guide = _parts()
    model.requires_grad_(False)
    before = [p.clone() for p in model.parameters()]
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), loss=Trace_ELBO())
    svi.step(_binary(20))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_gaussian_kinds_give_the_scale_they_say():
    z = torch.randn(5, 3)
    network = pv.networks.mlp(3, 8)
    two = pv.likelihoods.Gaussian(network, min_scale=0.1)(z).base_dist
    loc, raw = network(z).chunk(2, -1)
    torch.testing.assert_close(two.loc, loc)
    torch.testing.assert_close(two.scale, torch.nn.functional.softplus(raw) + 0.1)
    fixed = pv.likelihoods.Gaussian(network, scale=0.3)(z).base_dist
    assert bool((fixed.scale == 0.3).all())
    learned = pv.likelihoods.Gaussian(network, scale="learned", data_dim=8)
    assert learned.raw_scale.requires_grad
    torch.testing.assert_close(learned(z).base_dist.scale[0], torch.ones(8))


def test_guide_covariance_is_what_its_network_says(float64):
    guide = pv.guides.FullCovarianceGaussian(pv.networks.mlp(6, 9), latent_dim=3)
    x = torch.randn(4, 6)
    out = guide.network(x)
    T = torch.zeros(4, 3, 3)
    T[:, [0, 1, 2], [0, 1, 2]] = torch.nn.functional.softplus(out[:, 3:6]) + 1e-6
    T[:, [1, 2, 2], [0, 0, 1]] = out[:, 6:]
    torch.testing.assert_close(guide.posterior(x).covariance_matrix, T @ T.mT)
    torch.testing.assert_close(guide.posterior(x).mean, out[:, :3])


def test_convolutional_pair_trains():
    model = pv.Model(pv.priors.StandardNormal(3), pv.likelihoods.Bernoulli(pv.networks.ConvDecoder(8, latent_dim=3)))
    guide = pv.guides.DiagonalGaussian(pv.networks.ConvEncoder(8, out_features=6))
    x = pv.datasets.digits()[:64]
    history = pv.fit(model, guide, x, epochs=3, batch_size=32, lr=1e-2, progress=False, compile=False)
    assert history.train_elbo[-1] > history.train_elbo[0]


def test_sampling_follows_the_seed_and_the_prior():
    model, _ = _parts()
    pyro.set_rng_seed(1)
    one = model.sample(20_000)
    pyro.set_rng_seed(1)
    two = model.sample(20_000)
    assert torch.equal(one["x"], two["x"])
    assert one["z"].mean(0).abs().max() < 4.5 / 20_000**0.5


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: pv.Model(torch.nn.Linear(2, 2), pv.likelihoods.Bernoulli(pv.networks.mlp(2, 3))), "a Prior first"),
        (lambda: pv.Model(pv.priors.StandardNormal(2), torch.nn.Linear(2, 2)), "a Likelihood second"),
        (lambda: pv.priors.StandardNormal(2.5), "whole number"),
        (lambda: pv.priors.StandardNormal(0), "at least 1"),
        (lambda: pv.networks.mlp(3), "two layer sizes"),
        (lambda: pv.networks.ConvEncoder(9, out_features=2), "divisible by 4"),
        (lambda: pv.guides.DiagonalGaussian(pv.networks.mlp(4, 3)), "even last layer"),
        (lambda: pv.likelihoods.Gaussian(pv.networks.mlp(2, 3), scale=-1.0), "positive, finite scale"),
        (lambda: pv.likelihoods.Gaussian(pv.networks.mlp(2, 3), scale="learned"), "data_dim"),
        (lambda: pv.likelihoods.Gaussian(pv.networks.mlp(2, 3), scale="other"), '"network"'),
        (lambda: pv.likelihoods.Gaussian(pv.networks.mlp(2, 3))(torch.zeros(1, 2)), "side by side"),
        (
            lambda: pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(pv.networks.mlp(2, 3)), latent="x"),
            "three different names",
        ),
    ],
)
def test_bad_parts_are_refused_in_words(build, words):
    with pytest.raises((TypeError, ValueError), match=words) as error:
        build()
    assert "expected" in str(error.value)
    assert "try" in str(error.value)


def test_a_users_own_prior_is_six_lines():
    class Wide(pv.priors.Prior):
        def __init__(self):
            super().__init__()
            self.latent_dim = 2

        def forward(self):
            return dist.Normal(torch.zeros(2), 3.0).to_event(1)

    model = pv.Model(Wide(), pv.likelihoods.Gaussian(pv.networks.mlp(2, 4), scale=1.0))
    assert pv.analytic(model, torch.zeros(3, 4)).mean.shape == (3, 2)
