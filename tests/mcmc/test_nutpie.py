"""NUTS by nutpie: its draws against closed forms and quadrature, what it is told, what it refuses."""

import ctypes
import math
import threading

import pyarrow
import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_vae as pv
from pyro_vae.inference.compiled import native as native_module
from pyro_vae.inference.compiled.backend import NotTraceableError
from pyro_vae.inference.compiled.native import native
from pyro_vae.inference.compiled.widening import widened
from pyro_vae.inference.mcmc.by_nutpie import chains as chains_module
from pyro_vae.inference.mcmc.by_nutpie import model as model_module
from pyro_vae.inference.target.target import Target
from tests.mcmc.test_fisher import far_regression
from tests.mcmc.test_truth import SCHOOLS, agrees, schools, schools_truth

BY_NUTPIE = {"num_samples": 1000, "num_chains": 4, "plate": None}


def nuts(**settings):
    return pv.NUTS(engine="nutpie", **settings)


# -- truth ---------------------------------------------------------------------------------------------------------


def test_a_gaussian_of_correlation_near_one_by_default(float64):
    model, data, mean, covariance = far_regression()
    assert covariance[0, 1] / (covariance[0, 0] * covariance[1, 1]).sqrt() < -0.9999
    draws = pv.mcmc(model, data, kernel=pv.NUTS(), **BY_NUTPIE)
    assert draws.engine == "nutpie"
    assert draws.verdict == "1 of 1 posteriors converged (R-hat < 1.01, ESS > 400)"
    std = covariance.diagonal().sqrt()
    assert agrees(draws, "beta", mean[None], std[None])
    assert not agrees(draws, "beta", mean[None], 1.15 * std[None])
    assert not agrees(draws, "beta", mean[None] + 0.3 * std, std[None])


def test_a_hierarchy_in_float32():
    draws = pv.mcmc(schools, SCHOOLS, kernel=nuts(), **BY_NUTPIE | {"num_chains": 8})
    assert draws.samples["eta"].shape == (8, 1000, 1, 8)
    assert draws.samples["eta"].dtype == torch.float32
    for name, (mean, std) in schools_truth().items():
        assert agrees(draws, name, mean.float(), std.float())


def counts(x):
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("x", dist.Poisson(rate), obs=x)


COUNTS = torch.tensor([0.0, 1.0, 7.0])


def test_a_constrained_site(float64):
    draws = pv.mcmc(counts, COUNTS.double(), kernel=nuts(), **BY_NUTPIE)
    exact = dist.Gamma(10.0, torch.tensor(4.0))
    assert agrees(draws, "rate", exact.mean, exact.variance.sqrt())


def test_without_the_jacobian_the_same_check_fails(float64, monkeypatch):
    with_jacobian = Target.log_joint

    def without(self, u, *, beta=1.0):
        return with_jacobian(self, u, beta=beta) - self.log_jacobian(u)

    monkeypatch.setattr(Target, "log_joint", without)
    draws = pv.mcmc(counts, COUNTS.double(), kernel=nuts(), **BY_NUTPIE)
    exact = dist.Gamma(10.0, torch.tensor(4.0))
    assert not agrees(draws, "rate", exact.mean, exact.variance.sqrt())


