"""The contract of the compiled room: what is noticed at once, what at the next check, and what is left to Pyro."""

import argparse
import random
import types
from collections import deque

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.nn import PyroModule, PyroSample
from torch import nn

from pyro_vae import Model, guides, likelihoods, networks, priors
from pyro_vae.infer import CompiledTrace_ELBO
from pyro_vae.inference.compiled import states
from pyro_vae.inference.compiled.graphs import LeftToPyro, Retraced
from pyro_vae.inference.compiled.states import Checked


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


N, D = 6, 4


def guide(x, **rest):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x @ pyro.param("w", torch.full((D,), 0.1)), 0.5))


def model(x, factor=1.0):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(factor * z[:, None], 1.0).expand([len(x), D]).to_event(1), obs=x)


def ready(model, guide=guide, **kwargs):
    """An ELBO with a checked graph for these arguments."""
    elbo = CompiledTrace_ELBO(backend="eager")
    x = torch.randn(N, D)
    for _ in range(5):
        elbo.loss(model, guide, x, **kwargs)
    assert elbo.num_graphs == 1
    return elbo


def assert_same(elbo, model, guide=guide, calls=6, **kwargs):
    """The loss equals Pyro's under the same noise, on new data at every call."""
    for seed in range(calls):
        x = torch.randn(N, D)
        pyro.set_rng_seed(seed)
        found = elbo.loss(model, guide, x, **kwargs)
        pyro.set_rng_seed(seed)
        assert found == pytest.approx(Trace_ELBO().loss(model, guide, x, **kwargs), rel=1e-5)


def test_argument_that_is_a_number():
    elbo = ready(model, factor=1.0)
    assert_same(elbo, model, factor=3.0)
    assert elbo.num_graphs == 2


def test_argument_that_is_a_tensor_needs_no_new_graph():
    elbo = ready(model, factor=torch.tensor(1.0))
    assert_same(elbo, model, factor=torch.tensor(3.0))
    assert elbo.num_graphs == 1


class Attribute(nn.Module):
    factor = 1.0

    def __init__(self):
        super().__init__()
        self.factor = 1.0
        self.flag = False

    def forward(self, x):
        if self.flag:
            return model(x, factor=-self.factor)
        return model(x, factor=self.factor)


@pytest.mark.parametrize(("name", "value"), [("factor", 2.5), ("flag", True)])
def test_attribute_of_a_module(name, value):
    program = Attribute()
    elbo = ready(program)
    setattr(program, name, value)
    assert_same(elbo, program)
    assert elbo.num_graphs == 2


def test_attribute_behind_a_bound_method():
    class Holder:
        factor = 1.0

        def __init__(self):
            self.factor = 1.0

        def model(self, x):
            return model(x, factor=self.factor)

    holder = Holder()
    elbo = ready(holder.model)
    holder.factor = 4.0
    assert_same(elbo, holder.model)


