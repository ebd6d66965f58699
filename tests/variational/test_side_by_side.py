"""Runs side by side end where each ends alone: the same noise, the same order of the data, the same weights."""

import pyro
import pytest
import torch
from pyro.infer import TraceMeanField_ELBO
from torch import nn

import pyro_vae as pv
from pyro_vae.evaluation.sweep import runs
from pyro_vae.inference.compiled.backend import NotTraceableError
from pyro_vae.inference.compiled.stacked import StackedSteps
from pyro_vae.inference.variational.fit import fit
from pyro_vae.inference.variational.side_by_side import fit_side_by_side

SEEDS = (0, 1, 5)


@pytest.fixture
def x(float64):
    return torch.bernoulli(torch.rand(75, 6, generator=torch.Generator().manual_seed(0)))


def plain():
    likelihood = pv.likelihoods.Bernoulli(pv.networks.mlp(2, 8, 6))
    return pv.Model(pv.priors.StandardNormal(2), likelihood), pv.guides.DiagonalGaussian(pv.networks.mlp(6, 8, 4)), None


def flow():
    guide = pv.guides.Planar(pv.networks.mlp(6, 8, 4), latent_dim=2)
    likelihood = pv.likelihoods.Gaussian(pv.networks.mlp(2, 8, 6), scale="learned", data_dim=6)
    return (
        pv.Model(pv.priors.RealNVP(2, num_transforms=2, hidden=(8,)), likelihood),
        guide,
        pv.objectives.ImportanceWeightedELBO(num_particles=3),
    )


def learned_prior():
    guide = pv.guides.FullCovarianceGaussian(pv.networks.mlp(6, 8, 5), latent_dim=2)
    likelihood = pv.likelihoods.StudentT(pv.networks.mlp(2, 8, 12))
    return pv.Model(pv.priors.GaussianMixture(2, num_components=3), likelihood), guide, TraceMeanField_ELBO()


def weighted():
    loss = pv.objectives.BetaELBO(beta=pv.objectives.warm_up(5))
    return (*plain()[:2], loss)


def together(make, x, **settings):
    """Models and guides, trained side by side, and their generators."""
    made, generators = [], []
    for seed in SEEDS:
        pyro.set_rng_seed(seed)
        made.append(make())
        generators.append(torch.Generator().manual_seed(0))
        generators[-1].set_state(torch.get_rng_state())
    losses = [loss for *_, loss in made]
    options = {"epochs": 4, "batch_size": 20, "lr": 1e-2, "compile": True} | settings
    fit_side_by_side([m[:2] for m in made], (x,), losses=losses, generators=generators, **options)
    return [(model, guide) for model, guide, _ in made], generators


@pytest.fixture
def eager(monkeypatch):
    """Graphs operation by operation: what is tested is not Inductor."""
    monkeypatch.setattr("pyro_vae.inference.variational.side_by_side.why_no_compiler", lambda x: "not here")


@pytest.mark.parametrize("make", [plain, flow, learned_prior, weighted], ids=lambda make: make.__name__)
def test_each_run_has_the_weights_that_it_has_alone(make, x, eager):
    pairs, generators = together(make, x)
    for seed, (model, guide), generator in zip(SEEDS, pairs, generators, strict=True):
        pyro.set_rng_seed(seed)
        alone, own_guide, loss = make()
        fit(
            alone,
            own_guide,
            x,
            epochs=4,
            batch_size=20,
            lr=1e-2,
            loss=loss,
            validation=None,
            compile=False,
            progress=False,
        )
        assert torch.equal(torch.get_rng_state(), generator.get_state())
        wanted = [*alone.parameters(), *own_guide.parameters()]
        for found, value in zip([*model.parameters(), *guide.parameters()], wanted, strict=True):
            torch.testing.assert_close(found, value, rtol=1e-9, atol=1e-9)
        assert not model.training


def test_inductor_gives_the_same(x):
    (compiled, _), (one_by_one, _) = together(plain, x, epochs=80), together(plain, x, epochs=80, compile="auto")
    for pair, other in zip(compiled, one_by_one, strict=True):
        for found, value in zip(pair[0].parameters(), other[0].parameters(), strict=True):
            torch.testing.assert_close(found, value, rtol=1e-6, atol=1e-6)


def test_weights_have_memory_of_their_own_afterwards(x, eager):
    (first, *_), _ = together(plain, x)
    for parameter in first[0].parameters():
        assert parameter.untyped_storage().nbytes() == parameter.numel() * parameter.element_size()


def test_noise_of_another_run_is_noticed(x, eager, monkeypatch):
    def of_the_first(self, draw):
        return lambda: torch.stack([draw(self.generators[0]) for _ in self.generators])

    monkeypatch.setattr(StackedSteps, "_draw", of_the_first)
    with pytest.raises(NotTraceableError, match="side by side"):
        together(plain, x)


ONE_DECODER = pv.networks.mlp(2, 8, 6).double()


def with_one_decoder():
    return pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(ONE_DECODER)), *plain()[1:]


def with_running_means():
    network = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 4))
    return plain()[0], pv.guides.DiagonalGaussian(network), None


def with_a_prior_of_another_guide():
    prior = pv.priors.VampPrior(plain()[1], torch.zeros(3, 6), bounds=(0.0, 1.0))
    return pv.Model(prior, pv.likelihoods.Bernoulli(pv.networks.mlp(2, 8, 6))), *plain()[1:]


