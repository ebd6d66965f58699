"""What a truth is: moments and draws against formulas, chains that are refused, symmetries, files."""

import json
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

import pyro_vae as pv
from pyro_vae.atlas import archive, chains
from pyro_vae.atlas.archive import Stored
from pyro_vae.atlas.chains import LongChains
from pyro_vae.atlas.scales import GivenScales
from pyro_vae.atlas.stored.__main__ import main
from pyro_vae.atlas.truth import NUM_DRAWS, Truth
from pyro_vae.atlas.values import Symmetry, number, numbers
from pyro_vae.inference.mcmc.draws import Draws
from tests.truth import STANDARD_ERRORS

Z95 = stats.norm.ppf(0.95)


def two_numbers(y):
    """Gaussian a, log-normal b, one datum each: b's posterior is log-normal too."""
    a = pyro.sample("a", dist.Normal(y.new_zeros(()), 1.0))
    b = pyro.sample("b", dist.LogNormal(y.new_zeros(()), 1.0))
    pyro.sample("y", dist.Normal(torch.stack([a, b.log()], -1), 1.0).to_event(1), obs=y)


Y = torch.tensor([1.0, -0.6], dtype=torch.float64)
MEAN_A, VARIANCE = 0.5, 0.5
MEAN_B = math.exp(-0.3 + VARIANCE / 2)
STD_B = MEAN_B * math.sqrt(math.expm1(VARIANCE))
EVIDENCE = stats.norm.logpdf([1.0, -0.6], 0, math.sqrt(2)).sum()


@pytest.fixture
def target():
    return pv.Target(two_numbers, Y, plate=None)


def exact_chains(shift=0.0, num_samples=2000):
    """Independent draws of the posterior, as eight chains; ``shift`` moves the last one."""
    torch.manual_seed(3)
    a, b = torch.randn(2, 8, num_samples, 1, dtype=torch.float64) * math.sqrt(VARIANCE)
    move = torch.zeros(8, 1, 1).double()
    move[-1] = shift
    return Draws({"a": MEAN_A + a + move, "b": (-0.3 + b).exp()}, torch.ones(8, 1))


def agrees(truth, *, standard_error, moments=0.0):
    for name, mean, std in (("a", MEAN_A, math.sqrt(VARIANCE)), ("b", MEAN_B, STD_B)):
        tolerance = moments or STANDARD_ERRORS * standard_error * std
        assert abs(float(truth.mean[name]) - mean) < tolerance
        assert abs(float(truth.std[name]) - std) < 3 * tolerance  # b has a kurtosis of 19
        assert truth.draws[name].shape == (NUM_DRAWS,)
        assert abs(float(truth.draws[name].mean()) - mean) < STANDARD_ERRORS * std / math.sqrt(NUM_DRAWS)
    for name, middle, move in (("a", MEAN_A, float), ("b", -0.3, math.exp)):
        for bound, sign in ((truth.low, -1), (truth.high, 1)):
            exact = move(middle + sign * Z95 * math.sqrt(VARIANCE))
            assert float(bound[name]) == pytest.approx(exact, rel=0.05)


def test_a_grid_gives_moments_of_the_constrained_sites_and_the_evidence(target):
    truth = Truth.of_distribution(target, pv.quadrature(target, plate=None), how="quadrature")
    agrees(truth, standard_error=0.0, moments=1e-3)
    assert truth.how == "quadrature"
    assert truth.log_evidence == pytest.approx(EVIDENCE, abs=truth.log_evidence_error + 1e-9)
    assert not any(float(error) for error in truth.mean_error.values())


def test_a_distribution_has_its_own_moments_only_where_u_is_the_sites(target):
    q = dist.MultivariateNormal(torch.tensor([[MEAN_A, -0.3]]).double(), VARIANCE * torch.eye(2).double())
    truth = Truth.of_distribution(target, q, how="closed form")
    agrees(truth, standard_error=1 / math.sqrt(100_000))
    assert float(truth.mean_error["b"]) == pytest.approx(STD_B / math.sqrt(100_000), rel=0.05)
    assert truth.log_evidence is None

    def plain(y):
        a = pyro.sample("a", dist.Normal(y.new_zeros(2), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(a, 1.0).to_event(1), obs=y)

    exact = pv.Target(plain, Y, plate=None)
    truth = Truth.of_distribution(exact, pv.analytic(exact), how="closed form")
    torch.testing.assert_close(truth.mean["a"], Y / 2)
    torch.testing.assert_close(truth.high["a"], Y / 2 + Z95 * math.sqrt(0.5))
    assert truth.log_evidence == pytest.approx(EVIDENCE)


def test_the_users_random_stream_is_not_touched_and_the_truth_is_the_same_at_every_call(target):
    q = pv.quadrature(target, plate=None)
    torch.manual_seed(5)
    first = Truth.of_distribution(target, q, how="quadrature")
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(1))
    torch.testing.assert_close(first.draws["b"], Truth.of_distribution(target, q, how="quadrature").draws["b"])


