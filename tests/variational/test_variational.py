"""SVI: what is learnt, reported, kept and refused."""

import io
import json
import math
from contextlib import nullcontext

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from tqdm.auto import tqdm

import pyro_vae as pv
from pyro_vae.datasets import rows
from pyro_vae.datasets.rows import Rows
from pyro_vae.inference.variational.settings import StoppingRule
from tests.truth import linear_gaussian

QUIET = {"progress": False, "compile": False}


def _pair(data_dim=12):
    model = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(pv.networks.mlp(2, 16, data_dim)))
    return model, pv.guides.DiagonalGaussian(pv.networks.mlp(data_dim, 16, 4))


def _binary(num_data=60, data_dim=12):
    return (torch.rand(num_data, data_dim) > 0.5).float()


def _weights(*modules):
    return [p.detach().clone() for module in modules for p in module.parameters()]


def test_one_epoch_of_one_batch_is_one_step_of_pyros_svi():
    x = _binary(20)
    model, guide = _pair()
    state = [m.state_dict() for m in (model, guide)]
    saved = [{k: v.clone() for k, v in s.items()} for s in state]
    pyro.set_rng_seed(7)
    # torch's SGD on the mean a datum; Pyro's SVI takes the sum, so its step is 1 / 20 as long
    pv.fit(
        model, guide, x, epochs=1, batch_size=20, validation=None, optimiser=lambda p: torch.optim.SGD(p, 0.1), **QUIET
    )
    ours = _weights(model, guide)
    for module, s in zip((model, guide), saved, strict=True):
        module.load_state_dict(s)
    pyro.set_rng_seed(7)
    svi = SVI(model, guide, pyro.optim.SGD({"lr": 0.1 / 20}), loss=Trace_ELBO())
    svi.step(x)
    for one, two in zip(ours, _weights(model, guide), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-7)


def test_reported_elbo_is_at_most_the_evidence_and_comes_near_it(float64):
    """On a linear-Gaussian model with the exact family, the ELBO reported is the exact evidence in the end."""
    model, _, _ = linear_gaussian(1, 5, scale=1.0)
    x = model.sample(200)["x"]
    model.requires_grad_(False)
    exact = float(pv.analytic(model, x).log_evidence.mean())
    guide = pv.guides.DiagonalGaussian(pv.networks.mlp(5, 2))
    history = pv.fit(
        model, guide, x, epochs=150, batch_size=100, lr=2e-2, validation=x, loss=TraceMeanField_ELBO(), **QUIET
    )
    # E_q[log p(x|z)] has a standard deviation of about L / sqrt(2) nats a datum at the optimum
    error = 1 / math.sqrt(200)
    assert abs(history.validation_elbo[-1] - exact) < 4.5 * error
    assert len(history.train_elbo) == len(history.validation_elbo) == 150
    assert history.num_steps == 300


def test_same_seed_same_run():
    x, runs = _binary(), []
    for _ in range(2):
        pyro.set_rng_seed(3)
        model, guide = _pair()
        history = pv.fit(model, guide, x, epochs=3, seed=5, **QUIET)
        runs.append((history.train_elbo, history.validation_elbo, *[w.sum().item() for w in _weights(model, guide)]))
    assert runs[0] == runs[1]


def test_patience_stops_and_gives_back_the_best_weights():
    x, held_out = _binary(40), _binary(40)
    model, guide = _pair()
    history = pv.fit(model, guide, x, epochs=400, batch_size=40, lr=0.05, validation=held_out, patience=15, **QUIET)
    assert history.stopped_early
    assert len(history.train_elbo) == history.best_epoch + 16
    with torch.random.fork_rng():  # the validation's own noise
        torch.manual_seed(0)
        again = -Trace_ELBO().loss(model, guide, held_out) / 40
    assert again == pytest.approx(history.validation_elbo[history.best_epoch], rel=1e-5)
    assert max(history.validation_elbo) == history.validation_elbo[history.best_epoch]
    assert not model.training