def test_what_is_zero_on_one_side(float64):
    """A standard normal times z for z > 0, and not a number elsewhere: Rayleigh's distribution."""

    def model(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.factor("positive", z.log())
        pyro.sample("x", dist.Normal(0.0 * z, 1.0), obs=x)

    draws = pv.mcmc(model, torch.tensor(0.0).double(), kernel=nuts(target_accept_prob=0.95), **BY_NUTPIE)
    assert float(draws.samples["z"].min()) > 0
    assert agrees(draws, "z", torch.tensor(math.sqrt(math.pi / 2)), torch.tensor(math.sqrt(2 - math.pi / 2)))


def test_discrete_sites_are_summed_out(float64):
    x = torch.tensor([-1.5, 0.5, 1.0, 2.5, 3.0])

    def model(x):
        shift = pyro.sample("shift", dist.Normal(0.0, 2.0))
        with pyro.plate("rows", len(x)):
            c = pyro.sample("c", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(shift * c, 1.0), obs=x)

    grid = torch.linspace(-20, 20, 20001)[:, None]
    parts = [dist.Normal(grid * c, 1.0).log_prob(x) + math.log(p) for c, p in ((0.0, 0.7), (1.0, 0.3))]
    log_joint = torch.logaddexp(*parts).sum(-1) - grid[:, 0].square() / 8
    weight = torch.softmax(log_joint, 0)
    mean = weight @ grid[:, 0]
    std = (weight @ grid[:, 0].square() - mean.square()).sqrt()
    draws = pv.mcmc(model, x, kernel=nuts(), **BY_NUTPIE)
    assert agrees(draws, "shift", mean, std)
    assert draws.samples["c"].shape == (4, 1000, 1, 5)
    share = weight @ torch.softmax(torch.stack(parts, -1), -1)[..., 1]
    torch.testing.assert_close(draws.marginals["c"][0, :, 1], share, atol=0.03, rtol=0)


def correlated(y):
    scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
    near = torch.exp(-(torch.arange(4.0)[:, None] - torch.arange(4.0)).square())
    pyro.sample("y", dist.MultivariateNormal(torch.zeros(4), scale * near + 0.1 * torch.eye(4)), obs=y)


def test_operations_without_loops_are_called_from_python(float64):
    y = torch.tensor([0.5, 1.0, 2.0, 1.5])
    logs = torch.linspace(-8, 8, 4001)
    near = torch.exp(-(torch.arange(4.0)[:, None] - torch.arange(4.0)).square())
    covariances = logs.exp()[:, None, None] * near + 0.1 * torch.eye(4)
    log_joint = dist.MultivariateNormal(torch.zeros(4), covariances).log_prob(y) - logs.square() / 2
    weight = torch.softmax(log_joint, 0)
    mean = weight @ logs.exp()
    std = (weight @ (2 * logs).exp() - mean.square()).sqrt()
    draws = pv.mcmc(correlated, y, kernel=nuts(), **BY_NUTPIE | {"num_samples": 300, "warmup_steps": 300})
    assert draws.engine.startswith("nutpie, through Python: ")
    logged = pv.inference.mcmc.draws.Draws({"log": draws.samples["scale"].log()}, acceptance=draws.acceptance)
    log_mean = weight @ logs
    assert agrees(logged, "log", log_mean, (weight @ logs.square() - log_mean.square()).sqrt())
    assert abs(float(draws.mean()["scale"]) - float(mean)) < 4.5 * float(std) / float(draws.ess_bulk["scale"]) ** 0.5


# -- the C function ------------------------------------------------------------------------------------------------


def c_function(model, data):
    target = Target(model, data, plate=None)
    return target, native(widened(target.value_and_grad, torch.zeros_like(target.origin)))


def test_the_c_function_is_the_log_joint_in_float64():
    _, found = c_function(schools, SCHOOLS)
    precise = Target(schools, tuple(t.double() for t in SCHOOLS), plate=None)
    for u in torch.randn(5, 1, 10, dtype=torch.float64):
        torch.set_default_dtype(torch.float64)
        value, grad = precise.value_and_grad(u)
        torch.set_default_dtype(torch.float32)
        own_value, own_grad = found.value_and_grad(u)
        torch.testing.assert_close(own_value, value, atol=1e-12, rtol=1e-12)
        torch.testing.assert_close(own_grad, grad, atol=1e-11, rtol=1e-11)
        step = 1e-6 * torch.eye(10, dtype=torch.float64)
        slope = [(found.value_and_grad(u + h)[0] - found.value_and_grad(u - h)[0]) / 2e-6 for h in step]
        torch.testing.assert_close(own_grad[0], torch.cat(slope), atol=1e-6, rtol=1e-6)


def binary(x, y):
    with pyro.plate("inputs", 2):
        slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Bernoulli(logits=x @ slope), obs=y)


