"""SVI step for step, side by side with its peers: one table, medians of alternated repeats in one process.

Run as ``python -m tests.benchmarks.bench_svi [--data DIR] [--steps 200] [--repeats 7]``. ``DIR``, or the environment
variable ``PYRO_VAE_DATA``, holds ``mnist/t10k-images-idx3-ubyte.gz``; without it the large shape runs on noise. NumPyro
takes part where it is installed.
"""

import argparse
import gzip
import os
import platform
import statistics
import time
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyro
import torch
from pyro.infer import SVI, JitTrace_ELBO, Trace_ELBO
from torch import nn

from pyro_vae import Model, guides, likelihoods, networks, priors
from pyro_vae.infer import CompiledTrace_ELBO
from pyro_vae.inference.compiled.step import CompiledStep

SHAPES = {"64-128-2": (64, 128, 2, 64), "784-400-20": (784, 400, 20, 128)}  # D, hidden, L, batch
LR = 1e-3
BEST = "this: four steps a graph, an epoch a call"


def digits():
    from sklearn.datasets import load_digits

    return torch.tensor(load_digits().data / 16.0 > 0.5).float()


def mnist(folder):
    file = Path(folder or ".") / "mnist" / "t10k-images-idx3-ubyte.gz"
    if not file.exists():
        return (torch.rand(8000, 784) > 0.8).float()
    with gzip.open(file) as stream:
        pixels = np.frombuffer(stream.read(), np.uint8, offset=16).reshape(-1, 784)[:8000]
    return torch.tensor(pixels / 255.0 > 0.5).float()


def programs(D, hidden, L):
    pyro.set_rng_seed(0)
    model = Model(priors.StandardNormal(L), likelihoods.Bernoulli(networks.mlp(L, hidden, D)))
    return model, guides.DiagonalGaussian(networks.mlp(D, hidden, 2 * L))


def by_svi(make_loss):
    def contender(shape, x):
        model, guide = programs(*shape)
        svi = SVI(model, guide, pyro.optim.Adam({"lr": LR}), make_loss())
        return lambda steps: [svi.step(next(x)) for _ in range(steps)]

    return contender


def torch_compile_around_pyro(shape, x):
    model, guide = programs(*shape)
    elbo = Trace_ELBO()
    parameters = [*model.parameters(), *guide.parameters()]
    optimiser = torch.optim.Adam(parameters, lr=LR, fused=True)
    loss_of = torch.compile(lambda batch: elbo.differentiable_loss(model, guide, batch))

    def run(steps):
        for _ in range(steps):
            optimiser.zero_grad()
            loss = loss_of(next(x))
            loss.backward()
            optimiser.step()
            loss.item()

    return run


class HandWritten(nn.Module):
    def __init__(self, D, hidden, L):
        super().__init__()
        self.encoder, self.decoder = networks.mlp(D, hidden, 2 * L), networks.mlp(L, hidden, D)

    def forward(self, x):
        loc, raw = self.encoder(x).chunk(2, -1)
        scale = nn.functional.softplus(raw) + 1e-6
        eps = torch.randn_like(loc)
        z = loc + scale * eps
        log_ratio = (0.5 * (eps**2 - z**2) + scale.log()).sum()  # log p(z) - log q(z|x)
        bce = nn.functional.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="sum")
        return bce - log_ratio


def by_hand(*, compiled):
    def contender(shape, x):
        module = HandWritten(*shape)
        optimiser = torch.optim.Adam(module.parameters(), lr=LR, fused=True)
        loss_of = torch.compile(module) if compiled else module

        def run(steps):
            for _ in range(steps):
                optimiser.zero_grad()
                loss = loss_of(next(x))
                loss.backward()
                optimiser.step()
                loss.item()

        return run

    return contender


def this_step(*, at_once, steps_per_call=1):
    def contender(shape, x):
        model, guide = programs(*shape)
        step = CompiledStep(model, guide, lr=LR, steps_per_call=steps_per_call)
        if at_once:
            return lambda steps: step.run((next(x),) for _ in range(steps)).tolist()
        return lambda steps: [step(next(x)).item() for _ in range(steps)]

    return contender


