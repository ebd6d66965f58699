"""Pyro's own idiom, methods and functions with ``pyro.module``, is trained as a module is: modes, buffers and bits."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_vae as pv
from pyro_vae.runs.checkpoints import Checkpoints
from pyro_vae.runs.folder import Run

X = torch.randn(120, 5, generator=torch.Generator().manual_seed(3)) * 2 + 1


class VAE(nn.Module):
    """As in Pyro's tutorial, with dropout and batch norm."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.encoder = nn.Sequential(
                nn.BatchNorm1d(5), nn.Linear(5, 16), nn.Tanh(), nn.Dropout(0.3), nn.Linear(16, 4)
            )
            self.decoder = nn.Linear(2, 5)

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", len(x)):
            loc, log_scale = self.encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


class Program(nn.Module):
    """A method as a module of the networks that it calls."""

    def __init__(self, network, run):
        super().__init__()
        self.network, self._run = network, run

    def forward(self, x):
        self._run(x)


def _functions(vae):
    encoder, decoder = vae.encoder, vae.decoder

    def model(x):
        VAE.model(type("", (), {"decoder": decoder}), x)

    def guide(x):
        VAE.guide(type("", (), {"encoder": encoder}), x)

    return model, guide


WAYS = {"methods": lambda vae: (vae.model, vae.guide), "functions": _functions}


def _fitted(vae, programs, **settings):
    pyro.clear_param_store()
    given = {"epochs": 12, "batch_size": 30, "lr": 1e-2, "seed": 1, "progress": False, "compile": False} | settings
    return pv.fit(*programs, X, **given), vae.state_dict()


@pytest.mark.parametrize("compile", [False, "auto"])
@pytest.mark.parametrize("way", WAYS)
def test_as_a_module(way, compile):
    vae, same = VAE(), VAE()
    wanted, weights = _fitted(
        vae, (Program(vae.decoder, vae.model), Program(vae.encoder, vae.guide)), compile=compile, patience=3
    )
    history, found = _fitted(same, WAYS[way](same), compile=compile, patience=3)
    assert history.validation_elbo == wanted.validation_elbo
    assert all(torch.equal(found[name], weights[name]) for name in weights)
    assert same.encoder.training == (way == "functions")


@pytest.mark.parametrize("way", WAYS)
def test_validation_rows_move_no_running_mean(way):
    vae = VAE()
    _fitted(vae, WAYS[way](vae), epochs=1, validation=X + 1000)
    assert vae.encoder[0].running_mean.abs().max() < 10


@pytest.mark.parametrize("way", WAYS)
def test_an_interrupted_run_goes_on_to_the_same_bits(way, tmp_path):
    vae, again = VAE(), VAE()
    _, wanted = _fitted(vae, WAYS[way](vae), validation=None)
    _fitted(again, WAYS[way](again), validation=None, epochs=5, checkpoint=Checkpoints(Run(tmp_path), every=1))
    fresh = VAE()
    _, found = _fitted(fresh, WAYS[way](fresh), validation=None, checkpoint=Checkpoints(Run(tmp_path), every=1))
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert int(found["encoder.0.num_batches_tracked"]) == 48


def test_starts_end_at_the_best_of_functions_too():
    vae = VAE()
    programs = WAYS["functions"](vae)
    good = {name: value.clone() for name, value in vae.decoder.state_dict().items()}

    def bad():
        nn.init.constant_(vae.decoder.bias, 100.0)

    starts = [lambda: vae.decoder.load_state_dict(good), bad]
    pv.fit(*programs, X, epochs=1, lr=1e-6, starts=starts, trial_steps=20, progress=False)
    assert vae.decoder.bias.abs().max() < 10
