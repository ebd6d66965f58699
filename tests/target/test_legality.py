"""Which programs are legal: programs as Pyro's own tests and examples have them, with Pyro as the oracle."""

import math
import re

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch.distributions import biject_to, constraints

import pyro_vae as pv
from pyro_vae import Target
from pyro_vae.evaluation.evidence.path import AnnealingPath
from pyro_vae.inference.target.supports import bijection


def _pareto(x):
    """The support of the data moves with a latent: x in (0, theta)."""
    theta = pyro.sample("theta", dist.Gamma(3.0, 1.0))
    with pyro.plate("points", len(x)):
        pyro.sample("x", dist.Uniform(0.0, theta), obs=x)


def _scaled_pareto(x):
    """Its density below the scale is a number, and wrong: only the support says that it is zero."""
    low = pyro.sample("low", dist.Gamma(3.0, 1.0))
    with pyro.plate("points", len(x)):
        pyro.sample("x", dist.Pareto(low, 2.0), obs=x)


def _pyros(program, args, values):
    """Pyro's own log joint at values of the latent sites."""
    with pyro.validation_enabled(False):
        trace = poutine.trace(poutine.condition(program, data=values)).get_trace(*args)
        return float(trace.log_prob_sum())


def _agrees_with_pyro(target, args, *, num_draws=4):
    """log p(x, u) - log |dz/du| is Pyro's log joint at constrain(u)."""
    u = target.sample_prior(num_draws)
    values = target.constrain(u)
    log_joint = (target.log_joint(u) - target.log_jacobian(u)).squeeze(-1)
    for i in range(num_draws):
        one = {name: value[i] for name, value in values.items()}
        assert float(log_joint[i].sum()) == pytest.approx(_pyros(target.model, args, one), rel=1e-10)


@pytest.mark.parametrize("program", [_pareto, _scaled_pareto])
def test_acceptance_does_not_hang_on_the_random_stream(program, float64):
    x = torch.tensor([0.5, 2.9])
    for seed in range(50):
        pyro.set_rng_seed(seed)
        Target(program, x)


def test_data_outside_a_moving_support_have_likelihood_zero(float64):
    x = torch.tensor([0.5, 2.9])
    u = torch.tensor([2.0, 4.0]).log().reshape(2, 1, 1)
    prior = dist.Gamma(3.0, 1.0).log_prob(u.exp()).squeeze(-1) + u.squeeze(-1)
    below, above = Target(_pareto, x).log_likelihood(u).flatten()
    assert float(below) == -math.inf
    assert float(above) == pytest.approx(-2 * math.log(4))
    below, above = Target(_scaled_pareto, x + 2).log_likelihood(u).flatten()  # 2.5 and 4.9: above 2, not above 4
    assert float(below) == pytest.approx(float(dist.Pareto(2.0, 2.0).log_prob(x + 2).sum()))
    assert float(above) == -math.inf
    for program in (_pareto, _scaled_pareto):
        target = Target(program, x + 2)
        for beta in (0, 0.0, torch.zeros(2, 1)):
            torch.testing.assert_close(target.log_joint(u, beta=beta), prior)
            _, grad = target.value_and_grad(u, beta=beta)
            torch.testing.assert_close(grad.squeeze(-1), 3.0 - u.exp().squeeze(-1))
        tempered = target.log_joint(u, beta=torch.tensor([[0.0], [0.5]]))
        torch.testing.assert_close(tempered[0], prior[0])
        torch.testing.assert_close(tempered[1], target.log_joint(u[1], beta=0.5))


def test_a_moving_support_has_its_posterior(float64):
    """Gamma(3, 1) and n uniforms give p(theta | x) ~ theta^(2 - n) exp(-theta) above max x."""
    truth = pv.quadrature(_pareto, torch.tensor([0.5, 2.9]), max_points=2**16)
    exact = -2.9 - math.log(2)  # integral of theta^2 e^-theta / 2 * theta^-2 above 2.9
    assert abs(float(truth.log_evidence) - exact) <= float(truth.error_bound) + 1e-9


