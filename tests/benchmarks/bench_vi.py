"""Variational inference of whole programs: error of moments and what it costs, by way of finding q.

python -m tests.benchmarks.bench_vi [--problems banana,schools] [--ways ...] [--seeds 1]

Beside the package's own ways stand those that it does not take: Adam on fresh draws for Gaussians too (``adam``), with
the gradient of sticking the landing and averaged iterates, and batch-and-match (``match``: Cai, Modi, Pillaud-Vivien,
Margossian, Gower, Blei & Saul 2024, ICML, equations 10 and 11), both from the same start. The truth is a closed form,
or 24 chains of NUTS, stored nowhere: it is run once a problem. Seconds are of the CPU.
"""

import argparse
import time

import pyro
import pyro.distributions as dist
import torch

import pyro_vae as pv
from pyro_vae.inference.variational.whole.families import FullRank, MeanField
from pyro_vae.inference.variational.whole.objective import Objective
from pyro_vae.inference.variational.whole.result import Search, VIPosterior
from pyro_vae.inference.variational.whole.start import gaussian_start
from pyro_vae.inference.variational.whole.stochastic import train


def banana():
    def program(x):
        a = pyro.sample("a", dist.Normal(0.0, 2.0))
        pyro.sample("b", dist.Normal(0.5 * a**2, 0.7))
        pyro.sample("x", dist.Normal(a, 1.0), obs=x)

    v = 0.8  # a given x = 1 is N(0.8, 0.8)
    spread = (v, 0.49 + 0.25 * (2 * v**2 + 4 * 0.64 * v))
    return program, torch.tensor(1.0), (torch.tensor([0.8, 0.5 * (v + 0.64)]), torch.tensor(spread).sqrt())


def schools():
    def program(y, sigma):
        mu, tau = pyro.sample("mu", dist.Normal(0.0, 5.0)), pyro.sample("tau", dist.HalfCauchy(5.0))
        with pyro.plate("schools", 8):
            theta = pyro.sample("theta", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(mu + tau * theta, sigma), obs=y)

    y, sigma = [28.0, 8, -3, 7, -1, 1, 18, 12], [15.0, 10, 16, 11, 9, 11, 10, 18]
    return program, (torch.tensor(y), torch.tensor(sigma)), None


def ill_conditioned(L=50):
    basis = torch.linalg.qr(torch.randn(L, L)).Q
    covariance, mean = (basis * torch.logspace(0, 4, L)) @ basis.mT, torch.randn(L)

    def program(x):
        pyro.sample("u", dist.MultivariateNormal(mean, covariance))
        pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    return program, torch.tensor(0.0), (mean, covariance.diagonal().sqrt())


def logistic(L=10, rows=100):
    X = torch.randn(rows, L) @ (torch.eye(L) + 0.5 * torch.randn(L, L))
    y = dist.Bernoulli(logits=X @ torch.randn(L)).sample()

    def program(X, y):
        w = pyro.sample("w", dist.Normal(torch.zeros(L), 2.0).to_event(1))
        with pyro.plate("rows", rows):
            pyro.sample("y", dist.Bernoulli(logits=X @ w), obs=y)

    return program, (X, y), None


def horseshoe(L=5, rows=40):
    X = torch.randn(rows, L)
    y = X @ torch.tensor([2.0, -1.0, 0.0, 0.0, 0.0]) + torch.randn(rows)

    def program(X, y):
        tau = pyro.sample("tau", dist.HalfCauchy(1.0))
        own = pyro.sample("own", dist.HalfCauchy(torch.ones(L)).to_event(1))
        z = pyro.sample("z", dist.Normal(torch.zeros(L), 1.0).to_event(1))
        with pyro.plate("rows", rows):
            pyro.sample("y", dist.Normal(X @ (z * own * tau), 1.0), obs=y)

    return program, (X, y), None


PROBLEMS = {p.__name__: p for p in (banana, schools, ill_conditioned, logistic, horseshoe)}


def by_vi(guide):
    return lambda target: pv.vi(target, guide=guide)


def by_adam(family):
    def run(target):
        start = gaussian_start(target, budget=500_000)
        search = train(target, family(start.q), Objective(), name=family.__name__, budget=200_000)
        return _with_start(target, start, search)

    return run