def test_chains_that_agree_are_the_truth(target):
    truth = Truth.of_chains(target, exact_chains())
    agrees(truth, standard_error=1 / math.sqrt(16_000))
    assert truth.how == "chains"
    assert float(truth.mean_error["a"]) == pytest.approx(math.sqrt(VARIANCE / 16_000), rel=0.1)
    assert truth.provenance["rhat"] < 1.01


def test_chains_that_disagree_are_short_or_diverge_are_refused(target):
    with pytest.raises(ValueError, match=r"R-hat 1\.\d+ of a "):
        Truth.of_chains(target, exact_chains(shift=0.6))
    with pytest.raises(ValueError, match="effective size"):
        Truth.of_chains(target, exact_chains(num_samples=100))
    good = exact_chains()
    diverging = torch.zeros(8, 2000, 1, dtype=torch.bool)
    diverging[0, :100] = True
    with pytest.raises(ValueError, match=r"expected at most 0.10% of the draws to diverge; got 0\.62%"):
        Truth.of_chains(target, Draws(good.samples, good.acceptance, diverging=diverging))
    missing = {**good.samples, "a": torch.full_like(good.samples["a"], torch.nan)}
    with pytest.raises(ValueError, match="R-hat nan of a"):
        Truth.of_chains(target, Draws(missing, good.acceptance))


def test_a_grid_that_has_not_resolved_the_posterior_is_refused(target):
    coarse = pv.quadrature(target, plate=None, resolution=4, max_points=16, tolerance=1e-6)
    assert float(coarse.error_bound) > 0.05
    with pytest.raises(ValueError, match=r"a grid with an error bound of at most 0\.05 nats; got"):
        Truth.of_distribution(target, coarse, how="quadrature")