class Masked(nn.Module):
    """Which entries are summed over is a mask's choice; only their number shapes the graph."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mask", torch.arange(D) % 2 == 0)

    def forward(self, x):
        entries = x[:, (~self.mask).nonzero().squeeze(-1)]
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(entries.sum(-1), 1.0))
            pyro.sample("x", dist.Normal(z[:, None], 1.0).expand([len(x), entries.shape[1]]).to_event(1), obs=entries)


@pytest.mark.parametrize("choice", [[True, False, True, True], [False, True, False, True]], ids=["fewer", "others"])
def test_mask_that_is_written_to(choice):
    program = Masked()
    elbo = ready(program)
    program.mask.copy_(torch.tensor(choice))
    assert_same(elbo, program)
    assert elbo.num_graphs == 2


def test_indices_that_follow_from_the_data_are_left_to_pyro():
    def program(x):
        entries = x[:, (x[0] > -9.0).nonzero().squeeze(-1)]
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z[:, None], 1.0).expand([len(x), D]).to_event(1), obs=entries)

    elbo = CompiledTrace_ELBO(backend="eager")
    with pytest.warns(UserWarning, match="the shape of a tensor depends on values"):
        assert_same(elbo, program)
    assert elbo.num_graphs == 0


def test_closure():
    factor = 1.0

    def program(x):
        return model(x, factor=factor)

    elbo = ready(program)
    factor = 2.0
    assert_same(elbo, program)


GLOBAL = 1.0


def reads_a_global(x):
    return model(x, factor=GLOBAL)


def test_global(monkeypatch):
    elbo = ready(reads_a_global)
    monkeypatch.setitem(globals(), "GLOBAL", 2.0)
    assert_same(elbo, reads_a_global)


def test_closed_over_tensor_is_read_anew():
    factor = torch.tensor(1.0)

    def program(x):
        return model(x, factor=factor)

    elbo = ready(program)
    factor.fill_(3.0)
    assert_same(elbo, program)
    assert elbo.num_graphs == 1


def test_training_mode():
    net = nn.Sequential(nn.Linear(D, 1), nn.Dropout(0.5))

    class Dropping(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(self.net(x).squeeze(-1), 0.5))

    dropping = Dropping()
    elbo = ready(model, dropping)
    dropping.eval()
    assert_same(elbo, model, guide=dropping)
    assert elbo.num_graphs == 2
    dropping.train()
    assert_same(elbo, model, guide=dropping)
    assert elbo.num_graphs == 2


def test_frozen_and_replaced_parameters():
    vae = Model(priors.StandardNormal(2), likelihoods.Bernoulli(networks.mlp(2, 8, D)))
    encoder = guides.DiagonalGaussian(networks.mlp(D, 8, 4))
    elbo = CompiledTrace_ELBO(backend="eager")
    x = torch.ones(N, D)
    svi = SVI(vae, encoder, pyro.optim.SGD({"lr": 0.1}), elbo)
    for _ in range(5):
        svi.step(x)
    vae.likelihood.network[0].weight.requires_grad_(False)
    before = vae.likelihood.network[0].weight.clone()
    for _ in range(5):
        svi.step(x)
    assert torch.equal(before, vae.likelihood.network[0].weight)
    vae.likelihood.network[2].bias = nn.Parameter(torch.full((D,), 5.0))
    pyro.set_rng_seed(0)
    found = elbo.loss(vae, encoder, x)
    pyro.set_rng_seed(0)
    assert found == pytest.approx(Trace_ELBO().loss(vae, encoder, x), rel=1e-5)


def test_other_dtype():
    vae = Model(priors.StandardNormal(2), likelihoods.Bernoulli(networks.mlp(2, 8, D)))
    encoder = guides.DiagonalGaussian(networks.mlp(D, 8, 4))
    elbo = CompiledTrace_ELBO(backend="eager")
    for _ in range(5):
        elbo.loss(vae, encoder, torch.ones(N, D))
    vae.double(), encoder.double()
    x = torch.ones(N, D, dtype=torch.float64)
    for seed in range(6):
        pyro.set_rng_seed(seed)
        found = elbo.loss(vae, encoder, x)
        pyro.set_rng_seed(seed)
        assert found == pytest.approx(Trace_ELBO().loss(vae, encoder, x), rel=1e-12)


def test_batches_of_two_shapes_keep_two_graphs():
    elbo = CompiledTrace_ELBO(backend="eager")
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), elbo)
    for _ in range(6):
        svi.step(torch.randn(N, D))
        svi.step(torch.randn(N - 2, D))
    assert elbo.num_graphs == 2


# -- whatever else a program can read from Python ------------------------------------------------------------------


class Decoder(nn.Module):
    """Multiplies by ``factor()``, which each case below defines in a way of its own."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(1, D)

    def factor(self):
        return 1.0

    def forward(self, z):
        return self.factor() * self.linear(z)


class Vae(nn.Module):
    def __init__(self, decoder):
        super().__init__()
        self.decoder = decoder

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(self.decoder(z[:, None]), 1.0).to_event(1), obs=x)


def reading(read, change, **attributes):
    """A decoder whose factor is ``read(self)``, and a change that makes it another."""

    def case():
        cls = type("Own", (Decoder,), {"factor": read, "k": 1.0, "__module__": __name__})
        decoder = cls()
        for name, make in attributes.items():
            setattr(decoder, name, make())
        return decoder, lambda: change(decoder)

    return case


def setting(name, value):
    return lambda decoder: setattr(decoder, name, value)