def captures(x, y):
    rate = pyro.sample("rate", dist.Beta(1.0, 1.0))
    with pyro.plate("rows", len(y)):
        seen = torch.zeros(len(y), dtype=torch.bool)
        seen |= y.bool()
        c = pyro.sample("c", dist.Bernoulli(rate * seen + 0.1), infer={"enumerate": "parallel"})
        pyro.sample("y", dist.Bernoulli(0.2 + 0.6 * c), obs=y)


def mixed(x, y):
    share = pyro.sample("share", dist.Dirichlet(torch.ones(3)))
    with pyro.plate("rows", len(y)):
        c = pyro.sample("c", dist.Categorical(share), infer={"enumerate": "parallel"})
        pyro.sample("x", dist.Normal(torch.tensor([-1.0, 0.0, 2.0])[c], 1.0), obs=x[:, 0])


@pytest.mark.parametrize("model", [binary, captures, mixed])
def test_sites_of_everyday_have_loops(model):
    """Bernoulli data, of which torch works something out in place, and simplices, by sticks broken in turn."""
    x, y = torch.randn(20, 2), (torch.rand(20) < 0.4).float()
    target, found = c_function(model, (x, y))
    for u in torch.randn(3, *target.origin.shape):
        value, grad = target.value_and_grad(u)
        own_value, own_grad = found.value_and_grad(u.double())
        torch.testing.assert_close(own_value.float(), value, atol=1e-4, rtol=1e-5)
        torch.testing.assert_close(own_grad.float(), grad, atol=1e-4, rtol=1e-5)


def test_any_number_of_threads_call_it_at_once():
    _, found = c_function(schools, SCHOOLS)
    points = torch.randn(8, 1, 10, dtype=torch.float64)
    alone = [found.value_and_grad(u) for u in points]
    wrong = []

    def many(i):
        for _ in range(300):
            value, grad = found.value_and_grad(points[i])
            if not (torch.equal(value, alone[i][0]) and torch.equal(grad, alone[i][1])):
                wrong.append(i)

    threads = [threading.Thread(target=many, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_one_library_serves_other_data_of_the_same_shape(monkeypatch):
    _, first = c_function(counts, COUNTS)
    monkeypatch.setattr(native_module, "_build", lambda *_: pytest.fail("built again"))
    target, second = c_function(counts, COUNTS + 2)
    assert first.library._name == second.library._name
    u = torch.full((1, 1), 0.3)
    torch.testing.assert_close(second.value_and_grad(u.double())[0].float(), target.value_and_grad(u)[0])


def test_it_says_where_the_density_is_not_finite():
    _, found = c_function(counts, COUNTS)
    function = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_size_t, *[ctypes.c_void_p] * 4)(found.density)
    u, grad, value = (torch.zeros(1, dtype=torch.float64) for _ in range(3))
    data = found.call()
    results = []
    for at in (0.0, 800.0, math.nan):
        u.fill_(at)
        results.append(function(1, u.data_ptr(), grad.data_ptr(), value.data_ptr(), data.address))
    assert results[0] == 0
    assert all(results[1:])
    assert data.counts.tolist() == [3, 0]


def test_what_has_no_loop_is_named():
    target = Target(correlated, torch.tensor([0.5, 1.0, 2.0, 1.5]), plate=None)
    with pytest.raises(NotTraceableError, match="cholesky"):
        native(widened(target.value_and_grad, target.origin))


def test_noise_is_not_frozen():
    with pytest.raises(NotTraceableError, match="at random"):
        widened(lambda x: (x + torch.rand(1), x), torch.zeros(1))


# -- what it is told -----------------------------------------------------------------------------------------------


def two_modes(x):
    z = pyro.sample("z", dist.Normal(torch.zeros(3), 100.0).to_event(1))
    far = torch.stack([dist.Normal(m, 1.0).log_prob(z).sum() for m in (-30.0, 30.0)])
    pyro.factor("modes", far.logsumexp(0))
    pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)


