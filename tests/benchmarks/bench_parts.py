"""Do the published swaps help here? Binarised MNIST and Frey faces, at an equal budget a row.

Run as ``python -m tests.benchmarks.bench_parts --data DIR`` (or set PYRO_VAE_DATA), where DIR holds ``mnist/`` with
the original idx files and ``frey_faces.npz``. Prints Markdown tables. The whole takes about half an hour of one thread;
``--quick`` is a look of about three minutes (3 epochs, one seed, 200 test images).
"""

import argparse
import math
import os
import statistics
import time
from pathlib import Path

import pyro
import torch
from torch import nn

import pyro_vae as pv
from pyro_vae import guides, likelihoods, objectives, priors
from pyro_vae.networks import mlp

LATENT_DIM, HIDDEN = 20, 100
OPTIONS = {
    "batch_size": 50,
    "lr": 2e-3,
    "validation": None,
    "progress": False,
    "compile": False,
}  # one engine for every row


def diagonal(data_dim, latent_dim=LATENT_DIM):
    return guides.DiagonalGaussian(mlp(data_dim, HIDDEN, 2 * latent_dim))


def flow(data_dim, latent_dim=LATENT_DIM):
    """The diagonal guide's network up to its last layer; the flow's own head is the last."""
    features = nn.Sequential(nn.Linear(data_dim, HIDDEN), nn.SiLU())
    return guides.InverseAutoregressive(features, latent_dim=latent_dim, hidden=(64,))


def standard(guide, x):
    return priors.StandardNormal(LATENT_DIM)


def mixture(guide, x):
    return priors.GaussianMixture(LATENT_DIM, num_components=50)


def vamp(guide, x):
    return priors.VampPrior(guide, x[torch.randperm(len(x))[:50]], bounds=(0.0, 1.0))


def vae():
    return pyro.infer.Trace_ELBO()


def iwae(num_particles):
    return lambda: objectives.ImportanceWeightedELBO(num_particles=num_particles, max_plate_nesting=1)


MNIST = {
    "standard prior, diagonal guide, ELBO": (standard, diagonal, vae),
    "mixture prior": (mixture, diagonal, vae),
    "VampPrior": (vamp, diagonal, vae),
    "IWAE-5": (standard, diagonal, iwae(5)),
    "IWAE-50": (standard, diagonal, iwae(50)),
    "inverse autoregressive guide": (standard, flow, vae),
}

FREY = {
    "fixed, 0.1": {"scale": 0.1},
    "fixed, 0.05": {"scale": 0.05},
    "learned per pixel, floor 0.01": {"scale": "learned", "data_dim": 560, "min_scale": 0.01, "initial_scale": 0.2},
    "from the network, floor 0.01": {"scale": "network", "min_scale": 0.01},
}


def timed(model, guide, x, **options):
    """Train, and return the processor's milliseconds a step: other jobs on the machine change them little."""
    start = time.process_time()
    history = pv.fit(model, guide, x, **options)
    return 1e3 * (time.process_time() - start) / history.num_steps


@torch.no_grad()
def bounds(model, guide, x, num_draws, batch_size=2):
    """The ELBO and the importance-weighted bound on log p(x) from the same draws, nats a datum."""
    pyro.set_rng_seed(0)
    elbo = evidence = 0.0
    for batch in x.split(batch_size):  # few data at a time: the draws of one batch stay in the cache
        q = guide.posterior(batch)
        z = q.sample((num_draws,))
        log_w = model.log_joint(batch, z) - q.log_prob(z)  # (num_draws, batch)
        elbo += float(log_w.mean(0).sum())
        evidence += float((log_w.logsumexp(0) - math.log(num_draws)).sum())
    return elbo / len(x), evidence / len(x)


def mnist_study(folder, *, swap, epochs, seeds, num_train, num_test):
    intensities = pv.datasets.mnist(folder, "train")[:num_train], pv.datasets.mnist(folder, "test")[:num_test]
    train_x, test_x = ((x > 0.5).float() for x in intensities)
    print(
        f"\n{len(train_x)} training and {len(test_x)} test images, binarised at 1/2; {epochs} epochs of batches of 50"
    )
    print("\n| swap | ELBO | log p(x), IWAE-500 | gap of the two | CPU ms a step |\n| --- | --- | --- | --- | --- |")
    for name, (make_prior, make_guide, make_loss) in MNIST.items():
        if not name.startswith(swap):
            continue
        rows = []
        for seed in range(seeds):
            pyro.set_rng_seed(seed)
            guide = make_guide(784)
            model = pv.Model(make_prior(guide, train_x), likelihoods.Bernoulli(mlp(LATENT_DIM, HIDDEN, 784)))
            step = timed(model, guide, train_x, epochs=epochs, loss=make_loss(), **OPTIONS)
            elbo, evidence = bounds(model, guide, test_x, 500)
            rows.append((elbo, evidence, evidence - elbo, step))
        _print_row(name, rows)


def frey_study(path, *, epochs, seeds):
    train_x, test_x = pv.datasets.frey_faces(path, "train"), pv.datasets.frey_faces(path, "test")
    print(f"\n{len(train_x)} training and {len(test_x)} test faces in [0, 1]; {epochs} epochs of batches of 50")
    print("\n| sigma | ELBO | log p(x), IWAE-500 | smallest sigma | CPU ms a step |\n| --- | --- | --- | --- | --- |")
    for name, how in FREY.items():
        rows = []
        for seed in range(seeds):
            pyro.set_rng_seed(seed)
            width = 1120 if how["scale"] == "network" else 560
            model = pv.Model(priors.StandardNormal(10), likelihoods.Gaussian(mlp(10, HIDDEN, width), **how))
            guide = diagonal(560, 10)
            step = timed(model, guide, train_x, epochs=epochs, **OPTIONS)
            with torch.no_grad():
                sigma = model.likelihood(guide.posterior(test_x).mean).stddev.min()
            rows.append((*bounds(model, guide, test_x, 500), float(sigma), step))
        _print_row(name, rows)


def _print_row(name, rows):
    print("| " + " | ".join([name, *(_spread(column) for column in zip(*rows, strict=True))]) + " |", flush=True)


def _spread(values):
    digits = 3 if abs(values[0]) < 1 else 1
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):.{digits}f} ± {spread:.{digits}f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("PYRO_VAE_DATA"), help="folder with the data")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--frey-epochs", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--train", type=int, default=8000)
    parser.add_argument("--test", type=int, default=2000)
    parser.add_argument("--swap", default="", help="only the MNIST rows whose name starts so")
    parser.add_argument("--quick", action="store_true", help="a small budget, to see that it runs")
    parser.add_argument("--only", choices=["mnist", "frey"])
    options = parser.parse_args()
    if options.data is None:
        parser.error("expected a folder with the data; got none; try --data DIR or PYRO_VAE_DATA")
    if options.quick:
        options.epochs, options.frey_epochs, options.seeds, options.test = 3, 20, 1, 200
    folder = Path(options.data)
    if options.only != "mnist":
        frey_study(folder / "frey_faces.npz", epochs=options.frey_epochs, seeds=options.seeds)
    if options.only != "frey":
        mnist_study(
            folder / "mnist",
            swap=options.swap,
            epochs=options.epochs,
            seeds=options.seeds,
            num_train=options.train,
            num_test=options.test,
        )


if __name__ == "__main__":
    main()
