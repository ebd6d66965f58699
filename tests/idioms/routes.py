"""Every route and measure as one check of an idiom against Pyro's own answer: a new route is one function here."""

import warnings
from dataclasses import dataclass
from functools import cache, cached_property, partial
from unittest import mock

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormal, init_to_uniform, init_to_value

import pyro_vae as pv
from pyro_vae.evaluation.evidence import annealed
from pyro_vae.inference.compiled.backend import NotTraceableError
from pyro_vae.inference.mcmc.density import LogDensity
from pyro_vae.inference.posterior import GuideSampler
from pyro_vae.inference.variational import engine
from tests.idioms.programs import make
from tests.idioms.truths import truth
from tests.truth import STANDARD_ERRORS

CHAINS = 400
ROUTES = {}


def route(check):
    """Register a check under its own name."""
    ROUTES[check.__name__] = check
    return check


@dataclass
class Case:
    """An idiom's program with what is known of it."""

    name: str

    def __post_init__(self):
        self.program, self.args = make(self.name)

    @cached_property
    def target(self):
        """The program's densities."""
        return pv.Target(self.program, self.args)

    @cached_property
    def truth(self):
        """Pyro's density on a grid."""
        return truth(self.name, self.target.per_datum)

    @cached_property
    def exact(self):
        """The posterior by quadrature, to be given to measures."""
        return pv.quadrature(self.target)

    @cached_property
    def laplace(self):
        """Laplace's approximation, held to Pyro's Hessian by its own route, to be given to measures."""
        return pv.laplace(self.target)


_CASES = {}


def case_of(name):
    """The idiom's case, kept for its other routes unless its parameters are Pyro's store's, which tests clear."""
    if name in _CASES:
        return _CASES[name]
    case = Case(name)
    if name != "ConjugateReparam" and case.target and not len(pyro.get_param_store()):
        _CASES[name] = case
    return case


def close(found, expected, tolerance):
    """Compare, and say by how much it is off."""
    torch.testing.assert_close(found, expected.to(found), rtol=0, atol=tolerance)


def within(found, expected, error):
    """Compare within standard errors."""
    off = (found - expected).abs() / error
    assert bool((off < STANDARD_ERRORS).all()), f"{off.max():.1f} standard errors"


@route
def density(case):
    """The value, the gradient and the way to the sites, all at once and one by one."""
    u = case.truth.draws(6).requires_grad_()
    expected = case.truth.log_joint(u)
    (gradient,) = torch.autograd.grad(expected.sum(), u)
    value, grad = case.target.value_and_grad(u)
    close(value, expected.detach(), 1e-9)
    close(grad, gradient, 1e-7)
    close(torch.stack([case.target.log_joint(v) for v in u.detach()]), expected.detach(), 1e-9)
    close(case.target.unconstrain(case.target.constrain(u.detach())), u.detach(), 1e-5)


@route
def mode(case):
    """A summit of Pyro's density over the sites themselves; where there is none it says so."""
    found = pv.maximum_a_posteriori(case.target)
    u = found.mean.unsqueeze(0).requires_grad_()
    height = case.truth.log_joint(u, jacobian=False)
    (gradient,) = torch.autograd.grad(height.sum(), u)
    close(found.log_joint, height[0].detach(), 1e-9)
    flat = (gradient[0].abs() < 1e-5).all(-1)
    assert torch.equal(found.converged & ~flat, torch.zeros_like(flat)), gradient
    around = case.truth.log_joint(u.detach() + 0.05 * torch.randn(200, *u.shape[1:]), jacobian=False)
    assert bool((around.amax(0) <= height[0] + 1e-9)[found.converged].all())


