"""The run of routes over posteriors: resumable, repeatable, and what becomes of a program of one's own."""

import dataclasses
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from typer.testing import CliRunner

import pyro_vae as pv
from pyro_vae import plots
from pyro_vae.atlas import cell as cells
from pyro_vae.atlas import grid
from pyro_vae.atlas.measure import Errors
from pyro_vae.atlas.routes import Route, cost, counting
from pyro_vae.cli.app import app
from pyro_vae.report.atlas import write_atlas

SMALL = {"routes": ["mode", "Laplace", "mean field"], "budgets": [500, 1000], "progress": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished run of two posteriors in two dimensions."""
    folder = tmp_path_factory.mktemp("atlas")
    grid.run(["banana", "donut"], path=folder, **SMALL)
    return folder


def own(x):
    """Ten observations of a mean, whose posterior is known."""
    mean = pyro.sample("mean", dist.Normal(x.new_zeros(()), 1.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("x", dist.Normal(mean, 1.0), obs=x)


def test_a_cell_for_each_budget_of_a_route_that_has_a_use_for_one(folder):
    found = pv.atlas.read(folder)
    assert [cell.key[1:3] for cell in found.cells if cell.problem == "banana"] == [
        ("mode", 0),
        ("Laplace", 0),
        ("mean field", 1000),
        ("mean field", 500),
    ]
    more, less = (cell.num_gradients for cell in found.cells if cell.key[:2] == ("banana", "mean field"))
    assert more >= less > 0
    assert {cell.budget for cell in found.at_largest_budget()} == {0, 1000}


def test_what_is_done_is_not_run_again(folder, monkeypatch):
    before = pv.atlas.read(folder)

    def forbidden(*args):
        raise AssertionError("run again")

    monkeypatch.setattr(grid, "fill", forbidden)
    after = grid.run(["banana", "donut"], path=folder, **SMALL)
    assert [cell.to_json() for cell in after.cells] == [cell.to_json() for cell in before.cells]


def test_a_line_that_was_cut_short_is_run_again_to_the_same_figures(folder, tmp_path):
    lines = (folder / "cells" / "banana.jsonl").read_text().splitlines()
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / "banana.jsonl").write_text("\n".join([*lines[:-1], lines[-1][:50]]) + "\n")
    state = torch.get_rng_state()
    found = grid.run("banana", path=tmp_path, **SMALL)
    assert torch.equal(torch.get_rng_state(), state)
    whole = {cell.key: cell for cell in pv.atlas.read(folder).cells}
    for cell in found.cells:
        assert cell.errors == whole[cell.key].errors
        assert cell.draws == whole[cell.key].draws


def test_a_process_of_its_own_finds_what_this_one_finds(folder, tmp_path):
    settings = SMALL | {"routes": ["Laplace"]}
    found = grid.run("donut", path=tmp_path, jobs=2, **settings)
    whole = {cell.key: cell for cell in pv.atlas.read(folder).cells}
    assert [cell.problem for cell in found.cells] == ["donut"]
    assert all(cell.errors == whole[cell.key].errors for cell in found.cells)


def test_a_mode_has_no_verdict_and_a_route_that_cannot_says_why(folder):
    mode = next(cell for cell in pv.atlas.read(folder).cells if cell.route == "mode")
    assert (mode.decision, mode.judged) == ("", "")
    assert mode.errors.std_ratio == 0
    (refused,) = grid.run("banana", routes="coordinate ascent", progress=False).cells
    assert "linear-Gaussian" in refused.refused


def test_a_program_of_ones_own_with_its_exact_truth():
    x = torch.linspace(-1.0, 2.0, 10, dtype=torch.float64)
    found = grid.run(own, x, **SMALL | {"routes": ["Laplace", "mean field"], "budgets": [1000]})
    truth = found.problems["own"].truth
    assert truth.how == "quadrature"
    assert float(truth.mean["mean"]) == pytest.approx(float(x.sum()) / 11, abs=1e-6)
    assert float(truth.std["mean"]) == pytest.approx(11**-0.5, rel=1e-6)
    assert [cell.judged for cell in found.cells] == ["right", "right"]
    assert all(cell.errors.mean < 1e-3 for cell in found.cells)
    assert all(cell.gap == pytest.approx(0.0, abs=1e-3) for cell in found.cells)


def test_cells_of_other_data_under_the_same_name_are_not_taken_for_these(tmp_path):
    """Both programs are called "own": what the folder holds must not pass for an answer to other data."""
    settings = SMALL | {"routes": ["Laplace"], "path": tmp_path}
    x = torch.zeros(3, dtype=torch.float64)
    (first,) = grid.run(own, x, **settings).cells
    assert grid.run(own, x, **settings).cells[0].draws == first.draws
    with pytest.raises(ValueError, match="another 'own'"):
        grid.run(own, x + 5.0, **settings)


def test_chains_that_have_not_converged_are_no_truth():
    x = torch.zeros(3, dtype=torch.float64)
    draws = pv.mcmc(own, x, plate=None, num_samples=20, warmup_steps=20, num_chains=2)
    with pytest.raises(ValueError, match="R-hat below"):
        grid.run(own, x, truth=draws, **SMALL)
    with pytest.raises(TypeError, match="an exact distribution"):
        grid.run(own, x, truth=3.0, **SMALL)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: grid.run("bananna"), "'banana'"),
        (lambda: grid.run("banana", routes=["NUT"]), "'NUTS'"),
        (lambda: grid.run("banana", budgets=[]), "at least one posterior"),
        (lambda: grid.run("banana", torch.zeros(3)), "a program of one's own"),
        (lambda: grid.run([]), "at least one posterior"),
        (lambda: pv.atlas.read("nowhere"), "the cells of an atlas"),
        (lambda: grid.run(own, torch.zeros(3), telling=("mean", "scale")), "'scale'"),
        (lambda: grid.run(own, torch.zeros(3), telling=("mean", "mean[3]")), r"'mean\[3\]'"),
    ],
)
def test_wrong_calls_get_a_sentence(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_cost_counts_chains_and_temperatures():
    x = torch.zeros(3, dtype=torch.float64)
    settings = {"plate": None, "num_samples": 10, "warmup_steps": 10, "num_chains": 3, "compile": False}
    draws = pv.mcmc(own, x, kernel=pv.ParallelTempering(num_temperatures=4, num_steps=2), **settings)
    total, sequential = cost(draws)
    assert sequential >= 20 * 2
    assert total == sequential * 3 * 4
    assert cost(object()) == (None, None)


def test_chains_are_trusted_where_they_agree_and_undecided_where_they_are_short():
    torch.manual_seed(0)
    good = torch.randn(4, 500, 1, dtype=torch.float64)
    for draws, expected in (
        (good[:, :60], "trust"),  # 240 effective draws: means to 3 x 0.065
        (good[:, :20], "undecided"),  # 80 of them: 3 x 0.11
        (torch.cat([good, torch.ones(4, 500, 1)], -1)[:, :60], "trust"),  # a number that never moves
        (good + torch.arange(4.0)[:, None, None], "do not trust"),
    ):
        decision, reason = cells._of_chains(pv.Draws({"mean": draws}, acceptance=torch.ones(4, 1)))
        assert decision == expected
        assert ("three standard errors" in reason) == (expected == "trust")
    unknown = good.clone()
    unknown[0, 0] = torch.nan
    assert cells._of_chains(pv.Draws({"mean": unknown}, acceptance=torch.ones(4, 1)))[0] != "trust"


def test_tables_of_figures_and_of_verdicts(folder):
    found = pv.atlas.read(folder)
    table = found.table("mean_error")
    assert list(table.index) == ["banana", "donut"]
    assert list(table.columns) == ["mode", "Laplace", "mean field"]
    counts = found.verdicts()
    assert counts.loc["all", ["right", "trusts a wrong one", "distrusts a right one", "undecided"]].sum() == 4
    assert "verdicts" in str(found)
    with pytest.raises(ValueError, match="mean_error"):
        found.table("reason")


def test_the_command_writes_a_page_for_each_posterior(folder):
    options = ["atlas", "banana", "donut", "--route", "mode", "--route", "Laplace", "--route", "mean field"]
    done = CliRunner().invoke(app, [*options, "--budget", "500", "--budget", "1000", "--output", str(folder)])
    assert done.exit_code == 0, done.output
    for name in ("index", "banana", "donut"):
        page = (folder / f"{name}.html").read_text()
        assert "data:image/png;base64," in page
        assert "http" not in page.replace("http-equiv", "")
    assert 'href="donut.html"' in (folder / "index.html").read_text()


def test_the_command_lists_what_there_is():
    done = CliRunner().invoke(app, ["atlas", "--list"])
    assert done.exit_code == 0
    assert "eight_schools_centred" in done.output
    assert "multi-Pathfinder" in done.output


def test_pages_need_the_problems(folder, tmp_path):
    found = pv.atlas.read(folder)
    assert write_atlas(found, tmp_path).is_file()
    assert (tmp_path / "banana.html").is_file()


def test_an_infinite_figure_has_a_sign_on_its_page(folder, tmp_path):
    found = pv.atlas.read(folder)
    spoilt = dataclasses.replace(found.cells[1], elbo=-math.inf, gap=math.inf)
    page = write_atlas(dataclasses.replace(found, cells=(found.cells[0], spoilt, *found.cells[2:])), tmp_path)
    assert "∞" in (page.parent / "banana.html").read_text("utf-8")


def test_evaluations_are_counted_where_the_density_is_called_and_no_longer_afterwards():
    target = pv.Target(own, torch.zeros(3, dtype=torch.float64), plate=None)
    with counting(target) as counts:
        target.log_joint(torch.zeros(7, 2, 1, 1, dtype=torch.float64))
        target.value_and_grad(torch.zeros(5, 1, 1, dtype=torch.float64))
    assert counts == [19, 2]
    with pytest.raises(RuntimeError, match="stop"), counting(target):
        raise RuntimeError("stop")
    target.log_joint(torch.zeros(4, 1, 1, dtype=torch.float64))
    assert counts == [19, 2]
    assert "log_parts" not in vars(target)
    assert cost(object(), counts) == (19, 2)


def test_what_breaks_in_one_cell_does_not_end_the_run(monkeypatch):
    def broken(target, budget):
        raise AssertionError("a slip")

    monkeypatch.setitem(grid.ROUTES, "Laplace", Route("Laplace", broken, budgeted=False))
    found = grid.run("donut", routes=["Laplace", "mode"], progress=False)
    assert [cell.refused for cell in found.cells] == ["AssertionError: a slip", ""]


def test_a_map_of_several_seeds_shows_their_median(folder):
    cell = next(c for c in pv.atlas.read(folder).cells if c.route == "mean field" and c.problem == "banana")
    seeds = [
        dataclasses.replace(cell, seed=s, errors=Errors(mean=m, std_ratio=1.0)) for s, m in enumerate((0.25, 0.75, 9))
    ]
    figure = plots.atlas_map(pv.atlas.Atlas(tuple(seeds)))
    assert figure.axes[0].texts[0].get_text().startswith("3.0")
