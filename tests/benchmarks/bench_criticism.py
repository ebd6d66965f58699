"""How often criticise finds each kind of wrong model, and how often it raises a false alarm at the right one.

python -m tests.benchmarks.bench_criticism [--repeats 40] [--rows 200] [--only right "too small L"]

Data from a linear-Gaussian model (L = 2, six columns), fresh in every repeat. *Fitted* is the maximum likelihood of a
factor model with 1,000 training rows; the wrong ones are fitted like it, unless they say otherwise. Each line: share of
repeats in which criticise finds something at 5 % in all; by which group of checks, each at its share of the level; and
how often the column that is wrong is named first, where one is.
"""

import argparse

import pyro
import pyro.distributions as dist
import torch
from sklearn.decomposition import FactorAnalysis

import pyro_vae as pv

D = 6
KINDS = (
    *("right", "right, fitted", "long tails in one column", "counts as Gaussian, one column"),
    *("too small L", "undertrained", "one column permuted"),
)


def factor_model(weight, bias, scale):
    network = torch.nn.Linear(weight.shape[1], len(weight))
    with torch.no_grad():
        network.weight.copy_(torch.as_tensor(weight))
        network.bias.copy_(torch.as_tensor(bias))

    class Columns(pv.likelihoods.Likelihood):
        def __init__(self):
            super().__init__()
            self.network = network
            self.register_buffer("scale", torch.as_tensor(scale, dtype=torch.float32))

        def forward(self, z):
            return dist.Normal(self.network(z), self.scale).to_event(1)

    return pv.Model(pv.priors.StandardNormal(weight.shape[1]), Columns())


def truth(latent_dim):
    return factor_model(torch.randn(D, latent_dim), torch.randn(D), 0.5 + torch.rand(D))


def fitted(x, latent_dim):
    found = FactorAnalysis(latent_dim).fit(x.numpy())
    return factor_model(found.components_.T, found.mean_, found.noise_variance_**0.5)


def trained(x, epochs):
    """A VAE whose training stops after so many epochs of 10 steps."""
    model = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Gaussian(pv.networks.mlp(2, 16, 2 * D)))
    guide = pv.guides.DiagonalGaussian(pv.networks.mlp(D, 16, 4))
    pv.fit(model, guide, x, epochs=epochs, batch_size=100, lr=5e-3, compile=False, progress=False)
    return model


def case(kind, rows):
    """A model, held-out data, and the column that is wrong, if it is one."""
    right = truth(3 if kind == "too small L" else 2)
    x, train = right.sample(rows)["x"], right.sample(1000)["x"]
    if kind == "right":
        return right, x, None
    if kind == "long tails in one column":
        for t in (x, train):
            t[:, 1] += dist.StudentT(2.0).sample((len(t),)) - 0.5 * torch.randn(len(t))
    if kind == "counts as Gaussian, one column":
        for t in (x, train):
            t[:, 1] = dist.Poisson((0.5 * t[:, 1]).exp().clamp_max(50)).sample()
    if kind == "one column permuted":
        x[:, 1] = x[torch.randperm(rows), 1]
    if kind == "undertrained":
        return trained(train, 20), x, None
    wrong = 1 if "one column" in kind else None
    return fitted(train, 1 if kind == "too small L" else 2), x, wrong


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--repeats", type=int, default=40)
    options.add_argument("--rows", type=int, default=200)
    options.add_argument("--only", nargs="*", default=KINDS, choices=KINDS)
    chosen, _ = options.parse_known_args()
    pyro.set_rng_seed(0)
    print(f"{'model':32s} found  statistics  two-sample  named first")
    for kind in chosen.only:
        found, parts, named = 0, {"statistics": 0, "two-sample test": 0}, 0
        for seed in range(chosen.repeats):
            model, x, wrong = case(kind, chosen.rows)
            c = pv.criticise(model, x, seed=seed)
            found += not c.ok
            for name, p in c.families.items():
                parts[name] += p <= c.level / 2
            named += bool(c.failed) and wrong in c.failed[0].columns
        shares = [v / chosen.repeats for v in (found, *parts.values())]
        last = f"{named / chosen.repeats:12.2f}" if wrong is not None else f"{'-':>12s}"
        print("{:32s} {:5.3f} {:11.3f} {:11.3f} ".format(kind, *shares) + last, flush=True)


if __name__ == "__main__":
    main()
