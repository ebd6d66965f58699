"""CompiledStep takes the steps of SVI with torch's Adam; fit gives the same run by either."""

import argparse
import copy
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import RenyiELBO, Trace_ELBO, TraceMeanField_ELBO
from torch import nn

import pyro_vae as pv
from pyro_vae import Model, guides, likelihoods, networks, priors
from pyro_vae.infer import CompiledTrace_ELBO
from pyro_vae.inference.compiled.backend import NotTraceableError
from pyro_vae.inference.compiled.kl_weight import KLWeight
from pyro_vae.inference.compiled.step import CompiledStep

N, D, L = 8, 6, 2


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def vae(seed=0):
    pyro.clear_param_store()
    pyro.set_rng_seed(seed)
    model = Model(priors.StandardNormal(L), likelihoods.Bernoulli(networks.mlp(L, 8, D)))
    guide = guides.DiagonalGaussian(networks.mlp(D, 8, 2 * L))
    return model, guide, [*model.parameters(), *guide.parameters()]


def batches(count):
    generator = torch.Generator().manual_seed(5)
    return [(torch.rand(N, D, generator=generator) > 0.5).to(torch.get_default_dtype()) for _ in range(count)]


def by_hand(settings, weights, rates, loss):
    """The same steps by Pyro's ELBO, torch's clipping and torch's AdamW."""
    model, guide, parameters = vae()
    clip = settings.pop("clip_norm", None)
    optimiser = torch.optim.AdamW(parameters, lr=rates[0], **{"weight_decay": 0.0, **settings})
    values = []
    for x, weight, rate in zip(batches(len(weights)), weights, rates, strict=True):
        optimiser.param_groups[0]["lr"] = rate
        optimiser.zero_grad()

        def weighted(program, weight=weight):
            def run(x):
                with KLWeight(weight):
                    return program(x)

            return run

        values.append(loss.loss_and_grads(weighted(model), weighted(guide), x))
        for p in parameters:
            p.grad /= N
        if clip is not None:
            nn.utils.clip_grad_norm_(parameters, clip)
        optimiser.step()
    return values, [p.detach() for p in parameters]


def compiled(settings, weights, rates, loss, backend="eager"):
    model, guide, parameters = vae()
    step = CompiledStep(model, guide, loss, backend=backend, **settings)
    values = [
        float(step(x, kl_weight=weight, lr=rate, scale=1 / N))
        for x, weight, rate in zip(batches(len(weights)), weights, rates, strict=True)
    ]
    assert step.reason is None
    assert step.num_steps == len(weights)
    assert step.num_graphs == 1
    return values, [p.detach() for p in parameters]


