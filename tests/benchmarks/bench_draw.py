"""DRAW against the plain VAE with as many latents, by glimpses, with and without attention.

Run as ``python -m tests.benchmarks.bench_draw [--data DIR] [--seeds 3] [--glimpses 1 2 4 8] [--kept FOLDER]``.
``DIR``, or the environment
variable ``PYRO_VAE_DATA``, holds ``mnist/`` with MNIST's files; without it digits alone are measured. MNIST's pixels
are binary, with the intensity as probability: of images to validate and to test drawn once, from a seed that is always
the same, of images to train on anew in every epoch, or all systems overfit 7,200 images. Digits are cut at half the
brightness. Trainings take about the same CPU time, keep the weights of their best validation ELBO, and are measured on
test images by the same estimators: the ELBO with 20 draws and IWAE with K = 100.
"""

import argparse
import copy
import json
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


class Fading(torch.optim.Adam):
    """Adam whose learning rate comes down to a hundredth over the second half of so many steps."""

    def __init__(self, parameters, lr, num_steps):
        super().__init__(parameters, lr=lr)
        self.first, self.num_steps, self.taken = lr, num_steps, 0

    def step(self, closure=None):
        for group in self.param_groups:
            group["lr"] = self.first * min(1.0, max(0.01, 2 - 2 * self.taken / self.num_steps))
        self.taken += 1
        return super().step(closure)


VAE_ON_MNIST = {"VAE 784-400-80": {"epochs": 450, "batch_size": 100, "lr": 1e-3}}
DRAW_ON_MNIST = {"batch_size": 100, "lr": 2e-3, "hidden": 128}
EPOCHS = {1: 50, 2: 50, 4: 50, 8: 80}  # of so many glimpses; 8 take about as much CPU time as the VAE


def runs_on_mnist(glimpses, epochs):
    """Every system on MNIST by name: whether it attends, its glimpses, and how it is trained."""
    runs = {name: (None, None, how) for name, how in VAE_ON_MNIST.items()}
    for kind, attention in (("no attention", None), ("attention 5, 5", (5, 5))):
        for T in glimpses:
            how = DRAW_ON_MNIST | {"epochs": epochs or EPOCHS[T]}
            runs[f"DRAW, {kind}, {T} x {80 // T}"] = (T, attention, how)
    return runs


def on_mnist(folder, seeds, num_test, only, glimpses, epochs, kept):
    """The images to train on are drawn anew every epoch; those to validate and to test once and for all."""
    head("MNIST, 7,200 to train, 800 to validate, 80 latents in all (DRAW: glimpses x latents of each)")
    noise = torch.Generator().manual_seed(0)
    grey = {split: pv.datasets.mnist(folder, split) for split in ("train", "test")}
    binary = {split: torch.bernoulli(images, generator=noise) for split, images in grey.items()}
    cut = len(grey["train"]) // 10
    data = grey["train"][cut:], binary["train"][:cut], binary["test"][:num_test]
    found = {}
    for name, run in runs_on_mnist(glimpses, epochs).items():
        if any(word in name for word in only):
            rows = [_kept(kept, f"{name}, {run[2]['epochs']} epochs, seed {s}", name, run, s, data) for s in seeds]
            found[name] = statistics.median(row["iwae"] for row in rows)
    vae_iwae = found.pop(next(iter(VAE_ON_MNIST)), None)
    for name, iwae in found.items() if vae_iwae is not None else ():
        print(f"{name}, less the VAE: {iwae - vae_iwae:.2f} nats (to reach: 3)")


def _kept(folder, title, name, run, seed, data):
    """The figures of one run, printed; from its file in the folder where it ran before."""
    file = None if folder is None else Path(folder) / f"{title.replace(', ', '_').replace(' ', '-')}.json"
    if file is not None and file.exists():
        row = json.loads(file.read_text())
    else:
        row = _of_mnist(*run, seed, *data)
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(row))
    told = f"seed {seed}, best epoch {row['best']}, ELBO trained {row['trained']:.1f}, validated "
    told += f"{row['validated']:.1f}, validation IWAE {row['validation_iwae']:.2f}"
    numbers = f"{row['numbers']:9,d} {row['seconds']:7.0f} {run[2]['epochs']:6d} {row['elbo']:8.2f} {row['iwae']:8.2f}"
    print(f"{name:34s} {numbers}   {told}", flush=True)
    return row


def _of_mnist(num_glimpses, attention, how, seed, train, held_out, test):
    """Train one system with one seed; return its bounds on validation and on test images."""
    pyro.set_rng_seed(seed)
    pyro.clear_param_store()
    if num_glimpses is None:
        model, guide = vae(784, 80, 400)
    else:
        sizes = {"num_glimpses": num_glimpses, "latent_dim": 80 // num_glimpses, "hidden": how["hidden"]}
        system = pv.systems.DRAW(28, attention=attention, **sizes).start_from(train)
        model, guide = system.model, system.guide
    start, num_steps = time.process_time(), how["epochs"] * -(-len(train) // how["batch_size"])
    settings = {"epochs": how["epochs"], "patience": 10**6, "validation": held_out, "batch_size": how["batch_size"]}
    settings |= {"dynamic_binarisation": True, "clip_norm": 20.0, "compile": False, "progress": False}
    history = pv.fit(model, guide, train, optimiser=lambda p: Fading(p, how["lr"], num_steps), **settings)
    took, best = time.process_time() - start, history.best_epoch
    elbo, iwae = (_bound(model, guide, test, method, K) for method, K in (("elbo", 20), ("importance", 100)))
    return {
        "numbers": sum(p.numel() for part in (model, guide) for p in part.parameters()),
        "seconds": took,
        "best": best,
        "trained": float(history.train_elbo[best]),
        "validated": float(history.validation_elbo[best]),
        "validation_iwae": _bound(model, guide, held_out[:400], "importance", 100),
        "elbo": elbo,
        "iwae": iwae,
    }


def _bound(model, guide, x, method, num_samples):
    return float(pv.evidence(model, x, guide, method=method, num_samples=num_samples).log_evidence.mean())


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--data", default=os.environ.get("PYRO_VAE_DATA"), help="folder with the data")
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--first-seed", type=int, default=0)
    options.add_argument("--systems", nargs="+", default=["VAE", "DRAW"], help="on MNIST: words of the names")
    options.add_argument("--glimpses", nargs="+", type=int, choices=EPOCHS, default=[8], help="of DRAW on MNIST")
    options.add_argument("--epochs", type=int, help="of DRAW on MNIST, in place of its own")
    options.add_argument("--kept", help="folder where runs on MNIST are kept: one that has ended is not run again")
    options.add_argument("--digits-minutes", type=float, default=0.5)
    options.add_argument("--num-test", type=int, default=500)
    options.add_argument("--only", choices=["digits", "mnist"])
    chosen, _ = options.parse_known_args()
    if chosen.only != "mnist":
        on_digits(chosen.seeds, 60 * chosen.digits_minutes)
    if chosen.data is None:
        print("no MNIST: --data DIR or PYRO_VAE_DATA names a folder that holds mnist/")
    elif chosen.only != "digits":
        seeds = range(chosen.first_seed, chosen.first_seed + chosen.seeds)
        how = chosen.glimpses, chosen.epochs, chosen.kept
        on_mnist(Path(chosen.data) / "mnist", seeds, chosen.num_test, chosen.systems, *how)


if __name__ == "__main__":
    main()