SHORT = {"num_samples": 50, "warmup_steps": 100, "num_chains": 4, "plate": None}


def test_each_chain_starts_where_it_is_told():
    sides = torch.tensor([1.0, -1.0, -1.0, 1.0])
    start = 30 * sides[:, None, None].expand(4, 1, 3)
    draws = pv.mcmc(two_modes, torch.tensor(0.0), kernel=nuts(), initial=start, **SHORT)
    assert torch.equal(draws.samples["z"][:, :, 0, 0].sign(), sides[:, None].expand(4, 50))


def test_chains_start_from_the_guide():
    def guide(x):
        pyro.sample("z", dist.Normal(30.0 * torch.ones(3), 0.1).to_event(1))

    draws = pv.mcmc(two_modes, torch.tensor(0.0), kernel=nuts(), guide=guide, **SHORT)
    assert bool((draws.samples["z"] > 0).all())


def test_the_seed_is_pyros():
    runs = []
    for seed in (1, 1, 2):
        pyro.set_rng_seed(seed)
        runs.append(pv.mcmc(schools, SCHOOLS, kernel=nuts(), **SHORT).samples["mu"])
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])
    again = pv.mcmc(schools, SCHOOLS, kernel=nuts(), **SHORT).samples["mu"]
    assert not torch.equal(runs[2], again)
    chains = runs[0][..., 0]
    assert all(not torch.equal(chains[i], chains[j]) for i in range(4) for j in range(i))


def test_depth_acceptance_and_thinning():
    shallow = pv.mcmc(schools, SCHOOLS, kernel=nuts(max_tree_depth=2), thinning=3, **SHORT)
    assert int(shallow.tree_depth.max()) == 2
    assert shallow.samples["mu"].shape == (4, 50, 1)
    assert shallow.diverging.shape == shallow.tree_depth.shape == shallow.energy.shape == (4, 50, 1)
    assert shallow.num_gradients >= 2 * 250 // 3
    few, many = (
        pv.mcmc(schools, SCHOOLS, kernel=nuts(target_accept_prob=p), **BY_NUTPIE | {"num_samples": 300})
        for p in (0.6, 0.97)
    )
    assert float(few.acceptance.mean()) + 0.15 < float(many.acceptance.mean())
    assert float(few.step_size.mean()) > 1.5 * float(many.step_size.mean())
    assert few.step_size.shape == few.acceptance.shape == (4, 1)


@pytest.mark.parametrize("after", [150, 20])
def test_ctrl_c_keeps_what_is_drawn(monkeypatch, after):
    pressed = []

    def interrupt(bar, begun, runs):
        if begun + min(run.steps for run in runs) >= after and not pressed:
            pressed.append(True)
            raise KeyboardInterrupt

    monkeypatch.setattr(chains_module, "_show", interrupt)
    settings = SHORT | {"num_samples": 2_000_000, "num_chains": 2}
    monkeypatch.setattr(chains_module, "_LOOK", 0.001)
    if after < SHORT["warmup_steps"]:
        with pytest.raises(KeyboardInterrupt):
            pv.mcmc(schools, SCHOOLS, kernel=nuts(), **settings | {"warmup_steps": 1_000_000})
        return
    draws = pv.mcmc(schools, SCHOOLS, kernel=nuts(), **settings)
    assert not draws.complete
    assert 10 < draws.num_samples < 2_000_000
    assert bool(torch.isfinite(draws.samples["eta"]).all())
    assert "interrupted" in draws.verdict


def test_progress_counts_steps(capsys):
    pv.mcmc(schools, SCHOOLS, kernel=nuts(), progress=True, **SHORT)
    assert "150/150" in capsys.readouterr().err


