"""Compiled, every objective has the value and gradient that it has without a graph, at whatever weight its step has."""

from unittest import mock

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceEnum_ELBO

import pyro_vae as pv
from pyro_vae import objectives
from pyro_vae.inference.compiled.backend import NotTraceableError
from pyro_vae.inference.compiled.elbos import CompiledELBO
from pyro_vae.inference.compiled.step import CompiledStep
from pyro_vae.inference.variational import engine
from tests import table_of_parts as parts
from tests.compiled.test_compiled import PROGRAMS, SHAPES_OF_PROGRAM, L, N, binary, compare, run, vae


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


K = 3
OBJECTIVES = {
    **parts.OBJECTIVES,
    **parts.OTHER_OBJECTIVES,
    "free bits, in part": lambda K: objectives.FreeBitsELBO(0.4, num_particles=K),
    "Renyi 2": lambda K: objectives.RenyiELBO(alpha=2.0, num_particles=K),
    "enumerated": lambda K: TraceEnum_ELBO(num_particles=K, max_plate_nesting=1, strict_enumeration_warning=False),
}


def one_by_one(objective):
    objective.vectorize_particles = False
    return objective


def assert_compiles(program, make, dtype=torch.float64):
    torch.set_default_dtype(dtype)
    elbo = CompiledELBO(make(), backend="eager")
    compare(run(program, elbo), run(program, make()), 1e-5 if dtype == torch.float32 else 1e-10)
    assert elbo.num_graphs == 1


@pytest.mark.parametrize("name", OBJECTIVES)
def test_equals_the_objective(name):
    assert_compiles(vae, lambda: OBJECTIVES[name](K))


@pytest.mark.parametrize("name", ["importance-weighted", "closed-form KL", "cyclical", "enumerated"])
def test_equals_the_objective_in_single_precision(name):
    """One of each way to a graph: an estimate, Pyro's own, with a weight, and summed."""
    assert_compiles(vae, lambda: OBJECTIVES[name](K), torch.float32)


@pytest.mark.parametrize("name", [*parts.OBJECTIVES, "Trace_ELBO", "closed-form KL", "enumerated"])
def test_particles_one_by_one(name):
    """Of each class once: its weights are inputs of the same graph, as above."""
    assert_compiles(vae, lambda: one_by_one(OBJECTIVES[name](K)))


def test_tensors_that_are_equal_until_they_are_written_to_stay_two():
    """The low-rank Gaussian adds to a diagonal in place; TorchScript made one of two particles' matrices."""
    assert_compiles(PROGRAMS["guide: low rank"], lambda: Trace_ELBO(num_particles=2))


NAMES = list(parts.OBJECTIVES)
OF_PARTS = {
    name: NAMES[i % len(NAMES)] for i, name in enumerate(name for name in PROGRAMS if name not in SHAPES_OF_PROGRAM)
}


@pytest.mark.parametrize("program", list(OF_PARTS)[::4])
def test_every_part_with_an_objective(program):
    """The objectives in turn, with every fourth part: pairs differ in nothing but two sides of the same densities.

    Each part has its graph under ``Trace_ELBO`` in test_compiled, each objective its own above.
    """
    assert_compiles(PROGRAMS[program], lambda: parts.OBJECTIVES[OF_PARTS[program]](K))


SHAPES = {
    "several sites": "doubly reparameterised",
    "subsampled plate": "path derivative",
    "subsample given": "importance-weighted",
    "scale and mask": "free bits",
    "AutoNormal": "beta",
    "AutoMultivariateNormal": "Renyi",
    "dropout and batch norm": "wake-sleep",
    "captured tensor": "doubly reparameterised",
}


@pytest.mark.parametrize("program", SHAPES)
def test_programs_with_several_sites_scales_masks_and_noise(program):
    assert_compiles(PROGRAMS[program], lambda: one_by_one(parts.OBJECTIVES[SHAPES[program]](K)))