def test_a_support_that_stays_is_still_checked():
    def program(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Exponential(z.exp()), obs=x)

    with pytest.raises(ValueError, match="support of Exponential"):
        Target(program, -torch.ones(3))


@pytest.mark.parametrize("name", ["categorical", "ordered logistic"])
def test_a_gap_among_categories_gets_a_sentence(name):
    """NaN is no category, so to ask for its density would be torch's error about an index."""
    from tests.table_of_parts import LIKELIHOODS

    make, data = LIKELIHOODS[name]
    x = torch.full_like(data(4, 3), math.nan)
    with pytest.raises(ValueError, match="x to be finite"):
        Target(pv.Model(pv.priors.StandardNormal(2), make(2, 3)), x)


# -- plates -----------------------------------------------------------------------------------------------------------


def _schools(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("school", len(y)):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, 10.0), obs=y)


def _logistic(x, y):
    """Logistic regression as Pyro's tests of NUTS have it: coefficients outside, no plate."""
    beta = pyro.sample("beta", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    return pyro.sample("y", dist.Bernoulli(logits=(beta * x).sum(-1)), obs=y)


def _beta_bernoulli(x):
    p = pyro.sample("p", dist.Beta(torch.full((2,), 1.1), torch.full((2,), 1.1)))
    pyro.sample("x", dist.Bernoulli(p), obs=x)


def _gamma_normal(x):
    rate = torch.tensor([1.0, 1.0])
    p = pyro.sample("p", dist.Gamma(torch.tensor([1.0, 1.0]), rate))
    pyro.sample("x", dist.Normal(3.0, p), obs=x)


def _dirichlet_categorical(x):
    p = pyro.sample("p", dist.Dirichlet(torch.tensor([1.0, 2.0, 3.0])))
    pyro.sample("x", dist.Categorical(p), obs=x)


def _two_plates(x):
    """A plate around some latents, another around the data."""
    with pyro.plate("groups", 3):
        mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
    with pyro.plate("rows", len(x), dim=-2), pyro.plate("columns", 3, dim=-1):
        pyro.sample("x", dist.Normal(mean, scale), obs=x)


def _sequential(x):
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    for i in pyro.plate("observations", len(x)):
        pyro.sample(f"x_{i}", dist.Normal(mean, 1.0), obs=x[i])


def _factor(x):
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0).mask(False))
    pyro.factor("x", dist.Normal(mean, 1.0).log_prob(x).sum())


def _sequential_latents(x):
    for i in pyro.plate("observations", len(x)):
        z = pyro.sample(f"z_{i}", dist.Normal(0.0, 1.0))
        pyro.sample(f"x_{i}", dist.Normal(z, 1.0), obs=x[i])


def _local(x):
    """Every latent in a plate of another name."""
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


