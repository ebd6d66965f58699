"""CompiledTrace_ELBO gives Trace_ELBO's loss and gradients, over a table of programs."""

import math
import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoIAFNormal, AutoLowRankMultivariateNormal, AutoMultivariateNormal, AutoNormal
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import nn
from torch.distributions import constraints

from pyro_vae import Model, guides, likelihoods, networks, priors
from pyro_vae.infer import CompiledTrace_ELBO, CompiledTraceMeanField_ELBO
from tests import table_of_parts as parts


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


N, D, L = 6, 5, 2


def binary():
    return (torch.rand(N, D) > 0.5).to(torch.get_default_dtype())


def vae(likelihood=None, guide=None):
    likelihood = likelihood or likelihoods.Bernoulli(networks.mlp(L, 8, D))
    guide = guide or guides.DiagonalGaussian(networks.mlp(D, 8, 2 * L))
    return Model(priors.StandardNormal(L), likelihood), guide, binary


def several_sites():
    def model(x):
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, scale).expand([L]).to_event(1))
            loc = z.sum(-1, keepdim=True) * rate
            pyro.sample("x", dist.Normal(loc.expand(-1, D), 1.0).to_event(1), obs=x)

    def guide(x):
        loc = pyro.param("loc", torch.zeros(()))
        pyro.sample("scale", dist.LogNormal(loc, pyro.param("width", torch.tensor(0.3), constraints.positive)))
        shape = pyro.param("shape", torch.tensor([2.0, 3.0]), constraint=constraints.positive)
        pyro.sample("rate", dist.Gamma(shape[0], shape[1]))
        with pyro.plate("data", len(x)):
            weight = pyro.param("weight", torch.ones(D, L))
            pyro.sample("z", dist.Normal(x @ weight, 0.5).to_event(1))

    return model, guide, lambda: torch.randn(N, D)


def subsampled():
    def model(x):
        w = pyro.sample("w", dist.Normal(torch.zeros(D), 1.0).to_event(1))
        with pyro.plate("data", N, subsample_size=3) as rows:
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z[:, None] * w, 1.0).to_event(1), obs=x[rows])

    def guide(x):
        pyro.sample("w", dist.Normal(pyro.param("m", torch.zeros(D)), 0.1).to_event(1))
        with pyro.plate("data", N, subsample_size=3) as rows:
            pyro.sample("z", dist.Normal(pyro.param("z_loc", torch.zeros(N))[rows], 1.0))

    return model, guide, lambda: torch.randn(N, D)


def explicit_subsample():
    def model(x, rows):
        with pyro.plate("data", 100, subsample=rows):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z[:, None], 1.0).expand([len(rows), D]).to_event(1), obs=x[rows])

    def guide(x, rows):
        with pyro.plate("data", 100, subsample=rows):
            loc = pyro.param("locs", torch.zeros(100), event_dim=0)
            pyro.sample("z", dist.Normal(loc, 0.7))

    return model, guide, lambda: (torch.randn(100, D), torch.randperm(100)[:4])


def scaled_and_masked():
    def model(x, mask):
        with pyro.plate("data", len(x)), poutine.scale(scale=3.0), poutine.mask(mask=mask):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z[:, None], 1.0).expand([N, D]).to_event(1), obs=x)

    def guide(x, mask):
        with pyro.plate("data", len(x)), poutine.scale(scale=3.0), poutine.mask(mask=mask):
            loc = pyro.param("locs", torch.zeros(N))
            pyro.sample("z", dist.Normal(loc, pyro.param("s", torch.ones(N), constraint=constraints.positive)))

    return model, guide, lambda: (torch.randn(N, D), torch.rand(N) > 0.3)


class Regression(PyroModule):
    def __init__(self):
        super().__init__()
        self.linear = PyroModule[nn.Linear](D, 1)
        self.linear.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, D]).to_event(2))
        self.noise = PyroParam(torch.tensor(0.5), constraint=constraints.positive)
        self.slope = nn.Parameter(torch.tensor(1.0))

    def forward(self, x, y=None):
        mean = self.slope * self.linear(x).squeeze(-1)
        with pyro.plate("data", len(x)):
            return pyro.sample("y", dist.Normal(mean, self.noise), obs=y)


def automatic(make):
    def program():
        model = Regression()
        return model, make(model), lambda: (torch.randn(N, D), torch.randn(N))

    return program


class Noisy(nn.Module):
    """A network with dropout and batch norm."""

    def __init__(self, *sizes):
        super().__init__()
        fan_in, width, fan_out = sizes
        self.layers = nn.Sequential(
            nn.Linear(fan_in, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.4), nn.Linear(width, fan_out)
        )

    def forward(self, x):
        return self.layers(x)


def noisy_vae():
    return vae(guide=guides.DiagonalGaussian(Noisy(D, 8, 2 * L), latent_dim=L))


