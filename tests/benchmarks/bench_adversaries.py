"""What GAN, InfoGAN and StackGAN reach: classes present, codes that agree with classes, images with captions.

python -m tests.benchmarks.bench_adversaries [--data DIR] [--systems GAN InfoGAN Elastic StackGAN] [--seeds 3]
    [--starts 3] [--steps N] [--figures DIR]

On the embedded digits and, where DIR (or the variable PYRO_VAE_DATA) holds ``mnist/``, on its images. The referee is a
classifier trained on the training images. InfoGAN is trained from several starts; the one is kept whose recogniser
tells most apart on training images, I = H(E Q(c|x)) - E H(Q(c|x)): no label is looked at.
Elastic is InfoGAN with invariance=1, whose recogniser also learns from distorted images. Information sets InfoGAN's
bound beside the mutual information itself, by quadrature over two dimensions of noise. Seconds are of the processor.
"""

import argparse
import os
import time
import warnings
from pathlib import Path

import numpy as np
import pyro
import torch
from scipy.optimize import linear_sum_assignment

import pyro_vae as pv
from pyro_vae import plots
from pyro_vae.evaluation.samples.classifier import image_classifier
from pyro_vae.systems.adversaries.diversity import diversity

STEPS = {("GAN", "digits"): 2000, ("GAN", "mnist"): 2000, ("InfoGAN", "digits"): 1500, ("InfoGAN", "mnist"): 1500}
STEPS |= {("Elastic", "digits"): 1500, ("Elastic", "mnist"): 1500}
STEPS |= {("Information", "digits"): 1500, ("Information", "mnist"): 1500}
STEPS |= {("StackGAN", "digits"): 1500, ("StackGAN", "mnist"): 2500}  # a stage


def data_sets(folder):
    digits = {s: (pv.datasets.digits(s, values="intensity"), pv.datasets.digit_labels(s)) for s in ("train", "test")}
    found = {"digits": digits}
    if folder and (Path(folder) / "mnist").is_dir():
        path = Path(folder) / "mnist"
        found["mnist"] = {s: (pv.datasets.mnist(path, s), pv.datasets.mnist_labels(path, s)) for s in ("train", "test")}
    return found


def gan(data, referee, steps, seed, _):
    x, _ = data["train"]
    system = pv.systems.GAN(x.shape[-1], latent_dim=10)
    history = pv.fit_adversarial(system, x, steps=steps, seed=seed, progress=False)
    shares = torch.bincount(referee["whole"].predict(system.sample(2000)), minlength=10) / 2000
    found = {"classes above 1 %": int((shares > 0.01).sum()), "least share": float(shares.min())}
    return system.sample(100), found | {"diversity": history.diversity[0]}


def infogan(data, referee, steps, seed, starts, invariance=0.0):
    x, (x_test, labels) = data["train"][0], data["test"]
    agreements, best = [], (-1.0, None)
    for start in range(starts):
        pyro.set_rng_seed(1000 * seed + start)
        system = pv.systems.InfoGAN(x.shape[-1], latent_dim=10, invariance=invariance)
        pv.fit_adversarial(system, x, steps=steps, progress=False)
        with torch.no_grad():
            q = system.recognise(x)[0].probs
            told = float(-(q.mean(0) * q.mean(0).log()).sum() - entropy(q))
            agreements.append(agreement(system.recognise(x_test)[0].probs.argmax(-1), labels))
        if told > best[0]:
            best = (told, (system, agreements[-1]))
    system, agreed = best[1]
    bound = system.information_bound(2000)
    found = {"agreement": agreed, "of all starts": agreements, "information on data": best[0]}
    found |= {"bound": float(bound.category), "continuous": [round(float(v), 2) for v in bound.continuous]}
    return torch.cat([system.sample(10, category=k) for k in range(10)]), found


def elastic(data, referee, steps, seed, starts):
    return infogan(data, referee, steps, seed, starts, invariance=1.0)


def information(data, referee, steps, seed, _):
    """The recogniser's bound, and the mutual information itself: p(x|c) of noisy images by quadrature over two noises.

    Of noise alone: the code's images are compared under Gaussian noise of a tenth, for without it they are surfaces.
    """
    scale, rows = 0.1, 300
    x, _ = data["train"]
    system = pv.systems.InfoGAN(x.shape[-1], latent_dim=2, num_continuous=0)
    pv.fit_adversarial(system, x, steps=steps, seed=seed, progress=False)
    category = torch.randint(10, (rows,))
    made = system.sample(rows, category=category)
    noisy = made + scale * torch.randn_like(made)
    at = [pv.Model(system.prior, pv.likelihoods.Gaussian(system.given(k), scale=scale)) for k in range(10)]
    exact = [pv.quadrature(model, noisy) for model in at]
    log_likelihood = torch.stack([one.log_evidence for one in exact], -1)
    truth, error = pv.systems.mutual_information(log_likelihood, category)
    bound = system.information_bound(2000, scale=scale)
    found = {"bound": float(bound.category), "its error": float(bound.category_error), "truth": float(truth)}
    found |= {"error of the truth": float(error)}
    return made[:100], found | {"of quadrature": max(float(one.error_bound.median()) for one in exact)}