WHOLE = {
    "schools": (_schools, lambda: (torch.randn(8),)),
    "logistic": (_logistic, lambda: (torch.randn(20, 3), torch.ones(20))),
    "beta": (_beta_bernoulli, lambda: (torch.ones(100, 2),)),
    "gamma": (_gamma_normal, lambda: (torch.randn(200, 2),)),
    "dirichlet": (_dirichlet_categorical, lambda: (torch.tensor([0, 1, 2, 2]),)),
    "two plates": (_two_plates, lambda: (torch.randn(5, 3),)),
    "sequential": (_sequential, lambda: (torch.randn(4),)),
    "factor": (_factor, lambda: (torch.randn(4),)),
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_program_without_a_data_plate_is_one_posterior_with_pyros_density(name, float64):
    program, make = WHOLE[name]
    args = make()
    target = Target(program, args)
    assert (target.num_data, target.per_datum) == (1, False)
    _agrees_with_pyro(target, args)


@pytest.mark.parametrize("name", [*WHOLE, "local", "sequential latents"])
def test_mcmc_in_pyros_manner_takes_every_program(name, float64):
    others = {
        "local": (_local, lambda: (torch.randn(4),)),
        "sequential latents": (_sequential_latents, lambda: (torch.randn(3),)),
    }
    program, make = (WHOLE | others)[name]
    args = make()
    pyro.set_rng_seed(0)
    settings = {"num_samples": 5, "warmup_steps": 5, "num_chains": 2, "disable_progbar": True, "compile": False}
    mcmc = pv.infer.MCMC(pv.NUTS(program, max_tree_depth=4), **settings)
    mcmc.run(*args)
    with pyro.validation_enabled(False):
        trace = poutine.trace(program).get_trace(*args)
    for site, value in mcmc.get_samples().items():
        assert value.shape == (10, *trace.nodes[site]["value"].shape)


def test_a_plate_of_another_name_around_all_latents_must_be_named():
    words = re.escape("plate named 'data'; got plates ['rows']; try plate='rows', or plate=None")
    with pytest.raises(ValueError, match=words):
        Target(_local, torch.randn(4))
    with pytest.raises(ValueError, match="plate named 'dta'"):
        Target(_schools, torch.randn(8), plate="dta")
    with pytest.raises(ValueError, match="plate named 'row'"):
        pv.infer.MCMC(pv.NUTS(_local), 5, plate="row", disable_progbar=True).run(torch.randn(4))
    assert Target(_local, torch.randn(4), plate="rows").num_data == 4
    assert Target(_local, torch.randn(4), plate=None).num_data == 1


def test_the_whole_posterior_is_the_product_of_the_plates(float64):
    x, u = torch.randn(4), torch.randn(3, 4, 1)
    apart = Target(_local, x, plate="rows").log_joint(u).sum(-1)
    torch.testing.assert_close(Target(_local, x, plate=None).log_joint(u.mT).squeeze(-1), apart)


def test_a_subsampled_plate_is_refused_whichever_posterior_is_meant():
    def program(x):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(x), subsample_size=2) as index:
            pyro.sample("x", dist.Normal(mean, 1.0), obs=x[index])

    for plate in ("data", None):
        with pytest.raises(ValueError, match="2 of 5 rows"):
            Target(program, torch.randn(5), plate=plate)


# -- shapes -----------------------------------------------------------------------------------------------------------


def test_data_broadcast_against_a_distribution_outside_plates_as_in_pyro(float64):
    target = Target(_gamma_normal, torch.randn(2000, 2))
    by_site = target.log_likelihood_by_site(target.origin)["x"]
    assert by_site.shape == (2000, 2)
    with pytest.raises(ValueError, match=r"data of shape \(2,\) at site 'x'"):
        Target(_gamma_normal, torch.randn(2000, 3))


def test_data_in_a_plate_have_its_shape():
    def program(x):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(mean, 1.0), obs=x)

    with pytest.raises(ValueError, match=r"data of shape \(5,\) at site 'x'.*got \(5, 1\)"):
        Target(program, torch.randn(5, 1))  # (5, 5) densities, were it let through


def test_a_chain_that_ran_away_has_no_density_also_where_a_prior_was_expanded_before():
    """expand keeps the validation of its day: PyroSample's priors would raise at NaN, and print all chains."""
    expanded = dist.Normal(0.0, 1.0).expand([1]).to_event(1)

    def program(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", expanded)
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    x = torch.zeros(2, 1)
    found = Target(program, x).log_joint(torch.tensor([[0.0], [math.nan]]))
    assert found.isnan().tolist() == [False, True]
    with pytest.raises(ValueError, match="within the support"):  # the user's own object checks as before
        expanded.log_prob(torch.tensor([math.nan]))
    path = AnnealingPath(Target(program, x), dist.Normal(torch.zeros(2, 1), 1.0).expand([2, 1]).to_event(1))
    assert path.ends(torch.tensor([[[0.0], [math.nan]]])).first.isnan().tolist() == [[False, True]]


def test_a_covariance_that_cannot_be_factored_somewhere_is_called_that():
    """A Gaussian process whose length scale is tried far out: the vectorised run is not to blame."""

    def program(y):
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        grid = torch.linspace(0, 1, len(y))
        cov = torch.exp(-0.5 * ((grid[:, None] - grid) / scale) ** 2) + 1e-3 * torch.eye(len(y)) * scale
        pyro.sample("y", dist.MultivariateNormal(torch.zeros(len(y)), cov), obs=y)

    target = Target(program, torch.zeros(20))
    u = torch.tensor([0.0, -30.0, 90.0])[:, None, None]
    with pytest.raises(ValueError, match=r"density at every u; got .*(ositive-definite|factor).*more on the diagonal"):
        target.log_joint(u)


# -- arguments --------------------------------------------------------------------------------------------------------


def test_rows_of_data_that_no_argument_holds_are_refused():
    """The one argument of length N is not what the rows are made of."""
    data = torch.randn(4)

    def program(weights):
        with pyro.plate("data", 4):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z * weights.sum(), 1.0), obs=data)

    target = Target(program, torch.ones(4))
    with pytest.raises(ValueError, match="arguments whose rows are the data"):
        target.rows([0, 1])


