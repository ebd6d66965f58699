"""The idioms of Pyro's users, one small program each: a new one is one function here and inherits every route."""

import functools

import pyro
import pyro.distributions as dist
import pyro.distributions.transforms as T
import torch
from pyro import poutine
from pyro.infer import reparam
from pyro.infer.autoguide import AutoDiagonalNormal, AutoStructured
from pyro.infer.reparam.strategies import AutoReparam, MinimalReparam
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch.distributions import constraints

X = torch.tensor([-0.6, 0.4, 1.1], dtype=torch.float64)
IDIOMS = {}  # name: (makes the program, its arguments)
BY_HAND = {}  # of idioms that Pyro's own chains, or vmap, do not take: another way of writing the same program


def idiom(name, *args):
    """Register a program, or a function without arguments that makes one, under the idiom's name."""

    def register(program):
        IDIOMS[name] = program, args or (X,)
        return program

    return register


# -- modules -------------------------------------------------------------------------------------------------------


@idiom("PyroModule, PyroSample")
class Regression(PyroModule):
    """Linear regression whose weight and bias are sites, as in Pyro's tutorial."""

    def __init__(self):
        super().__init__()
        self.linear = PyroModule[torch.nn.Linear](1, 1)
        self.linear.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, 1]).to_event(2))
        self.linear.bias = PyroSample(dist.Normal(0.0, 2.0).expand([1]).to_event(1))

    def forward(self, x):
        mean = self.linear(torch.tensor([[-1.0], [0.0], [1.0]], dtype=x.dtype)).squeeze(-1)
        pyro.deterministic("mean", mean)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mean, 0.5), obs=x)


@idiom("PyroSample of other sites, PyroParam")
class Dependent(PyroModule):
    """A site whose prior another one sets, and a constrained parameter."""

    def __init__(self):
        super().__init__()
        self.scale = PyroParam(torch.tensor(0.7), constraint=constraints.positive)
        self.top = PyroSample(lambda self: dist.Normal(0.0, 1.0))
        self.level = PyroSample(lambda self: dist.Normal(self.top, self.scale))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(self.level, self.scale), obs=x)


@idiom("to_pyro_module_")
def module_of_torch():
    network = torch.nn.Linear(1, 1)
    pyro.nn.module.to_pyro_module_(network)
    network.weight = PyroSample(dist.Laplace(0.0, 1.0).expand([1, 1]).to_event(2))
    network.bias = PyroSample(dist.Normal(0.0, 1.0).expand([1]).to_event(1))

    def program(x):
        mean = network(torch.tensor([[-1.0], [0.0], [1.0]], dtype=x.dtype)).squeeze(-1)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mean, 0.5), obs=x)

    return program


@idiom("pyro.param with constraints")
def with_parameters():
    def program(x):
        scale = pyro.param("scale", lambda: torch.tensor(0.6, dtype=x.dtype), constraint=constraints.positive)
        weights = pyro.param("weights", lambda: torch.tensor([0.3, 0.7], dtype=x.dtype), constraint=constraints.simplex)
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z @ weights, scale), obs=x)

    return program


@idiom("lift")
def lifted():
    return poutine.lift(with_parameters_only, prior={"rate": dist.Gamma(2.0, 1.0)})


def with_parameters_only(x):
    rate = pyro.param("rate", lambda: torch.tensor(1.0, dtype=x.dtype), constraint=constraints.positive)
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Exponential(rate), obs=x.abs())


# -- reparametrisers -----------------------------------------------------------------------------------------------


def reparametrised(name, config, *args):
    """Register a program under a reparametriser of its site "z"."""

    def register(program):
        IDIOMS[name] = (lambda: poutine.reparam(program, config=config())), args or (X,)
        return program

    return register


def _location(x):
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    z = pyro.sample("z", dist.Normal(loc, 0.8))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(z, 0.7), obs=x)


reparametrised("LocScaleReparam", lambda: {"z": reparam.LocScaleReparam(0.4)})(_location)


@reparametrised("LocScaleReparam, learned", lambda: {"z": reparam.LocScaleReparam(shape_params=["df"])})
def _learned_centring(x):
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    z = pyro.sample("z", dist.StudentT(5.0, loc, 0.8))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(z, 0.7), obs=x)


@reparametrised("LocScaleReparam in the data plate", lambda: {"z": reparam.LocScaleReparam(0.0)})
def _per_datum_location(x):
    with pyro.plate("data", len(x)):
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        z = pyro.sample("z", dist.Normal(loc, 0.8))
        pyro.sample("x", dist.Normal(z, 0.7), obs=x)


