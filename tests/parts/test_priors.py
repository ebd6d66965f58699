import copy
import io
import math

import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch

import pyro_vae as pv
from pyro_vae import priors
from pyro_vae.inference.target.supports import bijection
from tests.table_of_parts import PRIORS, directional_derivative_error, hierarchical, perturbed, points

pytestmark = pytest.mark.usefixtures("float64")

EACH = pytest.mark.parametrize("make", PRIORS.values(), ids=PRIORS.keys())


@EACH
@pytest.mark.parametrize("dim", [1, 2])
@torch.no_grad()
def test_density_integrates_to_one(make, dim):
    p = perturbed(make(dim), 0.3 / dim**2)()
    z, log_weight = points(p.support, dim, 40_001 if dim == 1 else 401)
    total = float((p.log_prob(z) + log_weight).exp().sum())
    assert total == pytest.approx(1, abs=1e-5 if dim == 1 else 3e-4)  # the kinks of splines and of Laplace


@EACH
@torch.no_grad()
def test_draws_follow_the_density(make):
    """The mean of log p and of bounded functions of z over draws, against integrals, within 5 standard errors."""
    p = perturbed(make(1))()
    z, log_weight = points(p.support)
    log_p, draws = p.log_prob(z), p.sample((20_000,))
    weight = (log_p + log_weight).exp()
    for function in (
        lambda z, log_p: log_p,
        lambda z, log_p: torch.tanh(z),
        lambda z, log_p: torch.tanh(z).square(),
    ):
        sampled = function(draws[:, 0], p.log_prob(draws))
        exact = (weight * function(z[:, 0], log_p).nan_to_num(0.0, neginf=0.0)).sum()
        error = sampled.std() / math.sqrt(len(draws)) + 1e-9
        assert abs(float((sampled.mean() - exact) / error)) < 5


@EACH
def test_gradient_agrees_with_finite_differences(make):
    prior = perturbed(make(2))
    z = bijection(prior().support)(0.5 * torch.randn(5, 2)).detach().requires_grad_()
    assert (
        directional_derivative_error(lambda: prior().log_prob(z).sum() + z.square().sum(), [z, *prior.parameters()])
        < 1e-6
    )


@EACH
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shapes_and_dtypes(make, dtype):
    prior = make(2).to(dtype)
    if isinstance(prior, priors.VampPrior):
        prior._guide[0].to(dtype)
    p = prior()
    assert (p.batch_shape, p.event_shape) == ((), (2,))
    for shape in [(2,), (7, 2), (4, 3, 7, 2)]:
        log_prob = p.log_prob(bijection(p.support)(torch.full(shape, 0.1, dtype=dtype)))
        assert (log_prob.shape, log_prob.dtype) == (shape[:-1], dtype)
    assert p.expand([7]).sample((3,)).shape == (3, 7, 2)
    assert p.sample().dtype == dtype


@EACH
def test_survives_saving_and_copying(make):
    prior = perturbed(make(2))
    with torch.no_grad():
        z = prior().sample((5,))
        expected = prior().log_prob(z)
        buffer = io.BytesIO()
        torch.save(prior.state_dict(), buffer)
        buffer.seek(0)
        fresh = copy.deepcopy(prior)  # not make(2): a VampPrior needs the same guide
        for parameter in fresh.parameters():
            parameter.zero_()
        fresh.load_state_dict(torch.load(buffer))
        torch.testing.assert_close(fresh().log_prob(z), expected)


@EACH
def test_target_sees_the_density_in_every_chain(make):
    prior = perturbed(make(2))
    model = pv.Model(prior, pv.likelihoods.Gaussian(pv.networks.mlp(2, 3), scale=1.0))
    target = pv.Target(model, torch.randn(4, 3))
    u = torch.randn(3, 2, 4, 2)
    z = target.constrain(u)["z"]
    transform = bijection(prior().support)
    log_det = transform.log_abs_det_jacobian(u, transform(u))
    torch.testing.assert_close(target.log_prior(u), prior().log_prob(z) + log_det)


