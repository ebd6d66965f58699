"""What the verdict names of chains that have something wrong with them."""

import arviz
import pyro
import pyro.distributions as dist
import torch

import pyro_vae as pv
from pyro_vae.inference.mcmc import diagnostics

WHOLE = {"acceptance": torch.ones(4, 1)}


def test_the_site_where_chains_disagree():
    samples = {"fine": torch.randn(4, 500, 1), "stuck": torch.randn(4, 500, 1, 3)}
    samples["stuck"][2, ..., 1] += 3.0
    said = pv.Draws(samples, **WHOLE).verdict
    assert "at 'stuck'; more warm-up, or look for several modes" in said
    assert "'fine'" not in said


def test_the_site_with_too_few_draws():
    samples = {"fine": torch.randn(4, 2000, 1), "slow": torch.randn(4, 2000, 1)}
    for s in range(1, 2000):
        samples["slow"][:, s] = 0.95 * samples["slow"][:, s - 1] + 0.31 * samples["slow"][:, s]
    draws = pv.Draws(samples, **WHOLE)
    assert float(draws.ess_bulk["slow"]) < 400
    assert "'slow'" in draws.verdict


def test_divergences_name_the_neck_of_a_funnel():
    """Where log tau is small; theta's own values hardly tell."""
    tau = torch.randn(4, 1000, 1).exp()
    theta = tau[..., None] * torch.randn(4, 1000, 1, 5)
    diverging = (tau < 0.5) & (torch.rand(4, 1000, 1) < 0.2)
    other = torch.randn(4, 1000, 1)
    said = pv.Draws({"other": other, "tau": tau, "theta": theta}, diverging=diverging, **WHOLE).verdict
    assert "where 'tau' is small: reparametrise what depends on it" in said
    assert "LocScaleReparam(0.0)" in said
    said = pv.Draws({"tau": -tau}, diverging=diverging, **WHOLE).verdict  # no scale: nothing to take the centre from
    assert "where 'tau' is large: a prior that keeps it from there" in said
    assert "LocScale" not in said
    anywhere = torch.rand(4, 1000, 1) < 0.1
    said = pv.Draws({"other": other, "tau": tau, "theta": theta}, diverging=anywhere, **WHOLE).verdict
    assert said.endswith("divergent draws: try target_accept_prob=0.95")
    said = pv.Draws({"tau": tau}, diverging=diverging & (diverging.cumsum(1) < 2), **WHOLE).verdict
    assert "where" not in said  # a few show nothing


def test_low_bfmi_is_arviz_own():
    energy = torch.randn(4, 1000, 1)
    energy[1] = energy[1].cumsum(0)
    expected = torch.from_numpy(arviz.bfmi(energy[..., 0].numpy()).copy())
    torch.testing.assert_close(diagnostics.bfmi(energy)[:, 0], expected.float(), rtol=1e-2, atol=0)
    said = pv.Draws({"z": torch.randn(4, 1000, 1)}, energy=energy, **WHOLE).verdict
    assert "in chains 1: tails too heavy for the momentum" in said


def test_trees_at_their_limit():
    depth = torch.full((4, 1000, 1), 3)
    settings = {"tree_depth": depth, "max_tree_depth": 10, **WHOLE}
    samples = {"z": torch.randn(4, 1000, 1)}
    assert pv.Draws(samples, **settings).verdict == "1 of 1 posteriors converged (R-hat < 1.01, ESS > 400)"
    depth[:, :250] = 10
    assert "25% of the trees end at max_tree_depth=10: try 12" in pv.Draws(samples, **settings).verdict


def test_a_centred_hierarchy_is_told_to_be_reparametrised():
    y = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
    sigma = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])

    def centred(y, sigma):
        mu, tau = pyro.sample("mu", dist.Normal(0.0, 5.0)), pyro.sample("tau", dist.HalfCauchy(5.0))
        with pyro.plate("schools", 8):
            theta = pyro.sample("theta", dist.Normal(mu, tau))
            pyro.sample("y", dist.Normal(theta, sigma), obs=y)

    settings = {"num_samples": 300, "warmup_steps": 300, "num_chains": 8, "plate": None}
    draws = pv.mcmc(centred, (y, sigma), kernel=pv.HMC(target_accept_prob=0.4), **settings)  # divergences enough
    assert "where 'tau' is small: reparametrise" in draws.verdict
    assert draws.energy.shape == (8, 300, 1)
    assert draws.max_tree_depth is None


def test_a_scale_is_named_before_one_of_many_columns_that_is_as_far_off_by_chance():
    sigma = torch.randn(4, 1000, 1).exp()
    diverging = (sigma < 0.2) & (torch.rand(4, 1000, 1) < 0.1)
    alpha = torch.randn(4, 1000, 1, 12)
    alpha[..., 6] = torch.where(diverging, 2.0 + 0.2 * torch.randn(4, 1000, 1), alpha[..., 6])
    said = pv.Draws({"sigma": sigma, "alpha": alpha}, diverging=diverging, **WHOLE).verdict
    assert "where 'sigma' is small: reparametrise" in said