def test_it_is_drop_in(float64):
    model, data, mean, covariance = far_regression()
    mcmc = pv.infer.MCMC(pv.NUTS(model), num_samples=500, num_chains=2, plate=None, disable_progbar=True)
    mcmc.run(*data)
    assert mcmc.get_samples()["beta"].shape == (1000, 2)
    off = (mcmc.get_samples()["beta"].mean(0) - mean) / covariance.diagonal().sqrt()
    assert float(off.abs().max()) < 0.2


# -- what it refuses, and what is done without it ------------------------------------------------------------------


LONG = {"num_samples": 150, "warmup_steps": 150, "num_chains": 4, "plate": None}


def rows(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


class Own(pv.NUTS):
    """A kernel that may do anything else."""


@pytest.mark.parametrize(
    ("model", "kernel", "settings", "word"),
    [
        (rows, nuts(), {"plate": "data"}, "a posterior for each datum"),
        (counts, nuts(), {"compile": False}, "compile=False"),
        (counts, nuts(), {"warmup_steps": 0}, "no warm-up"),
        (counts, nuts(adapt_step_size=False), {}, "not to be adapted"),
        (counts, Own(engine="nutpie"), {}, "another kernel than NUTS"),
    ],
)
def test_what_nutpie_cannot(model, kernel, settings, word):
    with pytest.raises(ValueError, match=word):
        pv.mcmc(model, COUNTS, kernel=kernel, **{"plate": None} | settings)


def test_a_program_that_cannot_be_compiled(monkeypatch):
    def refuses(*_):
        raise NotTraceableError("it cannot be")

    monkeypatch.setattr(model_module, "widened", refuses)
    with pytest.raises(NotTraceableError, match="expected a program for nutpie; got it cannot be; try engine='torch'"):
        pv.mcmc(counts, COUNTS, kernel=nuts(), **SHORT)
    draws = pv.mcmc(counts, COUNTS, kernel=pv.NUTS(), **LONG)
    assert draws.engine == "compiled; not nutpie: it cannot be"


def test_engines_by_name():
    with pytest.raises(ValueError, match="engine"):
        pv.NUTS(engine="rust")


def test_short_runs_are_not_worth_a_compiler():
    draws = pv.mcmc(counts, COUNTS, kernel=pv.NUTS(), **SHORT)
    assert draws.engine == "Pyro: not to be compiled"


def test_without_a_compiler_torch_samples(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    for module in ("compiled.backend", "compiled.native", "mcmc.by_nutpie.model"):
        monkeypatch.setattr(f"pyro_vae.inference.{module}.why_no_compiler", lambda tensors: "no C++ compiler")
    draws = pv.mcmc(counts, COUNTS, kernel=pv.NUTS(max_tree_depth=2), **LONG | {"num_chains": 1})
    assert draws.engine == "Pyro: no C++ compiler; not nutpie: no C++ compiler"


def test_engine_torch_is_torch():
    draws = pv.mcmc(counts, COUNTS, kernel=pv.NUTS(engine="torch"), **LONG)
    assert draws.engine == "compiled"


def test_a_point_of_no_density_is_refused():
    with pytest.raises(ValueError, match="finite density"):
        pv.mcmc(counts, COUNTS, kernel=nuts(), initial=torch.full((4, 1, 1), 1e5), **SHORT)


def test_columns_of_arrow_are_read_as_arrow_reads_them():
    """Sliced ones, booleans that lie eight in a byte, numbers of several kinds."""
    for values, kind in (([True, False, True, True] * 5, "bool_"), (range(20), "uint64"), (range(20), "float64")):
        column = pyarrow.array(list(values), type=getattr(pyarrow, kind)())
        for part in (column, column.slice(3, 11)):
            found, wanted = chains_module._numbers(part), part.to_numpy(zero_copy_only=False)
            assert found.dtype == wanted.dtype
            assert (found == wanted).all()