@route
def laplace(case):
    """The inverse of minus Pyro's Hessian, where Pyro's gradient is zero."""
    found = case.laplace
    assert bool(found.converged.all())
    for n, f in enumerate(case.truth.densities):
        u = found.mean[n]

        def height(v, f=f):
            return f(v.unsqueeze(0)).squeeze(0)

        step = 1e-4 * torch.eye(len(u))
        points = torch.cat([u + step, u - step]).requires_grad_()
        (gradient,) = torch.autograd.grad(f(points).sum(), points)
        hessian = (gradient[: len(u)] - gradient[len(u) :]) / 2e-4
        close(found.covariance_matrix[n], torch.linalg.inv(-hessian), 1e-3 * float(found.variance[n].max()))
        assert bool(((gradient[: len(u)] + gradient[len(u) :]).abs() < 1e-5).all())


@route
def quadrature(case):
    """Evidence and moments are those of a plain sum over a grid."""
    spread = 5e-3 if case.target.latent_dim < 3 else 3e-2  # of the plain sum, which has cells of 0.05 or 0.3
    close(case.exact.log_evidence, case.truth.log_evidence, spread)
    close(case.exact.mean, case.truth.mean, spread)
    close(case.exact.variance.sqrt(), case.truth.std, 2 * spread)


def _invariant(case, kernel, steps):
    """Chains that start in the posterior stay there, moments, sites and what these determine."""
    start = case.truth.draws(CHAINS)
    found = pv.mcmc(case.target, kernel=kernel, num_samples=steps, warmup_steps=0, num_chains=CHAINS, initial=start)
    constrained = {n: v if case.target.per_datum else v.squeeze(2) for n, v in found.samples.items()}
    u = case.target.unconstrain(constrained)[:, -1]
    moved = (u - start).abs().amax((-1, -2)) > 1e-3
    assert float(moved.double().mean()) > 0.6
    for power in (1, 2):
        expected = case.truth.log_weights.exp() @ case.truth.grid**power
        variance = case.truth.log_weights.exp() @ case.truth.grid ** (2 * power) - expected.square()
        within((u**power).mean(0), expected, (variance / CHAINS).sqrt())
    for name, value in determined(case, u[0]).items():
        close(found.deterministic[name][0, -1].reshape(value.shape), value, 1e-6)


def determined(case, u):
    """What Pyro's own trace of the program at u ``(N, L)`` names beside its latent sites, the data axis first."""
    values = {name: site["value"] for name, site in case.target.trace(u).items() if name in case.target.sites}
    with pyro.validation_enabled(False):
        trace = poutine.trace(poutine.condition(case.program, data=values)).get_trace(*case.args)
    known = {*case.target.sites, *case.target.observed}
    sites = {n: s for n, s in trace.nodes.items() if s["type"] == "sample" and n not in known}
    found = {n: s["value"] for n, s in sites.items() if not poutine.util.site_is_subsample(s)}
    return {
        n: v if v.shape[:1] == u.shape[:1] or not case.target.per_datum else v.expand(len(u)) for n, v in found.items()
    }


@route
def hmc(case):
    """Hamiltonian Monte Carlo leaves Pyro's density invariant."""
    _invariant(case, pv.HMC(step_size=0.2 * float(case.truth.std.min()), num_steps=6, adapt_step_size=False), 3)


@route
def nuts(case):
    """So does NUTS."""
    _invariant(case, pv.NUTS(step_size=0.3 * float(case.truth.std.min()), max_tree_depth=3, adapt_step_size=False), 2)


@route
def compiled_gradient(case):
    """The graph that long chains run, before Inductor, gives Pyro's numbers, or says why there is none."""
    density = LogDensity(case.target, compile="auto")
    u = case.truth.draws(3).requires_grad_()
    expected = case.truth.log_joint(u)
    (gradient,) = torch.autograd.grad(expected.sum(), u)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, where Inductor is imported
        from torch._inductor import compile_fx
    with mock.patch.object(compile_fx, "compile_fx", lambda graph, *_, **__: graph):
        for _ in range(2):
            value, grad = density.value_and_grad(u.detach())
            close(value, expected.detach(), 1e-8)
            close(grad, gradient, 1e-6)
    if density.engine != "compiled":
        raise NotTraceableError(density.engine)