BETA = 1.0


class Slotted:
    __slots__ = ("beta",)

    def __init__(self):
        self.beta = 1.0


def with_none_buffer():
    class Own(Decoder):
        def __init__(self):
            super().__init__()
            self.register_buffer("mask", None)

        def factor(self):
            return 1.0 if self.mask is None else self.mask

    decoder = Own()
    return decoder, lambda: setattr(decoder, "mask", torch.tensor(3.0))


def with_hook():
    decoder = Decoder()
    return decoder, lambda: decoder.register_forward_hook(lambda module, args, out: 3.0 * out)


def with_pre_hook():
    decoder = Decoder()
    return decoder, lambda: decoder.register_forward_pre_hook(lambda module, args: (3.0 * args[0],))


def with_longer_network():
    decoder = nn.Sequential(nn.Linear(1, D))
    return decoder, lambda: decoder.append(nn.Tanh())


def with_another_forward():
    decoder = Decoder()
    return decoder, lambda: setattr(decoder, "forward", lambda z: 3.0 * decoder.linear(z))


def with_dropout_in_a_list():
    nets = [nn.Dropout(0.5)]

    class Own(Decoder):
        def forward(self, z):
            return nets[0](self.linear(z))

    return Own(), nets[0].eval


def with_prior(change):
    def case():
        prior = dist.Normal(torch.zeros(1), 1.0)
        decoder = Decoder()
        decoder.prior = prior
        decoder.factor = lambda: decoder.prior.loc + 1.0
        return decoder, lambda: change(decoder)

    return case


DIRECT = {
    "global in a method": reading(lambda self: BETA, lambda decoder: globals().update(BETA=3.0)),
    "attribute of the class": reading(lambda self: self.k, lambda decoder: setattr(type(decoder), "k", 3.0)),
    "attribute that hides one of the class": reading(lambda self: self.k, setting("k", 3.0)),
    "attribute that was not there": reading(lambda self: getattr(self, "zz", 1.0), setting("zz", 3.0)),
    "number of NumPy's": reading(lambda self: float(self.a), setting("a", np.float32(3)), a=lambda: np.float32(1)),
    "buffer that was None": with_none_buffer,
    "another forward": with_another_forward,
}


@pytest.mark.parametrize("name", DIRECT)
def test_scalars_of_the_programs_own_code_are_followed_at_once(name, monkeypatch):
    """Before the change one graph serves; after it, the loss is that of the changed program, without a word."""
    monkeypatch.setitem(globals(), "BETA", 1.0)
    torch.manual_seed(0)
    decoder, change = DIRECT[name]()
    program = Vae(decoder)
    elbo = ready(program)
    assert_same(elbo, program, calls=2)
    assert elbo.num_graphs == 1
    change()
    assert_same(elbo, program)
    assert elbo.num_graphs == 2


def within(make, read, change):
    """A decoder whose factor lies within ``self.cfg``."""
    return reading(lambda self: read(self.cfg), lambda decoder: change(decoder.cfg), cfg=make)


DEEPER = {
    "argparse.Namespace": within(
        lambda: argparse.Namespace(scale=1.0), lambda cfg: cfg.scale, lambda cfg: setattr(cfg, "scale", 5.0)
    ),
    "SimpleNamespace": within(
        lambda: types.SimpleNamespace(scale=1.0), lambda cfg: cfg.scale, lambda cfg: setattr(cfg, "scale", 5.0)
    ),
    "deque": within(lambda: deque([1.0]), lambda cfg: cfg[0], lambda cfg: cfg.__setitem__(0, 5.0)),
    "a nested container of 40 entries": within(
        lambda: {"layers": [{"scale": 1.0} for _ in range(40)]},
        lambda cfg: cfg["layers"][-1]["scale"],
        lambda cfg: cfg["layers"][-1].update(scale=5.0),
    ),
    "object with slots": within(Slotted, lambda cfg: cfg.beta, lambda cfg: setattr(cfg, "beta", 5.0)),
    "array": within(lambda: np.ones(2), lambda cfg: float(cfg[0]), lambda cfg: cfg.fill(5.0)),
    "hook": with_hook,
    "hook before": with_pre_hook,
    "longer network": with_longer_network,
    "training mode of a module in a list": with_dropout_in_a_list,
    "tensor of a distribution": with_prior(lambda decoder: setattr(decoder.prior, "loc", torch.full((1,), 2.0))),
}