def of_parts(prior="standard normal", likelihood="Bernoulli", guide="diagonal"):
    """A program of the table of parts."""

    def program():
        make_likelihood, make_data = parts.LIKELIHOODS[likelihood]
        model = Model(parts.PRIORS[prior](L), make_likelihood(L, parts.DATA_DIM))
        make_guide = parts.GUIDES[guide](L, parts.DATA_DIM, N, model)
        return model, parts.fitting(make_guide, model.prior), lambda: make_data(N, parts.DATA_DIM)

    return program


def two_levels(guide):
    def program():
        make_likelihood, make_data = parts.LIKELIHOODS["Bernoulli"]
        model = Model(parts.hierarchical(), make_likelihood(1, parts.DATA_DIM))
        return model, parts.TWO_LEVEL_GUIDES[guide](1, parts.DATA_DIM, N, model), lambda: make_data(N, parts.DATA_DIM)

    return program


def captured_tensor():
    weights = torch.randn(D, L)
    model, _, data = vae()

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x @ weights, pyro.param("s", torch.ones(L), constraints.positive)).to_event(1))

    return model, guide, data


SHAPES_OF_PROGRAM = {
    "bernoulli, diagonal": vae,
    "several sites": several_sites,
    "subsampled plate": subsampled,
    "subsample given": explicit_subsample,
    "scale and mask": scaled_and_masked,
    "AutoNormal": automatic(AutoNormal),
    "AutoMultivariateNormal": automatic(AutoMultivariateNormal),
    "AutoLowRank": automatic(lambda model: AutoLowRankMultivariateNormal(model, rank=2)),
    "AutoIAF": automatic(lambda model: AutoIAFNormal(model, hidden_dim=[8])),
    "dropout and batch norm": noisy_vae,
    "captured tensor": captured_tensor,
}

PROGRAMS = {
    **SHAPES_OF_PROGRAM,
    **{f"prior: {name}": of_parts(prior=name) for name in parts.PRIORS_OF_ONE_SITE},
    **{f"likelihood: {name}": of_parts(likelihood=name) for name in parts.LIKELIHOODS},
    **{f"guide: {name}": of_parts(guide=name) for name in parts.GUIDES},
    **{f"two levels: {name}": two_levels(name) for name in parts.TWO_LEVEL_GUIDES},
}


def run(program, loss, steps=8):
    """Losses, gradients and buffers over SVI steps; data and noise follow the seed."""
    pyro.clear_param_store()
    pyro.set_rng_seed(3)
    model, guide, data = program()
    values = []
    grads = {}

    def keep(name, optimiser_parameter):
        grads.setdefault(name, []).append(optimiser_parameter.grad.clone())

    class Keep(torch.optim.SGD):
        def step(self, closure=None):
            for group in self.param_groups:
                for p in group["params"]:
                    keep(pyro.get_param_store().param_name(p).rpartition("$$$")[-1], p)
            super().step(closure)

    svi = SVI(model, guide, pyro.optim.PyroOptim(Keep, {"lr": 1e-5}), loss)
    for _ in range(steps):
        args = data()
        values.append(svi.step(*(args if isinstance(args, tuple) else (args,))))
    buffers = [b for m in (model, guide) if isinstance(m, nn.Module) for b in m.buffers()]
    return values, grads, buffers


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *[pytest.param(name, torch.float64, id=f"{name}-float64") for name in PROGRAMS],
        *[pytest.param(name, torch.float32, id=f"{name}-float32") for name in SHAPES_OF_PROGRAM],
    ],
)
def test_equals_trace_elbo(name, dtype):
    """Every program to the rounding of float64, which any other program exceeds; each shape of it in float32 too."""
    torch.set_default_dtype(dtype)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-10
    elbo = CompiledTrace_ELBO(backend="eager")
    compare(run(PROGRAMS[name], elbo), run(PROGRAMS[name], Trace_ELBO()), tolerance)
    assert elbo.num_graphs == 1


PARTICLES = {
    "several particles": {"num_particles": 3},
    "vectorised particles": {"num_particles": 3, "vectorize_particles": True},
}


@pytest.mark.parametrize("name", PARTICLES)
def test_particles(name):
    elbo = CompiledTrace_ELBO(backend="eager", **PARTICLES[name])
    compare(run(vae, elbo), run(vae, Trace_ELBO(**PARTICLES[name])), 1e-5)
    assert elbo.num_graphs == 1


@pytest.mark.parametrize(
    "name", ["bernoulli, diagonal", "guide: full covariance", "several sites", "scale and mask", "AutoNormal"]
)
def test_mean_field(name):
    elbo = CompiledTraceMeanField_ELBO(backend="eager")
    compare(run(PROGRAMS[name], elbo), run(PROGRAMS[name], TraceMeanField_ELBO()), 1e-5)
    assert elbo.num_graphs == 1


def test_inductor():
    name, elbo = "dropout and batch norm", CompiledTrace_ELBO()
    compare(run(PROGRAMS[name], elbo), run(PROGRAMS[name], Trace_ELBO()), 1e-5)
    assert elbo.num_graphs == 1