def test_several_posteriors_are_refused():
    def one_a_datum(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    target = pv.Target(one_a_datum, torch.zeros(3))
    with pytest.raises(ValueError, match="one posterior of a whole program; got 3"):
        Truth.of_distribution(target, pv.analytic(target), how="closed form")


def test_a_symmetry_makes_one_truth_of_chains_in_different_modes():
    def squared(y):
        z = pyro.sample("z", dist.Normal(y.new_zeros(2), 3.0).to_event(1))
        pyro.sample("y", dist.Normal(z.square(), 1.0).to_event(1), obs=y)

    target = pv.Target(squared, torch.tensor([4.0, 6.0]).double(), plate=None)
    torch.manual_seed(4)
    folded = torch.tensor([2.0, 2.4]).double() + 0.2 * torch.randn(4, 2000, 1, 2, dtype=torch.float64)
    sign = torch.tensor([1.0, 1.0, -1.0, -1.0]).double().reshape(4, 1, 1, 1)
    draws = Draws({"z": folded * sign}, torch.ones(4, 1))
    with pytest.raises(ValueError, match="R-hat"):
        Truth.of_chains(target, draws)
    flip = Symmetry(
        fold=lambda v: {"z": v["z"] * v["z"][..., :1].sign()},
        images=(dict, lambda v: {"z": -v["z"]}),
    )
    truth = Truth.of_chains(target, draws, symmetry=flip)
    torch.testing.assert_close(truth.mean["z"], torch.zeros(2).double(), atol=1e-12, rtol=0)
    torch.testing.assert_close(truth.std["z"], torch.tensor([4.04, 5.80]).double().sqrt(), atol=0.01, rtol=0)
    assert 0.4 < float((truth.draws["z"][:, 0] > 0).double().mean()) < 0.6


def test_chains_of_another_program_tell_the_truth_of_this_one(monkeypatch):
    """The wanted site is a deterministic one of what is sampled; the evidence comes by the bridge."""

    def centred(y):
        m = pyro.sample("m", dist.Normal(y.new_zeros(()), 1.0))
        t = pyro.sample("t", dist.Normal(m, 2.0))
        pyro.sample("y", dist.Normal(t, 1.0), obs=y)

    def noncentred(y):
        m = pyro.sample("m", dist.Normal(y.new_zeros(()), 1.0))
        e = pyro.sample("e", dist.Normal(y.new_zeros(()), 1.0))
        t = pyro.deterministic("t", m + 2.0 * e)
        pyro.sample("y", dist.Normal(t, 1.0), obs=y)

    target = pv.Target(centred, torch.tensor(1.5).double(), plate=None)
    exact = pv.analytic(target)

    def perfect(sampled, *, num_samples, num_chains, **settings):
        """Chains without any autocorrelation, in place of minutes of NUTS."""
        assert settings["kernel"].target_accept_prob == 0.9
        u = pv.analytic(sampled).sample((num_chains, num_samples)).squeeze(2)
        samples = {"m": u[..., :1], "e": u[..., 1:]}
        return Draws(samples, torch.ones(8, 1), deterministic={"t": samples["m"] + 2.0 * samples["e"]})

    monkeypatch.setattr(chains, "mcmc", perfect)
    torch.manual_seed(0)
    truth = LongChains(noncentred)(target)
    found = torch.stack([truth.mean["m"], truth.mean["t"]])
    error = torch.stack([truth.mean_error["m"], truth.mean_error["t"]])
    assert bool(((found - exact.mean[0]).abs() < STANDARD_ERRORS * error).all())
    gap = abs(truth.log_evidence - float(exact.log_evidence))
    assert gap < STANDARD_ERRORS * truth.log_evidence_error + 0.01


def test_scales_by_quadrature_and_the_rest_given_them():
    """One scale, a prior of z that depends on it: all by a two-dimensional quadrature instead."""
    y = torch.tensor([0.8, 1.9], dtype=torch.float64)

    def scale(y):
        return {"s": pyro.sample("s", dist.LogNormal(y.new_zeros(()), 0.7))}

    def program(y):
        s = scale(y)["s"]
        z = pyro.sample("z", dist.Normal(y.new_zeros(()), s))
        pyro.sample("y", dist.Normal(z, 0.5 * s).expand([2]).to_event(1), obs=y)

    target = pv.Target(program, y, plate=None)
    given = GivenScales(
        scales=scale,
        factor=lambda s: s["s"][..., None, None],
        noise=lambda s: 0.5 * s["s"].unsqueeze(-1).expand(*s["s"].shape, 2),
        design=torch.ones(2, 1).double(),
        y=y,
        split=lambda z, _: {"z": z[:, 0]},
    )
    truth, grid = given(target), Truth.of_distribution(target, pv.quadrature(target, plate=None), how="quadrature")
    assert truth.log_evidence == pytest.approx(grid.log_evidence, abs=2e-3)
    for name in ("s", "z"):
        for part in ("mean", "std", "low", "high"):
            mine, other = (float(getattr(each, part)[name]) for each in (truth, grid))
            assert mine == pytest.approx(other, abs=0.04 * float(grid.std[name]))


def test_numbers_have_names():
    values = {"a": torch.zeros(3), "w": torch.arange(12.0).reshape(3, 2, 2)}
    assert [name for name, _ in numbers(values, lead=1)] == ["a", "w[0,0]", "w[0,1]", "w[1,0]", "w[1,1]"]
    for name, value in numbers(values, lead=1):
        assert torch.equal(number(values, name), value)
    with pytest.raises(ValueError, match=r"a number of the sites \['a', 'w'\]; got 'b'"):
        number(values, "b")
    with pytest.raises(ValueError, match="'w\\[2,0\\]'"):
        number(values, "w[2,0]")


def test_a_stored_truth_is_read_as_written_and_only_for_its_program(target, tmp_path, monkeypatch):
    stored = Stored("two", lambda each: Truth.of_distribution(each, pv.quadrature(each, plate=None), how="quadrature"))
    truth = stored.make(target)
    archive.write(truth, tmp_path / "two.npz")
    monkeypatch.setattr(archive, "files", lambda folder: tmp_path)
    again = stored(target)
    for part in ("mean", "std", "low", "high", "mean_error"):
        torch.testing.assert_close(getattr(again, part), getattr(truth, part), rtol=0, atol=0)
    torch.testing.assert_close(again.draws["b"], truth.draws["b"], rtol=1e-6, atol=1e-6)
    assert (again.log_evidence, again.how) == (truth.log_evidence, "quadrature")
    assert again.provenance["command"] == "python -m pyro_vae.atlas.stored two --seed 1"
    with pytest.raises(ValueError, match="one of another program or data"):
        stored(pv.Target(two_numbers, Y + 0.001, plate=None))


def test_the_command_finds_a_truth_again(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(pv.atlas.truth, "_MOST_DRAWS", NUM_DRAWS)
    assert main(["eight_schools_centred", "banana", "--folder", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "banana: is not stored" in told
    with np.load(tmp_path / "eight_schools_centred.npz") as made:
        words = json.loads(str(made["words"]))
        truth = pv.atlas.load("eight_schools_centred").truth
        assert words["log_evidence"] == pytest.approx(truth.log_evidence, abs=1e-9)
        np.testing.assert_allclose(made["mean/tau"], truth.mean["tau"], atol=1e-9)
        np.testing.assert_allclose(made["draws/theta"], truth.draws["theta"], atol=1e-4)


def test_the_command_stores_nothing_that_is_refused(tmp_path, capsys, monkeypatch):
    def unconverged(self, target, *, seed):
        raise ValueError("expected chains with R-hat below 1.01")

    monkeypatch.setattr(Stored, "make", unconverged)
    assert main(["radon", "--folder", str(tmp_path)]) == 1
    assert "radon: expected chains" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
