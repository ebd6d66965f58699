"""One decoder learned as a VAE, a GAN and a GMMN: log p(x) by every estimator, and the quality of samples.

python -m tests.benchmarks.bench_generators [--data DIR] [--seeds 3] [--rows 100] [--steps 2000]

The comparison of Wu, Burda, Salakhutdinov & Grosse 2017 (table 2). Each generator becomes p(z) N(x; G(z), sigma^2)
with the sigma of the highest evidence on validation data. On the embedded digits L = 2, and quadrature is the
referee of annealing, of importance sampling by a guide, and of Parzen windows; on MNIST, where --data names its
folder, L = 10 and 50, and the bracket says how far annealing can be off. Nats a datum, of intensities in [0, 1]. The
VAE takes --steps steps; the GAN, whose discriminator is a perceptron of the decoder's size, three times as many, and
the GMMN half as many, on larger batches.
"""

import argparse
import os
import time
from pathlib import Path

import pyro
import torch
from torch import nn

import pyro_vae as pv
from pyro_vae.evaluation.samples.parzen import parzen
from pyro_vae.systems import GAN, GMMN, observation_model


def decoder(latent_dim, D):
    return nn.Sequential(pv.networks.mlp(latent_dim, 128, 256, D), nn.Sigmoid())


def vae(x, latent_dim, steps):
    D = x.shape[1]
    network = decoder(latent_dim, D)
    likelihood = pv.likelihoods.Gaussian(network, scale="learned", data_dim=1, initial_scale=0.3, min_scale=0.01)
    model = pv.Model(pv.priors.StandardNormal(latent_dim), likelihood)
    guide = pv.guides.DiagonalGaussian(pv.networks.mlp(D, 256, 2 * latent_dim))
    epochs = -(-steps // -(-len(x) // 64))
    pv.fit(model, guide, x, epochs=epochs, batch_size=64, lr=1e-3, validation=None, progress=False)
    return network


def gan(x, latent_dim, steps):
    D = x.shape[1]
    networks = {"generator": decoder(latent_dim, D), "discriminator": pv.networks.mlp(D, 256, 128, 1)}
    system = GAN(D, latent_dim, penalty=10.0, **networks)
    pv.fit_adversarial(system, x, steps=3 * steps, batch_size=64, progress=False)
    return system.generator


def gmmn(x, latent_dim, steps):
    system = GMMN(x.shape[1], latent_dim, generator=decoder(latent_dim, x.shape[1]))
    pv.fit_adversarial(system, x, steps=steps // 2, batch_size=min(500, len(x)), progress=False)
    return system.generator


LEARN = {"VAE": vae, "GAN": gan, "GMMN": gmmn}


def guide_of(model, x, latent_dim):
    """A guide of a generator that stays as it is, learned on data."""
    guide = pv.guides.FullCovarianceGaussian(
        pv.networks.mlp(x.shape[1], 256, 2 * latent_dim + latent_dim * (latent_dim - 1) // 2), latent_dim=latent_dim
    )
    pv.fit(model, guide, x, epochs=40, batch_size=64, lr=1e-3, validation=None, progress=False)
    return guide


def mean(values):
    return float(values.double().mean())


def on_digits(seed, steps, rows, report):
    train, test = (pv.datasets.digits(split, values="intensity") for split in ("train", "test"))
    labels = pv.datasets.digit_labels("train")
    train, validation, test = train[:1237], train[1237:], test[:rows]
    pyro.set_rng_seed(seed)
    referee = pv.image_classifier(train, labels[:1237])
    for name, learn in LEARN.items():
        pyro.set_rng_seed(seed)
        began = time.perf_counter()
        network = learn(train, 2, steps).requires_grad_(False)
        seconds = time.perf_counter() - began
        model = observation_model(network, validation, latent_dim=2)
        exact = pv.quadrature(model, test)
        ais = pv.evidence(model, test, method="ais")
        iwae = pv.evidence(model, test, guide_of(model, train, 2), method="importance")
        samples = model.likelihood.network(torch.randn(10_000, 2))
        window = parzen(samples, test, x_validation=validation)
        quality = pv.sample_quality(samples, train, pv.datasets.digits("test", values="intensity"), classifier=referee)
        report(
            name,
            2,
            seed,
            seconds=seconds,
            sigma=float(model.likelihood.scale),
            exact=mean(exact.log_evidence),
            bound=float(exact.error_bound.max()),
            train=mean(pv.quadrature(model, train[:rows]).log_evidence),
            ais=mean(ais.log_evidence),
            ais_off=float((ais.log_evidence - exact.log_evidence).abs().median()),
            iwae=mean(iwae.log_evidence),
            parzen=mean(window.log_density),
            unreachable=unreachable(exact.log_evidence, pv.quadrature(model, model.sample(200)["x"]).log_evidence),
            **samples_of(quality),
        )


def unreachable(log_evidence, own):
    """Share of test data less probable than 99 % of the generator's own noisy draws: a hundredth if it is right."""
    return mean(log_evidence < own.quantile(0.01))


def samples_of(quality):
    return {
        "precision": quality.precision,
        "recall": quality.recall,
        "frechet": quality.frechet,
        "copying": quality.copying,
        "classes": quality.classes_present,
    }


def on_mnist(folder, latent_dim, seed, steps, rows, report, systems):
    images = pv.datasets.mnist(folder, "train")
    train, validation = images[:7000], images[7000:7050]
    held_out = pv.datasets.mnist(folder, "test")
    test = held_out[:rows]
    pyro.set_rng_seed(seed)
    referee = pv.image_classifier(train, pv.datasets.mnist_labels(folder, "train")[:7000])
    settings = {"method": "ais", "num_chains": 8, "num_temperatures": 100}
    for name, learn in ((name, LEARN[name]) for name in systems):
        pyro.set_rng_seed(seed)
        began = time.perf_counter()
        network = learn(train, latent_dim, steps).requires_grad_(False)
        seconds = time.perf_counter() - began
        model = observation_model(network, validation, latent_dim=latent_dim, accuracy=0.05, **settings)
        found = pv.bracket(model, test, num_temperatures=300, num_chains=8)
        ais = pv.evidence(model, test, method="ais", num_chains=8, num_temperatures=300)
        on_train = pv.evidence(model, train[:rows], method="ais", num_chains=8, num_temperatures=300)
        iwae = pv.evidence(model, test, guide_of(model, train, latent_dim), method="importance")
        samples = network(torch.randn(10_000, latent_dim))
        window = parzen(samples, test, x_validation=images[7000:8000])
        quality = pv.sample_quality(samples[:2000], train, held_out, classifier=referee)
        report(
            name,
            latent_dim,
            seed,
            seconds=seconds,
            sigma=float(model.likelihood.scale),
            ais=mean(ais.log_evidence),
            train=mean(on_train.log_evidence),
            bracket=mean(found.width),
            resolved=mean(ais.resolved),
            iwae=mean(iwae.log_evidence),
            parzen=mean(window.log_density),
            unreachable=unreachable(ais.log_evidence, found.lower),
            **samples_of(quality),
        )


def line(name, latent_dim, seed, **figures):
    shown = "  ".join(f"{key} {value:.4g}" if value is not None else f"{key} -" for key, value in figures.items())
    print(f"L = {latent_dim:2d}  seed {seed}  {name:5s} {shown}", flush=True)


def main():
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--data", default=os.environ.get("PYRO_VAE_DATA"))
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--first-seed", type=int, default=0)
    options.add_argument("--rows", type=int, default=100)
    options.add_argument("--steps", type=int, default=2000)
    options.add_argument("--latent-dims", type=int, nargs="*", default=[10, 50])
    options.add_argument("--systems", nargs="+", choices=LEARN, default=list(LEARN), help="on MNIST")
    options.add_argument("--only", choices=["digits", "mnist"])
    chosen, _ = options.parse_known_args()
    seeds = range(chosen.first_seed, chosen.first_seed + chosen.seeds)
    for seed in seeds if chosen.only != "mnist" else ():
        on_digits(seed, chosen.steps, chosen.rows, line)
    if chosen.data and chosen.only != "digits":
        folder = Path(chosen.data)
        folder = folder / "mnist" if (folder / "mnist").is_dir() else folder
        for latent_dim in chosen.latent_dims:
            for seed in seeds:
                on_mnist(folder, latent_dim, seed, chosen.steps, chosen.rows, line, chosen.systems)


if __name__ == "__main__":
    main()
