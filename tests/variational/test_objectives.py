import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_vae as pv
from pyro_vae import guides, likelihoods, objectives, priors
from pyro_vae.networks import mlp
from tests.table_of_parts import OBJECTIVES, TWO_LEVEL_GUIDES, hierarchical

pytestmark = pytest.mark.usefixtures("float64")

N, D, L = 4, 3, 2


def pair(guide=None):
    """A linear-Gaussian model, its exact posterior as a guide's start, and data."""
    model = pv.Model(priors.StandardNormal(L), likelihoods.Gaussian(mlp(L, D), scale=0.7))
    return model, guide or guides.FullCovarianceGaussian(mlp(D, 5), latent_dim=L), torch.randn(N, D)


class Exact(guides.Guide):
    """The exact posterior of a linear-Gaussian model, with parameters to differentiate."""

    def __init__(self, model, x):
        super().__init__()
        exact = pv.analytic(model, x)
        self.latent_dim = L
        self.loc = nn.Parameter(exact.mean.detach().clone())
        self.scale_tril = nn.Parameter(exact.scale_tril.detach().clone())

    def posterior(self, x):
        return dist.MultivariateNormal(self.loc, scale_tril=self.scale_tril)


class Unreparameterised(guides.DiagonalGaussian):
    def posterior(self, x):
        return _NoGradient(super().posterior(x))


class _NoGradient(dist.TorchDistribution):
    arg_constraints = {}  # noqa: RUF012
    support = torch.distributions.constraints.real_vector
    has_rsample = False

    def __init__(self, q):
        self.q = q
        super().__init__(q.batch_shape, q.event_shape, validate_args=False)

    def expand(self, batch_shape, _instance=None):
        return _NoGradient(self.q.expand(batch_shape))

    def sample(self, sample_shape=()):
        return self.q.sample(sample_shape).detach()

    def log_prob(self, value):
        return self.q.log_prob(value)


def mean_loss(objective, model, guide, x, copies=100, repeats=12):
    """Mean and standard error of the loss of x, from batches that hold many copies of x."""
    many = x.repeat(copies, *[1] * (x.dim() - 1))
    values = torch.tensor([objective.loss(model, guide, many) / copies for _ in range(repeats)])
    return float(values.mean()), float(values.std()) / math.sqrt(repeats)


@pytest.mark.parametrize("make", OBJECTIVES.values(), ids=OBJECTIVES.keys())
def test_is_the_log_evidence_for_every_draw_where_the_guide_is_exact(make):
    """log p(x, z) - log q(z|x) is then log p(x) whatever z is: no Monte Carlo tolerance is needed."""
    model, _, x = pair()
    guide = Exact(model, x)
    log_evidence = pv.analytic(model, x).log_evidence.sum()
    for K in (2, 7):
        assert make(K).loss(model, guide, x) == pytest.approx(-float(log_evidence), rel=1e-10)


@pytest.mark.parametrize("name", ["doubly reparameterised", "path derivative"])
def test_gradient_vanishes_for_every_draw_where_the_guide_is_exact(name):
    model, _, x = pair()
    guide = Exact(model, x)
    OBJECTIVES[name](3).loss_and_grads(model, guide, x)
    assert max(float(p.grad.abs().max()) for p in guide.parameters()) < 1e-10
    OBJECTIVES["beta"](3).loss_and_grads(model, guide, x)  # the plain gradient does not vanish
    assert max(float(p.grad.abs().max()) for p in guide.parameters()) > 1e-2


def mean_gradient(objective, model, guide, x, repeats=1500):
    """Mean and standard error of the gradient along fixed directions, one for the model and one for the guide."""
    generator = torch.Generator().manual_seed(3)
    parts = [list(model.parameters()), list(guide.parameters())]
    directions = [[torch.randn(p.shape, generator=generator) for p in part] for part in parts]
    values = []
    for _ in range(repeats):
        loss = objective.differentiable_loss(model, guide, x)
        grads = torch.autograd.grad(loss, parts[0] + parts[1], allow_unused=True)
        grads = [grads[: len(parts[0])], grads[len(parts[0]) :]]
        values.append(
            [sum((g * d).sum() for g, d in zip(*pairs, strict=True)) for pairs in zip(grads, directions, strict=True)]
        )
    values = torch.tensor(values)
    return values.mean(0), values.std(0) / math.sqrt(repeats)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (objectives.DoublyReparameterisedELBO(num_particles=4), objectives.ImportanceWeightedELBO(num_particles=4)),
        (objectives.PathDerivativeELBO(), pyro.infer.Trace_ELBO()),
        (objectives.BetaELBO(), pyro.infer.TraceMeanField_ELBO()),
    ],
    ids=["doubly reparameterised", "path derivative", "closed-form KL"],
)
def test_estimators_of_one_objective_agree(one, other):
    """The same expected gradient, of the model's and of the guide's parameters, within 5 standard errors."""
    guide = guides.DiagonalGaussian(mlp(D, 2 * L))
    model, guide, x = pair(guide)
    (a, sa), (b, sb) = (mean_gradient(objective, model, guide, x, 250) for objective in (one, other))
    assert float(((a - b).abs() / (sa**2 + sb**2).sqrt()).max()) < 5