def test_named_families_agree_with_scipy():
    z = torch.linspace(-1.9, 2.9, 7)[:, None]
    for prior, law in [
        (priors.StandardNormal(1), scipy.stats.norm()),
        (priors.Laplace(1, scale=0.3), scipy.stats.laplace(scale=0.3)),
        (priors.StudentT(1, df=3.5, scale=2.0), scipy.stats.t(3.5, scale=2.0)),
        (priors.Cauchy(1, scale=0.6), scipy.stats.cauchy(scale=0.6)),
        (priors.Uniform(1, low=-2.0, high=3.0), scipy.stats.uniform(-2, 5)),
    ]:
        torch.testing.assert_close(prior().log_prob(z), torch.as_tensor(law.logpdf(z[:, 0].numpy())))


def test_flows_start_as_the_standard_normal():
    z = torch.randn(9, 3)
    for make in (priors.NICE, priors.RealNVP, priors.MaskedAutoregressive, priors.NeuralSpline):
        torch.testing.assert_close(make(3)().log_prob(z), priors.StandardNormal(3)().log_prob(z))


def test_zuko_leaves_validation_on_and_is_named_where_it_lacks(tmp_path):
    """zuko switches torch's argument validation off for the whole process; in a fresh process, ours does not."""
    import subprocess
    import sys

    flow = perturbed(priors.RealNVP(2))
    flow.normalise.transforms[0].requires_grad_(False)
    z = torch.randn(3, 2)
    torch.save((flow, z, flow().log_prob(z).detach()), tmp_path / "flow.pt")
    code = f"""
import torch, pyro_vae as pv
flow, z, expected = torch.load({str(tmp_path / "flow.pt")!r}, weights_only=False)
torch.testing.assert_close(flow().log_prob(z), expected)
print([p.requires_grad for p in flow.parameters()] == {[p.requires_grad for p in flow.parameters()]})
pv.priors.MaskedAutoregressive(2)().sample(); import zuko
try: torch.distributions.Normal(0., -1.)
except ValueError: print('on')
try: torch.distributions.Distribution().arg_constraints
except NotImplementedError: print('as torch has it')
import sys; sys.modules['zuko'] = None
for use in (lambda: pv.priors.NICE(2), lambda: torch.load({str(tmp_path / "flow.pt")!r}, weights_only=False)):
    try: use()
    except ModuleNotFoundError as error: print(error)
"""
    out = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    lacks = "expected zuko, which gives flows their layers; got no such package; try pip install zuko"
    assert out.stdout.splitlines() == ["True", "on", "as torch has it", lacks, lacks], out.stderr


def test_copying_a_flow_keeps_its_weights_apart_and_takes_no_random_numbers():
    flow, z = perturbed(priors.NeuralSpline(2)), torch.randn(3, 2)
    expected, state = flow().log_prob(z).detach(), torch.get_rng_state()
    twin = copy.deepcopy(flow).eval()
    assert bool((torch.get_rng_state() == state).all())
    assert (flow.normalise.training, twin.normalise.training) == (True, False)
    perturbed(flow)
    torch.testing.assert_close(twin().log_prob(z).detach(), expected)
    assert {name for name, _ in twin.named_parameters()} == {name for name, _ in flow.named_parameters()}


def test_vamp_prior_is_the_mixture_of_the_guides_posteriors():
    guide = pv.guides.DiagonalGaussian(pv.networks.mlp(3, 4))
    prior = priors.VampPrior(guide, torch.rand(5, 3), bounds=(0.0, 1.0))
    u = torch.sigmoid(prior.pseudo_inputs)
    z = torch.randn(7, 2)
    by_hand = torch.stack([guide.posterior(u[k : k + 1]).log_prob(z) for k in range(5)]).logsumexp(0) - math.log(5)
    torch.testing.assert_close(prior().log_prob(z), by_hand)
    assert {id(p) for p in prior.parameters()} == {id(prior.pseudo_inputs)}  # the guide's stay the guide's


def test_two_levels_have_the_joint_density():
    prior = perturbed(hierarchical(L=2, M=1))
    model = pv.Model(prior, pv.likelihoods.Gaussian(pv.networks.mlp(2, 3), scale=1.0))
    target = pv.Target(model, torch.randn(4, 3))
    u = torch.randn(5, 4, 3)
    w, z = u.split([1, 2], -1)
    by_hand = dist.Normal(0.0, 1.0).log_prob(w).sum(-1) + prior.given(w).log_prob(z)
    torch.testing.assert_close(target.log_prior(u), by_hand)
    assert {name: tuple(v.shape) for name, v in model.sample(6).items()} == {"z_top": (6, 1), "z": (6, 2), "x": (6, 3)}


