"""Mixed precision: what it rounds, what it leaves alone, and that it says so when it would bias the ELBO."""

import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import nn

import pyro_vae as pv
from pyro_vae.runs.build import check_device
from pyro_vae.runs.precision import HalfLinear, bias, halve, must_not_bias


def _parts():
    torch.manual_seed(0)
    model = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(pv.networks.mlp(2, 32, 64)))
    return model, pv.guides.DiagonalGaussian(pv.networks.mlp(64, 32, 4))


def test_products_are_rounded_to_bfloat16_in_training_and_not_at_all_in_evaluation():
    torch.manual_seed(0)
    plain = nn.Linear(64, 5)
    network = nn.Sequential(plain)
    halve(network)
    layer, x = network[0], torch.randn(100, 64)
    assert isinstance(layer, HalfLinear)
    assert layer.weight is plain.weight
    rounded = x.bfloat16().double() @ plain.weight.bfloat16().double().T + plain.bias.bfloat16().double()
    size = x.abs() @ plain.weight.abs().T + plain.bias.abs()
    found = layer(x)
    assert found.dtype == torch.float32
    assert ((found - rounded).abs() <= 2**-8 * size).all()  # the result is rounded once more
    assert not torch.equal(found, plain(x))
    assert torch.equal(layer.eval()(x), plain(x))


def test_training_in_half_precision_learns_and_is_scored_in_full():
    x = pv.datasets.digits()
    model, guide = _parts()
    halve(model)
    halve(guide)
    added, error = bias(model, guide, Trace_ELBO(), x[:512])
    assert 0 < abs(added) <= error
    assert "bfloat16 products add" in must_not_bias((added, error))
    history = pv.fit(model, guide, x, epochs=8, lr=5e-3, seed=0, progress=False)
    plain = pv.fit(*_parts(), x, epochs=8, lr=5e-3, seed=0, progress=False)
    assert history.validation_elbo[-1] > history.validation_elbo[0] + 2
    assert abs(history.validation_elbo[-1] - plain.validation_elbo[-1]) < error
    assert not any(module.training for module in (model, guide))


def test_a_bias_beyond_the_error_is_refused():
    model, guide = _parts()
    halve(model)
    halve(guide)
    last = model.likelihood.network[-1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.fill_(1000.3)  # 1000 in bfloat16: 0.3 nats for each of 64 zeros
    found = bias(model, guide, Trace_ELBO(), torch.zeros(64, 64))
    assert found[0] == pytest.approx(0.3 * 64, rel=1e-3)
    with pytest.raises(ValueError, match="below the ELBO's error"):
        must_not_bias(found)


def test_mixed_precision_without_a_cuda_device_is_refused():
    with pytest.raises(ValueError, match="a CUDA device for mixed precision"):
        check_device("cpu", mixed_precision=True)
