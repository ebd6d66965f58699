"""Every prior with every likelihood, and each of both with every guide; every objective with all of them.

A path through the code joins two parts at most: a joint density is the prior's plus the likelihood's, a guide meets the
data of a likelihood and the support of a prior. So every pair occurs, and of the triples those that this takes. Each
combination of parts trains a few steps, and then, on every datum, ELBO <= IWAE-K <= log p(x): the evidence by numerical
integration over the one latent dimension (over both sites for the two-level prior), and the ELBO twice, by the same
integration and by draws. An objective meets each part once, and is measured by its own value alone.
"""

import itertools
import math

import pytest
import torch
from pyro.infer import TraceEnum_ELBO

import pyro_vae as pv
from pyro_vae import guides, objectives, priors
from pyro_vae.networks import mlp
from tests.table_of_parts import (
    GUIDES,
    LIKELIHOODS,
    OBJECTIVES,
    OTHER_OBJECTIVES,
    PRIORS,
    PRIORS_OF_ONE_SITE,
    TWO_LEVEL_GUIDES,
    fitting,
    hierarchical,
    points,
)

N, D, K, REPEATS = 3, 2, 8, 100


EVERY_OBJECTIVE = {**OBJECTIVES, **OTHER_OBJECTIVES}
WEIGHTS = ("beta 4", "warm-up", "cyclical", "free bits 0.1")  # of a class that is there under another name


def trained(prior, likelihood, make_guide, x, objective=None):
    """A model and a guide after three steps of Adam, on the ELBO if no objective is given."""
    model = pv.Model(prior, likelihood)
    guide = fitting(make_guide(1, D, N, model), prior)
    parameters = [*model.parameters(), *guide.parameters()]
    before = [p.detach().clone() for p in parameters]
    optimiser = torch.optim.Adam(parameters, lr=1e-2)
    default = TraceEnum_ELBO if isinstance(prior, priors.DiscreteMixture) else objectives.BetaELBO
    elbo = objective or default(max_plate_nesting=1)
    for _ in range(3):
        optimiser.zero_grad()
        assert math.isfinite(elbo.loss_and_grads(model, guide, x))
        optimiser.step()
    assert all(bool(torch.isfinite(p).all()) for p in parameters)
    moved = [bool((p != b).any()) for p, b in zip(parameters, before, strict=True)]
    assert any(moved[: len(list(model.parameters()))])
    assert any(moved[len(list(model.parameters())) :])
    return model, guide


def check_bounds(log_w, log_joint, log_q):
    """Compare draws, log_w (REPEATS, K, N), with sums over a grid, log_joint and log_q (P, N) with its weights.

    Says whether the grid resolves q: a planar map that three steps leave nearly singular has spikes between its points.
    """
    if float((log_q.exp().sum(0) - 1).abs().max()) > 1e-3:
        return False
    inside = log_q > -60
    mass, grid_log_w = torch.where(inside, log_q.exp(), 0.0), torch.where(inside, log_joint - log_q, 0.0)
    log_evidence = torch.logsumexp(log_joint.nan_to_num(nan=-math.inf), 0)
    elbo = (mass * grid_log_w).nan_to_num(0.0).sum(0)
    assert float((elbo - log_evidence).max()) < 1e-3

    draws = log_w.flatten(0, 1)
    iwae = torch.logsumexp(log_w, 1) - math.log(K)
    assert bool((iwae.mean(0) >= draws.mean(0) - 1e-4).all())
    assert float(((iwae.mean(0) - log_evidence) / (iwae.std(0) / math.sqrt(REPEATS) + 1e-4)).max()) < 6
    floor = log_evidence - 20  # a count's log density has tails that no number of draws averages: cut both alike
    draws, grid_log_w = draws.clamp_min(floor), grid_log_w.clamp_min(floor)
    cut = (mass * grid_log_w).nan_to_num(0.0).sum(0)
    variance = (mass * (grid_log_w - cut).square()).nan_to_num(0.0).sum(0)  # of one draw: all may be cut by chance
    error = (variance / len(draws)).sqrt() + 1e-4
    assert float(((draws.mean(0) - cut) / error).abs().max()) < 6  # thousands of checks: 6 standard errors
    return True


def on_grid(model, x):
    """Points z that fill the prior's support, (P, 1, 1), and the log of each one's weight, (P, 1)."""
    z, weight = points(model.prior().support, num=2001)
    return z.to(x)[:, None], weight[:, None]


@torch.no_grad()
def log_evidence(model, x):
    """log p(x) of all data together, by a sum over a grid."""
    grid, log_weight = on_grid(model, x)
    log_joint = model.log_joint(x, grid).double() + log_weight
    return torch.logsumexp(log_joint.nan_to_num(nan=-math.inf), 0).sum()


