"""What users of ``pyro.infer.MCMC`` bring: its arguments, ``Predictive``, sub-sampled plates; and a live view."""

import io
import sys

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC, NUTS, Predictive

import pyro_vae as pv
from pyro_vae.inference.mcmc import live
from tests.truth import STANDARD_ERRORS

X = torch.tensor([-0.6, 0.4, 1.1])


def nested(x):
    """Two latent numbers a datum, in a plate of their own: the data axis is the second of their value."""
    data = pyro.plate("data", len(x), dim=-1)
    with data, pyro.plate("parts", 2, dim=-2):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
    with data:
        pyro.deterministic("sum", z.sum(-2), event_dim=0)
        pyro.sample("x", dist.Normal(z.sum(-2), 1.0), obs=x)


def regression(x):
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 0.3))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(slope, scale), obs=x)


def test_predictive_takes_the_draws_of_posteriors_a_datum():
    draws = pv.mcmc(nested, X, kernel=pv.MALA(), num_samples=150, warmup_steps=100, compile=False)
    samples = draws.get_samples()
    assert samples["z"].shape == (600, 2, 3)
    assert draws.get_samples(group_by_chain=True)["z"].shape == (4, 150, 2, 3)
    assert draws.get_samples(10)["z"].shape == (10, 2, 3)
    assert draws.get_samples(10, group_by_chain=True)["z"].shape == (4, 10, 2, 3)
    found = Predictive(nested, samples, return_sites=("sum",))(X)["sum"].reshape(600, 3)
    torch.testing.assert_close(found, samples["z"].sum(1))
    torch.testing.assert_close(draws.deterministic["sum"].flatten(0, 1), found)  # of the same draws
    drawn = Predictive(pyro.poutine.uncondition(nested), samples)(X)["x"]
    error = (draws.mcse["z"].square().sum(-1) + drawn.var(0) / 600).sqrt()
    assert bool(((drawn.mean(0) - 2 * X / 3).abs() < STANDARD_ERRORS * error).all())


def test_a_hook_is_called_as_pyro_calls_it():
    def calls(make, kernel, **settings):
        seen = []
        run = make(kernel, 4, 3, disable_progbar=True, hook_fn=lambda *what: seen.append(what), **settings)
        run.run(X)
        return seen, run

    ours, run = calls(pv.infer.MCMC, pv.NUTS(regression), compile=False)
    theirs, _ = calls(MCMC, NUTS(regression))
    assert [(stage, i) for _, _, stage, i in ours] == [(stage, i) for _, _, stage, i in theirs]
    for (kernel, samples, *_), (_, expected, *_) in zip(ours, theirs, strict=True):
        assert isinstance(kernel, pv.NUTS)
        assert {name: value.shape for name, value in samples.items()} == {n: v.shape for n, v in expected.items()}
    last = ours[-1][1]
    torch.testing.assert_close(last["scale"].exp(), run.get_samples()["scale"][-1])
    torch.testing.assert_close(last["slope"], run.get_samples()["slope"][-1])
    several, _ = calls(pv.infer.MCMC, pv.NUTS(regression), compile=False, num_chains=5)
    assert several[0][1]["slope"].shape == (5,)


def test_sites_may_be_left_out_of_what_is_kept():
    run = pv.infer.MCMC(pv.HMC(regression), 20, 20, save_params=["slope"], disable_progbar=True, compile=False)
    run.run(X)
    assert list(run.get_samples()) == ["slope"]
    assert set(run.diagnostics()) == {"slope", "divergences", "acceptance rate"}
    unknown = pv.infer.MCMC(pv.HMC(regression), 20, 20, save_params=["slop"], disable_progbar=True, compile=False)
    with pytest.raises(ValueError, match=r"save_params among \['slope', 'scale'\]; got \['slop'\]"):
        unknown.run(X)