@pytest.mark.parametrize("name", DEEPER)
def test_what_lies_deeper_is_followed_from_the_next_check_with_a_warning(name):
    """Run 8 is checked and right; the change comes after it, and run 16, which is checked, is right again."""
    torch.manual_seed(0)
    decoder, change = DEEPER[name]()
    program = Vae(decoder)
    elbo = ready(program)  # five calls of Pyro's: the first makes a parameter
    assert_same(elbo, program, calls=9)
    change()
    for _ in range(6):
        elbo.loss(program, guide, torch.randn(N, D))
    with pytest.warns(UserWarning, match="step 21: .* changed since step 13,") as said:
        assert_same(elbo, program, calls=8)
    assert len(said) == 1
    assert elbo.num_graphs == 1


def test_retrace_follows_a_change_at_once():
    decoder, change = DEEPER["argparse.Namespace"]()
    program = Vae(decoder)
    elbo = ready(program)
    change()
    elbo.retrace()
    assert_same(elbo, program)
    assert elbo.num_graphs == 1


def test_checks_change_nothing(monkeypatch):
    """Losses, gradients, batch norm and noise are the bits of a run without checks after the first."""

    def run(*, checked):
        if not checked:
            monkeypatch.setattr(Checked, "is_due", lambda self, runs=1, *, epoch=False: False)
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        program = Vae(nn.Sequential(nn.Linear(1, 3), nn.BatchNorm1d(3), nn.Dropout(0.3), nn.Linear(3, D)))
        elbo = CompiledTrace_ELBO(backend="eager")
        losses = [elbo.loss_and_grads(program, guide, torch.randn(N, D)) for _ in range(24)]
        state = [t.clone() for t in (*program.state_dict().values(), *[p.grad for p in program.parameters()])]
        return losses, state, [random.random(), np.random.rand(), torch.rand(())]  # noqa: NPY002

    found, wanted = run(checked=True), run(checked=False)
    assert found[0] == wanted[0]
    assert all(torch.equal(a, b) for a, b in zip(found[1], wanted[1], strict=True))
    assert found[2] == wanted[2]


def test_checks_come_at_powers_of_two_then_at_thousands_and_at_epochs_far_apart(monkeypatch):
    graph = Checked(graph=None, watch=None)
    at = []
    monkeypatch.setattr(states, "_compare", lambda *args, **kwargs: (None, None))
    graph.graph = types.SimpleNamespace(written=[], tensors=[])
    call = types.SimpleNamespace(leaves=[])
    for run in range(1, 3101):
        if graph.is_due(epoch=run in (300, 340, 1300, 1800)):
            graph.recheck(call, run, gradient=True)
            at.append(run)
        graph.runs += 1
    assert at == [2, 4, 8, 16, 32, 64, 128, 256, 512, 1000, 1800, 3000]


def test_a_program_that_is_found_wrong_time_after_time_is_left_to_pyro():
    decoder, _ = DEEPER["SimpleNamespace"]()
    program = Vae(decoder)
    said = []
    elbo = CompiledTrace_ELBO(backend="eager", warn=said.append)
    for call in range(60):
        if call % 6 == 0:
            decoder.cfg.scale = 1.0 + call
        elbo.loss(program, guide, torch.randn(N, D))
    decoder.cfg.scale = 0.5
    assert_same(elbo, program)
    assert [type(warning) for warning in said] == [Retraced] * 8 + [LeftToPyro]