@torch.no_grad()
def check_one_level(model, guide, x):
    """Compare draws with sums over a grid."""
    q = guide.posterior(x)  # once: a refined guide's noise is its own at every call
    z = q.sample((REPEATS, K))
    grid, log_weight = on_grid(model, x)
    log_q = q.log_prob(grid.expand(-1, N, 1)).double() + log_weight
    return check_bounds(model.log_joint(x, z) - q.log_prob(z), model.log_joint(x, grid).double() + log_weight, log_q)


def pairs(prior_name):
    """Each likelihood beside one prior, with guides such that over all priors every pair of parts occurs."""
    first, every_guide = list(PRIORS).index(prior_name), list(GUIDES)
    return [(likelihood, every_guide[(first + i) % len(every_guide)]) for i, likelihood in enumerate(LIKELIHOODS)]


def test_no_pair_of_parts_is_left_out():
    triples = {(prior, *others) for prior in PRIORS for others in pairs(prior)}
    for (i, one), (j, other) in itertools.combinations(enumerate((PRIORS, LIKELIHOODS, GUIDES)), 2):
        assert {(triple[i], triple[j]) for triple in triples} == set(itertools.product(one, other))


@pytest.mark.parametrize("prior_name", PRIORS)
def test_every_prior_likelihood_and_guide(prior_name):
    torch.manual_seed(7)
    resolved = []
    for likelihood, guide_name in pairs(prior_name):
        make_likelihood, data = LIKELIHOODS[likelihood]
        x = data(N, D)
        model, guide = trained(PRIORS[prior_name](1), make_likelihood(1, D), GUIDES[guide_name], x)
        resolved.append(check_one_level(model, guide, x))
    assert sum(resolved) >= len(resolved) - 1


def spread(shift):
    """Combinations in which every prior, every likelihood and every guide occurs."""
    parts = [list(table.values()) for table in (PRIORS_OF_ONE_SITE, LIKELIHOODS, GUIDES)]
    count = max(map(len, parts))
    for i in range(count):
        yield tuple(part[(i + j * shift) % len(part)] for j, part in enumerate(parts))


@pytest.mark.parametrize("name", EVERY_OBJECTIVE)
def test_every_objective_with_each_prior_likelihood_and_guide(name):
    """Three steps of each; then the objective's own value is no more than log p(x) either. Other weights: a third."""
    torch.manual_seed(7)
    triples = list(spread(list(EVERY_OBJECTIVE).index(name)))
    for make_prior, (make_likelihood, data), make_guide in triples[:: 3 if name in WEIGHTS else 1]:
        objective, x = EVERY_OBJECTIVE[name](2), data(N, D)
        model, guide = trained(make_prior(1), make_likelihood(1, D), make_guide, x, objective)
        values = -torch.tensor([objective.loss(model, guide, x) for _ in range(10)], dtype=torch.float64)
        assert float((values.mean() - log_evidence(model, x)) / (values.std() / math.sqrt(10) + 1e-3)) < 6


@pytest.mark.parametrize("name", EVERY_OBJECTIVE)
def test_every_objective_with_two_levels_and_with_a_point_mass(name):
    torch.manual_seed(7)
    make_likelihood, data = LIKELIHOODS["Bernoulli"]
    x = data(N, D)
    for guide_name, make_guide in TWO_LEVEL_GUIDES.items():
        parts = hierarchical(), make_likelihood(1, D), make_guide, x, EVERY_OBJECTIVE[name](2)
        if (name, guide_name) == ("closed-form KL", "bottom-up"):  # its order is not the model's: Pyro says so
            with pytest.warns(UserWarning, match="mean field restriction"):
                trained(*parts)
        else:
            trained(*parts)

    def point(L, D, N, model):
        return guides.PointMass(mlp(D, L))

    parts = priors.StandardNormal(1), make_likelihood(1, D), point, x, EVERY_OBJECTIVE[name](2)
    if name == "wake-sleep":
        with pytest.raises(ValueError, match="a guide with a density"):
            trained(*parts)
    else:
        trained(*parts)


def test_every_likelihood_and_guide_of_the_two_level_prior():
    torch.manual_seed(7)
    t = torch.linspace(-9, 9, 241)
    u = torch.cartesian_prod(t, t)[:, None]  # (w, z)
    weight = 2 * math.log(float(t[1] - t[0]))
    for make_likelihood, data in LIKELIHOODS.values():
        x = data(N, D)
        for make_guide in TWO_LEVEL_GUIDES.values():
            prior = hierarchical()
            model, guide = trained(prior, make_likelihood(1, D), make_guide, x)
            with torch.no_grad():
                q = guide.posterior(x)

                def log_joint(v):
                    w, z = v[..., :1], v[..., 1:]
                    top = -0.5 * w[..., 0] ** 2 - 0.5 * math.log(2 * math.pi)
                    return top + model.prior.given(w).log_prob(z) + model.likelihood(z).log_prob(x)

                v = q.sample((REPEATS, K))
                joint, log_q = log_joint(u) + weight, q.log_prob(u.expand(-1, N, 2)) + weight
                assert check_bounds(log_joint(v) - q.log_prob(v), joint, log_q)
