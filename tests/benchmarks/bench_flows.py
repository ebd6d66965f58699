"""NICE and Real NVP as densities: tables in their own units, digits and MNIST in bits per dimension.

python -m tests.benchmarks.bench_flows [--only tables digits mnist] [--seeds 3] [--data DIR]

Every model sees the same rows and is scored on the same held-out ones. *Tables*: scikit-learn's, each value spread
evenly over its column's own rounding, for a density of repeated values has no bound; a fifth is held out. The flows
start from the whitened table (Ledoit and Wolf's covariance: where they start, they are the full-covariance Gaussian),
learn under weight decay on four fifths of the training rows until the rest no longer improves, and then once more on
all of them for as many steps. Real NVP's log scales are kept within 0.2, the best of 0.2, 0.5, 1 on rows held out of
the training rows of wine and diabetes. *Digits*: counts 0 to 16; *MNIST*: 8,000 training and 2,000 test images, 256
levels. There the flows' figure is the dequantised bound (noise uniform, or variational where it says so), the
Gaussian's the same bound on such noise, and the VAE's the importance-weighted bound on the probability of the levels
itself: no continuous model can gain on it by noise. Bits per dimension are of the units that the table, or the levels,
have.
"""

import argparse
import math
import os
import statistics
import time
from functools import partial
from pathlib import Path

import numpy as np
import pyro
import torch
from scipy.stats import multivariate_normal
from sklearn import datasets
from sklearn.covariance import LedoitWolf

import pyro_vae as pv
from pyro_vae.networks import mlp

NICE, RealNVP = pv.systems.NICE, pv.systems.RealNVP
LR, TABLE_LR = 1e-3, 3e-3


def adamw(parameters, lr, decay):
    return torch.optim.AdamW(parameters, lr=lr, weight_decay=decay)


def bits(nats, data_dim):
    return -float(nats) / data_dim / math.log(2)


def train(system, x, decay, *, lr=LR, **options):
    start = time.process_time()
    own = {"clip_norm": 100.0, "progress": False, "optimiser": partial(adamw, lr=lr, decay=decay), "compile": False}
    return pv.fit(system.model, system.guide, x, **own, **options), time.process_time() - start


# -- tables ----------------------------------------------------------------------------------------------------------

TABLES = {
    "wine": lambda: datasets.load_wine().data,
    "diabetes, without sex": lambda: np.delete(datasets.load_diabetes(scaled=False).data, 1, 1),
    "breast cancer": lambda: datasets.load_breast_cancer().data,
}
ON_TABLES = {
    "NICE": lambda D: NICE(D, hidden=(64,)),
    "Real NVP": lambda D: RealNVP(D, num_transforms=4, hidden=(64,), base="logistic", max_log_scale=0.2),
}


def split_table(values, seed):
    """Rows spread over their rounding, in own units: four fifths and one fifth."""
    rng = np.random.default_rng(seed)
    gaps = [np.diff(np.unique(column)) for column in values.T]
    rounding = [gap[gap > 1e-9 * np.abs(column).max()].min() for gap, column in zip(gaps, values.T, strict=True)]
    values = (values + rounding * (rng.random(values.shape) - 0.5))[rng.permutation(len(values))]
    num_train = len(values) * 4 // 5
    return torch.as_tensor(values[:num_train]).float(), torch.as_tensor(values[num_train:]).float()