SETTINGS = {
    "Adam": {},
    "AdamW": {"weight_decay": 0.1, "betas": (0.8, 0.99), "eps": 1e-3},
    "clipped": {"clip_norm": 0.05},
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("name", SETTINGS)
def test_equals_torch(name, dtype):
    torch.set_default_dtype(dtype)
    tolerance = 1e-4 if dtype == torch.float32 else 1e-9
    weights = [0.1 * i for i in range(1, 11)] + [1.0] * 5
    rates = [1e-2] * 8 + [1e-3] * 7
    found = compiled(dict(SETTINGS[name]), weights, rates, Trace_ELBO())
    wanted = by_hand(dict(SETTINGS[name]), weights, rates, Trace_ELBO())
    assert found[0] == pytest.approx(wanted[0], rel=tolerance)
    torch.testing.assert_close(found[1], wanted[1], rtol=tolerance, atol=tolerance)


def test_mean_field_with_particles():
    weights, rates = [0.5] * 10, [1e-2] * 10
    found = compiled({}, weights, rates, TraceMeanField_ELBO(num_particles=2))
    wanted = by_hand({}, weights, rates, TraceMeanField_ELBO(num_particles=2))
    assert found[0] == pytest.approx(wanted[0], rel=1e-5)


@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_an_epoch_in_one_call_is_its_steps_one_by_one(backend):
    """Bit for bit, with a smaller last batch, over two epochs; and at other settings in the second."""
    settings = [{"scale": 1 / N, "kl_weight": 0.3}, {"scale": 1 / N, "lr": 1e-3}]
    last = N // 2 if backend == "eager" else N  # another size is another graph, and Inductor's take seconds
    epoch = [(x,) for x in (*batches(9), batches(10)[-1][:last])]

    def train(at_once):
        model, guide, parameters = vae()
        step = CompiledStep(model, guide, lr=1e-2, backend=backend, clip_norm=1.0)
        losses = []
        for settings_now in settings:
            if at_once:
                losses += step.run(iter(epoch), **settings_now).tolist()
            else:
                losses += [float(step(*batch, **settings_now)) for batch in epoch]
        assert step.reason is None
        assert step.num_steps == 20
        return losses, [p.detach() for p in parameters], step.grad_norm

    found, wanted = train(at_once=True), train(at_once=False)
    assert found[0] == wanted[0]
    assert all(torch.equal(a, b) for a, b in zip(found[1], wanted[1], strict=True))
    assert torch.equal(found[2], wanted[2])


@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_several_steps_in_one_graph_are_the_steps_one_by_one(backend):
    last = N // 2 if backend == "eager" else N
    epoch = [(x,) for x in (*batches(18), batches(19)[-1][:last])]

    def train(steps_per_call, backend=backend):
        model, guide, parameters = vae()
        step = CompiledStep(model, guide, lr=1e-2, backend=backend, clip_norm=1.0, steps_per_call=steps_per_call)
        losses = [*step.run(epoch, scale=1 / N), *step.run(epoch, scale=1 / N)]
        assert step.reason is None
        assert step.num_steps == len(losses) == 38
        return torch.stack(losses), [p.detach() for p in parameters], step.grad_norm

    found = train(3 if backend == "eager" else 2)  # Inductor's C++ grows with the steps
    wanted = train(1, "eager")
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:Encountered NaN")
@pytest.mark.parametrize("at", [8, 9, 10])
def test_nothing_moves_after_a_step_that_is_not_finite_in_a_block(at):
    def train(steps_per_call, count):
        model, guide, parameters = vae()
        step = CompiledStep(model, guide, backend="eager", lr=0.1, steps_per_call=steps_per_call)
        data = [(x,) for x in batches(15)]
        if count > at:
            data[at] = (data[at][0] * math.inf,)
        losses = step.run(data[:count])
        return losses, parameters, step.num_steps

    losses, parameters, num_steps = train(3, 15)
    _, wanted, _ = train(1, at)
    assert len(losses) == at + 1
    assert losses[:-1].isfinite().all()
    assert not losses[-1].isfinite()
    assert num_steps == at
    torch.testing.assert_close([p.detach() for p in parameters], [p.detach() for p in wanted], rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:Encountered NaN")
def test_an_epoch_in_one_call_ends_with_the_step_that_is_not_finite():
    model, guide, parameters = vae()
    step = CompiledStep(model, guide, backend="eager")
    data = [(x,) for x in batches(9)]
    data[7] = (data[7][0] * math.inf,)
    assert step.run(data[:7]).isfinite().all()
    before = [p.detach().clone() for p in parameters]
    losses = step.run(data[7:])
    assert losses.shape == (1,)
    assert not losses.isfinite().any()
    assert all(torch.equal(a, b) for a, b in zip(before, parameters, strict=True))
    assert step.run([]).shape == (0,)


def test_inductor_equals_torch_and_itself():
    weights, rates = [0.5] * 6 + [1.0] * 6, [1e-2] * 12
    found = compiled({"clip_norm": 0.5}, weights, rates, Trace_ELBO(), backend="inductor")
    again = compiled({"clip_norm": 0.5}, weights, rates, Trace_ELBO(), backend="inductor")
    wanted = by_hand({"clip_norm": 0.5}, weights, rates, Trace_ELBO())
    assert found[0] == again[0]
    assert all(torch.equal(a, b) for a, b in zip(found[1], again[1], strict=True))
    assert found[0] == pytest.approx(wanted[0], rel=1e-5)
    torch.testing.assert_close(found[1], wanted[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_inductor_is_used_though_it_sums_in_another_order(seed):
    """The gradient's norm, float64 by its factor, is float32 by its rounding; that is no reason not to compile."""
    pyro.set_rng_seed(seed)
    model = Model(priors.StandardNormal(2), likelihoods.Bernoulli(networks.mlp(2, 128, 64)))
    guide = guides.DiagonalGaussian(networks.mlp(64, 128, 4))
    step = CompiledStep(model, guide)
    for _ in range(8):
        step((torch.rand(64, 64) > 0.95).float())  # far from the start: the norm is as large as the loss
    assert step.reason is None


@pytest.mark.filterwarnings("ignore:Encountered NaN")
@pytest.mark.parametrize("at", [1, 8])  # by Pyro, by the graph
def test_nothing_moves_where_the_loss_is_not_finite(at):
    model, guide, parameters = vae()
    step = CompiledStep(model, guide, backend="eager", lr=0.1)
    data = batches(9)
    for x in data[:at]:
        step(x)
    before = [p.detach().clone() for p in parameters], step.state_dict()
    with pyro.validation_enabled(False):
        loss = step(data[at] * math.inf)
    assert not math.isfinite(float(loss))
    assert all(torch.equal(a, b) for a, b in zip(before[0], parameters, strict=True))
    assert step.num_steps == at
    for (m, v), (old_m, old_v) in zip(step.state_dict()["moments"], before[1]["moments"], strict=True):
        assert torch.equal(m, old_m)
        assert torch.equal(v, old_v)


def test_state_goes_on_where_it_stopped():
    data = batches(12)
    model, guide, parameters = vae()
    step = CompiledStep(model, guide, backend="eager", lr=0.1)
    for x in data[:6]:
        step(x)
    state, weights, noise = step.state_dict(), [p.detach().clone() for p in parameters], torch.get_rng_state()
    wanted = [float(step(x)) for x in data[6:]]

    model, guide, parameters = vae(seed=7)
    with torch.no_grad():
        for p, saved in zip(parameters, weights, strict=True):
            p.copy_(saved)
    resumed = CompiledStep(model, guide, backend="eager")
    resumed.load_state_dict(state)
    torch.set_rng_state(noise)
    assert [float(resumed(x)) for x in data[6:]] == pytest.approx(wanted, rel=1e-5)
    assert resumed.num_steps == 12
    with pytest.raises(ValueError, match="same model and guide"):
        resumed.load_state_dict({**state, "moments": state["moments"][:2]})


def test_parameters_that_appear_late_are_counted_from_their_first_step():
    """As by torch's Adam: the first step of each is lr long."""
    likelihood = likelihoods.Bernoulli(networks.mlp(L, 8, D))

    def model(x, late):
        Model(priors.StandardNormal(L), likelihood)(x)

    def late_guide(x, late):
        loc = pyro.param("loc", torch.zeros(L))
        if late:
            loc = loc + pyro.param("late", torch.zeros(L))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc.expand(len(x), L), 0.1).to_event(1))

    step = CompiledStep(model, late_guide, backend="eager", lr=0.01)
    for x in batches(12):
        step(x, False)
    step(x, True)
    torch.testing.assert_close(pyro.param("late").detach().abs(), torch.full((L,), 0.01), rtol=1e-4, atol=0)
    assert step.state_dict()["first_steps"][-1] == 12
    assert len(set(step.state_dict()["first_steps"])) == 2


def test_a_copy_goes_on_as_the_original_does():
    model, guide, parameters = vae()
    step = CompiledStep(model, guide, backend="eager", lr=0.1)
    data = batches(14)
    for x in data[:7]:
        step(x)
    twin = copy.deepcopy(step)
    noise = torch.get_rng_state()
    wanted = [float(step(x)) for x in data[7:]]
    torch.set_rng_state(noise)
    assert [float(twin(x)) for x in data[7:]] == pytest.approx(wanted, rel=1e-5)
    assert twin.num_steps == step.num_steps == 14
    assert not any(a is b for a, b in zip(twin.parameters, parameters, strict=True))


BAD = {
    "lr": ({"lr": math.nan}, "lr"),
    "negative lr": ({"lr": -1.0}, "lr"),
    "betas": ({"betas": (2.0, 0.9)}, "betas"),
    "eps": ({"eps": 0.0}, "eps"),
    "weight decay": ({"weight_decay": -1.0}, "weight_decay"),
    "norm": ({"clip_norm": 0.0}, "clip_norm"),
    "backend": ({"backend": "x"}, "backend"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_settings(name):
    settings, reason = BAD[name]
    with pytest.raises(ValueError, match=reason):
        CompiledStep(*vae()[:2], **settings)


def test_bad_calls():
    step = CompiledStep(*vae()[:2], backend="eager")
    (x,) = batches(1)
    with pytest.raises(TypeError, match="tuples of arguments"):
        step.run([x, x])
    with pytest.raises(ValueError, match="lr"):
        step(x, lr=math.inf)

    def fixed(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(L), 1.0).expand([len(x), L]).to_event(1))
            pyro.sample("x", dist.Bernoulli(0.5).expand([len(x), D]).to_event(1), obs=x)

    def fixed_guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(L), 1.0).expand([len(x), L]).to_event(1))

    with pytest.raises(ValueError, match="parameters to learn"):
        CompiledStep(fixed, fixed_guide, backend="eager")(x)


def test_weights_and_rates_may_be_tensors_that_change():
    step = CompiledStep(*vae()[:2], backend="eager")
    weight = torch.tensor(0.1)
    for x in batches(7):
        step(x, kl_weight=weight)
        weight.add_(0.1)
    assert float(step._loop.kl_weight(())) == pytest.approx(0.7)


def test_new_learning_rate_and_weight_need_no_new_graph():
    model, guide, _ = vae()
    step = CompiledStep(model, guide, backend="eager")
    for i, x in enumerate(batches(12)):
        step(x, kl_weight=0.05 * i, lr=1e-3 / (i + 1), scale=1 / (i + 1))
    assert step.num_graphs == 1


def test_a_loss_without_a_twin():
    model, guide, _ = vae()
    with pytest.raises(NotTraceableError, match="RenyiELBO"):
        CompiledStep(model, guide, RenyiELBO())


def branching(model):
    def program(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", model.prior())
            scale = 1.0 if z.sum() > 0 else 0.5
            pyro.sample("x", dist.Normal(model.likelihood.network(z), scale).to_event(1), obs=x)

    return program


def fitted(**settings):
    pyro.clear_param_store()
    model, guide, parameters = vae(seed=1)
    x = torch.cat(batches(10))
    history = pv.fit(model, guide, x, batch_size=20, kl_warmup=3, clip_norm=3.0, seed=2, progress=False, **settings)
    return history, [p.detach() for p in parameters]


def test_fit_is_the_same_by_a_graph():
    found, wanted = fitted(epochs=80), fitted(epochs=80, compile=False)
    assert found[0].engine.startswith("one graph a step")
    assert wanted[0].engine == "Pyro, as asked"
    torch.testing.assert_close(found[1], wanted[1], rtol=1e-3, atol=1e-3)
    assert found[0].train_elbo == pytest.approx(wanted[0].train_elbo, rel=1e-4)
    assert found[0].validation_elbo == pytest.approx(wanted[0].validation_elbo, rel=1e-4)


def test_a_compiled_loss_under_pyros_steps_follows_the_kl_weight():
    """The weight is a scalar of a handler around the program: each epoch's has a graph of its own, without a word."""

    def trained(loss):
        pyro.clear_param_store()
        model, guide, parameters = vae(seed=1)
        settings = {"epochs": 3, "batch_size": 4, "kl_warmup": 3, "validation": None, "seed": 2, "progress": False}
        history = pv.fit(model, guide, torch.cat(batches(8)), loss=loss, compile=False, **settings)
        return history.train_elbo, [p.detach() for p in parameters]

    elbo = CompiledTrace_ELBO(backend="eager")
    found, wanted = trained(elbo), trained(Trace_ELBO())
    assert elbo.num_graphs >= 2
    assert found[0] == pytest.approx(wanted[0], rel=1e-4)
    torch.testing.assert_close(found[1], wanted[1], rtol=1e-3, atol=1e-4)


def test_fit_says_why_it_is_not_compiled(capsys):
    assert "too few" in fitted(epochs=2)[0].engine
    own = fitted(epochs=80, optimiser=lambda parameters: torch.optim.SGD(parameters, lr=1e-3))
    assert "optimiser" in own[0].engine
    with pytest.raises(NotTraceableError, match="compile=False"):
        fitted(epochs=2, compile=True, loss=RenyiELBO())
    with pytest.raises(ValueError, match="auto"):
        fitted(epochs=2, compile="yes")


def test_fit_falls_back_on_pyro():
    pyro.set_rng_seed(1)
    model, guide, _ = vae()
    program = branching(model)
    x = torch.randn(40, D)
    history = pv.fit(program, guide, x, epochs=80, batch_size=8, validation=None, progress=False)
    assert "depends on the values" in history.engine
    with pytest.raises(NotTraceableError, match="compile=False"):
        pv.fit(program, guide, x, epochs=2, batch_size=8, validation=None, progress=False, compile=True)


class Configured(nn.Module):
    """A model that reads a number from an object of its own."""

    def __init__(self, likelihood):
        super().__init__()
        self.config = argparse.Namespace(scale=1.0)
        self.likelihood = likelihood

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(L), self.config.scale).to_event(1))
            pyro.sample("x", self.likelihood(z), obs=x)


