"""Programs with discrete latent sites, small enough to sum over every assignment, and that sum by Pyro's own trace."""

import itertools

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import config_enumerate

X = torch.tensor([-1.2, 0.4, 2.5], dtype=torch.float64)


@config_enumerate
def mixture(x):
    """Gaussian mixture: Dirichlet weights, an assignment a datum."""
    weights = pyro.sample("weights", dist.Dirichlet(torch.ones(2)))
    with pyro.plate("components", 2):
        loc = pyro.sample("loc", dist.Normal(0.0, 2.0))
    with pyro.plate("data", len(x)):
        c = pyro.sample("c", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(loc[c], 0.7), obs=x)


@config_enumerate
def per_datum(x):
    """A component, a latent number and an observation of each datum."""
    with pyro.plate("data", len(x)):
        c = pyro.sample("c", dist.Categorical(torch.tensor([0.2, 0.5, 0.3])))
        z = pyro.sample("z", dist.Normal(torch.tensor([-2.0, 0.0, 2.0])[c], 0.5))
        pyro.sample("x", dist.Normal(z, 0.8), obs=x)


@config_enumerate
def hidden_markov(x):
    """A chain whose transition matrix and scale are latent."""
    with pyro.plate("states", 3):
        rows = pyro.sample("rows", dist.Dirichlet(torch.ones(3)))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 0.5))
    state = 0
    for t in pyro.markov(range(len(x))):
        state = pyro.sample(f"state_{t}", dist.Categorical(rows[state]))
        pyro.sample(f"x_{t}", dist.Normal(torch.tensor([-1.0, 0.0, 2.0])[state], scale), obs=x[t])


@config_enumerate
def second_order(x):
    """A chain that looks two steps back."""
    bias = pyro.sample("bias", dist.Normal(0.0, 1.0))
    before, last = torch.tensor(0), torch.tensor(0)
    for t in pyro.markov(range(len(x)), history=2):
        logits = torch.stack(torch.broadcast_tensors(bias * (1.0 + before), 0.5 * last - before), -1)
        before, last = last, pyro.sample(f"s_{t}", dist.Categorical(logits=logits))
        pyro.sample(f"x_{t}", dist.Normal(last * 1.0, 0.6), obs=x[t])


@config_enumerate
def chains_in_a_plate(x):
    """A chain and a latent level of each datum: N posteriors."""
    stay = torch.tensor([[0.8, 0.2], [0.3, 0.7]])
    with pyro.plate("data", len(x)):
        level = pyro.sample("level", dist.Normal(0.0, 1.0))
        state = torch.zeros(len(x), dtype=torch.long)
        for t in pyro.markov(range(2)):
            state = pyro.sample(f"state_{t}", dist.Categorical(stay[state]))
            pyro.sample(f"x_{t}", dist.Normal(level + 2.0 * state, 0.6), obs=x + t)


@config_enumerate
def zero_inflated(x):
    """Counts, some of them none by a switch of their own."""
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    gate = pyro.sample("gate", dist.Beta(1.0, 2.0))
    with pyro.plate("data", len(x)):
        off = pyro.sample("off", dist.Bernoulli(gate))
        pyro.sample("x", dist.Poisson(rate * (1 - off) + 1e-6), obs=(x > 0).double() * 2)


@config_enumerate
def changepoint(x):
    """A level before, and one after, a time that is latent."""
    with pyro.plate("levels", 2):
        level = pyro.sample("level", dist.Normal(0.0, 2.0))
    when = pyro.sample("when", dist.Categorical(torch.ones(len(x)) / len(x)))
    with pyro.plate("times", len(x)):
        after = (torch.arange(len(x)) >= when).long()
        pyro.sample("x", dist.Normal(level[after], 0.8), obs=x)


@config_enumerate
def latent_class(x):
    """Binary items that are independent within a class."""
    items = torch.stack([x > 0, x > 1], -1).double()
    with pyro.plate("classes", 2), pyro.plate("class items", 2):
        p = pyro.sample("p", dist.Beta(2.0, 2.0))
    weights = pyro.sample("weights", dist.Dirichlet(torch.ones(2)))
    with pyro.plate("data", len(x)):
        k = pyro.sample("k", dist.OneHotCategorical(weights))
        pyro.sample("x", dist.Bernoulli(k @ p.T if p.dim() == 2 else k @ p.mT).to_event(1), obs=items)