def test_patience_counts_from_the_best_epoch_and_not_before_the_warm_up_ends():
    rule = StoppingRule(2, first=2)
    scores = [5.0, 4.0, 1.0, 0.5, 3.0, 2.0, 3.0]
    seen = [(rule.see(epoch, score), rule.drop(epoch) or rule.stopped) for epoch, score in enumerate(scores)]
    assert [better for better, _ in seen] == [False, False, True, False, True, False, False]
    assert [stopped for _, stopped in seen] == [False] * 6 + [True]
    again = StoppingRule(2, first=2)
    again.load_state_dict(json.loads(json.dumps(rule.state_dict())))
    assert (again.best_epoch, again.stopped) == (rule.best_epoch, rule.stopped) == (4, True)
    assert not again.see(7, 2.9)


def test_warm_up_scales_the_kl_and_reports_the_elbo():
    """In the first of many warm-up epochs the KL hardly counts, yet the history holds the true ELBO."""
    x = _binary(200)
    gaps = []
    for warmup in (0, 1000):
        pyro.set_rng_seed(1)
        model, guide = _pair()
        history = pv.fit(
            model, guide, x, epochs=40, batch_size=100, lr=1e-2, validation=None, kl_warmup=warmup, **QUIET
        )
        with torch.no_grad():
            q = guide.posterior(x)
            kl = torch.distributions.kl_divergence(q, model.prior().expand(q.batch_shape)).mean()
            elbo = -sum(Trace_ELBO().loss(model, guide, x) for _ in range(20)) / 20 / 200
        assert abs(history.train_elbo[-1] - elbo) < 1.0
        gaps.append(float(kl))
    assert gaps[1] > 5 * gaps[0] + 1


def test_dynamic_binarisation_draws_anew_each_epoch():
    seen = []

    class Watching(pv.likelihoods.Bernoulli):
        def forward(self, z):
            return super().forward(z)

    x = torch.full((30, 12), 0.5)
    model, guide = _pair()

    def spying(batch):
        seen.append(batch.clone())
        return model(batch)

    pv.fit(spying, guide, x, epochs=3, batch_size=30, validation=None, dynamic_binarisation=True, **QUIET)
    batches = [b for b in seen if len(b) == 30][-3:]
    assert all(set(b.unique().tolist()) == {0.0, 1.0} for b in batches)
    assert not torch.equal(batches[0].sum(0), batches[1].sum(0))
    assert abs(torch.stack(batches).mean() - 0.5) < 4.5 * 0.5 / (3 * 360) ** 0.5


def test_any_pyro_program_with_parameters_in_the_store():
    """A model and guide of plain functions: the posterior of one mean, known in closed form."""
    x = torch.randn(50) + 3

    def model(x):
        mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mu, 1.0), obs=x)

    def guide(x):
        loc = pyro.param("loc", torch.tensor(0.0))
        scale = pyro.param("scale", torch.tensor(1.0), constraint=dist.constraints.positive)
        pyro.sample("mu", dist.Normal(loc, scale))

    pv.fit(
        model, guide, x, epochs=600, batch_size=50, lr=0.02, validation=None,
        loss=Trace_ELBO(num_particles=200, vectorize_particles=True, max_plate_nesting=1), **QUIET,
    )  # fmt: skip
    variance = 1 / (50 + 1 / 100)
    # with the scale right the gradient's noise vanishes, so the fit is far nearer than a posterior sd
    assert pyro.param("loc").item() == pytest.approx(variance * float(x.sum()), abs=0.3 * variance**0.5)
    assert pyro.param("scale").item() == pytest.approx(variance**0.5, rel=0.15)