@reparametrised("TransformReparam", lambda: {"z": reparam.TransformReparam()})
def _log_normal(x):
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    base = dist.Normal(torch.zeros_like(loc), 1.0)
    z = pyro.sample("z", dist.TransformedDistribution(base, [T.AffineTransform(loc, 0.5), T.ExpTransform()]))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(z, 0.7), obs=x)


def _vector(x):
    z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(z[..., 0] + 0.5 * z[..., 1], 0.7), obs=x)


BY_HAND["SplitReparam"] = lambda: _vector, (X,)
reparametrised("SplitReparam", lambda: {"z": reparam.SplitReparam([1, 1], dim=-1)})(_vector)
reparametrised("HaarReparam", lambda: {"z": reparam.HaarReparam(dim=-1)})(_vector)
reparametrised("DiscreteCosineReparam", lambda: {"z": reparam.DiscreteCosineReparam(dim=-1)})(_vector)


@reparametrised("StudentTReparam", lambda: {"z": reparam.StudentTReparam()})
def _student(x):
    z = pyro.sample("z", dist.StudentT(4.0, 0.3, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(z, 0.7), obs=x)


@reparametrised("LatentStableReparam", lambda: {"z": reparam.LatentStableReparam()})
def _stable(x):
    z = pyro.sample("z", dist.Stable(1.7, 0.2, 0.5, 0.1))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(z, 0.7), obs=x)


@reparametrised("SymmetricStableReparam", lambda: {"x": reparam.SymmetricStableReparam()}, torch.tensor([0.7]).double())
def _symmetric_stable(x):
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    pyro.sample("x", dist.Stable(1.7, 0.0, 0.5, loc).to_event(0), obs=x[0])


@reparametrised("ProjectedNormalReparam", lambda: {"z": reparam.ProjectedNormalReparam()})
def _direction(x):
    z = pyro.sample("z", dist.ProjectedNormal(torch.tensor([1.0, 0.5])))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(2.0 * z[..., 0], 0.7), obs=x)


@reparametrised("ConjugateReparam", lambda: {"z": reparam.ConjugateReparam(dist.Gamma(5.0, 3.0))})
def _conjugate(x):
    rate = pyro.sample("rate", dist.LogNormal(0.0, 0.5))
    z = pyro.sample("z", dist.Gamma(2.0, rate))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Poisson(z), obs=torch.tensor([1.0, 3.0, 0.0], dtype=x.dtype))


@reparametrised("LinearHMMReparam", lambda: {"x": reparam.LinearHMMReparam(obs=reparam.StudentTReparam())})
def _linear_hmm(x):
    init = dist.Normal(0.0, 1.0).expand([1]).to_event(1)
    trans = dist.Normal(0.0, 0.5).expand([1]).to_event(1)
    obs = dist.StudentT(4.0, 0.0, 0.7).expand([1]).to_event(1)
    eye = torch.eye(1)
    pyro.sample("x", dist.LinearHMM(init, eye, trans, eye, obs, duration=2), obs=x[:2].unsqueeze(-1))


@idiom("NeuTraReparam")
def neutra():
    guide = AutoDiagonalNormal(_location)
    with pyro.poutine.block(), torch.no_grad():
        guide(X)
        guide.loc.copy_(torch.tensor([0.1, 0.2]))
        guide.scale = torch.tensor([0.6, 0.4], dtype=X.dtype)
    return reparam.NeuTraReparam(guide.requires_grad_(False)).reparam(_location)


@idiom("StructuredReparam")
def structured():
    guide = AutoStructured(
        _location, conditionals={"loc": "normal", "z": "normal"}, dependencies={"z": {"loc": "linear"}}
    )
    with pyro.poutine.block():
        guide(X)
    return reparam.StructuredReparam(guide.requires_grad_(False)).reparam(_location)


@reparametrised("GumbelSoftmaxReparam", lambda: {"z": reparam.GumbelSoftmaxReparam()})
def _relaxed(x):
    z = pyro.sample("z", dist.RelaxedOneHotCategorical(torch.tensor(0.9), probs=torch.tensor([0.4, 0.6])))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(2.0 * z[..., 0], 0.7), obs=x)


IDIOMS["AutoReparam"] = lambda: AutoReparam()(_log_normal), (X,)
IDIOMS["MinimalReparam"] = lambda: MinimalReparam()(_stable), (X,)


# -- effect handlers -----------------------------------------------------------------------------------------------


@idiom("mask")
def masked():
    def program(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)), poutine.mask(mask=torch.tensor([True, True, False])):
            pyro.sample("x", dist.Normal(z, 0.7), obs=x)

    return program


@idiom("mask a datum", X, torch.tensor([True, True, False]))
def masked_rows():
    def program(x, seen):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).mask(True))
            with poutine.mask(mask=seen):
                pyro.sample("x", dist.Normal(z, 0.7), obs=x)

    return program