def test_what_changes_nothing_is_taken_with_a_word():
    with pytest.warns(UserWarning, match="mp_context changes nothing: all chains move as one tensor"):
        pv.infer.MCMC(pv.HMC(regression), 5, mp_context="spawn")
    with pytest.warns(UserWarning, match="disable_validation changes nothing"):
        pv.infer.MCMC(pv.HMC(regression), 5, disable_validation=False)
    with pytest.raises(ValueError, match=r"transforms=None; got those of \['scale'\]; try a program"):
        pv.infer.MCMC(pv.HMC(regression), 5, transforms={"scale": dist.transforms.ExpTransform()})


@pytest.mark.parametrize("plate", [{"subsample_size": 2}, {"subsample": torch.tensor([0, 2])}])
def test_a_sub_sampled_plate_is_refused_with_the_reason(plate):
    def program(x):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x), **plate) as rows:
            pyro.sample("x", dist.Normal(mean, 1.0), obs=x[rows])

    reason = "2 of 3 rows, whose density is an estimate that draws would take for exact; try a program without"
    for sample in (pv.mcmc, lambda m, x: pv.infer.MCMC(pv.NUTS(m), 10).run(x), pv.quadrature, pv.laplace):
        with pytest.raises(ValueError, match=reason):
            sample(program, X)


def test_a_live_view_shows_what_the_draws_say(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(live, "_EVERY", 0.0)
    settings = {"kernel": pv.HMC(), "num_samples": 30, "warmup_steps": 20, "compile": False}
    draws = pv.mcmc(regression, X, progress="live", **settings)
    shown = screen.getvalue()
    assert "sampling: 30 draws of 4 chains" in shown
    for name in ("slope", "scale"):
        line = next(line for line in shown.splitlines() if name in line).replace("│", " ").split()
        mean, std, rhat = (float(part) for part in line[-3:])
        assert mean == pytest.approx(float(draws.mean()[name]), rel=1e-2)
        assert std == pytest.approx(float(draws.std()[name]), rel=1e-2)
        assert rhat == pytest.approx(float(draws.rhat[name]), abs=1e-3)
    with pytest.raises(ValueError, match="progress"):
        pv.mcmc(regression, X, progress="loud", **settings)


def test_a_live_view_in_a_notebook_is_one_output_of_the_cell(monkeypatch):
    """Which is saved with the notebook, and whose last state is that of all draws."""
    shown = []

    class Handle:
        def display(self, table):
            shown.append(("new", table.title))

        def update(self, table):
            shown.append(("again", table.title))

    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setattr("IPython.display.DisplayHandle", Handle)
    target = pv.Target(regression, X)
    with live.watching(target, None, show="live") as told:
        monkeypatch.setattr(live, "_EVERY", 0.0)
        told("warm-up", 0, target.sample_prior(2))
        told("sampling", 0, target.sample_prior(2))
    assert [kind for kind, _ in shown] == ["new", "again", "again"]
    assert shown[0][1].startswith("warm-up: 2 chains")
    assert shown[-1][1].startswith("sampling: 1 draw of 2 chains")


def test_a_live_view_of_many_posteriors_gives_the_worst_rhat():
    target = pv.Target(nested, X)
    view = live.LiveView(target)
    u = torch.randn(20, 4, 3, 2)
    u[:, 0, 1, 1] += 5.0
    for step in u:
        view.update("sampling", step)
    rows = {str(cell): i for i, cell in enumerate(view.table().columns[0].cells)}
    rhat = [float(cell) for cell in view.table().columns[3].cells]
    assert rhat[rows["z[1]"]] > 1.2 > rhat[rows["z[0]"]]


def test_a_callback_sees_every_step_and_where_the_chains_are():
    seen = []
    settings = {"kernel": pv.HMC(), "num_samples": 6, "warmup_steps": 4, "num_chains": 3, "compile": False}
    draws = pv.mcmc(regression, X, callback=lambda *what: seen.append(what), **settings)
    assert [(stage, step) for stage, step, _ in seen] == [
        *(("warm-up", i) for i in range(4)),
        *(("sampling", i) for i in range(6)),
    ]
    torch.testing.assert_close(seen[-1][2][:, 0, 0], draws.samples["slope"][:, -1, 0])
