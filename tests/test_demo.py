"""The main job at a small size: what the README promises, on real digits."""

import re

import matplotlib.image
import pytest
import torch
from typer.testing import CliRunner

import pyro_vae as pv
from pyro_vae.cli.app import app
from tests.truth import STANDARD_ERRORS


@pytest.fixture(scope="module")
def trained():
    """A decoder of two latent dimensions, trained on the digits."""
    import pyro

    pyro.set_rng_seed(0)
    model = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(pv.networks.mlp(2, 64, 64)))
    guide = pv.guides.DiagonalGaussian(pv.networks.mlp(64, 64, 4))
    pv.fit(model, guide, pv.datasets.digits(), epochs=15, lr=5e-3, progress=False, compile=False)
    return model.requires_grad_(False), guide.requires_grad_(False)


def test_exact_and_pyros_nuts_agree_on_held_out_digits(trained):
    """Digits whose posterior has one mode: on several, Pyro's chains do not mix, and R-hat says so."""
    model, _ = trained
    x = pv.datasets.digits("test")[:2]
    truth = pv.quadrature(model, x)
    draws = pv.pyro_mcmc(model, x, num_samples=150, warmup_steps=100, num_chains=2, jit_compile=True)
    off = (draws.mean()["z"] - truth.mean).abs() / draws.mcse["z"]
    mixed = (draws.rhat["z"] < 1.1).all(-1)
    assert mixed.all()
    assert (off < STANDARD_ERRORS).all(-1)[mixed].all()
    assert not (off + 0.5 * truth.variance.sqrt() / draws.mcse["z"] < STANDARD_ERRORS).all(-1)[mixed].any()


def test_elbo_is_below_the_exact_evidence_on_every_held_out_digit(trained):
    model, guide = trained
    x = pv.datasets.digits("test")
    truth = pv.quadrature(model, x)
    score = pv.compare(model, x, {"VI": guide}, truth=truth, num_samples=400).scores["VI"]
    assert len(score.bound) == 360
    assert (score.bound <= truth.log_evidence + 4.5 * score.bound_error + truth.error_bound).all()
    assert float(score.gap.mean()) > 10 * float((score.bound_error**2).mean() ** 0.5) / 360**0.5


def test_the_command_writes_table_figures_and_report(tmp_path, monkeypatch):
    """On 200 digits to train on and 40 held out."""
    digits, labels, count = pv.datasets.digits, pv.datasets.digit_labels, {"train": 200, "test": 40}
    monkeypatch.setattr("pyro_vae.datasets.digits", lambda split: digits(split)[: count[split]])
    monkeypatch.setattr("pyro_vae.datasets.digit_labels", lambda split: labels(split)[: count[split]])
    result = CliRunner().invoke(app, ["demo", "--output", str(tmp_path), "--epochs", "2", "--chained", "1"])
    assert result.exit_code == 0, result.output
    assert "KL(q||p)" in result.output
    assert str(tmp_path / "report.html") in result.output.replace("\n", "")
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png;base64,") >= 5
    assert not re.search(r'(src|href)="(?!data:|explore\.html)', page), "the report must open offline"
    assert 'href="explore.html"' in page
    assert (tmp_path / "explore.html").stat().st_size < 1e6
    for figure in tmp_path.glob("*.png"):
        picture = torch.tensor(matplotlib.image.imread(figure)[..., :3])
        assert picture.std() > 0.02, f"{figure} is blank"
    assert "log evidence" in (tmp_path / "table.txt").read_text()