def _guide(case):
    pyro.set_rng_seed(1)
    known = {"z": torch.ones(2, 2)} if "Improper" in case.name else {}  # Pyro does not find a start by itself
    guide = AutoNormal(case.program, init_loc_fn=init_to_value(values=known, fallback=init_to_uniform))
    with poutine.block(), pyro.validation_enabled(False):
        guide(*case.args)
    return guide


@route
def fit(case):
    """Steps on Pyro's Trace_ELBO under the same noise."""
    return _fitted(case, compile=False)


EPOCHS = 8


def _fresh(name):
    """The idiom and its guide, as they are before any step, under the noise of every fit."""
    pyro.clear_param_store()
    case = Case(name)
    guide = _guide(case)
    pyro.set_rng_seed(2)
    return case, guide, len(case.args[0])


def _with_every_prior(x):
    """What ``obs_mask`` says, where the numbers that it takes out keep their prior."""
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x_unobserved", dist.Normal(z, 0.7))
        pyro.sample("x_observed", dist.Normal(z, 0.7).mask(~x.isnan()), obs=x.nan_to_num())


@cache
def _pyros_steps(name):
    """The ELBO a datum at Pyro's own steps: one answer for the step by step and for the compiled route."""
    case, guide, N = _fresh(name)
    program = _with_every_prior if name == "obs_mask" else case.program  # of Pyro's own the ELBO has no bound
    svi = SVI(program, guide, pyro.optim.Adam({"lr": 0.02}), Trace_ELBO())
    with pyro.validation_enabled(False):
        return torch.tensor([-svi.step(*case.args) / N for _ in range(EPOCHS)])


def _fitted(case, **settings):
    expected = _pyros_steps(case.name)
    case, guide, N = _fresh(case.name)
    settings |= {"epochs": EPOCHS, "batch_size": N, "lr": 0.02, "validation": None, "progress": False}
    history = pv.fit(case.program, guide, case.args, **settings)
    close(torch.tensor(history.train_elbo), expected, 1e-5)  # Adam's epsilon meets gradients a datum, and summed
    return history


@route
def fit_compiled(case):
    """The same as one graph a step, or a word why there is none."""
    with mock.patch.object(engine, "STEPS_TO_TRACE", 3):
        history = _fitted(case, compile="auto")
    if not history.engine.startswith("one graph a step"):
        raise NotTraceableError(history.engine)


@route
def fitted_guide_as_posterior(case):
    """An automatic guide's density over u is Pyro's trace of it over the sites."""
    pyro.clear_param_store()
    guide = _guide(case)
    sampler = GuideSampler(case.target, guide)
    u, log_q = sampler.sample(4)
    for v, total in zip(u, log_q.sum(-1), strict=True):
        values = {name: site["value"] for name, site in case.target.trace(v).items() if name in case.target.sites}
        own = [(values[name], *guide._get_loc_and_scale(name)) for name in values]
        raw = case.target.layout
        sizes = {name: raw.unpack(v, site) for name, site in case.target.sites.items()}
        expected = sum(
            torch.distributions.Normal(loc, scale).log_prob(sizes[name]).sum()
            for name, (_, loc, scale) in zip(values, own, strict=True)
        )
        close(total, expected.detach(), 1e-6)


def _evidence(case, method, **settings):
    found = pv.evidence(case.target, posterior=case.exact, method=method, **settings)
    error = STANDARD_ERRORS * found.standard_error + case.exact.error_bound.clamp_max(0.2) + 5e-3
    assert bool(((found.log_evidence - case.truth.log_evidence).abs() < error).all()), found


@route
def evidence_importance(case):
    """Weights of the exact posterior are the evidence."""
    _evidence(case, "importance", num_samples=200)


@route
def evidence_elbo(case):
    """The ELBO of the exact posterior is the evidence."""
    found = pv.evidence(case.target, posterior=case.exact, method="elbo", num_samples=200)
    close(found.log_evidence, case.truth.log_evidence, 0.1 if case.target.latent_dim < 3 else 0.4)


