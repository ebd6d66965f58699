"""Automatic guides and mini-batches: rows that are the same in model and guide, or a sentence (Pyro's issue 3468)."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import (
    AutoDelta,
    AutoDiagonalNormal,
    AutoGuideList,
    AutoMultivariateNormal,
    AutoNormal,
)

import pyro_vae as pv

N = 12
X = torch.linspace(-3.0, 4.0, N, dtype=torch.float64)
INDEX = torch.arange(N)


def rows(x, index):
    return pyro.plate("data", N, subsample=index, dim=-1)


def local(x, index):
    """z_n ~ N(0, 1), x_n ~ N(z_n, 1/2): the posterior of z_n is N(4/5 x_n, 1/5)."""
    with rows(x, index):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 0.5), obs=x)


def both(x, index):
    """A global level above the local ones."""
    level = pyro.sample("level", dist.Normal(0.0, 2.0))
    with rows(x, index):
        z = pyro.sample("z", dist.Normal(level, 1.0))
        pyro.sample("x", dist.Normal(z, 0.5), obs=x)


def simple(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 0.5), obs=x)


def _fit(model, guide, x, *, epochs=400, batch_size=4, **settings):
    quiet = {"validation": None, "progress": False, "lr": 0.03} | settings
    return pv.fit(model, guide, x, epochs=epochs, batch_size=batch_size, **quiet)


@pytest.mark.parametrize("compile", [False, "auto"])
def test_every_draw_in_batches_weighs_the_evidence_where_each_datum_has_its_own_posterior(compile, float64):
    guide = AutoNormal(local, create_plates=rows)
    guide(X[:4], INDEX[:4])
    guide.locs.z, guide.scales.z = 0.8 * X, torch.full_like(X, 0.2**0.5)
    history = _fit(local, guide, (X, INDEX), compile=compile, lr=1e-12, epochs=120)
    evidence = float(dist.Normal(0.0, 1.25**0.5).log_prob(X).mean())  # a datum, not N / B of it
    assert history.train_elbo == pytest.approx([evidence] * 120, abs=1e-7)
    assert history.engine.startswith("one graph a step" if compile else "Pyro"), history.engine


def test_a_guide_of_points_climbs_in_batches_to_the_mode_of_all_data(float64):
    guide = AutoDelta(both, create_plates=rows)
    for lr in (0.1, 0.01, 0.001):
        _fit(both, guide, (X, INDEX), epochs=120, lr=lr, compile=False)
    mean = float(X.sum()) / 1.25 / (1 / 4 + N / 1.25)  # all is Gaussian: the mode is the mean
    assert float(guide.level.detach()) == pytest.approx(mean, abs=5e-3)
    torch.testing.assert_close(guide.z.detach(), (mean + 4 * X) / 5, atol=5e-3, rtol=0)


def test_a_step_on_a_batch_is_pyros_under_the_same_noise(float64):
    def fresh():
        pyro.set_rng_seed(3)
        return AutoNormal(both, create_plates=rows)

    guide = fresh()
    pyro.set_rng_seed(5)
    history = _fit(both, guide, (X, INDEX), epochs=4, batch_size=N // 2, compile=False)
    own = [p.detach().clone() for p in guide.parameters()]
    pyro.clear_param_store()
    guide = fresh()
    guide(X[: N // 2], INDEX[: N // 2])
    pyro.set_rng_seed(5)
    svi = SVI(both, guide, pyro.optim.Adam({"lr": 0.03}), Trace_ELBO())
    elbos = []
    for _ in range(4):
        order = torch.randperm(N)
        elbos.append(-sum(svi.step(X[part], part) / 2 for part in order.split(N // 2)) / N)
    assert history.train_elbo == pytest.approx(elbos, abs=1e-5)
    for found, expected in zip(own, guide.parameters(), strict=True):
        torch.testing.assert_close(found, expected.detach(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("make", [AutoNormal, AutoDelta, AutoDiagonalNormal, AutoMultivariateNormal])
def test_an_automatic_guide_of_each_datums_own_is_refused_batches(make, float64):
    with pytest.raises(ValueError, match=r"not of each datum's own; got batches of 4; try batch_size=12, an amortised"):
        _fit(simple, make(simple), X)


def test_so_is_a_function_with_a_parameter_of_each_row_and_a_list_of_guides(float64):
    def guide(x):
        loc = pyro.param("loc", torch.zeros(len(x)))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, 0.5))

    several = AutoGuideList(simple)
    several.append(AutoNormal(simple))
    for each in (guide, several):
        with pytest.raises(ValueError, match="each datum's own"):
            _fit(simple, each, X)


def test_an_amortised_guide_takes_batches_of_every_size(float64):
    def guide(x):
        gain = pyro.param("gain", torch.tensor(0.1))
        scale = pyro.param("scale", torch.tensor(1.0), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(gain * x, scale))

    _fit(simple, guide, X, epochs=250, batch_size=5)
    assert float(pyro.param("gain").detach()) == pytest.approx(0.8, abs=0.05)


def test_rows_that_the_guide_draws_itself_are_refused(float64):
    with pytest.raises(
        ValueError, match=r"rows of plate 'data' in the guide; got rows that it draws itself; try create"
    ):
        _fit(local, AutoNormal(local), (X, INDEX))


def test_a_plate_of_other_data_is_refused(float64):
    with pytest.raises(ValueError, match=r"plate 'data' of the 9 training data; got 12; .*validation=None"):
        _fit(local, AutoNormal(local, create_plates=rows), (X, INDEX), validation=0.25)


def test_all_rows_at_once_need_nothing_of_it(float64):
    guide = AutoDelta(simple)
    for lr in (0.1, 0.01):
        _fit(simple, guide, X, batch_size=N, epochs=150, lr=lr)
    torch.testing.assert_close(guide.z.detach(), 0.8 * X, atol=1e-3, rtol=0)
