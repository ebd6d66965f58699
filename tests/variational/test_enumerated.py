"""Training with discrete sites that the guide leaves out: they are summed in the ELBO, or the ELBO is refused."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from pyro.infer.autoguide import AutoNormal

import pyro_vae as pv
from pyro_vae.inference.compiled.backend import NotTraceableError
from pyro_vae.inference.compiled.kl_weight import KLWeight
from pyro_vae.inference.variational.enumerated import EnumeratedELBO, fitting_loss, outside_the_kl
from pyro_vae.inference.variational.training_input import check_guide
from tests import discrete_programs as programs
from tests.truth import STANDARD_ERRORS


def _undeclared(x):
    with pyro.plate("data", len(x)):
        c = pyro.sample("c", dist.Categorical(torch.tensor([0.2, 0.5, 0.3])))
        z = pyro.sample("z", dist.Normal(torch.tensor([-2.0, 0.0, 2.0])[c], 0.5))
        pyro.sample("x", dist.Normal(z + 0.2 * c, 0.8), obs=x)


def _guide(x):
    loc, scale = pyro.param("loc", torch.zeros(len(x))), pyro.param("scale", torch.tensor(0.6))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(loc, scale))


@pytest.mark.parametrize("declared", [True, False])
def test_each_draw_of_the_elbo_is_the_targets_density_over_the_guides(declared, float64):
    program = pyro.infer.config_enumerate(_undeclared) if declared else _undeclared
    if declared:
        loss = fitting_loss(None, check_guide(program, _guide, programs.X))
        target = pv.Target(program, programs.X)
    else:
        with pytest.warns(UserWarning, match="summing out the discrete sites c"):
            loss = fitting_loss(None, check_guide(program, _guide, programs.X))
        with pytest.warns(UserWarning, match="summing out the discrete sites c"):
            target = pv.Target(program, programs.X)
    assert isinstance(loss, EnumeratedELBO)
    loss.loss(program, _guide, programs.X)  # Pyro counts plates at the first call, by a run of its own
    pyro.set_rng_seed(1)
    value = loss.loss(program, _guide, programs.X)
    pyro.set_rng_seed(1)
    q = pyro.poutine.trace(_guide).get_trace(programs.X)
    z = q.nodes["z"]["value"].detach()
    expected = target.log_joint(z.unsqueeze(-1)).sum() - q.log_prob_sum().detach()
    assert -value == pytest.approx(float(expected), rel=1e-10)


def test_fit_learns_a_mixture_and_leaves_its_components_out_of_the_guide(float64):
    class Mixture(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.loc = torch.nn.Parameter(torch.tensor([-1.0, 1.0]))

        def forward(self, x):
            pyro.module("mixture", self)
            with pyro.plate("data", len(x)):
                c = pyro.sample("c", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
                z = pyro.sample("z", dist.Normal(self.loc[c.long()].unsqueeze(-1), 0.3).to_event(1))
                pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x)

    c = torch.rand(200) < 0.3
    x = (torch.where(c, 2.0, -2.0) + (0.3**2 + 0.5**2) ** 0.5 * torch.randn(200)).unsqueeze(-1)
    model, guide = Mixture(), pv.guides.DiagonalGaussian(pv.networks.mlp(1, 8, 2))
    history = pv.fit(model, guide, x, epochs=30, batch_size=50, lr=5e-2, progress=False, compile="auto")
    assert "too few" in history.engine
    means = torch.stack([x[~c].mean(), x[c].mean()])
    error = STANDARD_ERRORS * torch.tensor([0.58 / 140**0.5, 0.58 / 60**0.5])
    assert bool(((model.loc - means).abs() < error).all())
    target = pv.Target(model, x)
    z = guide.posterior(x).sample((20,))
    guessed = target.compute_marginals(z)["c"].mean(0).argmax(-1).bool()
    assert float((guessed == c).double().mean()) > 0.98


def test_an_automatic_guide_over_the_continuous_sites_fits_a_whole_program(float64):
    guide = AutoNormal(pyro.poutine.block(programs.changepoint, hide=["when"]))
    pv.fit(programs.changepoint, guide, programs.X, epochs=3, batch_size=3, validation=None, progress=False)
    found = pv.compare(programs.changepoint, programs.X, {"VI": guide}, num_samples=50)
    assert "VI" in str(found)


def test_an_elbo_that_sums_nothing_out_is_refused(float64):
    guide, program = _guide, programs.per_datum
    with pytest.raises(
        ValueError, match=r"sums discrete sites out; got Trace_ELBO, and a guide without \['c'\]; try loss"
    ):
        fitting_loss(Trace_ELBO(), check_guide(program, guide, programs.X))
    own = TraceEnum_ELBO(max_plate_nesting=1)
    assert fitting_loss(own, check_guide(program, guide, programs.X)) is own
    with pytest.raises(ValueError, match=r"enumeration of \['c'\] declared"):
        fitting_loss(own, check_guide(_undeclared, guide, programs.X))


@pyro.infer.config_enumerate
def _seen(x):
    """x depends on c, z does not."""
    with pyro.plate("data", len(x)):
        c = pyro.sample("c", dist.Categorical(torch.tensor([0.2, 0.5, 0.3])))
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z + 2.0 * c, 0.8), obs=x)


@pyro.infer.config_enumerate
def _seen_and_hidden(x):
    with pyro.plate("data", len(x)):
        c = pyro.sample("c", dist.Bernoulli(0.3))
        z = pyro.sample("z", dist.Normal(c, 1.0))
        pyro.sample("x", dist.Normal(z + c, 0.8), obs=x)


@pytest.mark.parametrize("program", [_seen, programs.per_datum])
def test_a_kl_warm_up_weighs_the_latent_sites_and_not_what_is_summed_of_the_data(program, float64):
    x = programs.X
    loss, weight = fitting_loss(None, check_guide(program, _guide, x)), 0.25
    spared = outside_the_kl(loss, (program, _guide), (x,), check_guide(program, _guide, x))
    assert spared == ({"c"} if program is _seen else set())
    kl_weight = KLWeight(weight, spared)
    pyro.set_rng_seed(1)
    value = loss.loss(kl_weight(program), kl_weight(_guide), x)
    pyro.set_rng_seed(1)
    q = pyro.poutine.trace(_guide).get_trace(x)
    log_prior, log_likelihood = pv.Target(program, x).log_parts(q.nodes["z"]["value"].detach().unsqueeze(-1))
    if program is _seen:  # by hand: p(z) is standard normal
        expected = dist.Normal(0.0, 1.0).log_prob(q.nodes["z"]["value"]).detach()
        torch.testing.assert_close(log_prior, expected)
    expected = weight * (log_prior.sum() - q.log_prob_sum().detach()) + log_likelihood.sum()
    assert -value == pytest.approx(float(expected), rel=1e-10)
    quiet = {"validation": None, "progress": False, "compile": False}
    history = pv.fit(program, _guide, x, epochs=3, batch_size=3, kl_warmup=2, **quiet)
    assert len(history.train_elbo) == 3


def test_a_kl_warm_up_of_a_sum_that_holds_both_is_refused(float64):
    with pytest.raises(ValueError, match=r"the sum over \['c'\] does not mix with the data; .*try kl_warmup=0"):
        pv.fit(_seen_and_hidden, _guide, programs.X, epochs=3, batch_size=3, kl_warmup=2, validation=None)


def test_an_amortised_guide_over_components_and_latents_is_enumerated(float64):
    """The mixture prior of a VAE with q(c|x) q(z|x): the components found are those of the exact posterior."""
    prior = pv.priors.DiscreteMixture(1, num_components=2)
    with torch.no_grad():
        prior.loc.copy_(torch.tensor([[-2.0], [2.0]]))
    decoder = torch.nn.Linear(1, 2).requires_grad_(False)
    decoder.weight.copy_(torch.tensor([[1.0], [1.5]]))
    model = pv.Model(prior.requires_grad_(False), pv.likelihoods.Gaussian(decoder, scale=0.5))

    class Both(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.z, self.c = pv.guides.DiagonalGaussian(pv.networks.mlp(2, 8, 2)), torch.nn.Linear(2, 2)

        def forward(self, x):
            pyro.module("both", self)
            with pyro.plate("data", len(x)):
                logits = self.c(x)
                pyro.sample("c", dist.Categorical(logits=logits), infer={"enumerate": "parallel"})
                pyro.sample("z", self.z.posterior(x))

    x, guide = model.sample(60)["x"], Both()
    loss = pyro.infer.TraceEnum_ELBO(max_plate_nesting=1)
    quiet = {"validation": None, "progress": False, "compile": False, "loss": loss}
    history = pv.fit(model, guide, x, epochs=150, batch_size=30, lr=3e-2, **quiet)
    truth = pv.quadrature(model, x)
    evidence = float(truth.log_evidence.mean())
    assert evidence - 1.0 < history.train_elbo[-1] < evidence + 0.2  # one draw a datum
    exact = truth.compute_marginals()["c"]
    sure = (exact - 0.5).abs().amax(-1) > 0.4
    assert torch.equal(guide.c(x).argmax(-1)[sure], exact.argmax(-1)[sure])


def test_a_compiled_step_leaves_a_guide_that_samples_discretely_to_pyro(float64):
    def guide(x):
        logits = pyro.param("logits", torch.zeros(2))
        with pyro.plate("data", len(x)):
            pyro.sample("c", dist.Categorical(logits=logits), infer={"enumerate": "parallel"})

    def model(x):
        loc = pyro.param("loc", torch.tensor([-1.0, 1.0]))
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(torch.ones(2)))
            pyro.sample("x", dist.Normal(loc[c], 1.0), obs=x)

    quiet = {"epochs": 3, "batch_size": 3, "compile": True, "validation": None, "progress": False}
    with pytest.raises(NotTraceableError, match="'c' has no reparametrised sample"):
        pv.fit(model, guide, torch.randn(12), loss=pyro.infer.TraceEnum_ELBO(max_plate_nesting=1), **quiet)