@pytest.mark.parametrize("N", [2, 3])
def test_rows_of_a_plate_of_fixed_size_are_refused(N):
    """All data are alike, so that the densities of all would pass for those of one."""

    def program(weights):
        with pyro.plate("data", N):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z + 0 * weights.sum(), 1.0), obs=torch.zeros(N))

    with pytest.raises(ValueError, match="arguments whose rows are the data"):
        Target(program, torch.ones(N)).rows([0])


def test_the_argument_that_runs_over_the_data_is_found_among_those_that_could(float64):
    def program(x, table):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z * table.sum(), 1.0), obs=x)

    x, table, u = torch.randn(4), torch.rand(4), torch.randn(3, 4, 1)
    target = Target(program, (x, table))
    torch.testing.assert_close(target.rows([3, 1]).log_joint(u[:, [3, 1]]), target.log_joint(u)[:, [3, 1]])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_number_that_is_not_finite_is_named(bad):
    def program(x, scale):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, scale), obs=x)

    with pytest.raises(ValueError, match=f"argument 1 of the model to be finite; got {bad}"):
        Target(program, (torch.randn(3), torch.tensor(bad)))


def test_a_mixtures_support_has_a_bijection(float64):
    def program(x):
        mixture = dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), dist.Gamma(torch.tensor([1.0, 5.0]), 1.0))
        with pyro.plate("data", len(x)):
            s = pyro.sample("s", mixture.expand([len(x)]))
            pyro.sample("x", dist.Normal(0.0, s), obs=x)

    target = Target(program, torch.randn(3))
    assert bool(constraints.positive.check(target.constrain(torch.randn(5, 3, 1))["s"]).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_simplex_keeps_its_tails(dtype):
    """Torch's own log determinant, and beyond what y can hold the straight lines that it goes to."""
    for K in (2, 5):
        ours, theirs = bijection(constraints.simplex), biject_to(constraints.simplex)
        u = torch.randn(7, K - 1, dtype=torch.float64)
        found, wanted = (t.log_abs_det_jacobian(u, t(u)) for t in (ours, theirs))
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(ours(u), theirs(u), rtol=0, atol=0)
        for sign, slope in ((-1.0, K - 1.0), (1.0, -K * (K - 1) / 2)):
            far = sign * torch.tensor([1e4, 2e4], dtype=dtype)[:, None].expand(2, K - 1)
            near, beyond = ours.log_abs_det_jacobian(far, ours(far))
            assert float((beyond - near) / (sign * 1e4)) == pytest.approx(slope, rel=1e-3)


def test_what_vmap_cannot_do_is_told_from_what_the_program_does_wrong():
    def branching(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z if z.sum() > 0 else -z, 1.0), obs=x)

    ran = []

    def wrong(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            ran.append(z)
            if len(ran) > 3:
                raise RuntimeError("vmap: my own words")
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    with pytest.raises(ValueError, match=r"torch.vmap can vectorise; got .*last latent site reached: 'z'"):
        Target(branching, torch.zeros(3)).log_joint(torch.zeros(2, 3, 1))
    with pytest.raises(RuntimeError, match="my own words"):
        Target(wrong, torch.zeros(3)).log_joint(torch.zeros(2, 3, 1))


def test_a_program_that_observes_its_latents_alone_is_told_so():
    """As a test of Pyro's does, of a Gaussian whose density at w it observes."""

    def program(covariance):
        w = pyro.sample("w", dist.Normal(0.0, 1000.0).expand([2]).to_event(1))
        pyro.sample("obs", dist.MultivariateNormal(torch.zeros(2), covariance), obs=w)

    with pytest.raises(ValueError, match=r"\['w'\], and \['obs'\], whose numbers they determine; try .*pyro.factor"):
        Target(program, torch.eye(2))


def test_no_program_is_told_to_file_an_issue_at_torch():
    def branching(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0 if z > 0 else 2.0), obs=x)

    with pytest.raises(ValueError, match=r"control flow\.; last latent site reached: 'z'; try .*branches") as caught:
        Target(branching, torch.tensor(1.0)).log_joint(torch.zeros(2, 1, 1))
    assert "issue" not in str(caught.value)


