"""DRAW against the plain VAE with as many latents, by glimpses, with and without attention.

Run as ``python -m tests.benchmarks.bench_draw [--data DIR] [--seeds 3] [--minutes 3]``. ``DIR``, or the environment
variable ``PYRO_VAE_DATA``, holds ``mnist/`` with MNIST's files; without it digits alone are measured. Pixels are
binary for good: MNIST's are drawn once, with the intensity as probability, from a seed that is always the same; digits
are cut at half the brightness. Every training takes the same CPU time, keeps the weights of its best validation ELBO,
and is measured on test images by the same estimators: the ELBO with 20 draws and IWAE with K = 100.
"""

import argparse
import copy
import os
import statistics
import time
from pathlib import Path

import pyro
import torch

import pyro_vae as pv


def vae(width, latent_dim, hidden):
    """A plain VAE, one hidden layer a side."""
    mlp = pv.networks.mlp
    model = pv.Model(pv.priors.StandardNormal(latent_dim), pv.likelihoods.Bernoulli(mlp(latent_dim, hidden, width)))
    return model, pv.guides.DiagonalGaussian(mlp(width, hidden, 2 * latent_dim))


def draw(side, num_glimpses, latent_dim, hidden, attention=None):
    found = pv.systems.DRAW(side, num_glimpses=num_glimpses, latent_dim=latent_dim, hidden=hidden, attention=attention)
    return found.model, found.guide


class InMemory:
    """Where a run left off."""

    state = None

    def load(self):
        return self.state

    def due(self):
        return True

    def save(self, state):
        self.state = copy.deepcopy(state)


def learn(model, guide, x, held_out, *, seconds, **settings):
    """Train for about so much CPU time, which the second epoch foretells; keep the best epoch's weights."""
    kept, start = InMemory(), time.process_time()
    settings |= {"patience": 10**6, "validation": held_out, "progress": False, "checkpoint": kept}
    pv.fit(model, guide, x, epochs=1, **settings)
    second = time.process_time()
    pv.fit(model, guide, x, epochs=2, **settings)
    spent, an_epoch = time.process_time() - start, time.process_time() - second
    epochs = 2 + max(1, round((seconds - spent) / an_epoch))
    pv.fit(model, guide, x, epochs=epochs, **settings)
    return epochs, time.process_time() - start


def measure(name, parts, train, test, *, seeds, seconds, **settings):
    """Print a line: medians over seeds of ELBO and IWAE on test images."""
    rows = []
    for seed in range(seeds):
        pyro.set_rng_seed(seed)
        pyro.clear_param_store()
        model, guide = parts()
        cut = len(train) // 10
        epochs, took = learn(model, guide, train[cut:], train[:cut], seconds=seconds, **settings)
        bounds = [
            float(pv.evidence(model, test, guide, method=how, num_samples=K).log_evidence.mean())
            for how, K in (("elbo", 20), ("importance", 100))
        ]
        rows.append((*bounds, took, epochs))
    number = sum(p.numel() for part in (model, guide) for p in part.parameters())
    elbo, iwae, took, epochs = (statistics.median(column) for column in zip(*rows, strict=True))
    spread = ", ".join(f"{row[1]:.1f}" for row in rows)
    print(f"{name:34s} {number:9,d} {took:7.0f} {epochs:6.0f} {elbo:8.2f} {iwae:8.2f}   {spread}", flush=True)
    return iwae


def head(title):
    print(f"\n{title}\n{'':34s} {'numbers':>9s} {'CPU s':>7s} {'epochs':>6s} {'ELBO':>8s} {'IWAE':>8s}   IWAE by seed")


def on_digits(seeds, seconds):
    head("digits, 8 x 8, 16 latents in all")
    data = pv.datasets.digits("train"), pv.datasets.digits("test")
    settings = {"seeds": seeds, "seconds": seconds, "batch_size": 64, "lr": 3e-3, "compile": False}
    measure("VAE 64-64-16", lambda: vae(64, 16, 64), *data, **settings)
    for attention in (None, (3, 4)):
        for T in (1, 2, 4, 8):
            name = f"DRAW, {T} glimpses of {16 // T}" + ("" if attention is None else ", attention 3, 4")
            measure(name, lambda T=T, a=attention: draw(8, T, 16 // T, 32, a), *data, **settings)


def on_mnist(folder, seeds, seconds, num_test):
    head("MNIST, 8,000 to train, 80 latents in all")
    noise = torch.Generator().manual_seed(0)
    train, test = (torch.bernoulli(pv.datasets.mnist(folder, s), generator=noise) for s in ("train", "test"))
    settings = {"seeds": seeds, "seconds": seconds, "compile": False}
    data = train, test[:num_test]
    plain = measure("VAE 784-400-80", lambda: vae(784, 80, 400), *data, batch_size=100, lr=1e-3, **settings)
    for T in (2, 4, 8):
        found = measure(
            f"DRAW, {T} glimpses of {80 // T}",
            lambda T=T: draw(28, T, 80 // T, 64),
            *data,
            batch_size=50,
            lr=2e-3,
            **settings,
        )
    measure(
        "DRAW, 8 glimpses of 10, attention 5, 5",
        lambda: draw(28, 8, 10, 64, (5, 5)),
        *data,
        batch_size=100,
        lr=2e-3,
        **settings,
    )
    print(f"DRAW, 8 glimpses, less the VAE: {found - plain:.2f} nats (to reach: 3)")


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--data", default=os.environ.get("PYRO_VAE_DATA"), help="folder with the data")
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--minutes", type=float, default=4.0, help="of CPU time a training on MNIST")
    options.add_argument("--digits-minutes", type=float, default=0.5)
    options.add_argument("--num-test", type=int, default=500)
    options.add_argument("--only", choices=["digits", "mnist"])
    chosen, _ = options.parse_known_args()
    if chosen.only != "mnist":
        on_digits(chosen.seeds, 60 * chosen.digits_minutes)
    if chosen.data is None:
        print("no MNIST: --data DIR or PYRO_VAE_DATA names a folder that holds mnist/")
    elif chosen.only != "digits":
        on_mnist(Path(chosen.data) / "mnist", chosen.seeds, 60 * chosen.minutes, chosen.num_test)


if __name__ == "__main__":
    main()
