import numpy as np
import pyro.distributions as dist
import pytest
import torch

import pyro_vae as pv
from pyro_vae.evaluation.evidence.evidence import Evidence, evidence
from pyro_vae.evaluation.model.density import _where_exact, held_out
from pyro_vae.inference.target.target import Target
from tests.truth import STANDARD_ERRORS, linear_gaussian, linear_gaussian_posterior

pytestmark = pytest.mark.usefixtures("float64")


def test_a_row_that_the_guide_is_far_off_for_is_sampled_from_its_mode():
    """An outlier among the encoder's features sends its mean far away, and one row then outweighs a whole table."""
    model, W, b = linear_gaussian(5, 8)
    x = model.sample(40)["x"]
    mean, V, exact = linear_gaussian_posterior(x, W, b, 0.5)
    mean[3] += 30.0
    guide = dist.MultivariateNormal(torch.as_tensor(mean), torch.as_tensor(1.1 * V))
    target = Target(model, x)
    assert held_out(target, guide).method == "analytic"
    almost = pv.Model(pv.priors.StudentT(5, df=1e6), model.likelihood)  # Gaussian to 1e-5, and not known to be
    target = Target(almost, x)
    before = evidence(target, posterior=guide, method="importance", num_samples=1000)
    assert float(before.log_evidence[3]) < exact[3] - 100
    assert not before.resolved[3]
    found = held_out(target, guide)
    assert found.resolved.all()
    assert "of 1 rows, which it is too far off for" in found.reason
    away = np.abs(found.log_evidence.numpy() - exact)
    assert (away < STANDARD_ERRORS * found.standard_error.numpy() + 1e-4).all()


def test_rows_that_no_grid_resolves_are_sampled():
    """A coarse grid's number is no bound: nothing of it stays where its error is not known."""

    def found(values, resolved, method):
        value = torch.tensor(values)
        return Evidence(value, torch.where(torch.tensor(resolved), 0.1, torch.inf), method, torch.tensor(resolved), "")

    exact = found([-1.0, -9.0, -9.0], [True, False, False], "quadrature")
    sampled = found([-5.0, -2.0, -3.0], [True, True, False], "importance")
    both = _where_exact(exact, sampled)
    assert both.log_evidence.tolist() == [-1.0, -2.0, -3.0]
    assert both.resolved.tolist() == [True, True, False]
    assert "of 2 rows that no grid resolves, importance" in both.reason
