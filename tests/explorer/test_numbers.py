"""What the page computes against what Python computes, for the same weights."""

import math

import numpy as np
import pytest
import torch

import pyro_vae as pv
from tests.explorer.conftest import numbers

CLOSE = 1e-4  # of the page: far above the rounding of weights and of double precision, far below what a figure shows
ROWS = [0, 1, 2, 3, 4, 5]


@pytest.fixture(scope="module")
def found(digits):
    *_, path = digits
    return numbers(path, ("exact", {"rows": ROWS}), ("best", {"row": 0}), ("encode", {"rows": ROWS}))


@pytest.fixture(scope="module")
def truth(digits):
    model, _, x, _ = digits
    return pv.quadrature(model, x[ROWS], tolerance=1e-6)


def bound_by_sums(model, x, q):
    """ELBO and KL of a Gaussian q by plain sums over a fine grid of its own, and log p(x) of quadrature."""
    line = torch.linspace(-7, 7, 281, dtype=torch.float64)
    e = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)
    z = q.loc + q.scale_tril.matmul(e.unsqueeze(-1)).squeeze(-1)
    weight = torch.exp(-0.5 * e.square().sum(-1)) / (2 * math.pi) * float(line[1] - line[0]) ** 2
    log_q = q.log_prob(z)
    log_joint = model.log_joint(x.expand(len(z), -1), z)
    evidence = pv.quadrature(model, x[None], tolerance=1e-6).log_evidence
    return float((weight * (log_joint - log_q)).sum()), float((weight * (log_q - log_joint + evidence)).sum())


def test_evidence_and_moments_are_those_of_quadrature(found, truth):
    exact = found[0]
    np.testing.assert_allclose([one["logEvidence"] for one in exact], truth.log_evidence, atol=CLOSE)
    np.testing.assert_allclose([one["mean"] for one in exact], truth.mean, atol=CLOSE)
    np.testing.assert_allclose([one["covariance"] for one in exact], truth.covariance_matrix, atol=CLOSE)
    assert max(one["change"] for one in exact) < CLOSE


def test_both_terms_of_the_guides_bound_are_those_of_sums_in_python(found, digits):
    model, guide, x, _ = digits
    for row in ROWS:
        q = guide.posterior(x[row : row + 1])
        gaussian = torch.distributions.MultivariateNormal(q.mean[0], scale_tril=torch.diag(q.stddev[0]))
        elbo, kl = bound_by_sums(model, x[row], gaussian)
        bound = found[0][row]["bound"]
        assert bound["elbo"] == pytest.approx(elbo, abs=CLOSE)
        assert bound["kl"] == pytest.approx(kl, abs=CLOSE)


def test_elbo_and_kl_add_up_to_the_evidence_though_three_rules_make_them(found):
    for one in found[0]:
        assert one["bound"]["elbo"] + one["bound"]["kl"] == pytest.approx(one["logEvidence"], abs=1e-5)
        assert one["bound"]["kl"] > 0


def test_gauss_and_hermites_rule_is_numpys_at_every_size():
    sizes = [*range(2, 41), 54, 81]
    for n, rule in zip(sizes, numbers("-", *(("rule", {"n": n}) for n in sizes)), strict=True):
        nodes, weights = np.polynomial.hermite_e.hermegauss(n)
        np.testing.assert_allclose(rule["nodes"], nodes, atol=1e-11)
        np.testing.assert_allclose(rule["weights"], weights / math.sqrt(2 * math.pi), rtol=1e-8, atol=1e-18)


def test_the_terms_of_a_q_far_off_add_up_too(digits):
    """Between two modes and where hardly any mass is, rules need many nodes."""
    model, _, x, path = digits
    places = [([-0.5, 0.3], [0.3, 0.45]), ([2.5, -2.0], [0.1, 1.5]), ([0.0, 0.0], [1.5, 1.5])]
    found = numbers(path, *(("bound", {"row": 17, "m": m, "s": s}) for m, s in places))
    for (m, s), bound in zip(places, found, strict=True):
        mean, sd = (torch.tensor(values, dtype=torch.float64) for values in (m, s))
        elbo, kl = bound_by_sums(model, x[17], torch.distributions.MultivariateNormal(mean, scale_tril=torch.diag(sd)))
        assert bound["elbo"] == pytest.approx(elbo, abs=CLOSE)
        assert bound["kl"] == pytest.approx(kl, abs=CLOSE)


def test_the_highest_mode_and_its_curvature_are_laplaces(found, digits):
    model, _, x, _ = digits
    laplace = pv.laplace(model, x[ROWS])
    modes = [one["modes"][0] for one in found[0]]
    np.testing.assert_allclose([mode["z"] for mode in modes], laplace.mean, atol=CLOSE)
    np.testing.assert_allclose([mode["covariance"] for mode in modes], laplace.covariance_matrix, atol=CLOSE)


def test_the_best_mean_field_is_a_maximum_of_the_elbo(found, digits):
    """Its ELBO is above that of every q a little to one side, of the guide and of Laplace's standard deviations."""
    model, _, x, _ = digits
    best = found[1]
    mean, sd = (torch.tensor(best[name], dtype=torch.float64) for name in ("m", "s"))

    def elbo(m, s):
        return bound_by_sums(model, x[0], torch.distributions.MultivariateNormal(m, scale_tril=torch.diag(s)))[0]

    top = elbo(mean, sd)
    assert best["bound"]["elbo"] == pytest.approx(top, abs=CLOSE)
    for i in range(2):
        step = torch.eye(2, dtype=torch.float64)[i]
        for sign in (-0.1, 0.1):
            assert elbo(mean + sign * step * sd, sd) < top
            assert elbo(mean, sd * (1 + sign * step)) < top
    assert top >= found[0][0]["bound"]["elbo"]


def test_the_encoder_in_the_page_is_the_guides(found, digits):
    _, guide, x, _ = digits
    q = guide.posterior(x[ROWS])
    ours = np.array(found[2])[:, 0]
    np.testing.assert_allclose(ours[:, 1:3], q.mean, atol=1e-6)
    np.testing.assert_allclose(ours[:, [3, 5]], q.stddev, atol=1e-6)


def test_a_posterior_of_several_modes_is_integrated_whole(tmp_path):
    """A decoder that sees |z_1| only: two modes that mirror one another, both narrow."""

    network = pv.networks.mlp(2, 2, 2, activation=torch.nn.ReLU)
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
        network[0].bias.zero_()
        network[2].weight.copy_(torch.tensor([[1.0, 1.0], [2.0, 2.0]]))
        network[2].bias.zero_()
    model = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Gaussian(network, scale=0.08))
    guide = pv.guides.DiagonalGaussian(pv.networks.mlp(2, 4))
    x = torch.tensor([[1.5, 3.0]])
    path = pv.explore(model, guide, x, path=tmp_path / "modes.html", columns=["a", "b"])
    (one,) = numbers(path, ("exact", {"rows": [0]}))[0]
    truth = pv.quadrature(model.double(), x.double(), tolerance=1e-6)
    assert one["logEvidence"] == pytest.approx(float(truth.log_evidence), abs=CLOSE)
    np.testing.assert_allclose(one["covariance"], truth.covariance_matrix[0], atol=CLOSE)
    assert [round(mode["z"][0], 1) for mode in one["modes"][:2]] in ([1.5, -1.5], [-1.5, 1.5])
