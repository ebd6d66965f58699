"""What has been trained is saved by ``torch.save`` and comes back the same."""

import io

import pyro
import pytest
import torch

import pyro_vae as pv


def vae():
    model = pv.Model(pv.priors.StandardNormal(1), pv.likelihoods.Gaussian(torch.nn.Linear(1, 3), scale=1.0))
    guide = pv.guides.DiagonalGaussian(torch.nn.Linear(3, 2))
    return model, guide, (model, guide)


def flow():
    system = pv.systems.NICE(3, hidden=(4,))
    return system.model, system.guide, (system, system.model)


@pytest.mark.parametrize("make", [vae, flow])
def test_a_trained_program_is_saved_and_trains_on(make):
    pyro.set_rng_seed(0)
    x = torch.randn(40, 3)
    model, guide, kept = make()
    fit = {"epochs": 1, "progress": False, "compile": False, "validation": None}
    pv.fit(model, guide, x, **fit)
    for module in kept:
        file = io.BytesIO()
        torch.save(module, file)
        file.seek(0)
        again = torch.load(file, weights_only=False)
        assert all(map(torch.equal, module.parameters(), again.parameters()))
    assert torch.isfinite(torch.tensor(pv.fit(model, guide, x, **fit).train_elbo)).all()
