"""How often each check catches each kind of wrong posterior, and how often it raises a false alarm at the right one.

python -m tests.benchmarks.bench_rates [--repeats 40]

A linear-Gaussian model (L = 2, four data dimensions), and for the posterior that is one mode short z -> 2 z^2. Each
line: share of repeats in which calibration rejects at 1 % in all (300 simulated data); share of data that the verdict
does not trust as they are, and that it does not trust even re-weighted (annealing from the prior as its reference);
share of data at which MMD and the nearest-neighbour classifier reject at 5 % (200 draws of each).
"""

import argparse

import pyro
import pyro.distributions as dist
import torch
from torch import nn

import pyro_vae as pv
from pyro_vae.evaluation.posterior.verdict import DO_NOT_TRUST, TRUST

KINDS = ("right", "shifted", "too narrow", "too wide", "mean field", "prior-like")
WEIGHT = torch.tensor([[1.0, 0.8], [0.9, 1.0], [0.5, 0.6], [0.0, 0.4]])


class Square(nn.Module):
    """Two modes of equal mass."""

    def forward(self, z):
        return 2.0 * z.square()


def linear():
    network = nn.Linear(2, 4)
    with torch.no_grad():
        network.weight.copy_(WEIGHT)
    return pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Gaussian(network, scale=0.7))


def spoilt(model, kind):
    """A way of inference that is wrong in one way."""

    def infer(x):
        exact = pv.analytic(model, x)
        loc, tril = exact.loc, exact.scale_tril
        if kind == "shifted":
            loc = loc + 0.7 * exact.variance.sqrt()
        if kind in {"too narrow", "too wide"}:
            tril = tril * (0.6 if kind == "too narrow" else 1.6)
        if kind == "mean field":
            tril = torch.diag_embed(exact.precision_matrix.diagonal(dim1=-2, dim2=-1).rsqrt())
        if kind == "prior-like":
            loc, tril = torch.zeros_like(loc), torch.eye(2).expand(len(x), 2, 2)
        return dist.MultivariateNormal(loc, scale_tril=tril)

    return infer


def one_mode(x):
    """The posterior of z in x = 2 z^2 + noise at positive z only, as a Gaussian."""
    mode = (x / 2).clamp_min(0.05).sqrt()
    return dist.Normal(mode, 0.5 / (4 * mode)).to_event(1)


def rates(model, infer, truth_of, x, data_dim, repeats):
    alarms = [not pv.calibrate(model, torch.zeros(300, data_dim), infer).calibrated() for _ in range(repeats)]
    truth, q = truth_of(x), infer(x)
    decisions = pv.verdict(model, x, q).decision
    own = sum(d != TRUST for d in decisions) / len(x)
    never = sum(d == DO_NOT_TRUST for d in decisions) / len(x)
    table = pv.agreement(model, x, truth, q, num_samples=200, num_permutations=99)
    two = [float((p <= 0.05).double().mean()) for p in (table.mmd_p_value, table.accuracy_p_value)]
    return sum(alarms) / repeats, own, never, *two


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--repeats", type=int, default=40)
    chosen, _ = options.parse_known_args()
    pyro.set_rng_seed(0)
    print(f"{'posterior':16s} calibration  verdict: not as it is  nor re-weighted    MMD  neighbours")
    model = linear()
    x = model.sample(200)["x"]
    for kind in KINDS:
        found = rates(model, spoilt(model, kind), lambda x: pv.analytic(model, x), x, 4, chosen.repeats)
        print("{:16s} {:11.2f} {:22.3f} {:16.3f} {:6.2f} {:11.2f}".format(kind, *found), flush=True)
    model = pv.Model(pv.priors.StandardNormal(1), pv.likelihoods.Gaussian(Square(), scale=0.5))
    x = torch.linspace(2.0, 6.0, 100).unsqueeze(-1)
    infer = {"one mode short": one_mode, "two modes, right": lambda x: pv.quadrature(model, x)}
    for kind, q in infer.items():
        found = rates(model, q, lambda x: pv.quadrature(model, x), x, 1, chosen.repeats)
        print("{:16s} {:11.2f} {:22.3f} {:16.3f} {:6.2f} {:11.2f}".format(kind, *found), flush=True)


if __name__ == "__main__":
    main()