def test_doubly_reparameterised_gradient_is_the_less_noisy_one():
    model, guide, x = pair()
    noise = [
        mean_gradient(objective(num_particles=64), model, guide, x, 100)[1][1]
        for objective in (objectives.DoublyReparameterisedELBO, objectives.ImportanceWeightedELBO)
    ]
    assert float(noise[0]) < 0.5 * float(noise[1])


def test_two_level_gradients_agree():
    """Where one latent site depends on another, the leaves are set in both."""
    model = pv.Model(hierarchical(), likelihoods.Gaussian(mlp(1, D), scale=0.7))
    x = torch.randn(N, D)
    for make in TWO_LEVEL_GUIDES.values():
        guide = make(1, D, N, model)
        (a, sa), (b, sb) = (
            mean_gradient(objective, model, guide, x, 150)
            for objective in (objectives.PathDerivativeELBO(), pyro.infer.Trace_ELBO())
        )
        assert float(((a - b).abs() / (sa**2 + sb**2).sqrt()).max()) < 5


def test_renyi_agrees_with_pyro_and_joins_its_limits():
    model, guide, x = pair()
    for alpha in (0.0, 0.5, 2.0, -1.0):
        losses = []
        for elbo in (
            objectives.RenyiELBO(alpha=alpha, num_particles=6, max_plate_nesting=1),
            pyro.infer.RenyiELBO(alpha=alpha, num_particles=6, vectorize_particles=True, max_plate_nesting=1),
        ):
            pyro.set_rng_seed(1)
            losses.append(elbo.loss(model, guide, x))
        assert losses[0] == pytest.approx(losses[1], rel=1e-10)
    pyro.set_rng_seed(1)
    iwae = objectives.ImportanceWeightedELBO(num_particles=6).loss(model, guide, x)
    pyro.set_rng_seed(1)
    assert objectives.RenyiELBO(alpha=0.0, num_particles=6).loss(model, guide, x) == pytest.approx(iwae, rel=1e-12)


def test_importance_bound_rises_with_the_particles():
    model, guide, x = pair()
    truth = float(pv.analytic(model, x).log_evidence.sum())
    runs = [mean_loss(objectives.ImportanceWeightedELBO(num_particles=K), model, guide, x) for K in (1, 5, 50)]
    (one, error), (five, _), (fifty, last) = runs
    assert -one + 5 * error < -five < -fifty - 5 * last
    assert -fifty < truth + 5 * last


def test_vectorised_and_sequential_particles_agree():
    model, guide, x = pair()
    for make in (objectives.ImportanceWeightedELBO, objectives.PathDerivativeELBO, objectives.FreeBitsELBO):
        (a, sa), (b, sb) = (
            mean_loss(make(num_particles=5, vectorize_particles=vectorised), model, guide, x)
            for vectorised in (True, False)
        )
        assert abs(a - b) < 6 * math.hypot(sa, sb)  # 12 repeats: a t statistic's tail


def test_wake_sleep_moves_a_guide_without_reparameterised_draws():
    """The guide's gradient is minus the mean of the inclusive KL's: zero mean where q is the posterior."""
    model, _, x = pair()
    guide = Exact(model, x)
    values = []
    for _ in range(200):
        loss = objectives.ReweightedWakeSleep(num_particles=20).differentiable_loss(model, guide, x)
        values.append(torch.autograd.grad(loss, guide.loc)[0].sum())
    values = torch.stack(values)
    assert abs(float(values.mean())) < 5 * float(values.std()) / math.sqrt(200)
    objectives.ReweightedWakeSleep(num_particles=5).loss_and_grads(model, Unreparameterised(mlp(D, 2 * L)), x)