def mixture():
    """A discrete site that the guide leaves out; its component depends on a latent."""

    def model(x):
        loc = pyro.param("loc", torch.tensor([-1.0, 0.5, 2.0]))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(L), 1.0).to_event(1))
            logits = z.sum(-1, keepdim=True) * pyro.param("slope", torch.tensor([1.0, 0.0, -1.0]))
            c = pyro.sample("c", dist.Categorical(logits=logits), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(loc[c].unsqueeze(-1), 1.0).expand_by([]).to_event(1), obs=x[:, :1])

    _, guide, data = vae()
    return model, guide, data


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("particles", [{}, {"num_particles": K}, {"num_particles": K, "vectorize_particles": True}])
def test_sums_over_discrete_sites(particles, dtype):
    nesting = 1 + ("vectorize_particles" in particles)
    assert_compiles(mixture, lambda: TraceEnum_ELBO(max_plate_nesting=nesting, **particles), dtype)


# -- weights that change ---------------------------------------------------------------------------------------------


def descent(objective, compiled, count=14):
    """Losses and parameters of plain gradient steps by one step's graph, or by the objective and torch."""
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    model, guide, _ = vae()
    parameters = [*model.parameters(), *guide.parameters()]
    data = [binary() for _ in range(count)]
    pyro.set_rng_seed(1)
    if compiled:
        step = CompiledStep(model, guide, objective, lr=1e-2, backend="eager")
        losses = [step(data[0]), *step.run([(x,) for x in data[1:]])]
        assert (step.reason, step.num_graphs) == (None, 1)
        return [float(loss) for loss in losses], [p.detach() for p in parameters]
    optimiser = torch.optim.Adam(parameters, lr=1e-2)
    losses = []
    for x in data:
        optimiser.zero_grad()
        losses.append(objective.loss_and_grads(model, guide, x))
        optimiser.step()
    return losses, [p.detach() for p in parameters]