def numpyro_step(*, scan):
    def contender(shape, x):
        import jax
        import numpyro
        from numpyro import distributions as dist
        from numpyro.infer import SVI, Trace_ELBO

        D, hidden, L = shape

        def init(rng, fan_in, fan_out):
            return jax.random.uniform(rng, (fan_in, fan_out), minval=-1, maxval=1) / np.sqrt(fan_in)

        def network(name, sizes, x):
            for i in range(2):
                weight = numpyro.param(f"{name}{i}", lambda rng, i=i: init(rng, sizes[i], sizes[i + 1]))
                bias = numpyro.param(f"{name}{i}b", jax.numpy.zeros(sizes[i + 1]))
                x = x @ weight + bias
                x = jax.nn.silu(x) if i == 0 else x
            return x

        def model(x):
            with numpyro.plate("data", len(x)):
                z = numpyro.sample("z", dist.Normal(jax.numpy.zeros(L), 1.0).to_event(1))
                numpyro.sample("x", dist.Bernoulli(logits=network("d", (L, hidden, D), z)).to_event(1), obs=x)

        def guide(x):
            with numpyro.plate("data", len(x)):
                loc, raw = jax.numpy.split(network("e", (D, hidden, 2 * L), x), 2, -1)
                numpyro.sample("z", dist.Normal(loc, jax.nn.softplus(raw) + 1e-6).to_event(1))

        svi = SVI(model, guide, numpyro.optim.Adam(LR), Trace_ELBO())
        state = [svi.init(jax.random.PRNGKey(0), jax.numpy.array(next(x).numpy()))]
        step = jax.jit(svi.update)
        epoch = jax.jit(lambda state, batches: jax.lax.scan(svi.update, state, batches))

        def loop(steps):
            for _ in range(steps):
                state[0], loss = step(state[0], next(x).numpy())
                loss.item()

        def scanned(steps):
            batches = np.stack([next(x).numpy() for _ in range(steps)])
            state[0], losses = epoch(state[0], batches)
            losses.block_until_ready()

        return scanned if scan else loop

    return contender


CONTENDERS = {
    "Pyro SVI, Trace_ELBO": by_svi(Trace_ELBO),
    "Pyro SVI, JitTrace_ELBO": by_svi(lambda: JitTrace_ELBO(ignore_jit_warnings=True)),
    "torch.compile around Pyro": torch_compile_around_pyro,
    "hand-written torch, fused Adam": by_hand(compiled=False),
    "hand-written torch, compiled": by_hand(compiled=True),
    "NumPyro, step in a loop": numpyro_step(scan=False),
    "NumPyro, epoch in one scan": numpyro_step(scan=True),
    "this: CompiledTrace_ELBO in Pyro's SVI": by_svi(CompiledTrace_ELBO),
    "this: the whole step, a call each": this_step(at_once=False),
    "this: the whole step, an epoch a call": this_step(at_once=True),
    "this: four steps a graph, an epoch a call": this_step(at_once=True, steps_per_call=4),
}


def forever(batches):
    while True:
        yield from batches


def measure(shape, x, steps, repeats, names):
    """Median microseconds a step and seconds to the first result, by contender, repeats alternated."""
    *sizes, batch = shape
    batches = [b.contiguous() for b in x.split(batch) if len(b) == batch]
    runs, first = {}, {}
    for name in names:
        start = time.perf_counter()
        runs[name] = CONTENDERS[name](tuple(sizes), forever(batches))
        runs[name](steps if "scan" in name or "four" in name else 6)
        first[name] = time.perf_counter() - start
    times = {name: [] for name in names}
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            run(steps)
            times[name].append((time.perf_counter() - start) / steps * 1e6)
    return {name: statistics.median(values) for name, values in times.items()}, first


def matmul_share(shape, microseconds):
    """The share of this machine's own float32 matrix-multiply rate that a step reaches."""
    D, hidden, L, batch = shape
    weights = D * hidden + hidden * 2 * L + L * hidden + hidden * D
    flops = 2 * batch * (3 * weights - D * hidden)  # forward, by weights, by inputs; none by the data
    a = torch.randn(1024, 1024)
    rates = []
    for _ in range(20):
        start = time.perf_counter()
        a @ a
        rates.append(2 * 1024**3 / (time.perf_counter() - start))
    return flops / (microseconds * 1e-6) / max(rates)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=os.environ.get("PYRO_VAE_DATA"))
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="*", help="parts of contenders' names")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    names = [n for n in CONTENDERS if not n.startswith("NumPyro") or find_spec("numpyro")]
    if options.only:
        names = [n for n in names if any(part in n for part in options.only)]
    data = {"64-128-2": digits(), "784-400-20": mnist(options.data)}
    results = {key: measure(shape, data[key], options.steps, options.repeats, names) for key, shape in SHAPES.items()}
    load = os.getloadavg()[0]
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, {options.threads} threads, torch {torch.__version__}, float32")
    print(f"load average {load:.1f}: figures hold where it is not above the threads\n")
    print("| microseconds a step | " + " | ".join(f"{key} | this / it | first step, s" for key in SHAPES) + " |")
    print("| --- |" + " --- | --- | --- |" * len(SHAPES))
    for name in names:
        cells = [name]
        for times, first in results.values():
            best = times.get(BEST, float("nan"))
            cells += [f"{times[name]:,.0f}", f"{best / times[name]:.2f}", f"{first[name]:.1f}"]
        print("| " + " | ".join(cells) + " |")
    for key, (times, _) in results.items():
        if BEST in times:
            share = matmul_share(SHAPES[key], times[BEST])
            print(f"\n{key}: the whole step runs at {share:.0%} of this machine's matrix-multiply rate.")


if __name__ == "__main__":
    main()