@pytest.mark.parametrize("kind", ["nan", "inf"])
def test_a_loss_that_breaks_names_site_and_epoch_and_keeps_the_last_good_weights(kind):
    model, guide = _pair()
    calls = {"n": 0}
    bad = float(kind)

    class Breaking(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = pv.networks.mlp(2, 12)

        def forward(self, z):
            calls["n"] += z.shape[0] == 60 and self.training
            return self.inner(z) * (bad if calls["n"] > 4 else 1.0)

    model = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Gaussian(Breaking(), scale=1.0))
    kept = []
    with pytest.raises(FloatingPointError, match=r"log density at site 'x' of the model in epoch \d"):
        pv.fit(
            model, guide, _binary(60), epochs=20, batch_size=60, validation=None,
            optimiser=lambda p: kept.extend(p) or torch.optim.Adam(p, 1e-3), **QUIET,
        )  # fmt: skip
    assert all(bool(p.isfinite().all()) for p in kept)
    assert not model.training


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("moment", ["in a step", "at the end of an epoch"])
def test_training_that_breaks_off_leaves_the_last_whole_epoch_and_nothing_else(error, moment, monkeypatch):
    """Weights of a run that ended after two epochs, evaluation mode, no gradient, no bar left open."""
    bars = []
    monkeypatch.setattr("tqdm.auto.tqdm", lambda **_: bars.append(tqdm(disable=False, file=io.StringIO())) or bars[-1])
    x, ends = _binary(60), []
    for breaks in (False, True):
        pyro.set_rng_seed(1)
        model, guide = _pair()
        parameters = [*model.parameters(), *guide.parameters()]

        class Keeper:
            """Breaks after the third epoch, if at all."""

            epochs = 0

            def load(self):
                return None

            def due(self):
                return True

            def save(self, state, breaks=breaks):
                self.epochs += 1
                if breaks and moment == "at the end of an epoch" and self.epochs == 2:
                    raise error

        class Breaking(torch.optim.Adam):
            """Breaks at the second step of the third epoch, after moving half of the weights."""

            steps = 0

            def step(self, breaks=breaks):
                self.steps += 1
                super().step()
                if breaks and moment == "in a step" and self.steps == 8:
                    raise error

        settings = {"epochs": 4 if breaks else 2, "batch_size": 20, "validation": None, "checkpoint": Keeper(), **QUIET}
        with pytest.raises(error) if breaks else nullcontext():
            pv.fit(model, guide, x, optimiser=Breaking, **settings)
        assert not any(module.training for part in (model, guide) for module in part.modules())
        assert all(parameter.grad is None for parameter in parameters)
        assert bars[-1].disable  # a closed bar of tqdm's is a disabled one
        ends.append(_weights(model, guide))
    assert all(torch.equal(one, two) for one, two in zip(*ends, strict=True))


def test_rows_on_disk_are_held_out_without_reading_the_file_whole(tmp_path, monkeypatch):
    """The same bits as from the tensor, also with its share held out, and no more rows in memory than four batches."""
    x = _binary(800)
    np.save(tmp_path / "x.npy", x.numpy())
    monkeypatch.setattr("pyro_vae.datasets.rows._PIECE", 50 * x.shape[1])
    counts, read = [], rows.read_rows
    monkeypatch.setattr(rows, "read_rows", lambda values, where: counts.append(len(where)) or read(values, where))
    on_disk = Rows(np.load(tmp_path / "x.npy", mmap_mode="r"), torch.from_numpy)
    for validation in (0.5, x[:80]):
        ends = []
        for data in (x, on_disk):
            pyro.set_rng_seed(1)
            model, guide = _pair()
            history = pv.fit(model, guide, data, epochs=2, batch_size=50, validation=validation, seed=2, **QUIET)
            ends.append((history.train_elbo, history.validation_elbo))
        assert ends[0] == ends[1]
    assert counts
    assert max(counts) <= 4 * 50  # of 400 that are held out


def _outside(x):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(mu, 1.0).expand([12]).to_event(1), obs=x)


