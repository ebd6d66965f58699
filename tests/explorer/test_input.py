"""What the page cannot show is said in a sentence: what was expected, what came, how to mend it."""

import math

import pyro.distributions as dist
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import pyro_vae as pv
from pyro_vae.cli.app import app


def model(latent_dim=2, network=None, prior=None, likelihood=None):
    network = network or pv.networks.mlp(latent_dim, 4)
    likelihood = likelihood or pv.likelihoods.Gaussian(network, scale=1.0)
    return pv.Model(prior or pv.priors.StandardNormal(latent_dim), likelihood)


def guide(latent_dim=2):
    return pv.guides.DiagonalGaussian(pv.networks.mlp(4, 2 * latent_dim))


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 4)

    def forward(self, z):
        return self.linear(z).sin()


class Own(pv.likelihoods.Likelihood):
    def __init__(self):
        super().__init__()
        self.network = nn.Linear(2, 4)

    def forward(self, z):
        return dist.Normal(self.network(z), 1.0).to_event(1)


X = torch.zeros(3, 4)
IN_COLOUR = pv.networks.ConvDecoder(2, latent_dim=2, out_channels=3, channels=(2,))
NO_DENSITY = "a guide whose q is a Gaussian .*got "
CASES = {
    "no model": ({"model": nn.Linear(2, 4)}, TypeError, "a pyro_vae.Model first; got Linear"),
    "no guide": ({"guide": nn.Linear(4, 4)}, TypeError, "a Guide second; got Linear"),
    "three dimensions": ({"model": model(3), "guide": guide(3)}, ValueError, "2 latent dimensions, a plane"),
    "a layer": ({"model": model(network=Odd())}, ValueError, r"layers that the page can run \(.*Linear.*got Odd"),
    "a likelihood": ({"model": model(likelihood=Own())}, ValueError, r"a likelihood that the page knows .*got Own"),
    "a bounded prior": ({"model": model(prior=pv.priors.Uniform(2))}, ValueError, "the whole plane .*got Uniform"),
    "a point mass": ({"guide": pv.guides.PointMass(pv.networks.mlp(4, 2))}, ValueError, NO_DENSITY + "PointMass"),
    "a flow": ({"guide": pv.guides.Planar(pv.networks.mlp(4, 32), latent_dim=2)}, ValueError, NO_DENSITY + "Planar"),
    "data of another width": ({"x": torch.zeros(3, 5)}, ValueError, "got"),
    "no tensor": ({"x": [[0.0] * 4]}, TypeError, "x to be a torch.Tensor"),
    "missing entries": ({"x": torch.full((3, 4), math.nan)}, ValueError, "x to be finite"),
    "too few labels": ({"labels": [1]}, ValueError, "3 labels, one a datum; got 1"),
    "too few names": ({"columns": ["a"]}, ValueError, "4 names, one a column of x; got 1"),
    "another shape": ({"image_shape": (3, 3)}, ValueError, r"an image_shape \(height, width\) of 4 pixels"),
    "colours": (
        {"model": model(network=IN_COLOUR), "x": torch.zeros(3, 12)},
        ValueError,
        "grey images, .*got 3 channels",
    ),
    "no rows": ({"rows": 0}, ValueError, "rows to be at least 1"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_sentence_says_what_was_expected(name, tmp_path, monkeypatch):
    changed, kind, words = CASES[name]
    given = {"model": model(), "guide": guide(), "x": X} | changed
    monkeypatch.chdir(tmp_path)
    with pytest.raises(kind, match="expected .*" + words):
        pv.explore(given.pop("model"), given.pop("guide"), given.pop("x"), **given)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs of the digits with two and with three latent dimensions, hardly trained."""
    folder = tmp_path_factory.mktemp("runs")
    for L in (2, 3):
        words = ["train", "digits", "--output", str(folder / str(L)), "--latent-dim", str(L), "--epochs", "1"]
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, result.output
    return folder


def test_the_command_writes_the_page_of_a_run(runs):
    result = CliRunner().invoke(app, ["explore", str(runs / "2"), "--rows", "5"])
    assert result.exit_code == 0, result.output
    page = (runs / "2" / "explore.html").read_text()
    assert "The latent plane of 2" in page
    assert len(page) < 1e6


def test_the_command_says_why_a_run_has_no_plane(runs):
    result = CliRunner().invoke(app, ["explore", str(runs / "3")])
    assert result.exit_code == 1
    assert "expected 2 latent dimensions" in result.output
    assert "--latent-dim 2" in result.output