def test_copies_register_their_own_parameters():
    model = pv.Model(priors.DiagonalNormal(2), pv.likelihoods.Bernoulli(pv.networks.mlp(2, 3)))
    model(torch.zeros(2, 3))
    copy.deepcopy(model)(torch.zeros(2, 3))
    assert len(pyro.get_param_store()) == 2 * len(list(model.parameters()))


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: priors.StandardNormal(0), ValueError, "at least 1"),
        (lambda: priors.DiagonalNormal(1.5), TypeError, "whole number"),
        (lambda: priors.Uniform(2, low=1.0, high=1.0), ValueError, "low < high"),
        (lambda: priors.Laplace(2, scale=-1.0), ValueError, "positive, finite scale"),
        (lambda: priors.StudentT(2, df=0.0), ValueError, "positive, finite df"),
        (lambda: priors.VampPrior(torch.nn.Linear(2, 2), torch.zeros(3, 2)), TypeError, "posterior"),
        (lambda: priors.VampPrior(_guide(), torch.full((3, 2), 2.0), bounds=(0.0, 1.0)), ValueError, "inside bounds"),
        (lambda: priors.VampPrior(_guide(), torch.zeros(3, 5)), ValueError, r"pseudo-inputs of shape \(3, 5\)"),
        (
            lambda: priors.VampPrior(pv.guides.PointMass(torch.nn.Linear(2, 1)), torch.zeros(3, 2)),
            ValueError,
            "densities",
        ),
        (
            lambda: priors.VampPrior(_guide(), torch.zeros(3, 2).float()),
            ValueError,
            r"float64, as the guide's.*float32",
        ),
        (lambda: priors.VampPrior(_per_datum(), torch.zeros(3, 2)), ValueError, "amortised"),
        (lambda: priors.GaussianMixture(2, spread=-1.0), ValueError, "spread"),
        (lambda: priors.RealNVP(2, hidden=8), TypeError, "sequence of widths"),
        (hierarchical(), NotImplementedError, "given"),
    ],
)
def test_bad_input_is_a_sentence(make, error, says):
    with pytest.raises(error, match=says):
        make()


def _guide():
    return pv.guides.DiagonalGaussian(pv.networks.mlp(2, 2))


def _per_datum():
    return pv.guides.PerDatumDiagonalGaussian(7, latent_dim=2)


def _discrete_mixture():
    prior = perturbed(priors.DiscreteMixture(2, num_components=3, covariance="full", component="k"))
    return prior, pv.Model(prior, pv.likelihoods.Gaussian(torch.nn.Linear(2, 3), scale=0.7))


def test_a_discrete_mixture_is_the_mixture_with_its_component_summed_out():
    prior, model = _discrete_mixture()
    x, z = torch.randn(4, 3), torch.randn(5, 4, 2)
    target = pv.Target(model, x)
    assert set(target.sites) == {"z"}
    assert set(target.discrete) == {"k"}
    torch.testing.assert_close(target.log_joint(z), model.log_joint(x, z))
    torch.testing.assert_close(target.compute_marginals(z)["k"], prior.responsibilities(z))
    weights = prior.logits.softmax(-1) * torch.stack(
        [
            dist.MultivariateNormal(*pair).log_prob(z).exp()
            for pair in zip(prior.loc, prior.components().covariance_matrix)
        ],
        -1,
    )
    torch.testing.assert_close(prior.responsibilities(z), weights / weights.sum(-1, keepdim=True))


def test_clusters_of_a_discrete_mixture_are_those_of_bayes_theorem():
    """x given the component is Gaussian, so p(k|x) has a closed form."""
    prior, model = _discrete_mixture()
    x = 2 * torch.randn(4, 3)
    W, b = model.likelihood.network.weight, model.likelihood.network.bias
    covariance = W @ prior.components().covariance_matrix @ W.T + 0.49 * torch.eye(3)
    given = dist.MultivariateNormal(prior.loc @ W.T + b, covariance).log_prob(x[:, None]) + prior.logits.log_softmax(-1)
    truth = pv.quadrature(model, x)
    torch.testing.assert_close(truth.log_evidence, given.logsumexp(-1).detach(), rtol=0, atol=1e-3)
    torch.testing.assert_close(truth.compute_marginals()["k"], given.softmax(-1).detach(), rtol=0, atol=1e-3)
    drawn = model.sample(3)
    assert {name: tuple(value.shape) for name, value in drawn.items()} == {"k": (3,), "z": (3, 2), "x": (3, 3)}