@pytest.mark.parametrize("at_once", [False, True], ids=["calls", "run"])
def test_a_step_follows_a_deep_change_from_the_next_check(at_once):
    model, guide, _ = vae()
    program = Configured(model.likelihood)
    said = []
    step = CompiledStep(program, guide, backend="eager", lr=0.0, warn=said.append)
    data = [(x,) for x in batches(20)]
    for x in data[:12]:  # four of Pyro's, eight of the graph's
        step(*x)
    program.config.scale = 5.0
    losses = step.run(data[12:]).tolist() if at_once else [float(step(*x)) for x in data[12:]]
    assert [str(warning)[:8] for warning in said] == ["step 20:"]
    assert "since step 12," in str(said[0])
    pyro.set_rng_seed(1)
    found = float(step(*data[0]))
    pyro.set_rng_seed(1)
    assert found == pytest.approx(Trace_ELBO().loss(program, guide, *data[0]), rel=1e-5)
    assert len(losses) == 8


class ChangesBetweenEpochs:
    """A checkpoint that keeps nothing, and changes the model after some epochs."""

    def __init__(self, model, epoch):
        self.model, self.epoch, self.count = model, epoch, 0

    def load(self):
        return None

    def due(self):
        self.count += 1
        if self.count == self.epoch:
            self.model.config.scale = 5.0
        return False

    def save(self, state):
        pass


def test_fit_warns_of_a_change_during_the_run():
    model, guide, _ = vae()
    program = Configured(model.likelihood)
    with pytest.warns(UserWarning, match="fit: step .* traced anew"):
        pv.fit(
            program,
            guide,
            torch.cat(batches(10)),
            epochs=40,
            batch_size=8,
            validation=None,
            progress=False,
            checkpoint=ChangesBetweenEpochs(program, 20),
        )