SCHEDULES = {
    "warm-up": objectives.warm_up(20),
    "cyclical": objectives.cyclical(5, ramp=0.8),
    "own": lambda step: 0.5 + 0.1 * (step % 3),
    "number": 3.0,
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_weight_of_each_step_is_an_input(float64, name):
    found, wanted = objectives.BetaELBO(SCHEDULES[name]), objectives.BetaELBO(SCHEDULES[name])
    (losses, moved), (truth, there) = descent(found, compiled=True), descent(wanted, compiled=False)
    assert losses == pytest.approx(truth, rel=1e-9)
    torch.testing.assert_close(moved, there, rtol=1e-8, atol=1e-10)
    assert found.step == wanted.step == 14


def test_blocks_of_steps_have_a_weight_each(float64):
    def losses(steps_per_call):
        pyro.set_rng_seed(0)
        model, guide, _ = vae()
        loss = objectives.BetaELBO(objectives.warm_up(30))
        step = CompiledStep(model, guide, loss, lr=1e-2, backend="eager", steps_per_call=steps_per_call)
        return step.run([(binary(),) for _ in range(22)])

    torch.testing.assert_close(losses(3), losses(1), rtol=1e-9, atol=0)


def test_without_gradients_the_weight_is_the_last(float64):
    model, guide, _ = vae()
    objective = objectives.BetaELBO(objectives.warm_up(30))
    compiled = CompiledELBO(objective, backend="eager")
    for seed in range(8):
        x = binary()
        compiled.loss_and_grads(model, guide, x)
        assert objective.step == seed + 1
        pyro.set_rng_seed(seed)
        found = compiled.loss(model, guide, x)
        pyro.set_rng_seed(seed)
        assert found == pytest.approx(objective.loss(model, guide, x), rel=1e-12)


def test_a_number_of_the_objective_that_changes_is_followed():
    model, guide, _ = vae()
    objective = objectives.RenyiELBO(alpha=0.5, num_particles=K)
    compiled = CompiledELBO(objective, backend="eager")
    for call in range(16):
        objective.alpha = 0.5 if call < 8 else -1.0
        x = binary()
        pyro.set_rng_seed(call)
        found = compiled.loss(model, guide, x)
        pyro.set_rng_seed(call)
        assert found == pytest.approx(objective.loss(model, guide, x), rel=1e-5)
    assert compiled.num_graphs == 2


class Own(objectives.ImportanceWeightedELBO):
    """A loss beside the estimate: no graph can know of it."""

    def loss_and_grads(self, model, guide, *args, **kwargs):
        return 2 * super().loss_and_grads(model, guide, *args, **kwargs)


class Tilted(objectives.ImportanceWeightedELBO):
    """An objective of a user's own, by its estimate alone."""

    def estimate(self, model, guide, args, kwargs):
        value, surrogate = super().estimate(model, guide, args, kwargs)
        return value - value.square().log(), surrogate - surrogate.square().log()


def test_objectives_of_ones_own():
    assert_compiles(vae, lambda: Tilted(num_particles=K))
    with pytest.raises(NotTraceableError, match="Own has no compiled twin"):
        CompiledELBO(Own(num_particles=K))


def test_a_compiled_one_is_taken_apart():
    elbo = objectives.ImportanceWeightedELBO(num_particles=K)
    assert CompiledELBO(CompiledELBO(elbo)).elbo is elbo


# -- fit -------------------------------------------------------------------------------------------------------------


def fitted(program, loss, **settings):
    pyro.clear_param_store()
    pyro.set_rng_seed(4)
    model, guide, data = program()
    x = torch.cat([data() for _ in range(10)])
    quiet = {"validation": None, "progress": False, "seed": 2, "batch_size": N, "epochs": 8}
    with mock.patch.object(engine, "STEPS_TO_TRACE", 50):
        history = pv.fit(model, guide, x, loss=loss, **{**quiet, **settings})
    return history, [p.unconstrained().detach() for p in pyro.get_param_store().values()]


@pytest.mark.parametrize("name", ["doubly reparameterised", "wake-sleep", "free bits", "warm-up"])
def test_fit_is_the_same_by_a_graph(float64, name):
    """One of each sort; what a graph of each objective computes is tested above."""
    found, wanted = (fitted(vae, OBJECTIVES[name](K), compile=how, kl_warmup=4) for how in ("auto", False))
    assert found[0].engine.startswith("one graph a step")
    assert found[0].train_elbo == pytest.approx(wanted[0].train_elbo, rel=1e-6)
    torch.testing.assert_close(found[1], wanted[1], rtol=1e-4, atol=1e-6)


def test_fit_sums_discrete_sites_by_a_graph(float64):
    """The KL weight leaves the summed site alone in the graph, as without it."""

    def one_level():
        prior = pv.priors.StandardNormal(L)
        _, guide, data = vae()
        weights = torch.nn.Linear(L, 2 * parts.DATA_DIM)

        def model(x):
            pyro.module("weights", weights)
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", prior())
                c = pyro.sample("c", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
                loc = weights(z).unflatten(-1, (2, -1)).expand(*z.shape[:-1], 2, parts.DATA_DIM)
                chosen = torch.where(c.bool().unsqueeze(-1), loc[..., 0, :], loc[..., 1, :])
                pyro.sample("x", dist.Normal(chosen, 1.0).to_event(1), obs=x[:, : parts.DATA_DIM])

        return model, guide, data

    found, wanted = (fitted(one_level, None, compile=how, kl_warmup=4) for how in ("auto", False))
    assert found[0].engine.startswith("one graph a step")
    assert found[0].train_elbo == pytest.approx(wanted[0].train_elbo, rel=1e-6)
    torch.testing.assert_close(found[1], wanted[1], rtol=1e-4, atol=1e-6)


def test_inductor(float64):
    objective = OBJECTIVES["doubly reparameterised"](K)
    elbo = CompiledELBO(objective)
    compare(run(vae, elbo), run(vae, objective), 1e-10)
    assert elbo.num_graphs == 1


def test_plain_elbos_of_pyros_are_unchanged():
    model, guide, _ = vae()
    x = binary()
    values = []
    for elbo in (CompiledELBO(Trace_ELBO(), backend="eager"), Trace_ELBO()):
        pyro.set_rng_seed(0)
        values += [elbo.loss(model, guide, x)]
    assert values[0] == pytest.approx(values[1], rel=1e-6)
