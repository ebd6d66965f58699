"""Runs that differ in their seeds only: side by side, and one alone, alternated in one process.

python -m tests.benchmarks.bench_sweep [--runs 8] [--epochs 20] [--rounds 5]
"""

import argparse
import statistics
import time

import pyro
import torch

import pyro_vae as pv
from pyro_vae.inference.variational.side_by_side import fit_side_by_side


def made(seed: int) -> tuple[pv.Model, pv.guides.Guide]:
    pyro.set_rng_seed(seed)
    guide = pv.guides.DiagonalGaussian(pv.networks.mlp(64, 128, 4))
    return pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(pv.networks.mlp(2, 128, 64))), guide


def alone(x: torch.Tensor, epochs: int) -> float:
    model, guide = made(0)
    start = time.perf_counter()
    pv.fit(model, guide, x, epochs=epochs, batch_size=64, validation=None, compile=True, progress=False)
    return time.perf_counter() - start


def together(x: torch.Tensor, epochs: int, runs: int) -> float:
    pairs = [made(seed) for seed in range(runs)]
    generators = [torch.Generator().manual_seed(seed) for seed in range(runs)]
    settings = {"epochs": epochs, "batch_size": 64, "lr": 1e-3, "compile": True}
    start = time.perf_counter()
    fit_side_by_side(pairs, (x,), losses=[None] * runs, generators=generators, **settings)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data", help="not used")
    options = parser.parse_args()
    torch.set_num_threads(2)
    x = pv.datasets.digits("train")
    steps = -(-len(x) // 64)

    def per_step(run, *args) -> float:
        """Microseconds a step: the time of twice as many epochs less that of so many, which leaves compilation out."""
        short, long = run(x, options.epochs, *args), run(x, 2 * options.epochs, *args)
        return 1e6 * (long - short) / (options.epochs * steps)

    alone(x, 1), together(x, 1, options.runs)  # fills the cache of compiled code
    singles, joint = zip(
        *[(per_step(alone), per_step(together, options.runs)) for _ in range(options.rounds)], strict=True
    )
    one, many = statistics.median(singles), statistics.median(joint)
    ratio = statistics.median(b / a for a, b in zip(singles, joint, strict=True))
    print(f"64-128-2, batches of 64: a step of one run {one:.0f} us, of {options.runs} side by side {many:.0f} us")
    print(f"{options.runs} runs take {ratio:.2f} times the time of one ({many / one:.2f} by medians)")


if __name__ == "__main__":
    main()
