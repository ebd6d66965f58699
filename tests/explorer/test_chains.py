"""The page's samplers are right: on a Gaussian with known moments, and on an exact posterior."""

import numpy as np
import pytest
import torch

import pyro_vae as pv
from tests.explorer.conftest import numbers

STANDARD_ERRORS = 4  # by the effective sample size; the seeds are fixed
KERNELS = {"mh": 1.1, "gibbs": 1.0, "hmc": 0.35}  # and their steps
DRAWS = {"mh": 40_000, "gibbs": 6_000, "hmc": 12_000}  # enough to see a density whose power is wrong by a tenth
MEAN, COVARIANCE = np.array([0.7, -0.4]), np.array([[1.0, 0.6], [0.6, 0.8]])


def check(found, mean, covariance):
    second = covariance + np.outer(mean, mean)
    truth = {"z1": mean[0], "z2": mean[1], "z1z1": second[0, 0], "z2z2": second[1, 1], "z1z2": second[0, 1]}
    for name, value in truth.items():
        one = found["moments"][name]
        assert one["size"] > 400
        assert abs(one["mean"] - value) < STANDARD_ERRORS * one["error"], name
        assert one["rhat"] < 1.02


def on_gaussian(kernel, **changed):
    settings = {
        "mean": MEAN.tolist(), "precision": np.linalg.inv(COVARIANCE).tolist(),
        "kernel": kernel, "step": KERNELS[kernel], "chains": 4, "seed": 1, "num": DRAWS[kernel],
        "starts": [[3, 3], [-3, -3], [3, -3], [-3, 3]],
    }  # fmt: skip
    return "gaussian", settings | changed


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_kernel_samples_a_correlated_gaussian(kernel):
    (found,) = numbers("-", on_gaussian(kernel))
    check(found, MEAN, COVARIANCE)


@pytest.mark.parametrize("kernel", ["mh", "hmc"])
def test_a_larger_step_is_accepted_less_often(kernel):
    small, large = numbers("-", on_gaussian(kernel, step=0.02, num=500), on_gaussian(kernel, step=1.3, num=500))
    assert small["accept"] > 0.9 > 0.8 > large["accept"]


def test_the_same_seed_walks_the_same_chain_and_another_seed_another():
    one, same, other = numbers(
        "-", *(on_gaussian("hmc", num=20, seed=seed) for seed in (3, 3, 4))
    )  # fmt: skip
    assert one["first"] == same["first"] != other["first"]


WIDTHS = {"small": (6,), "costly": (220, 220)}  # of the decoder: a costly one is stood in for where a chain proposes


@pytest.fixture(scope="module", params=WIDTHS)
def bent(request, tmp_path_factory):
    """Chains of every kernel on a bent posterior, with weights from a stream of their own, and the exact moments."""
    random = np.random.RandomState(5)
    network = pv.networks.mlp(2, *WIDTHS[request.param], 5, activation=torch.nn.Tanh)
    with torch.no_grad():
        for parameter in network.parameters():
            fan_in = parameter.shape[-1] if parameter.dim() > 1 else 1
            parameter.copy_(torch.as_tensor(random.randn(*parameter.shape) * 1.4 / fan_in**0.5))
    model = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Gaussian(network, scale=0.6))
    x = torch.as_tensor(random.randn(1, 5), dtype=torch.float32)
    guide = pv.guides.DiagonalGaussian(pv.networks.mlp(5, 4))
    path = pv.explore(model, guide, x, path=tmp_path_factory.mktemp("bent") / "bent.html")
    truth = pv.quadrature(model.double(), x.double(), tolerance=1e-6)
    settings = {"row": 0, "chains": 4, "seed": 2, "starts": [[2, 2], [-2, -2], [2, -2], [-2, 2]]}
    steps = {"mh": 0.8, "gibbs": 1.0, "hmc": 0.3}
    num = {"mh": 3500, "gibbs": 1000, "hmc": 3500}  # Gibbs sampling's draws are nearly independent
    found = numbers(
        path,
        *(("chains", settings | {"kernel": name, "step": step, "num": num[name]}) for name, step in steps.items()),
    )
    moments = truth.mean[0].detach().numpy(), truth.covariance_matrix[0].detach().numpy()
    return dict(zip(steps, found, strict=True)), *moments


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_kernel_samples_a_bent_posterior_as_quadrature_knows_it(kernel, bent):
    found, mean, covariance = bent
    check(found[kernel], mean, covariance)


def test_effective_size_rhat_and_autocorrelation_are_those_of_arviz():
    import arviz

    random = np.random.RandomState(0)
    chains = np.zeros((4, 600))
    for t in range(1, 600):
        chains[:, t] = 0.8 * chains[:, t - 1] + random.randn(4)
    (found,) = numbers("-", ("diagnostics", {"chains": chains.tolist()}))
    assert found["size"] == pytest.approx(float(arviz.ess(chains, method="mean")), rel=0.15)
    assert found["rhat"] == pytest.approx(float(arviz.rhat(chains, method="split")), abs=1e-3)
    own = np.mean([arviz.autocorr(chain)[1] for chain in chains])
    assert found["lags"][1] == pytest.approx(own, abs=0.02)