@idiom("mask of a distribution, and of all a site")
def masked_distribution():
    def program(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z, 0.7).mask(x > 0), obs=x)
            with poutine.mask(mask=False):
                pyro.sample("check", dist.Normal(z, 1.0), obs=x)

    return program


@idiom("scale")
def scaled():
    def program(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)), poutine.scale(scale=2.5):
            pyro.sample("x", dist.Normal(z, 0.7), obs=x)

    return program


IDIOMS["condition"] = lambda: poutine.condition(_location, data={"loc": torch.tensor(0.4)}), (X,)
IDIOMS["do"] = lambda: poutine.do(_location, data={"loc": torch.tensor(0.4)}), (X,)


@idiom("condition on data")
def conditioned():
    def program(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z, 0.7))

    return poutine.condition(program, data={"x": X})


@idiom("factor")
def factor():
    def program(x):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.factor("likelihood", -2.0 * (z - x[:2]).square().sum(-1))

    return program


@idiom("factor in the data plate")
def factor_a_datum():
    def program(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.factor("likelihood", -(z - x).square())

    return program


@idiom("deterministic")
def deterministic():
    def program(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        rate = pyro.deterministic("rate", z.exp())
        pyro.deterministic("powers", torch.stack([z, z**2], -1))
        with pyro.plate("data", len(x)):
            pyro.deterministic("each", rate * x)
            pyro.sample("x", dist.Normal(rate, 0.7), obs=x)

    return program


@idiom("deterministic in the data plate")
def deterministic_a_datum():
    def program(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            rate = pyro.deterministic("rate", z.exp(), event_dim=0)
            pyro.deterministic("powers", torch.stack([z, z**2], -1), event_dim=1)
            pyro.sample("x", dist.Normal(rate, 0.7), obs=x)

    return program


@idiom("scope")
def scoped():
    from pyro.contrib.autoname import scope

    @scope(prefix="outer")
    def program(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z, 0.7), obs=x)

    return program


IDIOMS["functools.partial"] = lambda: functools.partial(_with_keyword, scale=0.7), (X,)


def _with_keyword(x, *, scale):
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(z, scale), obs=x)


# -- plates --------------------------------------------------------------------------------------------------------


@idiom("nested plates")
def nested_plates():
    def program(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        table = torch.stack([x, x + 0.3])
        with pyro.plate("rows", 2, dim=-2), pyro.plate("columns", len(x), dim=-1):
            pyro.sample("x", dist.Normal(z, 0.7), obs=table)

    return program


@idiom("a plate inside the data plate")
def plate_in_plate():
    def program(x):
        table = torch.stack([x, x + 0.3])
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with pyro.plate("repeats", 2, dim=-2):
                pyro.sample("x", dist.Normal(z, 0.7), obs=table)

    return program


@idiom("the data plate inside a plate")
def plate_around_plate():
    def program(x):
        data = pyro.plate("data", len(x), dim=-1)
        with pyro.plate("factors", 2, dim=-2), data:
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with data:
            pyro.sample("x", dist.Normal(z.sum(-2), 0.7), obs=x)

    return program


@idiom("plate_stack")
def plate_stack():
    def program(x):
        with pyro.plate_stack("effects", (1, 2)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z.sum((-1, -2)), 0.7), obs=x)

    return program


@idiom("batches without a plate")
def no_plate():
    def program(x):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0))
        pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True), 0.7), obs=x)

    return program


@idiom("sequential plate")
def sequential_plate():
    def program(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        for i in pyro.plate("rows", len(x)):
            pyro.sample(f"x_{i}", dist.Normal(z, 0.7), obs=x[i])

    return program


# -- supports ------------------------------------------------------------------------------------------------------


@idiom("LKJCholesky")
def lkj():
    def program(x):
        factor = pyro.sample("factor", dist.LKJCholesky(2, 2.0))
        scale = pyro.sample("scale", dist.LogNormal(0.0, 0.5))
        pairs = torch.stack([x, 0.8 * x + 0.1], -1)
        tril = scale[..., None, None] * factor if scale.dim() else scale * factor
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.MultivariateNormal(torch.zeros(2, dtype=x.dtype), scale_tril=tril), obs=pairs)

    return program


@idiom("LKJCholesky of three")
def lkj_of_three():
    def program(x):
        factor = pyro.sample("factor", dist.LKJCholesky(3, 1.5))
        triples = torch.stack([x, 0.8 * x + 0.1, -x], -1)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.MultivariateNormal(torch.zeros(3, dtype=x.dtype), scale_tril=factor), obs=triples)

    return program


@idiom("Dirichlet")
def dirichlet():
    def program(x):
        z = pyro.sample("z", dist.Dirichlet(torch.tensor([1.0, 2.0, 1.5])))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Categorical(z), obs=torch.tensor([0, 1, 1]))

    return program


