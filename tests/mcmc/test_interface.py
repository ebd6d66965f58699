"""The batched samplers behind Pyro's own interface, side by side with Pyro's."""

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_vae as pv
from tests.table_of_kernels import KERNELS
from tests.truth import linear_gaussian


@pytest.fixture
def small():
    model = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(pv.networks.mlp(2, 8, 6)))
    return model, model.sample(5)["x"]


def test_pyros_interface_gives_pyros_shapes(capsys):
    def model(x):
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        weights = pyro.sample("weights", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(weights.sum(), scale), obs=x)

    x = torch.randn(6)
    ours = pv.infer.MCMC(pv.HMC(model), num_samples=10, warmup_steps=10, num_chains=3, disable_progbar=True)
    ours.run(x)
    theirs = pyro.infer.MCMC(pyro.infer.HMC(model, num_steps=2), num_samples=10, warmup_steps=3, disable_progbar=True)
    theirs.run(x)
    for name, value in theirs.get_samples(group_by_chain=True).items():
        assert ours.get_samples(group_by_chain=True)[name].shape == (3, *value.shape[1:])
        assert ours.get_samples()[name].shape == (30, *value.shape[2:])
        assert ours.get_samples(num_samples=7)[name].shape == theirs.get_samples(num_samples=7)[name].shape
    report, expected = ours.diagnostics(), theirs.diagnostics()
    assert set(report) == set(expected)
    assert set(report["scale"]) == set(expected["scale"])
    assert report["weights"]["r_hat"].reshape(-1).shape == (3,)
    ours.summary()
    assert "weights[2]" in capsys.readouterr().out


def test_pyros_interface_runs_a_data_plate(small):
    model, x = small
    mcmc = pv.infer.MCMC(pv.NUTS(model), num_samples=10, warmup_steps=10, num_chains=2, disable_progbar=True)
    with pytest.raises(RuntimeError, match="run"):
        mcmc.get_samples()
    mcmc.run(x)
    assert mcmc.get_samples()["z"].shape == (20, 5, 2)
    assert set(mcmc.diagnostics()["acceptance rate"]) == {"chain 0", "chain 1"}
    with pytest.raises(ValueError, match=r"HMC\(model\)"):
        pv.infer.MCMC(pv.HMC(), num_samples=10)
    predictive = pyro.infer.Predictive(model, mcmc.get_samples())
    assert predictive(num_data=5)["x"].shape == (20, 5, 6)


@pytest.mark.parametrize("name", KERNELS)
def test_every_kernel_gives_pyros_interface_what_mcmc_gives(name):
    model, _, _ = linear_gaussian(2, 4)
    x = model.sample(3)["x"]
    build = KERNELS[name].build
    own = {"proposal": dist.Normal(torch.zeros(3, 2), 1.0).to_event(1)} if KERNELS[name].guided else {}
    settings = {"num_samples": 5, "warmup_steps": 5, "num_chains": 2, "compile": False}
    pyro.set_rng_seed(1)
    mcmc = pv.infer.MCMC(build(model, **own), disable_progbar=True, **settings)
    mcmc.run(x)
    pyro.set_rng_seed(1)
    expected = pv.mcmc(model, x, kernel=build(**own), **settings)
    assert torch.equal(mcmc.get_samples(group_by_chain=True)["z"], expected.samples["z"])


def regression(x, y=None):
    slope = pyro.sample("slope", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(x @ slope, scale), obs=y)


def still(model, **settings):
    """A sampler whose chains stay where they start."""
    kernel = pv.RandomWalk(model, step_size=1e-7, adapt_step_size=False)
    return pv.infer.MCMC(kernel, 1, 0, disable_progbar=True, **settings)


@pytest.mark.parametrize("num_chains", [1, 3])
def test_initial_params_are_unconstrained_as_in_pyro(float64, num_chains):
    x, y = torch.randn(6, 2), torch.randn(6)
    lead = () if num_chains == 1 else (num_chains,)
    start = {"slope": torch.randn((*lead, 2)), "scale": torch.randn(lead) - 1}
    ours = still(regression, num_chains=num_chains, initial_params=start)
    ours.run(x, y)
    if num_chains == 1:  # Pyro's chains in processes of their own are slow to start
        kernel = pyro.infer.HMC(regression, step_size=1e-9, num_steps=1, adapt_step_size=False)
        theirs = pyro.infer.MCMC(kernel, 1, 0, initial_params=start, disable_progbar=True)
        theirs.run(x, y)
        for name, value in theirs.get_samples().items():
            torch.testing.assert_close(ours.get_samples()[name], value, atol=1e-5, rtol=0)
    expected = start["scale"].exp().reshape(num_chains, 1)
    torch.testing.assert_close(ours.get_samples(group_by_chain=True)["scale"], expected, atol=1e-5, rtol=0)


def test_initial_params_of_a_data_plate_keep_the_programs_axes(float64):
    def model(x):
        with pyro.plate("features", 3, dim=-2), pyro.plate("data", len(x), dim=-1):
            weight = pyro.sample("weight", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(weight, 1.0), obs=x.T)

    start = {"weight": torch.randn(2, 3, 5)}
    mcmc = still(model, num_chains=2, initial_params=start)
    mcmc.run(torch.zeros(5, 3))
    found = mcmc.get_samples(group_by_chain=True)["weight"][:, 0]
    torch.testing.assert_close(found, start["weight"], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ({"slope": torch.zeros(2, 2)}, "naming each"),
        ({"slope": torch.zeros(3, 2), "scale": torch.zeros(2)}, r"'slope'\] of shape \(2, 2\); got \(3, 2\)"),
    ],
)
def test_initial_params_of_other_sites_or_shapes_are_refused(start, message):
    mcmc = still(regression, num_chains=2, initial_params=start)
    with pytest.raises(ValueError, match=message):
        mcmc.run(torch.randn(6, 2), torch.randn(6))


def test_arguments_by_name(float64):
    x, y = torch.randn(6, 2), torch.randn(6)
    found = []
    for args, kwargs in [((x, y), {}), ((x,), {"y": y}), ((), {"y": y, "x": x})]:
        pyro.set_rng_seed(0)
        mcmc = pv.infer.MCMC(pv.HMC(regression), num_samples=5, warmup_steps=5, disable_progbar=True)
        mcmc.run(*args, **kwargs)
        found.append(mcmc.get_samples()["slope"])
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    with pytest.raises(TypeError, match="unexpected keyword"):
        mcmc.run(x, z=y)