def test_weights_are_per_datum():
    """One datum's weights must not depend on the other data in the batch, as they do in Pyro's wake-sleep."""
    model, guide, x = pair()
    for make in (objectives.ImportanceWeightedELBO, objectives.ReweightedWakeSleep):
        whole, error = mean_loss(make(num_particles=5), model, guide, x)
        singles = [mean_loss(make(num_particles=5), model, guide, x[n : n + 1]) for n in range(N)]
        apart, apart_error = sum(mean for mean, _ in singles), math.hypot(*(error for _, error in singles))
        assert abs(whole - apart) < 6 * math.hypot(error, apart_error)


@torch.no_grad()
def test_beta_and_schedules_weigh_the_kl_term():
    model, guide, x = pair(guides.DiagonalGaussian(mlp(D, 2 * L)))
    kl = float(torch.distributions.kl_divergence(guide.posterior(x), model.prior().expand([N])).sum())
    base, base_error = mean_loss(objectives.BetaELBO(0.0), model, guide, x)
    for beta in (1.0, 4.0):
        mean, error = mean_loss(objectives.BetaELBO(beta), model, guide, x)
        assert abs(mean - base - beta * kl) < 6 * math.hypot(error, base_error)


def test_schedules_count_gradient_steps():
    model, guide, x = pair()
    scheduled = objectives.BetaELBO(objectives.warm_up(4))
    weights = []
    for _ in range(6):
        weights.append(scheduled.weight)
        scheduled.loss_and_grads(model, guide, x)
        scheduled.loss(model, guide, x)  # looking does not count
    assert weights == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_free_bits_hold_the_kl_at_the_floor():
    model, guide, x = pair(guides.DiagonalGaussian(mlp(D, 2 * L)))
    with torch.no_grad():
        q, p = guide.posterior(x), model.prior()
        kl = torch.distributions.kl_divergence(q.base_dist, p.base_dist).mean(0)
        floor = float(kl.sort().values.mean())  # between the two dimensions
        expected = N * kl.clamp_min(floor).sum()
    for K in (1, 3):
        (held, error), (plain, plain_error) = (
            mean_loss(objectives.FreeBitsELBO(bits, num_particles=K), model, guide, x) for bits in (floor, 0.0)
        )
        assert abs(held - plain - float(expected - N * kl.sum())) < 6 * math.hypot(error, plain_error)


def under(program, scale, keep=None):
    """The program with every site's density scaled, and only the data of ``keep`` counted."""

    def run(x):
        with pyro.poutine.scale(scale=scale), pyro.poutine.mask(mask=True if keep is None else keep):
            return program(x)

    return run


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name != "free bits"])  # a floor under draws' KL
def test_scale_and_mask_of_sites_are_honoured(name):
    """With one particle every objective is an ELBO, so scale times that of the data kept; two weights are equal."""
    model, _, x = pair()
    guide = Exact(model, x)
    keep = torch.tensor([True, False, True, True])
    expected = -0.3 * pv.analytic(model, x).log_evidence[keep].sum()
    programs = [under(program, 0.3, keep) for program in (model, guide)]
    found = OBJECTIVES[name](2 if name == "wake-sleep" else 1).loss(*programs, x)
    assert found == pytest.approx(float(expected), rel=1e-10)


@torch.no_grad()
@pytest.mark.parametrize("keep", [None, torch.tensor([True, False, True, True])])
@pytest.mark.parametrize("scale", [0.3, torch.tensor([0.25, 2.0, 0.75, 1.5])])
def test_free_bits_weigh_closed_form_and_floor_as_pyros_mean_field_elbo_does(keep, scale):
    model, guide, x = pair(guides.DiagonalGaussian(mlp(D, 2 * L)))
    programs = [under(program, scale, keep) for program in (model, guide)]
    losses = []
    for objective in (objectives.FreeBitsELBO(0.0), pyro.infer.TraceMeanField_ELBO(), objectives.FreeBitsELBO(50.0)):
        pyro.set_rng_seed(1)
        losses.append(objective.loss(*programs, x))
    assert losses[0] == pytest.approx(losses[1], rel=1e-10)
    weight = scale * torch.ones(N) * (1.0 if keep is None else keep)
    kl = torch.distributions.kl_divergence(guide.posterior(x).base_dist, model.prior().base_dist).sum(-1)
    assert losses[2] - losses[0] == pytest.approx(float((weight * (50.0 * L - kl)).sum()), rel=1e-10)