@idiom("Multinomial")
def multinomial():
    def program(x):
        z = pyro.sample("z", dist.Dirichlet(torch.tensor([1.0, 2.0, 1.5])))
        pyro.sample("x", dist.Multinomial(6, z), obs=torch.tensor([2.0, 3.0, 1.0], dtype=x.dtype))

    return program


@idiom("preallocated and filled")
def filled():
    def program(x):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        mean = torch.zeros(len(x))
        for i in range(len(x)):
            mean[..., i] = z[..., 0] + i * z[..., 1]
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mean, 0.7), obs=x)

    return program


def _stacked():
    def program(x):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        mean = torch.stack([z[0] + i * z[1] for i in range(len(x))], -1)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mean, 0.7), obs=x)

    return program


BY_HAND["preallocated and filled"] = _stacked, (X,)


@idiom("ordered")
def ordered():
    def program(x):
        base = dist.Normal(torch.zeros(2), 1.0).to_event(1)
        cuts = pyro.sample("cuts", dist.TransformedDistribution(base, [T.OrderedTransform()]))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.OrderedLogistic(x, cuts), obs=torch.tensor([0, 1, 2]))

    return program


@idiom("simplex by breaking sticks")
def simplex():
    def program(x):
        base = dist.Normal(torch.zeros(2), 1.0).to_event(1)
        z = pyro.sample("z", dist.TransformedDistribution(base, [T.StickBreakingTransform()]))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Categorical(z), obs=torch.tensor([0, 1, 1]))

    return program


@idiom("a support that moves")
def moving():
    def program(x):
        top = pyro.sample("top", dist.LogNormal(1.0, 0.3))
        z = pyro.sample("z", dist.Uniform(0.0, top))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z, 0.7), obs=x)

    return program


@idiom("supports with an end")
def ends():
    def program(x):
        scale = pyro.sample("scale", dist.HalfCauchy(1.0))
        p = pyro.sample("p", dist.Beta(2.0, 3.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(p, scale), obs=x)

    return program


@idiom("a simplex a datum")
def simplex_a_datum():
    def program(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Dirichlet(torch.tensor([1.0, 2.0, 1.5])))
            pyro.sample("x", dist.Normal(z[..., 0] - z[..., 1], 0.7), obs=x)

    return program


@idiom("positive vectors a datum", X[:2])
def positive_vectors():
    def program(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.LogNormal(torch.tensor([0.0, 0.5]), 0.6).to_event(1))
            pyro.sample("x", dist.Normal(z.prod(-1) - 1.0, 0.7), obs=x)

    return program


@idiom("ImproperUniform, its density at another site", X[:2])
def improper():
    def program(x):  # as many data as numbers in each: a Jacobian summed over the wrong ones does not fail
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.ImproperUniform(constraints.positive, (), (2,)))
            pyro.sample("prior", dist.LogNormal(torch.tensor([0.0, 0.5]), 0.6).to_event(1), obs=z)
            pyro.sample("x", dist.Normal(z.prod(-1) - 1.0, 0.7), obs=x)

    return program


BY_HAND["ImproperUniform, its density at another site"] = IDIOMS["positive vectors a datum"]


# -- missing data --------------------------------------------------------------------------------------------------

GAPS = torch.tensor([-0.6, torch.nan, 1.1], dtype=torch.float64)


@idiom("NaN under a mask", GAPS)
def nan_masked():
    def program(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        seen = ~x.isnan()
        with pyro.plate("data", len(x)), poutine.mask(mask=seen):
            pyro.sample("x", dist.Normal(z, 0.7), obs=x.nan_to_num())

    return program


@idiom("NaN under a mask, a datum", GAPS)
def nan_masked_rows():
    def program(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 0.7).mask(~x.isnan()), obs=x.nan_to_num())

    return program


@idiom("obs_mask", GAPS[:2])
def partly_observed():
    def program(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z, 0.7), obs=x.nan_to_num(), obs_mask=~x.isnan())

    return program


def _partly_observed_by_hand():
    def program(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("unobserved", dist.Normal(z, 0.7))
            pyro.sample("observed", dist.Normal(z, 0.7).mask(~x.isnan()), obs=x.nan_to_num())

    return program


BY_HAND["obs_mask"] = _partly_observed_by_hand, (GAPS[:2],)


@idiom("imputation by latent sites", GAPS)
def imputed():
    def program(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        gaps = x.isnan()
        with pyro.plate("gaps", 1):
            filled = pyro.sample("filled", dist.Normal(z, 0.7).mask(False))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z, 0.7), obs=torch.where(gaps, filled, x.nan_to_num()))

    return program


def make(name):
    """The program of an idiom, and its arguments."""
    makes, args = IDIOMS[name]
    return makes(), args