class Counting(nn.Module):
    """A network whose output depends on how often ``train`` was called."""

    def __init__(self):
        super().__init__()
        self.network, self.epochs = pv.networks.mlp(2, 8, 6), 0

    def train(self, mode=True):
        self.epochs = getattr(self, "epochs", 0) + mode
        return super().train(mode)

    def forward(self, z):
        return self.network(z) * 0.9**self.epochs


def with_a_counter():
    return pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(Counting())), *plain()[1:]


def with_parameters_in_one_memory():
    first, second = nn.Linear(6, 6), nn.Linear(6, 4)
    second.weight.data = first.weight.data[:4]
    return plain()[0], pv.guides.DiagonalGaussian(nn.Sequential(first, second)), None


SCHEDULED = pv.objectives.BetaELBO(beta=pv.objectives.warm_up(5))


def with_one_objective():
    return (*plain()[:2], SCHEDULED)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (with_one_decoder, "share a parameter"),
        (with_running_means, "writes to tensors"),
        (with_a_prior_of_another_guide, "not its own"),
        (with_a_counter, "change all the time"),
        (with_parameters_in_one_memory, "share memory"),
        (with_one_objective, "share an objective"),
    ],
)
def test_what_would_be_another_run_than_alone_is_refused(make, why, x, eager):
    with pytest.raises(NotTraceableError, match=why):
        together(make, x)


def test_numbers_of_their_own_are_refused(x, eager):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.network, self.scale = pv.networks.mlp(2, 8, 6), 1 + 1e-9 * float(torch.rand(()))

        def forward(self, z):
            return self.network(z) * self.scale

    with pytest.raises(NotTraceableError, match="different numbers"):
        together(lambda: (pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(Scaled())), *plain()[1:]), x)


def with_a_large_decoder():
    likelihood = pv.likelihoods.Bernoulli(pv.networks.mlp(2, 8000, 6))
    return pv.Model(pv.priors.StandardNormal(2), likelihood), *plain()[1:]


@pytest.mark.parametrize(
    ("make", "epochs", "why"), [(with_a_large_decoder, 80, "numbers to learn"), (plain, 10, "few")]
)
def test_large_networks_and_short_runs_are_left_alone(make, epochs, why, x, eager):
    with pytest.raises(NotTraceableError, match=why):
        together(make, x, compile="auto", epochs=epochs)


def test_modules_that_name_no_parameter_learn_without_a_graph(x):
    """Pyro's loss_and_grads differentiates nothing where no parameter site is met."""

    class Bare(nn.Module):
        def __init__(self, size):
            super().__init__()
            self.network = nn.Linear(*size)

    encoder, decoder = Bare((6, 4)), Bare((2, 6))

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", pyro.distributions.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", pyro.distributions.Bernoulli(logits=decoder.network(z)).to_event(1), obs=x)

    def guide(x):
        loc, scale = encoder.network(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", pyro.distributions.Normal(loc, scale.exp()).to_event(1))

    encoder.forward, decoder.forward = guide, model
    before = decoder.network.weight.detach().clone()
    pyro.set_rng_seed(0)
    history = fit(decoder, encoder, x, epochs=5, lr=1e-2, validation=None, compile=False, progress=False)
    assert not torch.equal(before, decoder.network.weight)
    assert history.train_elbo[-1] > history.train_elbo[0]


def test_parameters_that_the_loss_does_not_reach_stay_as_they_are(x):
    """There is nothing to differentiate then, with or without a graph, and no error."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", pyro.distributions.Normal(x.new_zeros(len(x)), 1.0))
            pyro.sample("x", pyro.distributions.Normal(z[:, None], 1.0).expand([len(x), 6]).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", pyro.distributions.Normal(x.mean(-1), 1.0))

    unused = nn.Linear(1, 1)
    unused.forward = model
    before = unused.weight.detach().clone()
    fit(unused, guide, x, epochs=2, validation=None, compile=False, progress=False)
    assert torch.equal(before, unused.weight)


def rows_of(x, seeds, **makers):
    parts = {
        "priors": {"normal": lambda guide: pv.priors.StandardNormal(2)},
        "likelihoods": {"Bernoulli": lambda: pv.likelihoods.Bernoulli(pv.networks.mlp(2, 8, 6))},
        "guides": {"diagonal": lambda: pv.guides.DiagonalGaussian(pv.networks.mlp(6, 8, 4))},
    }
    found = pv.sweep(x, test=x[:5], seeds=seeds, epochs=80, batch_size=20, progress=False, **{**parts, **makers})
    return [{name: value for name, value in row.items() if name != "seconds"} for row in found.rows]


def test_a_sweep_has_the_rows_of_single_runs(x, eager, monkeypatch):
    used = []
    monkeypatch.setattr(runs, "fit_side_by_side", lambda *args, **kw: used.append(1) or fit_side_by_side(*args, **kw))
    side_by_side = rows_of(x, SEEDS)
    assert used == [1]
    for row, seed in zip(side_by_side, SEEDS, strict=True):
        (alone,) = rows_of(x, [seed])
        assert row == {name: pytest.approx(v, rel=1e-7) if isinstance(v, float) else v for name, v in alone.items()}


def test_a_run_that_breaks_leaves_the_others(x, eager):
    class Breaks(pv.likelihoods.Bernoulli):
        def __init__(self):
            super().__init__(pv.networks.mlp(2, 8, 6))
            self.rate = 1e30 if torch.initial_seed() == 1 else 0.0

        def forward(self, z):
            return super().forward(z + self.rate * self.rate * 1e300)

    found = rows_of(x, SEEDS, likelihoods={"Breaks": Breaks})
    assert [bool(row["error"]) for row in found] == [False, True, False]