def flow_of_table(make, x, seed, decay=0.3):
    """Learn with rows held out to know how long, then on all rows; return the flow and its CPU seconds."""
    num_train, size = len(x) * 4 // 5, 64
    pyro.set_rng_seed(seed)
    trial = make(x.shape[1]).standardise(x[:num_train], whiten=True)
    how = {"epochs": 150, "batch_size": size, "patience_steps": 150, "lr": TABLE_LR}
    history, first = train(trial, x[:num_train], decay, validation=x[num_train:], **how)
    steps = (history.best_epoch + 1) * -(-num_train // size)
    pyro.set_rng_seed(seed)
    system = make(x.shape[1]).standardise(x, whiten=True)
    epochs = max(1, round(steps / -(-len(x) // size)))
    _, second = train(system, x, decay, validation=None, epochs=epochs, batch_size=size, lr=TABLE_LR)
    return system, first + second


def tables_study(seeds, flows):
    for name, load in TABLES.items():
        values = load().astype(float)
        found, seconds = {}, {}
        for seed in range(seeds):
            x, x_test = split_table(values, seed)
            simple = pv.baselines(x, x_test, latent_dim=min(4, x.shape[1] - 1), seed=seed)
            for label, log_prob in simple.log_prob.items():
                found.setdefault(label, []).append(bits(log_prob.mean(), x.shape[1]))
            for label, make in ((label, ON_TABLES[label]) for label in flows):
                system, taken = flow_of_table(make, x, seed)
                found.setdefault(label, []).append(float(system.bits_per_dimension(x_test).mean()))
                seconds.setdefault(label, []).append(taken)
            told = ", ".join(f"{label} {each[-1]:.3f}" for label, each in found.items())
            print(f"  {name}, seed {seed}: {told}", flush=True)
        _print(f"{name}, {values.shape[0]} rows of {values.shape[1]} columns", found, seconds)


# -- levels ----------------------------------------------------------------------------------------------------------


def gaussian(x, x_test):
    """The full-covariance Gaussian (Ledoit and Wolf's) of y = x + u, in bits."""
    y, y_test = (level.double() + torch.rand(level.shape, dtype=torch.float64) for level in (x, x_test))
    found = LedoitWolf().fit(y.numpy())
    return bits(multivariate_normal(found.location_, found.covariance_).logpdf(y_test.numpy()).mean(), x.shape[1])


def vae(x, x_test, num_levels, *, latent_dim, hidden, epochs):
    """A VAE with a discretised logistic likelihood; the importance-weighted bound with 500 draws, in bits."""
    D = x.shape[1]
    start = time.process_time()
    likelihood = pv.likelihoods.DiscretisedLogistic(mlp(latent_dim, hidden, 2 * D), levels=num_levels)
    model = pv.Model(pv.priors.StandardNormal(latent_dim), likelihood)
    unit = torch.nn.Sequential(_Unit(num_levels), mlp(D, hidden, 2 * latent_dim))
    guide = pv.guides.DiagonalGaussian(unit)
    how = {"epochs": epochs, "patience": 15, "batch_size": 64, "lr": 2e-3, "clip_norm": 100.0}
    pv.fit(model, guide, x, progress=False, compile=False, **how)
    seconds = time.process_time() - start
    return bits(_weighted(model, guide, x_test, 500) / len(x_test), D), seconds


class _Unit(torch.nn.Module):
    def __init__(self, num_levels):
        super().__init__()
        self.num_levels = num_levels

    def forward(self, x):
        return x / (self.num_levels - 1) - 0.5


@torch.no_grad()
def _weighted(model, guide, x, num_draws):
    total = 0.0
    for batch in x.split(50):
        q = guide.posterior(batch)
        z = q.sample((num_draws,))
        log_w = model.log_joint(batch, z) - q.log_prob(z)
        total += float((log_w.logsumexp(0) - math.log(num_draws)).sum())
    return total


def levels_study(title, x, x_test, num_levels, flows, *, seeds, vae_size):
    found, seconds = {}, {}
    for seed in range(seeds):
        pyro.set_rng_seed(seed)
        found.setdefault("Gaussian, full covariance", []).append(gaussian(x, x_test))
        value, taken = vae(x, x_test, num_levels, **vae_size)
        found.setdefault("VAE (log P itself)", []).append(value)
        seconds.setdefault("VAE (log P itself)", []).append(taken)
        for label, (make, whiten, decay, epochs) in flows.items():
            pyro.set_rng_seed(seed)
            system = make().standardise(x, whiten=whiten)
            history, taken = train(system, x, decay, epochs=epochs, batch_size=64, patience=10)
            value = statistics.fmean(float(system.bits_per_dimension(rows, 4).mean()) for rows in x_test.chunk(4))
            found.setdefault(label, []).append(value)
            seconds.setdefault(label, []).append(taken)
            print(f"  seed {seed}, {label}: {value:.3f} bits, {taken:.0f} CPU s, {history}", flush=True)
    _print(title, found, seconds)


def digits_study(seeds):
    x, x_test = (pv.datasets.digits(split, values="counts") for split in ("train", "test"))
    levels = {"num_levels": 17, "alpha": 0.05}
    flows = {
        "NICE": (lambda: NICE(64, **levels), True, 1.0, 60),
        "Real NVP": (lambda: RealNVP((8, 8), width=16, **levels), False, 0.1, 12),
        "Real NVP, variational": (
            lambda: RealNVP((8, 8), width=16, dequantisation="variational", **levels),
            False,
            0.1,
            12,
        ),
    }
    size = {"latent_dim": 16, "hidden": 128, "epochs": 60}
    levels_study("digits, 8 x 8, 17 levels", x, x_test, 17, flows, seeds=seeds, vae_size=size)


def mnist_study(folder, seeds):
    x, x_test = (pv.datasets.mnist(folder, split).mul(255).round() for split in ("train", "test"))
    levels = {"num_levels": 256, "alpha": 0.05}
    flows = {
        "NICE": (lambda: NICE(784, hidden=(256, 256), **levels), True, 0.1, 12),
        "Real NVP": (lambda: RealNVP((28, 28), width=8, num_scales=3, **levels), False, 0.01, 3),
    }
    size = {"latent_dim": 20, "hidden": 200, "epochs": 20}
    levels_study("MNIST, 256 levels", x, x_test, 256, flows, seeds=seeds, vae_size=size)


def _print(title, found, seconds):
    print(f"\n{title}: held-out bits per dimension, median of {len(next(iter(found.values())))} seeds (least, most)\n")
    print("| model | bits per dimension | CPU s to train |\n| --- | --- | --- |")
    for label, values in found.items():
        spread = f"{statistics.median(values):.3f} ({min(values):.3f}, {max(values):.3f})"
        taken = f"{statistics.median(seconds[label]):.0f}" if label in seconds else "-"
        print(f"| {label} | {spread} | {taken} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("PYRO_VAE_DATA"), help="folder that holds mnist/")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--only", nargs="+", choices=["tables", "digits", "mnist"], default=["tables", "digits", "mnist"]
    )
    parser.add_argument("--flows", nargs="+", choices=ON_TABLES, default=list(ON_TABLES), help="on tables")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if "tables" in options.only:
        tables_study(options.seeds, options.flows)
    if "digits" in options.only:
        digits_study(options.seeds)
    if "mnist" in options.only and options.data is not None:
        mnist_study(Path(options.data) / "mnist", options.seeds)


if __name__ == "__main__":
    main()
