"""A run that is stopped at the end of an epoch and taken up again ends with the bits of one that never stopped."""

import pytest
import torch

import pyro_vae as pv
from pyro_vae.inference.variational import engine
from tests.checkpoints import InMemory, Stop


def _parts():
    torch.manual_seed(11)
    model = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(pv.networks.mlp(2, 16, 20)))
    return model, pv.guides.DiagonalGaussian(pv.networks.mlp(20, 16, 4))


def _train(checkpoint, x, settings):
    model, guide = _parts()
    loss = pv.objectives.BetaELBO(pv.objectives.warm_up(settings["warm_up"])) if "warm_up" in settings else None
    quiet = {"loss": loss, "seed": 3, "progress": False, "checkpoint": checkpoint}
    history = pv.fit(model, guide, x, **quiet, **{key: settings[key] for key in settings.keys() - {"warm_up"}})
    return history, [*model.state_dict().values(), *guide.state_dict().values()]


SETTINGS = {
    "pyro": {"epochs": 6, "compile": False},
    "pyro-sgd": {"epochs": 6, "optimiser": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9)},
    "traced": {"epochs": 8},
    "scheduled": {"epochs": 10, "warm_up": 60},
    "compiled": {"epochs": 8, "compile": True, "batch_size": 125, "validation": None},  # by Inductor
    "dropping": {"epochs": 6, "compile": False, "patience": 1, "lr_drops": 2, "lr": 0.3},
    "everything": {"epochs": 12, "kl_warmup": 3, "patience": 4, "clip_norm": 1.0, "dynamic_binarisation": True},
}


@pytest.mark.parametrize(
    ("name", "stop"),
    [
        ("pyro", 1),
        ("pyro-sgd", 3),
        ("traced", 2),
        ("scheduled", 5),
        ("compiled", 3),
        ("dropping", 3),
        ("everything", 1),
        ("everything", 5),
    ],
)
def test_a_run_taken_up_again_ends_with_the_same_bits(name, stop, monkeypatch):
    monkeypatch.setattr(engine, "STEPS_TO_TRACE", 50)
    x = torch.rand(250, 20, generator=torch.Generator().manual_seed(0))
    settings = {"lr": 1e-2, "batch_size": 32, **SETTINGS[name]}  # 225 rows to train on: seven batches and one of a row
    if not settings.get("dynamic_binarisation"):
        x = x.round()
    whole, weights = _train(InMemory(), x, settings)
    checkpoint = InMemory(stop)
    with pytest.raises(Stop):
        _train(checkpoint, x, settings)
    checkpoint.stop = None
    again, weights_again = _train(checkpoint, x, settings)
    assert again.engine == whole.engine
    assert ("one graph" in whole.engine) == (settings["epochs"] > 6)
    assert again.train_elbo == whole.train_elbo
    assert again.validation_elbo == whole.validation_elbo
    assert (again.best_epoch, again.stopped_early, again.num_steps) == (
        whole.best_epoch,
        whole.stopped_early,
        whole.num_steps,
    )
    assert all(torch.equal(a, b) for a, b in zip(weights, weights_again, strict=True))


def test_keeping_states_changes_nothing():
    x = torch.rand(100, 20, generator=torch.Generator().manual_seed(0)).round()
    plain, weights = _train(None, x, {"epochs": 3})
    kept, weights_kept = _train(InMemory(), x, {"epochs": 3})
    assert plain.train_elbo == kept.train_elbo
    assert all(torch.equal(a, b) for a, b in zip(weights, weights_kept, strict=True))


def test_a_finished_run_taken_up_again_gives_its_result():
    x = torch.rand(100, 20, generator=torch.Generator().manual_seed(0)).round()
    checkpoint = InMemory()
    whole, weights = _train(checkpoint, x, {"epochs": 3})
    again, weights_again = _train(checkpoint, x, {"epochs": 3})
    assert again.train_elbo == whole.train_elbo
    assert all(torch.equal(a, b) for a, b in zip(weights, weights_again, strict=True))


def test_the_state_of_another_model_is_refused():
    x = torch.rand(100, 20, generator=torch.Generator().manual_seed(0)).round()
    checkpoint = InMemory()
    _train(checkpoint, x, {"epochs": 1})
    model = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(pv.networks.mlp(2, 8, 20)))
    guide = pv.guides.DiagonalGaussian(pv.networks.mlp(20, 8, 4))
    with pytest.raises(ValueError, match="the run that saved it"):
        pv.fit(model, guide, x, epochs=2, progress=False, checkpoint=checkpoint)
