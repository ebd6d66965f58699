"""The bracket of the evidence at L = 20 and L = 50: its width, its cost, and the truth beside it where there is one.

python -m tests.benchmarks.bench_bracket [--data DIR] [--rows 40]

Linear-Gaussian models of 25 and 60 data dimensions (the truth in closed form), and decoders trained on the embedded
digits, or on binarised MNIST where --data names its folder.
"""

import argparse
import os
from pathlib import Path

import pyro
import torch
from torch import nn

import pyro_vae as pv


def linear_gaussian(latent_dim, rows):
    data = pv.datasets.linear_gaussian(rows, latent_dim=latent_dim, data_dim=latent_dim * 6 // 5 + 1, scale=1.0)
    network = nn.Linear(latent_dim, data.x.shape[1])
    with torch.no_grad():
        network.weight.copy_(data.weight)
        network.bias.copy_(data.bias)
    return pv.Model(pv.priors.StandardNormal(latent_dim), pv.likelihoods.Gaussian(network, scale=1.0)), data.x


def trained(latent_dim, rows, images):
    D = images.shape[1]
    model = pv.Model(
        pv.priors.StandardNormal(latent_dim), pv.likelihoods.Bernoulli(pv.networks.mlp(latent_dim, 200, D))
    )
    guide = pv.guides.DiagonalGaussian(pv.networks.mlp(D, 200, 2 * latent_dim))
    pv.fit(model, guide, images[:10_000], epochs=5, batch_size=128, lr=2e-3, validation=None, progress=False)
    return model, images[:rows]


def line(name, found, exact=None):
    width = found.width
    text = (
        f"{name:34s} width: mean {float(width.mean()):+.3f}, mean absolute {float(width.abs().mean()):.3f}, widest "
        f"{float(width.max()):.3f} nats; {found.seconds:5.1f} s for {len(width)} data"
    )
    if exact is not None:
        low, high = (float((side - exact).mean()) for side in (found.lower, found.upper))
        middle = float(((found.lower + found.upper) / 2 - exact).abs().mean())
        text += f"; less the truth: lower {low:+.4f}, upper {high:+.4f}, middle off by {middle:.4f}"
    print(text, flush=True)


def main():
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--data", default=os.environ.get("PYRO_VAE_DATA"))
    options.add_argument("--rows", type=int, default=40)
    chosen, _ = options.parse_known_args()
    images = pv.datasets.digits("train").flatten(1)
    if chosen.data:
        folder = Path(chosen.data)
        folder = folder / "mnist" if (folder / "mnist").is_dir() else folder
        images = (pv.datasets.mnist(folder, "train") > 0.5).float().flatten(1)
    for latent_dim, num_temperatures in ((20, 100), (20, 300), (50, 100), (50, 300)):
        pyro.set_rng_seed(0)
        model, x = linear_gaussian(latent_dim, chosen.rows)
        found = pv.bracket(model, x, num_temperatures=num_temperatures)
        exact = pv.analytic(model, found.x).log_evidence
        line(f"linear-Gaussian, L = {latent_dim}, T = {num_temperatures}", found, exact)
    pyro.set_rng_seed(0)
    model, x = linear_gaussian(20, chosen.rows)
    line("from the prior, L = 20, T = 300", pv.bracket(model, x, start=None, num_temperatures=300))
    for latent_dim in (20, 50):
        pyro.set_rng_seed(0)
        model, x = trained(latent_dim, chosen.rows, images)
        line(f"trained decoder, L = {latent_dim}, T = 200", pv.bracket(model, x, num_temperatures=200))


if __name__ == "__main__":
    main()
