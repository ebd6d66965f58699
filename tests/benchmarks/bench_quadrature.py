"""Exact posteriors of many digits: one lattice for all of them beside a grid each, alternated in one process.

python -m tests.benchmarks.bench_quadrature [--num 1000] [--epochs 60] [--rounds 3]

A grid each is what a program gets whose likelihood is of no exponential family, or differs from datum to datum.
"""

import argparse
import statistics
import time

import pyro
import torch

import pyro_vae as pv
from pyro_vae import datasets
from pyro_vae.inference.exact import quadrature as route


def trained(latent_dim, epochs):
    x = datasets.digits("train")
    model = pv.Model(
        pv.priors.StandardNormal(latent_dim), pv.likelihoods.Bernoulli(pv.networks.mlp(latent_dim, 128, 64))
    )
    guide = pv.guides.DiagonalGaussian(pv.networks.mlp(64, 128, 2 * latent_dim))
    pv.fit(model, guide, x, epochs=epochs, lr=3e-3, progress=False)
    return model, x


def compared(model, x, rounds, **settings):
    share = route.share
    seconds = {"one lattice": [], "a grid each": []}
    found = {}
    for _ in range(rounds):
        for name, measured in seconds.items():
            route.share = share if name == "one lattice" else lambda *args, **settings: None
            began = time.perf_counter()
            found[name] = pv.quadrature(model, x, **settings)
            measured.append(time.perf_counter() - began)
    route.share = share
    one, own = (statistics.median(seconds[name]) for name in seconds)
    bound = max(float(one.error_bound.max()) for one in found.values())
    away = (found["one lattice"].log_evidence - found["a grid each"].log_evidence).abs().max()
    print(f"{len(x):5d} digits, L = {model.latent_dim}, {settings}: one lattice {one:.2f} s, a grid each {own:.2f} s,")
    print(f"      ratio {one / own:.2f}; apart by {float(away):.1e} nats at most, bounds {bound:.1e}", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--num", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    options, _ = parser.parse_known_args()
    torch.set_num_threads(2)
    pyro.set_rng_seed(0)
    model, x = trained(2, options.epochs)
    x = x[: options.num]
    compared(model, x, options.rounds)
    compared(model, x[:360], options.rounds)
    compared(model.double(), x.double(), options.rounds, tolerance=1e-6)
    model, x = trained(3, options.epochs)
    compared(model, x[:60], 1)


if __name__ == "__main__":
    main()