def entropy(q):
    return float(-torch.special.xlogy(q, q).sum(-1).mean())


def agreement(code, labels):
    table = np.zeros((10, 10))
    np.add.at(table, (code.numpy(), labels.numpy()), 1)
    rows, columns = linear_sum_assignment(-table)
    return table[rows, columns].sum() / len(labels)


def stackgan(data, referee, steps, seed, _):
    x, labels = data["train"]
    captions = pv.systems.Captions(x, labels)
    system = pv.systems.StackGAN(captions, x.shape[-1])
    pv.fit_adversarial(system, x, captions.codes(x, labels), steps=steps, seed=seed, progress=False)
    codes = captions.codes(*data["test"])
    found = {}
    for stage, name in ((1, "small"), (2, "whole")):
        made = system.sample(codes, stage=stage)
        found[f"stage {stage} agrees"] = float((referee[name].predict(made) == codes[:, 0]).double().mean())
    measured = captions.codes(made, codes[:, 0])
    for column, name in ((1, "slant"), (2, "thickness")):
        found[f"{name} agrees"] = float((measured[:, column] == codes[:, column]).double().mean())
    one = [diversity(system.sample([f"a {noun}"] * 256), x[labels == i]) for i, noun in enumerate(captions.nouns)]
    found["diversity at a class"] = float(np.mean(one))
    nouns = [f"a {noun}, {words}" for noun in captions.nouns for words in ("leaning back, thin", "slanted, thick")]
    return system.sample([caption for caption in nouns for _ in range(5)]), found


def referees(data):
    """Classifiers of the images, and of those at the size of stage I."""
    x, labels = data["train"]
    test, test_labels = data["test"]
    small = pv.systems.StackGAN(pv.systems.Captions(x, labels), x.shape[-1]).first.real
    found = {"whole": image_classifier(x, labels), "small": image_classifier(small(x), labels)}
    right = {"whole": found["whole"].predict(test), "small": found["small"].predict(small(test))}
    shares = {name: float((made == test_labels).double().mean()) for name, made in right.items()}
    print(f"  the referee agrees with the labels of test images: {shares}", flush=True)
    return found


RUNS = {"GAN": gan, "InfoGAN": infogan, "Elastic": elastic, "StackGAN": stackgan, "Information": information}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", default=os.environ.get("PYRO_VAE_DATA"))
    parser.add_argument("--systems", nargs="+", default=["GAN", "InfoGAN", "Elastic", "StackGAN"])
    parser.add_argument("--only", choices=["digits", "mnist"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--starts", type=int, default=3)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--figures")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("default", pv.AdversarialWarning)
    for name, data in data_sets(args.data).items():
        if args.only not in {None, name}:
            continue
        pyro.set_rng_seed(0)
        print(f"\n{name}, {len(data['train'][0])} training images", flush=True)
        referee = referees(data)
        for system in args.systems:
            run = RUNS[system]
            steps = args.steps or STEPS[system, name]
            rows = []
            for seed in range(args.first_seed, args.first_seed + args.seeds):
                pyro.set_rng_seed(seed)
                start = time.process_time()
                images, found = run(data, referee, steps, seed, args.starts)
                rows.append(found)
                told = ", ".join(f"{key} {_short(value)}" for key, value in found.items())
                seconds = time.process_time() - start
                print(f"  {system}, {steps} steps, seed {seed}, {seconds:.0f} s: {told}", flush=True)
                if args.figures:
                    side = round(images.shape[-1] ** 0.5)
                    figure = plots.images(images, image_shape=(side, side), columns=10)
                    figure.savefig(Path(args.figures) / f"{system}_{name}_{seed}.png")
            numbers = {key: np.median([row[key] for row in rows]) for key in rows[0] if np.isscalar(rows[0][key])}
            print(f"  {system}: medians {', '.join(f'{k} {v:.3g}' for k, v in numbers.items())}", flush=True)


def _short(value):
    return [round(one, 2) for one in value] if isinstance(value, list) else f"{value:.3g}"


if __name__ == "__main__":
    main()