def test_a_factor_under_a_mask_counts_where_the_mask_lets_it(float64):
    """Lifetimes, some of which are only known to be longer: the factor is the log survival of those alone."""
    t, censored = torch.tensor([0.3, 2.0, 1.1, 2.0]), torch.tensor([False, True, False, True])

    def survival(t, censored):
        scale = pyro.sample("scale", dist.HalfNormal(5.0))
        with pyro.plate("data", len(t)):
            with poutine.mask(mask=~censored):
                pyro.sample("t", dist.Exponential(1 / scale), obs=t)
            with poutine.mask(mask=censored):
                pyro.factor("longer", -t / scale)

    target = pv.Target(survival, (t, censored), plate=None)
    u = target.sample_prior(3)
    for point, found in zip(u, target.log_joint(u), strict=True):
        scale = target.constrain(point)["scale"]
        prior = dist.HalfNormal(5.0).log_prob(scale) + scale.log()  # and the Jacobian of the exponential
        expected = prior - 2 * scale.log() - t.sum() / scale
        torch.testing.assert_close(found.squeeze(), expected.squeeze())


@pytest.mark.parametrize("plate", ["data", None])
def test_a_number_as_factor_inside_a_plate_counts_once_a_row(plate, float64):
    """Data that are only seen above -2: each row has its share of the normaliser. Pyro's own sum is the oracle."""
    x = torch.tensor([0.3, -1.2, 1.9])

    def truncated(x):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(m, 1.0), obs=x)
            pyro.factor("seen", -dist.Normal(m, 1.0).cdf(torch.tensor(2.0)).log())

    target = pv.Target(truncated, x, plate=plate)
    for m in (-0.5, 0.7):
        found = target.log_joint(torch.full((1, 1), m))
        conditioned = poutine.condition(truncated, data={"m": torch.tensor(m)})
        torch.testing.assert_close(found.squeeze(), poutine.trace(conditioned).get_trace(x).log_prob_sum())


@pytest.mark.parametrize("num_data", [4, 6, 20, 1000])
def test_a_sub_sampled_plate_is_named_whatever_its_size(num_data):
    def model(x):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x), subsample_size=3) as rows:
            pyro.sample("x", dist.Normal(m, 1.0), obs=x[rows])

    with pytest.raises(ValueError, match=f"the whole plate 'data'; got 3 of {num_data} rows"):
        pv.Target(model, torch.randn(num_data))


def test_sites_that_come_and_go_are_named():
    def model(x):
        f = pyro.sample("f", dist.Normal(0.0, 1.0))
        if f > 0:
            pyro.sample("g", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(f, 1.0), obs=x)

    with pytest.raises(ValueError, match=r"same latent sites in every run; got \['g'\] in some runs only"):
        pv.Target(model, torch.tensor(0.0))