def _outside_guide(x):
    pyro.sample("mu", dist.Normal(pyro.param("m", torch.tensor(0.0)), 1.0))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": torch.full((9, 12), math.nan)}, "NaN in row 0"),
        ({"x": torch.zeros(0, 12)}, "at least one datum"),
        ({"x": torch.full((60, 12), 255.0)}, "support of Bernoulli"),
        ({"x": torch.zeros(60, 11)}, "11"),
        ({"x": [[0.0]]}, "torch.Tensor"),
        ({"batch_size": 61, "validation": None}, "batch no larger than the data"),
        ({"batch_size": 0}, "at least 1"),
        ({"epochs": 0}, "at least 1"),
        ({"validation": 1.5}, "share of x"),
        ({"validation": torch.full((9, 12), 255.0)}, "support of Bernoulli"),
        ({"clip_norm": -1.0}, "positive, finite clip_norm"),
        ({"patience": 0}, "at least 1"),
        ({"kl_warmup": -1}, "at least 0"),
        ({"x": torch.zeros(12)}, "event shape"),
        ({"model": pv.guides.DiagonalGaussian(pv.networks.mlp(12, 4))}, "a model that observes"),
        ({"loss": Trace_ELBO}, "loss=pyro.infer.Trace_ELBO()"),
        ({"guide": pv.guides.DiagonalGaussian(pv.networks.mlp(12, 6))}, r"guide values of shape \(.*2\) at site 'z'"),
        ({"guide": pv.guides.DiagonalGaussian(pv.networks.mlp(12, 4), latent="w")}, r"latent sites \['z'\].*\['w'\]"),
        (
            {"guide": pv.guides.DiagonalGaussian(pv.networks.mlp(12, 4), plate="rows")},
            r"in plates \['data'\]; got \['rows'",
        ),
        ({"x": _binary().double()}, "x of torch.float32, as the parameters of Model; got torch.float64"),
        ({"x": _binary().long()}, "got .*torch.int64"),
        ({"validation": _binary(9).double()}, "torch.float32"),
        ({"device": "gpu"}, "a device of this machine; got 'gpu'"),
        ({"device": "cuda:99"}, "a device of this machine; got 'cuda:99'"),
        ({"device": 3}, "a device by name; got 3"),
        ({"lr": "fast"}, "non-negative, finite lr; got 'fast'"),
        ({"lr": math.nan}, "non-negative, finite lr; got nan"),
        ({"lr": -1.0}, "non-negative, finite lr"),
        ({"clip_norm": "no"}, "finite clip_norm; got 'no'"),
        ({"validation": "some"}, "share of x"),
        ({"validation": True}, "share of x"),
        ({"optimiser": 3}, "makes an optimiser"),
        ({"checkpoint": 3}, "a checkpoint with load"),
        ({"seed": -1}, "seed to be at least 0"),
        ({"model": 3}, "a Pyro program as model; got 3"),
        ({"guide": 3}, "a Pyro program as guide; got 3"),
        ({"x": torch.full((60, 12), 2.0), "dynamic_binarisation": True}, r"probabilities in \[0, 1\]"),
        ({"model": _outside, "guide": _outside_guide, "batch_size": 10}, "latent site 'mu' inside plate"),
    ],
)
def test_bad_input_is_refused_in_words(change, words):
    model, guide = _pair()
    given = {"model": model, "guide": guide, "x": _binary(60), **change}
    with pytest.raises((TypeError, ValueError, RuntimeError), match=words):
        pv.fit(given.pop("model"), given.pop("guide"), given.pop("x"), **{"epochs": 1, **QUIET, **given})


def test_a_guide_over_all_real_numbers_is_refused_for_a_box_that_no_draw_has_left():
    x = torch.ones(20, 4)
    model = pv.Model(pv.priors.Uniform(1, low=-3.0, high=3.0), pv.likelihoods.Bernoulli(torch.nn.Linear(1, 4)))
    guide = pv.guides.DiagonalGaussian(torch.nn.Linear(4, 2))
    torch.nn.init.constant_(guide.network.bias, -4.0)  # far inside: sigma is 0.02
    torch.nn.init.zeros_(guide.network.weight)
    with pytest.raises(ValueError, match=r"the interval from -3 to 3.*guides\.Transformed"):
        pv.fit(model, guide, x, epochs=1, validation=None, progress=False)