@route
def evidence_ais(case):
    """Annealing from the prior, and from pilot chains where the prior's draws have not its density."""
    start = "chains" if case.target.improper else None
    few = partial(annealed.gaussian_start, num_temperatures=20, num_chains=16, num_moves=10)
    with mock.patch.object(annealed, "gaussian_start", few):
        _evidence(case, "ais", num_chains=24, num_temperatures=6, num_steps=1, start=start)


@route
def evidence_bridge(case):
    """Bridge sampling from draws."""
    u = case.truth.draws(600)
    values = case.target.constrain(u)
    samples = {n: (v if case.target.per_datum else v.unsqueeze(1)).unflatten(0, (4, 150)) for n, v in values.items()}
    draws = pv.Draws(samples, acceptance=torch.ones(4, case.target.num_data), plate=case.target.plate)
    found = pv.evidence(case.target, posterior=draws, method="bridge")
    error = STANDARD_ERRORS * found.standard_error + 0.02
    assert bool(((found.log_evidence - case.truth.log_evidence).abs() < error).all()), found


@route
def gaps(case):
    """Gap and ELBO of Laplace's approximation add up to the evidence."""
    ledger = pv.gaps(case.target, guide=case.laplace, family="diagonal", truth=case.exact, num_steps=5, num_samples=50)
    close(ledger.elbo + ledger.approximation + ledger.amortisation, case.exact.log_evidence, 1e-8)


@route
def compare(case):
    """The exact posterior is no nat from the truth, and Laplace's as far as Pyro's density says."""
    q = case.laplace
    scores = pv.compare(case.target, posteriors={"exact": case.exact, "q": q}, truth=case.exact, num_samples=400).scores
    close(scores["exact"].kl, torch.zeros_like(scores["exact"].kl), 0.1 if case.target.latent_dim < 3 else 0.4)
    pyro.set_rng_seed(3)
    u = q.sample((2000,))
    log_ratio = q.log_prob(u) - case.truth.log_joint(u) + case.truth.log_evidence
    fine = log_ratio.isfinite().all(0)
    error = (log_ratio.var(0) / 2000 + scores["q"].kl_error ** 2).sqrt() + 1e-3
    within(scores["q"].kl[fine], log_ratio.mean(0)[fine], error[fine])


@route
def verdict(case):
    """The exact posterior is trusted."""
    tolerance = max(0.1, float(case.exact.error_bound.max()))  # in three dimensions a grid may know no more
    judged = pv.verdict(case.target, posterior=case.exact, reference=case.exact, tolerance=tolerance, num_samples=1500)
    assert judged.decision == ["trust"] * case.target.num_data, judged.reasons


@route
def to_arviz(case):
    """Sites, what they determine, and log p(x|z) of each observed site are those of Pyro's trace."""
    found = pv.to_arviz(case.target, posterior=case.exact, num_samples=3)
    sites = {name: torch.as_tensor(found.posterior[name].to_numpy()) for name in case.target.sites}
    u = case.target.unconstrain({n: v[0] for n, v in sites.items()})
    likelihood = found.log_likelihood
    for s in range(3):
        values = {name: site["value"] for name, site in case.target.trace(u[s]).items() if name in case.target.sites}
        with pyro.validation_enabled(False):
            trace = poutine.trace(poutine.condition(case.program, data=values)).get_trace(*case.args)
        trace.compute_log_prob()
        for name in case.target.observed:
            close(torch.as_tensor(likelihood[name].to_numpy())[0, s].sum(), trace.nodes[name]["log_prob"].sum(), 1e-6)
        for name, value in determined(case, u[s]).items():
            close(torch.as_tensor(found.posterior[name].to_numpy())[0, s].reshape(value.shape), value, 1e-6)
    lp = torch.as_tensor(found.sample_stats["lp"].to_numpy())[0]
    close(lp.reshape(3, -1), case.truth.log_joint(u), 1e-6)
