"""Inference suboptimality on MNIST, after Cremer, Li & Duvenaud 2018, small: what moves each part of the gap.

python -m tests.benchmarks.bench_gaps --data DIR [--seeds 1] [--epochs 5] [--train 5000] [--rows 32]

Variants: the base encoder; a larger encoder; a guide with full covariance; a flow guide; the base encoder over-fitted
to a tenth of the data. Each line is a mean over resolved data. With --seeds 3 --epochs 10 --train 10000 it is the table
of docs/trust.md.
"""

import argparse
import os
import time
from pathlib import Path

import pandas as pd
import pyro
import torch

import pyro_vae as pv
from pyro_vae import guides, likelihoods, networks, priors

LATENT = 10
HIDDEN = 200


def variants(data_dim):
    width = LATENT + LATENT + LATENT * (LATENT - 1) // 2
    small, large = [networks.mlp(data_dim, hidden, 2 * LATENT) for hidden in (HIDDEN, 4 * HIDDEN)]
    return {
        "base": guides.DiagonalGaussian(small),
        "larger encoder": guides.DiagonalGaussian(large),
        "full covariance": guides.FullCovarianceGaussian(networks.mlp(data_dim, HIDDEN, width), latent_dim=LATENT),
        "flow": guides.Coupling(networks.mlp(data_dim, HIDDEN, 2 * width), latent_dim=LATENT),
    }


def measure(model, guide, x):
    truth = pv.evidence(model, x, method="ais", tolerance=0.2)
    return truth, pv.gaps(model, x, guide, truth=truth, num_steps=250, num_samples=500)


def main():
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--data", default=os.environ.get("PYRO_VAE_DATA", "data"))
    options.add_argument("--seeds", type=int, default=1)
    options.add_argument("--epochs", type=int, default=5)
    options.add_argument("--train", type=int, default=5000)
    options.add_argument("--rows", type=int, default=32)
    chosen = options.parse_args()
    folder = Path(chosen.data)
    folder = folder / "mnist" if (folder / "mnist").is_dir() else folder
    train, test = ((pv.datasets.mnist(folder, split) > 0.5).float().flatten(1) for split in ("train", "test"))
    rows = []
    for seed in range(chosen.seeds):
        for name in ("base", "larger encoder", "full covariance", "flow", "over-fitted"):
            began = time.perf_counter()
            pyro.set_rng_seed(seed)
            guide = variants(train.shape[1])["base" if name == "over-fitted" else name]
            model = pv.Model(
                priors.StandardNormal(LATENT), likelihoods.Bernoulli(networks.mlp(LATENT, HIDDEN, train.shape[1]))
            )
            few = name == "over-fitted"
            data = train[: chosen.train // 10] if few else train[: chosen.train]
            epochs = 10 * chosen.epochs if few else chosen.epochs
            pv.fit(model, guide, data, epochs=epochs, batch_size=128, validation=None, progress=False, lr=2e-3)
            for split, x in (("train", data[: chosen.rows]), ("test", test[: chosen.rows])):
                truth, ledger = measure(model, guide, x)
                good = ledger.resolved
                row = {"variant": name, "seed": seed, "split": split, "resolved": int(good.sum())}
                for key in ("log_evidence", "best_elbo", "elbo", "approximation", "amortisation"):
                    row[key] = float(getattr(ledger, key)[good].mean())
                row["share"] = ledger.amortisation_share
                row["ais_error"] = float(truth.standard_error[good].mean())
                row["lowest_approximation"] = float(ledger.approximation[good].min())
                rows.append({**row, "seconds": time.perf_counter() - began})
                print(pd.DataFrame(rows[-1:]).round(2).to_string(index=False, header=len(rows) == 1), flush=True)
    table = pd.DataFrame(rows).drop(columns="seed").groupby(["variant", "split"], sort=False)
    print(table.mean().round(2).to_string())
    if chosen.seeds > 1:
        print("standard deviation over seeds")
        print(table.std().round(2).to_string())


if __name__ == "__main__":
    main()
