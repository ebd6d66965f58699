"""A step of several runs side by side, and a step of one alone, both compiled, alternated in one process.

python -m tests.benchmarks.bench_sweep [--runs 8] [--steps 300] [--rounds 7]
"""

import argparse
import statistics
import time

import pyro
import torch
from pyro.infer import Trace_ELBO

import pyro_vae as pv
from pyro_vae.inference.compiled.stacked import StackedSteps
from pyro_vae.inference.compiled.step import CompiledStep

BATCH = 64


def made(seed: int) -> tuple[pv.Model, pv.guides.Guide]:
    pyro.set_rng_seed(seed)
    guide = pv.guides.DiagonalGaussian(pv.networks.mlp(64, 128, 4))
    return pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(pv.networks.mlp(2, 128, 64))), guide


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--data", help="not used")
    options = parser.parse_args()
    torch.set_num_threads(2)
    x = pv.datasets.digits("train")
    one = CompiledStep(*made(0))
    pairs = [made(seed) for seed in range(options.runs)]
    parameters = [[*model.parameters(), *guide.parameters()] for model, guide in pairs]
    generators = [torch.Generator().manual_seed(seed) for seed in range(options.runs)]
    programs = [(*pair, Trace_ELBO()) for pair in pairs]
    many = StackedSteps(programs, parameters, generators, lr=1e-3, backend="inductor")

    def rows(runs: int) -> list[torch.Tensor]:
        orders = [torch.stack([torch.randperm(len(x)) for _ in range(runs)]) for _ in range(1 + options.steps // 22)]
        full = [part for order in orders for part in order.split(BATCH, dim=1) if part.shape[1] == BATCH]
        return full[: options.steps]

    def alone() -> float:
        start = time.perf_counter()
        one.run(((x[order[0]],) for order in rows(1)), scale=1 / BATCH)
        return time.perf_counter() - start

    def together() -> float:
        start = time.perf_counter()
        for order in rows(options.runs):
            many.step([x[order]], scale=1 / BATCH)
        return time.perf_counter() - start

    with pyro.validation_enabled(False):
        alone(), together()  # compiles
        pairs_of_times = [(alone(), together()) for _ in range(options.rounds)]
    ratios = [b / a for a, b in pairs_of_times]
    single, joint = (1e6 * statistics.median(times) / options.steps for times in zip(*pairs_of_times, strict=True))
    print(f"64-128-2, batches of {BATCH}, float32: a step of one run {single:.0f} us, of {options.runs} {joint:.0f} us")
    print(f"{options.runs} runs side by side take {statistics.median(ratios):.2f} times the time of one")


if __name__ == "__main__":
    main()