def test_module_under_a_torch_optimiser():
    def train(elbo):
        pyro.clear_param_store()
        pyro.set_rng_seed(3)
        model, guide, data = PROGRAMS["AutoNormal"]()
        loss = elbo(model, guide)
        loss(*data())
        optimiser = torch.optim.Adam(loss.parameters(), lr=0.01)
        values = []
        for _ in range(8):
            optimiser.zero_grad()
            value = 2.0 * loss(*data())
            value.backward()
            optimiser.step()
            values.append(float(value.detach()))
        return values, [p.detach() for p in loss.parameters()]

    elbo = CompiledTrace_ELBO(backend="eager")
    found, wanted = train(elbo), train(Trace_ELBO())
    assert found[0] == pytest.approx(wanted[0], rel=1e-5)
    torch.testing.assert_close(found[1], wanted[1], rtol=1e-5, atol=1e-6)
    assert elbo.num_graphs == 1


def test_an_elbo_travels_without_its_graphs():
    model, guide, data = vae()
    elbo = CompiledTrace_ELBO(num_particles=2, backend="eager")
    for _ in range(5):
        elbo.loss(model, guide, data())
    twin = pickle.loads(pickle.dumps(elbo))
    assert (elbo.num_graphs, twin.num_graphs, twin.num_particles) == (1, 0, 2)
    assert math.isfinite(twin.loss(model, guide, data()))


def test_evaluation_without_gradients():
    model, guide, data = vae()
    elbo = CompiledTrace_ELBO(backend="eager")
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), elbo)
    plain = SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())
    for seed in range(7):
        x = data()
        pyro.set_rng_seed(seed)
        found = svi.evaluate_loss(x)
        pyro.set_rng_seed(seed)
        assert found == pytest.approx(plain.evaluate_loss(x), rel=1e-5)
    assert all(p.grad is None for p in model.parameters())


def test_without_a_compiler_the_graph_runs_uncompiled(monkeypatch):
    monkeypatch.setattr("pyro_vae.inference.compiled.backend.why_no_compiler", lambda tensors: "no C++ compiler")
    elbo = CompiledTrace_ELBO()
    with pytest.warns(UserWarning, match="without Inductor: no C\\+\\+ compiler"):
        found = run(vae, elbo)
    compare(found, run(vae, Trace_ELBO()), 1e-5)
    assert elbo.num_graphs == 1


def test_parameters_are_in_the_store_and_in_state_dict():
    model, guide, data = vae()
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), CompiledTrace_ELBO(backend="eager"))
    for _ in range(6):
        svi.step(data())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    svi.step(data())
    moved = {name: not torch.equal(value, before[name]) for name, value in model.state_dict().items()}
    assert all(moved.values())
    stored = {id(p) for p in pyro.get_param_store()._params.values()}
    assert {id(p) for module in (model, guide) for p in module.parameters()} == stored


def compare(found, wanted, tolerance):
    assert found[0] == pytest.approx(wanted[0], rel=tolerance)
    assert found[1].keys() == wanted[1].keys()
    scale = max(float(grad.abs().max()) for grads in wanted[1].values() for grad in grads)
    for name, grads in wanted[1].items():
        for got, grad in zip(found[1][name], grads, strict=True):
            torch.testing.assert_close(got, grad, rtol=tolerance, atol=tolerance * scale)
    for got, buffer in zip(found[2], wanted[2], strict=True):
        torch.testing.assert_close(got, buffer, rtol=tolerance, atol=0.0)


# -- programs of which a graph has little to hold ------------------------------------------------------------------


def nothing():
    pass


def only_a_factor():
    pyro.factor("f", torch.tensor(0.0))


def factor_with_noise():
    pyro.factor("f", torch.randn(()))


def latent_without_parameters():
    pyro.sample("z", dist.Normal(0.0, 1.0))


def another_latent_without_parameters():
    pyro.sample("z", dist.Normal(1.0, 2.0))


def number_of_rows(rows):
    with pyro.plate("data", len(rows)):
        pyro.sample("z", dist.Normal(torch.tensor(0.0), torch.tensor(1.0)))


SMALL = {
    "nothing at all": (nothing, nothing, ()),
    "a constant factor": (only_a_factor, nothing, ()),
    "a factor of noise": (factor_with_noise, nothing, ()),
    "latents without parameters": (latent_without_parameters, another_latent_without_parameters, ()),
    "a list as argument": (number_of_rows, number_of_rows, ([1, 2, 3],)),
}


@pytest.mark.filterwarnings("ignore::pyro_vae.inference.compiled.graphs.LeftToPyro")
@pytest.mark.parametrize("call", ["loss", "differentiable_loss", "loss_and_grads"])
@pytest.mark.parametrize("name", SMALL)
def test_programs_with_little_in_them_run_as_in_pyro(name, call):
    model, guide, args = SMALL[name]

    def losses(elbo):
        pyro.set_rng_seed(0)
        return [float(getattr(elbo, call)(model, guide, *args)) for _ in range(7)]

    assert losses(CompiledTrace_ELBO(backend="eager")) == pytest.approx(losses(Trace_ELBO()), rel=1e-6)
