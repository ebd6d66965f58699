"""Every kernel against posteriors that are known, with Monte Carlo tolerances; and wrong kernels that must fail."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_vae as pv
from pyro_vae.inference.mcmc.kernels.base import Info, Kernel, State, accept
from tests.table_of_kernels import KERNELS, Case
from tests.truth import STANDARD_ERRORS


def errors(draws, site, mean, std):
    """Deviations from the true moments in Monte Carlo standard errors, mean and standard deviation together."""
    z_mean = (draws.mean()[site] - mean) / draws.mcse[site]
    z_std = (draws.std()[site] - std) / draws.mcse_std[site]
    return torch.cat([z_mean.flatten(), z_std.flatten()])


def agrees(draws, site, mean, std):
    return bool((errors(draws, site, mean, std).abs() < STANDARD_ERRORS).all())


def linear_gaussian(latent_dim=3, num_data=10, scale=0.5):
    torch.manual_seed(3)
    prior = pv.priors.StandardNormal(latent_dim)
    likelihood = pv.likelihoods.Gaussian(torch.nn.Linear(latent_dim, 4), scale=scale)
    model = pv.Model(prior, likelihood).double()
    model.likelihood.double()
    x = model.sample(num_data)["x"].double()
    exact = pv.analytic(model, x)
    return model, x, exact


@pytest.fixture
def gaussian(float64):
    return linear_gaussian()


VARIANTS = {
    "HMC, full mass": Case(lambda: pv.HMC(full_mass=True), 400, 4),
    "HMC, fixed steps": Case(lambda: pv.HMC(num_steps=2, jitter=0.3), 400, 4),
    "NUTS, full mass": Case(lambda: pv.NUTS(full_mass=True), 200, 1),
}


@pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in (KERNELS | VARIANTS).items()])
def test_linear_gaussian(gaussian, case):
    model, x, exact = gaussian
    guide = dist.MultivariateNormal(exact.mean + 0.1, 1.5 * exact.covariance_matrix)
    draws = pv.mcmc(
        model, x, kernel=case.build(), num_samples=case.draws, warmup_steps=150, num_chains=8, compile=True,
        guide=guide if case.guided else None,
    )  # fmt: skip
    std = exact.variance.sqrt()
    assert agrees(draws, "z", exact.mean, std)
    assert not agrees(draws, "z", exact.mean, 1.15 * std)  # these draws are enough to know a wrong posterior
    pooled = draws.samples["z"].flatten(0, 1)
    centred = pooled - exact.mean
    products = centred[..., 0] * centred[..., 1]
    ess = draws.ess_bulk["z"].amin(-1)
    z = (products.mean(0) - exact.covariance_matrix[:, 0, 1]) / (products.std(0) / ess.sqrt())
    assert float(z.abs().max()) < STANDARD_ERRORS


# -- wrong kernels, which the same check must catch ----------------------------------------------------------------


class AlwaysAccepts(Kernel):
    """A Langevin step without Metropolis-Hastings."""

    def step(self, state, density, tuning):
        noise = torch.randn_like(state.u)
        u = state.u + 0.5 * 0.64 * state.grad * tuning.metric.factor**2 + 0.8 * tuning.metric.spread(noise)
        new = State(u, *density.value_and_grad(u))
        return new, Info(torch.ones_like(new.log_density), torch.zeros_like(new.log_density, dtype=torch.bool))


class ForgetsTheProposal(Kernel):
    """A Langevin proposal accepted as if it were symmetric."""

    target_accept_prob = 0.6

    def step(self, state, density, tuning):
        epsilon = tuning.step_size[..., None]
        drift = 0.5 * epsilon * tuning.metric.pull(state.grad)
        u = state.u + epsilon * tuning.metric.spread(torch.randn_like(state.u) + drift)
        new = State(u, *density.value_and_grad(u))
        return accept(state, new, new.log_density - state.log_density)


class ForgetsTheMomentum(pv.HMC):
    """HMC accepted on the potential energy alone."""

    def step(self, state, density, tuning):
        u_before = state.log_density
        _moved, info = super().step(state, density, tuning)
        end, _ = info.end
        value, grad = density.value_and_grad(end)
        return accept(state, State(end, value, grad), value - u_before)


@pytest.mark.parametrize("wrong", [AlwaysAccepts, ForgetsTheProposal, ForgetsTheMomentum])
def test_a_wrong_kernel_fails(gaussian, wrong):
    model, x, exact = gaussian
    draws = pv.mcmc(model, x, kernel=wrong(), num_samples=1000, warmup_steps=150, num_chains=8, compile=True)
    assert not agrees(draws, "z", exact.mean, exact.variance.sqrt())


# -- Gaussians of any condition ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kernel", "dim", "condition"),
    [(pv.HMC, 1, 1.0), (pv.HMC, 2, 1e4), (pv.HMC, 10, 1e2), (pv.HMC, 100, 1e4), (pv.ChEES, 100, 1e4)],
)
def test_gaussians_of_any_condition(float64, kernel, dim, condition):
    variances = torch.logspace(0, -math.log10(condition), dim) if dim > 1 else torch.tensor([1.0])

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(dim), variances.sqrt()).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1) * 0, 1.0), obs=x)

    draws = pv.mcmc(model, torch.zeros(4), kernel=kernel(), num_samples=500, warmup_steps=300, num_chains=4)
    assert agrees(draws, "z", torch.zeros(4, dim), variances.sqrt().expand(4, dim))


def test_nuts_in_fifty_dimensions(float64):
    """Fifty numbers seen through thirty noisy sums; the axes of their posterior are 0.24 to 1 long."""
    torch.manual_seed(5)
    likelihood = pv.likelihoods.Gaussian(torch.nn.Linear(50, 30), scale=0.3)
    with torch.no_grad():
        likelihood.network.weight.mul_(torch.linspace(0.5, 1.5, 30)[:, None])
    model = pv.Model(pv.priors.StandardNormal(50), likelihood)
    x = model.sample(3)["x"]
    exact = pv.analytic(model, x)
    draws = pv.mcmc(model, x, kernel=pv.NUTS(), num_samples=100, warmup_steps=100, num_chains=8, compile=True)
    assert agrees(draws, "z", exact.mean, exact.variance.sqrt())


def test_a_rotated_gaussian_needs_a_full_mass_matrix(float64):
    torch.manual_seed(1)
    q, _ = torch.linalg.qr(torch.randn(6, 6))
    covariance = q @ torch.diag(torch.logspace(0, -2.5, 6)) @ q.mT
    covariance = (covariance + covariance.mT) / 2

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.MultivariateNormal(torch.ones(6), covariance))
            pyro.sample("x", dist.Normal(z.sum(-1) * 0, 1.0), obs=x)

    settings = {"num_samples": 200, "warmup_steps": 200, "num_chains": 4}
    dense = pv.mcmc(model, torch.zeros(2), kernel=pv.HMC(full_mass=True), **settings)
    assert agrees(dense, "z", torch.ones(2, 6), covariance.diagonal().sqrt().expand(2, 6))
    diagonal = pv.mcmc(model, torch.zeros(2), kernel=pv.HMC(), **settings)
    assert float(dense.ess_bulk["z"].min()) > 2 * float(diagonal.ess_bulk["z"].min())


# -- decoders, by quadrature ---------------------------------------------------------------------------------------


def decoder(seed=0, num_data=20):
    torch.manual_seed(seed)
    net = pv.networks.mlp(2, 16, 12)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(3.0)  # curved posteriors, some with two modes
    model = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(net))
    return model, model.sample(num_data)["x"]


@pytest.mark.parametrize(("kernel", "num_samples"), [(pv.HMC, 500), (pv.NUTS, 250)])
def test_decoder_by_quadrature(kernel, num_samples):
    model, x = decoder()
    truth = pv.quadrature(model, x)
    draws = pv.mcmc(model, x, kernel=kernel(), num_samples=num_samples, warmup_steps=200, num_chains=8)
    good = draws.converged()
    assert good.float().mean() > 0.7
    z = errors(draws.rows(good), "z", truth.mean[good], truth.variance.sqrt()[good])
    assert float(z.abs().max()) < STANDARD_ERRORS


# -- conjugate pairs on constrained supports -----------------------------------------------------------------------


def beta_bernoulli(x):
    with pyro.plate("rows", len(x)):
        p = pyro.sample("p", dist.Beta(2.0, 3.0))
        pyro.sample("x", dist.Binomial(20, p), obs=x)


def gamma_poisson(x):
    with pyro.plate("rows", len(x)):
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.5))
        pyro.sample("x", dist.Poisson(rate), obs=x)


def dirichlet_categorical(x):
    with pyro.plate("rows", len(x), dim=-1):
        p = pyro.sample("p", dist.Dirichlet(torch.tensor([1.0, 2.0, 3.0])))
        with pyro.plate("trials", x.shape[1], dim=-2):
            pyro.sample("x", dist.Categorical(p), obs=x.T)


CONJUGATE = {
    "Beta": (
        beta_bernoulli,
        torch.tensor([0.0, 3.0, 10.0, 20.0]),
        "p",
        lambda x: dist.Beta(2.0 + x, 3.0 + 20 - x),
    ),
    "Gamma": (gamma_poisson, torch.tensor([0.0, 1.0, 7.0]), "rate", lambda x: dist.Gamma(2.0 + x, torch.tensor(2.5))),
    "Dirichlet": (
        dirichlet_categorical,
        torch.tensor([[0, 0, 0, 0, 0], [0, 1, 1, 2, 2]]),
        "p",
        lambda x: dist.Dirichlet(torch.tensor([1.0, 2.0, 3.0]) + torch.nn.functional.one_hot(x, 3).sum(1)),
    ),
}


@pytest.mark.parametrize(
    ("pair", "kernel"), [("Beta", pv.HMC), ("Gamma", pv.HMC), ("Dirichlet", pv.HMC), ("Beta", pv.Gibbs)]
)
def test_conjugate_pairs(float64, pair, kernel):
    model, x, site, posterior = CONJUGATE[pair]
    x = x.double() if x.is_floating_point() else x
    draws = pv.mcmc(model, x, kernel=kernel(), plate="rows", num_samples=250, warmup_steps=150, num_chains=8)
    exact = posterior(x)
    assert agrees(draws, site, exact.mean, exact.variance.sqrt())


def test_without_the_jacobian_the_constrained_check_fails(float64, monkeypatch):
    from pyro_vae.inference.target.target import Target

    with_jacobian = Target.log_joint

    def without(self, u, *, beta=1.0):
        return with_jacobian(self, u, beta=beta) - self.log_jacobian(u)

    monkeypatch.setattr(Target, "log_joint", without)
    model, x, site, posterior = CONJUGATE["Gamma"]
    x = x[1:].double()
    draws = pv.mcmc(model, x, plate="rows", num_samples=500, warmup_steps=250)
    assert not agrees(draws, site, posterior(x).mean, posterior(x).variance.sqrt())


# -- posteriors of whole programs ----------------------------------------------------------------------------------


def schools(y, sigma):
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfNormal(5.0))
    with pyro.plate("data", len(y)):
        eta = pyro.sample("eta", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(mu + tau * eta, sigma), obs=y)


SCHOOLS = (
    torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0]),
    torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0]),
)


def schools_truth():
    """Mean and standard deviation of mu and tau: eta integrates out, the rest is a grid of two dimensions."""
    y, sigma = (t.double() for t in SCHOOLS)
    mu = torch.linspace(-40, 40, 801, dtype=torch.float64)[:, None, None]
    tau = torch.linspace(0, 60, 1201, dtype=torch.float64)[None, :, None]
    log_joint = dist.Normal(mu, (sigma.square() + tau.square()).sqrt()).log_prob(y).sum(-1)
    mu, tau = mu[..., 0], tau[..., 0]
    log_joint = log_joint - mu.square() / 50 - tau.square() / 50
    weight = (log_joint - log_joint.max()).exp()
    weight[:, 0] *= 0.5  # the trapezoid's end
    weight = weight / weight.sum()
    moments = {}
    for name, value in (("mu", mu), ("tau", tau)):
        mean = (weight * value).sum()
        moments[name] = mean, ((weight * value.square()).sum() - mean.square()).sqrt()
    return moments


@pytest.mark.parametrize("kernel", [pv.NUTS, pv.ChEES, pv.RandomWalk])
def test_a_hierarchy_is_one_posterior(float64, kernel):
    data = tuple(t.double() for t in SCHOOLS)
    steps = {pv.RandomWalk: 1500, pv.NUTS: 60}.get(kernel, 250)
    draws = pv.mcmc(schools, data, kernel=kernel(), num_samples=steps, warmup_steps=100, num_chains=16)
    assert draws.samples["eta"].shape == (16, steps, 1, 8)
    assert draws.plate is None
    for name, (mean, std) in schools_truth().items():
        assert agrees(draws, name, mean, std)


def test_a_vague_prior_is_no_starting_point(float64):
    def model(x):
        mean = pyro.sample("mean", dist.Normal(0.0, 1e7))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mean, 1.0), obs=x)

    x = torch.tensor([3.0, 4.0, 5.0]).double()
    draws = pv.mcmc(model, x, num_samples=400, warmup_steps=200)
    assert agrees(draws, "mean", torch.tensor(4.0), torch.tensor(3**-0.5))


# -- Pyro's own sampler --------------------------------------------------------------------------------------------


def test_pyro_itself_agrees(float64):
    model, x, exact = linear_gaussian(latent_dim=2, num_data=2)
    reference = pv.pyro_mcmc(model, x, num_samples=100, warmup_steps=100, num_chains=2)
    assert agrees(reference, "z", exact.mean, exact.variance.sqrt())
    assert reference.samples["z"].shape == (2, 100, 2, 2)


def test_agrees_with_pyro_on_a_whole_program(float64):
    def model(x):
        mean = pyro.sample("mean", dist.Normal(0.0, 10.0))
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mean, scale), obs=x)

    x = torch.tensor([1.0, 2.0, 4.0, 4.5, 7.0])
    reference = pv.pyro_mcmc(model, x, num_samples=150, warmup_steps=100, num_chains=2)
    draws = pv.mcmc(model, x, num_samples=300, warmup_steps=150, num_chains=8)
    for name in ("mean", "scale"):
        both = (draws.mcse[name].square() + reference.mcse[name].square()).sqrt()
        assert float(((draws.mean()[name] - reference.mean()[name]) / both).abs().max()) < STANDARD_ERRORS