def test_kl_warm_up_reaches_the_closed_form_kl():
    """Trained with a warm-up, free bits of 0 go where Pyro's closed-form ELBO goes, and not where no warm-up does."""
    ends = []
    for objective, epochs in (
        (objectives.FreeBitsELBO(0.0), 20),
        (pyro.infer.TraceMeanField_ELBO(), 20),
        (objectives.FreeBitsELBO(0.0), 0),
    ):
        pyro.set_rng_seed(4)
        model, guide, x = pair(guides.DiagonalGaussian(mlp(D, 2 * L)))
        settings = {"epochs": 5, "lr": 1e-2, "validation": None, "compile": False, "progress": False}
        pv.fit(model, guide, x, loss=objective, kl_warmup=epochs, **settings)
        ends.append(torch.cat([p.detach().flatten() for p in guide.parameters()]))
    torch.testing.assert_close(ends[0], ends[1])
    assert float((ends[0] - ends[2]).abs().max()) > 1e-3


@pytest.mark.parametrize("make", OBJECTIVES.values(), ids=OBJECTIVES.keys())
def test_works_in_svi_and_in_fit(make):
    model, guide, x = pair()
    svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), loss=make(3))
    before = [p.detach().clone() for p in (*model.parameters(), *guide.parameters())]
    for _ in range(3):
        assert math.isfinite(svi.step(x))
    assert all(bool((p != b).any()) for p, b in zip((*model.parameters(), *guide.parameters()), before, strict=True))
    history = pv.fit(model, guide, x, loss=make(3), epochs=2, batch_size=2, validation=None, progress=False)
    assert all(math.isfinite(value) for value in history.train_elbo)


@pytest.mark.parametrize("make", OBJECTIVES.values(), ids=OBJECTIVES.keys())
def test_the_value_needs_no_gradient(make):
    """What fit does on held-out data, and SVI.evaluate_loss: the same value from the same draws."""
    model, guide, x = pair()
    values = []
    for gradient in (True, False):
        pyro.set_rng_seed(2)
        with torch.set_grad_enabled(gradient):
            values.append(float(make(3).differentiable_loss(model, guide, x).detach()))
    pyro.set_rng_seed(2)
    svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), loss=make(3))
    assert values[0] == pytest.approx(values[1], rel=1e-12)
    assert svi.evaluate_loss(x) == pytest.approx(values[0], rel=1e-12)
    history = pv.fit(model, guide, x, loss=make(3), epochs=1, validation=x, progress=False)
    assert math.isfinite(history.validation_elbo[0])


def test_wake_sleep_refuses_a_point_mass():
    model, _, x = pair()
    with pytest.raises(ValueError, match=r"a guide with a density.*point mass at site 'z'.*finds the mode"):
        objectives.ReweightedWakeSleep(num_particles=2).loss(model, guides.PointMass(mlp(D, L)), x)


def test_trains_a_linear_model_to_its_optimum():
    """The path-derivative gradient's noise dies at the optimum: the guide reaches the posterior to 1e-3 nats."""
    model, guide, x = pair()
    model.requires_grad_(False)
    guide = guides.PerDatumFullCovarianceGaussian(N, latent_dim=L)
    optimiser = torch.optim.Adam(guide.parameters(), lr=0.1)
    objective = objectives.PathDerivativeELBO(num_particles=4)
    for step in range(300):
        optimiser.param_groups[0]["lr"] = 0.1 * 0.98**step
        optimiser.zero_grad()
        objective.loss_and_grads(model, guide, x)
        optimiser.step()
    exact, q = pv.analytic(model, x), guide.posterior(x)
    exact = dist.MultivariateNormal(exact.mean, scale_tril=exact.scale_tril)
    assert float(torch.distributions.kl_divergence(q, exact).detach().max()) < 1e-3


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: objectives.RenyiELBO(alpha=1.0), "Trace_ELBO"),
        (lambda: objectives.ReweightedWakeSleep(num_particles=1), "at least 2"),
        (lambda: objectives.BetaELBO(-1.0), "at least 0"),
        (lambda: objectives.BetaELBO("4"), "a schedule; got '4'"),
        (lambda: objectives.FreeBitsELBO(-1.0), "at least 0"),
        (lambda: objectives.cyclical(4, ramp=0.0), "ramp"),
        (lambda: objectives.warm_up(0), "at least 1"),
    ],
)
def test_bad_numbers_are_a_sentence(make, says):
    with pytest.raises(ValueError, match=says):
        make()


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name != "wake-sleep"])
def test_a_guide_without_reparameterised_draws_is_refused(name):
    model, _, x = pair()
    with pytest.raises(ValueError, match=r"reparameterised draws.*ReweightedWakeSleep"):
        OBJECTIVES[name](3).loss(model, Unreparameterised(mlp(D, 2 * L)), x)
