"""What a compiled step of every objective costs beside an uncompiled one: medians of alternated repeats, one process.

Run as ``python -m tests.benchmarks.bench_objectives [--particles 50] [--steps 3] [--repeats 7] [--only NAME ...]``:
784-400-20 on batches of 100, particles drawn in one run, Adam and clipping included, on noise in the shape of MNIST.
``--parts`` goes through the table of parts instead, each with ``Trace_ELBO`` on a small shape. ``--backend eager`` runs
graphs as ``fit`` does where a run is too short for Inductor.
"""

import argparse
import os
import platform
import statistics
import time
import warnings
from functools import partial

import pyro
import torch
from pyro.infer import Trace_ELBO

from pyro_vae import Model, guides, likelihoods, networks, objectives, priors
from pyro_vae.inference.compiled.step import CompiledStep

BATCH, LR, CLIP = 100, 1e-3, 10.0
WARM = 38  # the graph is checked at its 32nd run, and then not before its 64th
OBJECTIVES = {
    "Trace_ELBO": lambda K: Trace_ELBO(num_particles=K, vectorize_particles=K > 1, max_plate_nesting=2 if K > 1 else 1),
    "importance-weighted": lambda K: objectives.ImportanceWeightedELBO(num_particles=K),
    "doubly reparameterised": lambda K: objectives.DoublyReparameterisedELBO(num_particles=K),
    "Renyi": lambda K: objectives.RenyiELBO(num_particles=K),
    "wake-sleep": lambda K: objectives.ReweightedWakeSleep(num_particles=max(K, 2)),
    "path derivative": lambda K: objectives.PathDerivativeELBO(num_particles=K),
    "beta, warm-up": lambda K: objectives.BetaELBO(objectives.warm_up(1000), num_particles=K),
    "free bits": lambda K: objectives.FreeBitsELBO(num_particles=K),
}


def large():
    pyro.set_rng_seed(0)
    model = Model(priors.StandardNormal(20), likelihoods.Bernoulli(networks.mlp(20, 400, 784)))
    return model, guides.DiagonalGaussian(networks.mlp(784, 400, 40)), (torch.rand(BATCH, 784) > 0.8).float()


def uncompiled(model, guide, x, loss):
    """A step as ``fit(compile=False)`` takes it."""
    parameters = [*model.parameters(), *guide.parameters()]
    optimiser = torch.optim.Adam(parameters, lr=LR)

    def run(steps):
        for _ in range(steps):
            optimiser.zero_grad()
            with pyro.validation_enabled(False):
                loss.loss_and_grads(model, guide, x)
            torch.nn.utils.clip_grad_norm_(parameters, CLIP).item()
            optimiser.step()

    return run


def compiled(model, guide, x, loss, backend="inductor"):
    step = CompiledStep(model, guide, loss, lr=LR, clip_norm=CLIP, backend=backend)
    return lambda steps: step.run([(x,)] * steps)


def ratio(program, make, steps, repeats, backend):
    """Median milliseconds of an uncompiled and a compiled step, and of the ratio of neighbouring ones."""
    runs = [kind(*program(), make()) for kind in (uncompiled, partial(compiled, backend=backend))]
    for run in runs:
        run(WARM)
    times = []
    for _ in range(repeats):
        pair = []
        for run in runs:
            start = time.perf_counter()
            run(steps)
            pair.append((time.perf_counter() - start) / steps * 1e3)
        times.append(pair)
    slow, fast = zip(*times, strict=True)
    return statistics.median(slow), statistics.median(fast), statistics.median(f / s for s, f in times)


def of_parts():
    """Every program of the table of parts, with the plain ELBO."""
    from tests.compiled.test_compiled import PROGRAMS, SHAPES_OF_PROGRAM

    def program(name):
        def make():
            pyro.set_rng_seed(0)
            model, guide, data = PROGRAMS[name]()
            return model, guide, data()

        return make

    return {name: (program(name), Trace_ELBO) for name in PROGRAMS if name not in SHAPES_OF_PROGRAM}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--particles", type=int, default=50)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--backend", default="inductor", choices=["inductor", "eager"])
    parser.add_argument("--parts", action="store_true", help="the table of parts, with Trace_ELBO")
    parser.add_argument("--only", nargs="*", help="parts of rows' names")
    options, _ = parser.parse_known_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    rows = {name: (large, lambda make=make: make(options.particles)) for name, make in OBJECTIVES.items()}
    rows = of_parts() if options.parts else rows
    print(f"{platform.machine()}, {options.threads} threads, torch {torch.__version__}, float32, ", end="")
    print("small shapes" if options.parts else f"{options.particles} particles, 784-400-20, batch {BATCH}")
    print(f"load average {os.getloadavg()[0]:.1f}: figures hold where it is not above the threads\n")
    print("| milliseconds a step | uncompiled | compiled | compiled / uncompiled |\n| --- | --- | --- | --- |")
    for name, (program, make) in rows.items():
        if not options.only or any(part in name for part in options.only):
            slow, fast, share = ratio(program, make, options.steps, options.repeats, options.backend)
            print(f"| {name} | {slow:,.2f} | {fast:,.2f} | {share:.2f} |", flush=True)


if __name__ == "__main__":
    main()