def by_matching(target, steps=150, K=64):
    start = gaussian_start(target, budget=500_000)
    mu, S, L = start.q.mean[0], start.q.covariance_matrix[0], target.latent_dim
    for t in range(steps):
        u = dist.MultivariateNormal(mu, S).sample((K,))
        g = target.value_and_grad(u.unsqueeze(1))[1][:, 0]
        weight = K * L / (t + 1)  # lambda of the paper: it falls, which averages
        u_mean, g_mean = u.mean(0), g.mean(0)
        C, G = (u - u_mean).T @ (u - u_mean) / K, (g - g_mean).T @ (g - g_mean) / K
        U = weight * G + weight / (1 + weight) * torch.outer(g_mean, g_mean)
        V = S + weight * C + weight / (1 + weight) * torch.outer(mu - u_mean, mu - u_mean)
        root = torch.linalg.cholesky(V)  # S solves S U S + S = V
        values, vectors = torch.linalg.eigh(torch.eye(L) + 4 * root.T @ U @ root)
        S = 2 * root @ (vectors / (1 + values.clamp_min(1.0).sqrt())) @ vectors.T @ root.T
        S = (S + S.T) / 2
        mu = mu / (1 + weight) + weight / (1 + weight) * (S @ g_mean + u_mean)
    q = dist.MultivariateNormal(mu.unsqueeze(0), S.unsqueeze(0))
    return _with_start(target, start, Search(q, "match", torch.tensor([True]), "", steps * K, steps, steps))


def _with_start(target, start, search):
    q = VIPosterior(target, search)
    q.num_gradients, q.num_sequential = q.num_gradients + start.num_gradients, q.num_sequential + start.num_sequential
    return q


def by_pathfinder(target):
    q = pv.pathfinder(target)
    q.guide, q.elbo_error = "pathfinder", q.elbo.new_zeros(())
    return q


WAYS = {
    "pathfinder": by_pathfinder,
    "mean_field": by_vi("mean_field"),
    "mean_field, Adam": by_adam(MeanField),
    "full_rank": by_vi("full_rank"),
    "full_rank, Adam": by_adam(FullRank),
    "full_rank, match": by_matching,
    "low_rank": by_vi("low_rank"),
    "flow": by_vi("flow"),
    "auto": by_vi("auto"),
}


def moments(target):
    """Mean and standard deviation over u by long chains."""
    draws = pv.mcmc(target, kernel=pv.NUTS(), num_chains=24, num_samples=500, warmup_steps=300)
    u = target.unconstrain({name: value.squeeze(2) for name, value in draws.samples.items()})
    print(f"  truth: largest R-hat {max(float(r.max()) for r in draws.rhat.values()):.3f}", flush=True)
    return u.flatten(0, 1)[:, 0].mean(0), u.flatten(0, 1)[:, 0].std(0)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--problems", default=",".join(PROBLEMS))
    parser.add_argument("--ways", default=";".join(WAYS))
    parser.add_argument("--seeds", type=int, default=1)
    options, _ = parser.parse_known_args()
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    for problem in options.problems.split(","):
        pyro.set_rng_seed(0)
        program, args, truth = PROBLEMS[problem]()
        target = pv.Target(program, args, plate=None)
        print(f"{problem}, L = {target.latent_dim}", flush=True)
        mean, std = moments(target) if truth is None else truth
        for way in options.ways.split(";"):
            for seed in range(options.seeds):
                pyro.set_rng_seed(seed)
                began = time.process_time()
                q = WAYS[way](target)
                seconds = time.process_time() - began
                off, ratio = ((q.mean[0] - mean).abs() / std).max(), q.variance[0].sqrt() / std
                bound = f"{float(q.elbo):9.3f} +- {float(q.elbo_error):.3f}"
                spread = f"{float(ratio.min()):.2f} to {float(ratio.max()):.2f}"
                spent = f"{q.num_gradients:7d} gradients, {q.num_sequential:5d} in sequence, {seconds:5.1f} s"
                print(
                    f"  {way:17s} ELBO {bound}; mean off by {float(off):.3f}, std x {spread}; "
                    f"k-hat {float(q.pareto_k):5.2f}; {spent}, {'' if bool(q.converged) else 'not '}converged",
                    flush=True,
                )


if __name__ == "__main__":
    main()