def test_the_reason_for_leaving_a_program_to_pyro_is_one_line():
    """Pyro adds a table of the shapes of all sites to what goes wrong in a program."""

    def branching(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z if bool((z > 0).any()) else 2 * z, 1.0), obs=x)

    def normal(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    said = []
    elbo = CompiledTrace_ELBO(backend="eager", warn=said.append)
    for _ in range(6):
        elbo.loss(branching, normal, torch.randn(N))
    assert [str(warning).count("\n") for warning in said] == [0]


def test_state_of_a_handler_of_pyro():
    handler = poutine.scale_messenger.ScaleMessenger(scale=0.1)
    program = handler(model)
    elbo = ready(program)
    handler.scale = 2.0
    assert_same(elbo, program)
    assert elbo.num_graphs == 2


def test_prior_of_a_pyro_module():
    class Net(PyroModule):
        def __init__(self):
            super().__init__()
            self.weight = PyroSample(dist.Normal(0.0, 1.0))

        def forward(self, x):
            loc = self.weight
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(loc, 1.0).expand([len(x), D]).to_event(1), obs=x)

    def proposal(x):
        pyro.sample("weight", dist.Normal(pyro.param("loc", torch.tensor(0.3)), 0.1))

    net = Net()
    elbo = ready(net, proposal)
    net.weight = PyroSample(dist.Normal(4.0, 2.0))
    elbo.retrace()
    assert_same(elbo, net, proposal)


# -- programs with effects: recording, tracing and checking must not add any -----------------------------------------


def writes_its_argument(x):
    x.mul_(0.9)
    return model(x)


def test_data_that_the_program_writes_are_written_as_often_as_pyro_does():
    found, wanted = torch.ones(N, D), torch.ones(N, D)
    elbo = CompiledTrace_ELBO(backend="eager")
    with pytest.warns(UserWarning, match="writes to its arguments in place"):
        elbo.loss(writes_its_argument, guide, found)
    for _ in range(7):
        elbo.loss(writes_its_argument, guide, found)
    for _ in range(8):
        Trace_ELBO().loss(writes_its_argument, guide, wanted)
    assert torch.equal(found, wanted)


def assert_in_step(elbo, program, twin, calls):
    """A program under the compiled ELBO, and its twin with a state of its own under Pyro's, go the same way."""
    for seed in range(calls):
        x = torch.randn(N, D)
        pyro.set_rng_seed(seed)
        found = elbo.loss(program, guide, x)
        pyro.set_rng_seed(seed)
        assert found == pytest.approx(Trace_ELBO().loss(twin, guide, x), rel=1e-6)


def test_a_count_of_runs_stays_right():
    class Counting(Attribute):
        def forward(self, x):
            self.factor += 0.1
            return super().forward(x)

    programs = Counting(), Counting()
    elbo = CompiledTrace_ELBO(backend="eager")
    with pytest.warns(UserWarning, match="change all the time"):
        assert_in_step(elbo, *programs, calls=40)


GENERATORS = {
    "torch": lambda: torch.Generator().manual_seed(0),
    "NumPy": lambda: np.random.default_rng(0),
}
DRAWS = {
    "torch": lambda generator: torch.randn((), generator=generator),
    "NumPy": lambda generator: generator.normal(),
}


@pytest.mark.parametrize("kind", GENERATORS)
def test_a_generator_of_the_programs_own_is_drawn_from_as_pyro_does(kind):
    def make():
        generator = GENERATORS[kind]()
        return lambda x: model(x, factor=DRAWS[kind](generator))

    programs = make(), make()
    elbo = CompiledTrace_ELBO(backend="eager")
    with pytest.warns(UserWarning, match="random generator of its own"):
        assert_in_step(elbo, *programs, calls=7)


def test_a_model_that_cannot_be_hashed_is_left_to_pyro():
    class Callable:
        __hash__ = None

        def __call__(self, x):
            return model(x)

    elbo = CompiledTrace_ELBO(backend="eager")
    with pytest.warns(UserWarning, match="cannot be hashed"):
        assert_same(elbo, Callable())


def test_restarts_with_an_empty_store_do_not_use_graphs_up():
    elbo = CompiledTrace_ELBO(backend="eager")
    for _ in range(10):
        pyro.clear_param_store()
        for _ in range(5):
            elbo.loss(model, guide, torch.randn(N, D))
        assert elbo.num_graphs == 1
    assert_same(elbo, model)


def test_an_argument_that_takes_many_values_and_then_one():
    elbo = CompiledTrace_ELBO(backend="eager")
    for step in range(80):
        elbo.loss(model, guide, torch.randn(N, D), factor=min(1.0, 0.01 + step / 70))
    assert elbo.num_graphs == 1