@config_enumerate
def dawid_skene(x):
    """Labels of items by raters who err each in a way of their own: plates that cross at what is observed."""
    labels = torch.stack([x > 0, x > 1], 0).long()  # (raters, items)
    weights = pyro.sample("weights", dist.Dirichlet(torch.ones(2)))
    with pyro.plate("raters", 2, dim=-2), pyro.plate("true", 2, dim=-1):
        confusion = pyro.sample("confusion", dist.Dirichlet(torch.tensor([2.0, 1.0])))
    with pyro.plate("items", len(x), dim=-1):
        true = pyro.sample("label", dist.Categorical(weights))
        with pyro.plate("all raters", 2, dim=-2):
            rater = torch.arange(2).unsqueeze(-1)
            pyro.sample("x", dist.Categorical(confusion[rater, true]), obs=labels)


@config_enumerate
def two_levels(x):
    """A discrete site for all data above one a datum, both of them in the observation."""
    shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
    above = pyro.sample("above", dist.Bernoulli(0.4))
    with pyro.plate("data", len(x)):
        below = pyro.sample("below", dist.Binomial(2, 0.3))
        pyro.sample("x", dist.Normal(shift + above * below, 0.5), obs=x)


@config_enumerate
def masked(x):
    """A datum that a mask leaves out, with a discrete site of its own."""
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)), poutine.mask(mask=torch.tensor([True, True, False])):
        c = pyro.sample("c", dist.Categorical(torch.tensor([0.3, 0.7])))
        pyro.sample("x", dist.Normal(mean + c, 1.0), obs=x)


@config_enumerate
def all_discrete(x):
    """No continuous site at all."""
    with pyro.plate("data", len(x)):
        c = pyro.sample("c", dist.Categorical(torch.tensor([0.2, 0.5, 0.3])))
        pyro.sample("x", dist.Normal(torch.tensor([-2.0, 0.0, 2.0])[c], 0.8), obs=x)


PROGRAMS = [
    *(mixture, per_datum, hidden_markov, second_order, chains_in_a_plate, zero_inflated, changepoint, latent_class),
    *(dawid_skene, two_levels, masked, all_discrete),
]


def assignments(target):
    """Every assignment of the discrete sites, of N posteriors the same to all: dictionaries of values by site."""
    choices = []
    for name, site in target.discrete.items():
        count = 1 if target.per_datum else site.shape.numel()
        picks = itertools.product(range(len(site.values)), repeat=count)
        event = site.values.shape[1:]
        one = torch.Size((1,) * len(site.shape)) if target.per_datum else site.shape
        choices.append([(name, site.values[list(p)].reshape(one + event).expand(site.shape + event)) for p in picks])
    return [dict(choice) for choice in itertools.product(*choices)]


def brute_force(target, u):
    """Log joint of every assignment at one u ``(N, L)``, ``(A, N)``, by Pyro's trace of the program at these values."""
    values = {name: target.trace(u)[name]["value"] for name in target.sites}
    rows = []
    for assignment in assignments(target):
        data = values | {name: value.to(u) if name in _REAL else value for name, value in assignment.items()}
        with pyro.validation_enabled(False):
            trace = poutine.trace(poutine.condition(target.model, data=data)).get_trace(*target.args)
        trace.compute_log_prob()
        total = torch.zeros(target.num_data).to(u)
        for name, site in trace.nodes.items():
            if site["type"] == "sample" and not poutine.util.site_is_subsample(site):
                log_prob = site["unscaled_log_prob"] if name in target.discrete else site["log_prob"]
                total = total + (log_prob if target.per_datum else log_prob.sum())
        rows.append(total)
    return torch.stack(rows) + target.log_jacobian(u)


_REAL = {"k", "off", "above", "below"}  # whose distributions take real numbers