def test_a_graph_in_use_is_not_pushed_out_by_odd_values():
    elbo = ready(model, factor=1.0)
    for step in range(80):
        elbo.loss(model, guide, torch.randn(N, D), factor=2.0 + step)
        elbo.loss(model, guide, torch.randn(N, D), factor=1.0)
        assert elbo.num_graphs == 1


def test_a_program_that_writes_to_a_sparse_tensor_runs():
    weights = torch.eye(D).to_sparse()

    def program(x):
        weights.mul_(1.0)
        return model(x, factor=torch.sparse.sum(weights) / D)

    elbo = CompiledTrace_ELBO(backend="eager", warn=lambda warning: None)
    assert_same(elbo, program)


# -- left to Pyro --------------------------------------------------------------------------------------------------


def branches(x):
    return model(x, factor=1.0 if x.sum() > 0 else -1.0)


def leaves_torch(x):
    return model(x, factor=float(np.asarray(x.numpy()).mean()))


def reads_item(x):
    return model(x, factor=x.mean().item())


def python_list(x):
    return model(x, factor=torch.tensor(x.tolist()).mean())


def other_noise(x):
    return model(x, factor=random.random())


def selects(x):
    kept = x[x.sum(-1) > -1.0]
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
    with pyro.plate("kept", len(kept)):
        pyro.sample("x", dist.Normal(z.mean(), 1.0).expand([len(kept), D]).to_event(1), obs=kept)


def discrete(x):
    with pyro.plate("data", len(x)):
        k = pyro.sample("k", dist.Bernoulli(0.3))
        z = pyro.sample("z", dist.Normal(k, 1.0))
        pyro.sample("x", dist.Normal(z[:, None], 1.0).expand([len(x), D]).to_event(1), obs=x)


def discrete_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("k", dist.Bernoulli(pyro.param("p", torch.tensor(0.4))))
        pyro.sample("z", dist.Normal(x @ pyro.param("w", torch.full((D,), 0.1)), 0.5))


def seeded_guide(x):
    random.seed(0)
    return guide(x)


REFUSED = {
    "branch on values": (branches, guide, "depends on the values"),
    "numpy": (leaves_torch, guide, "out of torch"),
    "item": (reads_item, guide, "depends on the values"),
    "list": (python_list, guide, "out of torch"),
    "Python's random numbers": (other_noise, seeded_guide, "Python's or NumPy's"),
    "selection": (selects, guide, "depends on"),
    "discrete latent": (discrete, discrete_guide, "no reparametrised sample"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_left_to_pyro_with_a_reason(name):
    program, proposal, reason = REFUSED[name]
    elbo = CompiledTrace_ELBO(backend="eager")
    with pytest.warns(UserWarning, match=reason) as said:
        assert_same(elbo, program, proposal, calls=8)
    assert elbo.num_graphs == 0
    assert len(said) == 1


def test_state_that_changes_at_every_run_is_left_to_pyro():
    held = Attribute()

    def program(x):
        return held(x)

    elbo = CompiledTrace_ELBO(backend="eager")

    def anneal():
        for step in range(60):
            held.factor = 0.1 * step
            assert_same(elbo, program, calls=1)

    with pytest.warns(UserWarning, match="change all the time"):
        anneal()


def test_inside_other_handlers_is_left_to_pyro():
    elbo = ready(model)
    x = torch.randn(N, D)
    pyro.set_rng_seed(0)
    with pytest.warns(UserWarning, match="other Pyro handlers"):
        found = poutine.scale(elbo.loss, scale=2.0)(model, guide, x)
    pyro.set_rng_seed(0)
    assert found == pytest.approx(2.0 * Trace_ELBO().loss(model, guide, x), rel=1e-5)


def test_gradient_to_an_argument_is_left_to_pyro():
    elbo = ready(model)
    x = torch.randn(N, D, requires_grad=True)
    with pytest.warns(UserWarning, match="needs a gradient"):
        elbo.differentiable_loss(model, guide, x).backward()
    assert x.grad.abs().sum() > 0


def test_unknown_backend():
    with pytest.raises(ValueError, match="inductor"):
        CompiledTrace_ELBO(backend="indutor")
