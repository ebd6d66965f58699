"""MCMC over chains x data, side by side with its peers: effective samples a second, in one process.

Run as ``python -m tests.benchmarks.bench_mcmc [--sizes 1 100 1000] [--only peers|kernels|growth|truth|trajectories]``.
The decoder is 2-128-64, trained on digits here; float32; as many threads as torch is given (``OMP_NUM_THREADS``). A
figure is the smallest bulk ESS over the latent dimensions, summed over posteriors, by the seconds of warm-up and
sampling together, without and with compilation. NumPyro takes part where it is installed, with the same steps, on
``--numpyro-most`` posteriors at most.
"""

import argparse
import platform
import resource
import subprocess
import sys
import time
import warnings
from importlib.util import find_spec

import pyro
import torch

import pyro_vae as pv
from pyro_vae.inference.mcmc import diagnostics

CHAINS = 4


def trained(latent_dim=2, epochs=40):
    pyro.set_rng_seed(0)
    decoder = pv.networks.mlp(latent_dim, 128, 64)
    model = pv.Model(pv.priors.StandardNormal(latent_dim), pv.likelihoods.Bernoulli(decoder))
    guide = pv.guides.DiagonalGaussian(pv.networks.mlp(64, 128, 2 * latent_dim))
    pv.fit(model, guide, pv.datasets.digits(split="train"), epochs=epochs, progress=False)
    return model, guide


def rows(num_data):
    x = torch.cat([pv.datasets.digits(split="test"), pv.datasets.digits(split="train")])
    return x.repeat(-(-num_data // len(x)), 1)[:num_data]


def smallest_ess(samples):
    """Summed over posteriors, of draws (C, S, N, L)."""
    return float(diagnostics.ess_bulk(samples).amin(-1).sum())


def ours(model, x, *, num_samples=500, warmup_steps=300, num_chains=CHAINS, **settings):
    pyro.set_rng_seed(1)
    draws = pv.mcmc(
        model, x, num_samples=num_samples, warmup_steps=warmup_steps, num_chains=num_chains, compile=True, **settings
    )
    return draws, smallest_ess(draws.samples["z"])


def pyro_nuts(model, x):
    pyro.set_rng_seed(1)
    draws = pv.pyro_mcmc(model, x, num_samples=300, warmup_steps=300, num_chains=CHAINS)
    return smallest_ess(draws.samples["z"]), draws.seconds


def numpyro_nuts(model, x, *, num_samples, warmup_steps):
    """NUTS vectorised by vmap over chains x data; returns ESS, seconds, seconds of compilation."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from numpyro.infer.hmc import hmc

    layers = [m for m in model.likelihood.network if isinstance(m, torch.nn.Linear)]
    (w1, b1), (w2, b2) = ((jnp.array(m.weight.detach()), jnp.array(m.bias.detach())) for m in layers)
    silu = any(isinstance(m, torch.nn.SiLU) for m in model.likelihood.network)

    def potential(x):
        def energy(z):
            hidden = w1 @ z + b1
            hidden = jax.nn.silu(hidden) if silu else jnp.maximum(hidden, 0)
            logits = w2 @ hidden + b2
            return jnp.sum(jax.nn.softplus(logits) - x * logits) + 0.5 * jnp.sum(z**2)

        return energy

    init, step = hmc(potential_fn_gen=potential, algo="NUTS")

    def chain(x, z, key):
        state = init(z, warmup_steps, model_args=(x,), rng_key=key)

        def body(state, _):
            state = step(state, model_args=(x,))
            return state, state.z

        return jax.lax.scan(body, state, None, length=warmup_steps + num_samples)[1][warmup_steps:]

    N = len(x)
    data = jnp.repeat(jnp.array(x), CHAINS, 0)
    start = jax.random.normal(jax.random.PRNGKey(0), (N * CHAINS, 2))
    keys = jax.random.split(jax.random.PRNGKey(1), N * CHAINS)
    began = time.perf_counter()
    run = jax.jit(jax.vmap(chain)).lower(data, start, keys).compile()
    compiling = time.perf_counter() - began
    began = time.perf_counter()
    draws = np.asarray(run(data, start, keys))
    seconds = time.perf_counter() - began
    samples = torch.from_numpy(draws.copy()).reshape(N, CHAINS, num_samples, 2).permute(1, 2, 0, 3)
    return smallest_ess(samples), seconds, compiling


def peers(model, guide, sizes, numpyro_most):
    ess, seconds = pyro_nuts(model, rows(2))
    reference = ess / seconds
    print(f"Pyro NUTS (jit), one posterior after the other: {reference:,.0f} ESS/s, on 2 posteriors\n")
    print(
        "| posteriors x 4 chains | sampler | seconds | compiling | ESS/s | ... with compiling | by Pyro | by NumPyro |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for N in sizes:
        x = rows(N)
        table = []
        if find_spec("numpyro"):
            ess, seconds, compiling = numpyro_nuts(model, x[:numpyro_most], num_samples=500, warmup_steps=300)
            some = "" if numpyro_most >= N else f", {numpyro_most} of them"
            table.append((f"NumPyro NUTS under vmap{some}", ess, seconds, compiling))
        for name, settings in {
            "HMC": {},
            "HMC, full mass": {"kernel": pv.HMC(full_mass=True)},
            "HMC, guide, 50 warm-up": {"guide": guide, "warmup_steps": 50},
            "NUTS": {"kernel": pv.NUTS()},
        }.items():
            if name == "NUTS" and N > 100:
                continue
            draws, ess = ours(model, x, **settings)
            table.append((name, ess, draws.seconds - draws.compile_seconds, draws.compile_seconds))
        numpyro = table[0][1] / table[0][2] if find_spec("numpyro") else float("nan")
        for name, ess, seconds, compiling in table:
            rate, whole = ess / seconds, ess / (seconds + compiling)
            print(
                f"| {N:,} | {name} | {seconds:.2f} | {compiling:.2f} | {rate:,.0f} | {whole:,.0f} | "
                f"{rate / reference:,.0f} | {rate / numpyro:,.1f} |",
                flush=True,
            )


def kernels(model, guide, draws):
    """Effective samples a gradient: what a kernel makes of the program, whatever the machine."""
    print("\n| kernel, 100 posteriors x 4 chains | ESS a gradient (* evaluation) | ESS/s | R-hat < 1.01 |")
    print("| --- | --- | --- | --- |")
    x = rows(100)
    for kernel in (
        pv.HMC(), pv.HMC(full_mass=True), pv.ChEES(), pv.NUTS(), pv.MALA(), pv.Barker(),
        pv.RandomWalk(full_mass=True), pv.Gibbs(), pv.IndependenceMH(), pv.ParallelTempering(),
    ):  # fmt: skip
        proposal = guide if isinstance(kernel, pv.IndependenceMH) else None
        found, ess = ours(model, x, kernel=kernel, guide=proposal, num_samples=draws)
        calls, star = (found.num_gradients, "") if found.num_gradients else (found.num_evaluations, "*")
        calls *= kernel.replicas  # a gradient at R temperatures is R gradients
        name = type(kernel).__name__ + (", full mass" if kernel.full_mass else "")
        good = float((found.rhat["z"].amax(-1) < 1.01).float().mean())
        rate = ess / (found.seconds - found.compile_seconds)
        print(f"| {name} | {ess / 100 / calls:.3f}{star} | {rate:,.0f} | {good:.0%} |", flush=True)


def growth():
    """Cost by N, C and L, each case in a process of its own, whose peak memory is then the case's own."""
    print("\n| what grows | ms a step, all chains | ESS/s | MB at the start | peak MB, draws and diagnostics in it |")
    print("| --- | --- | --- | --- | --- |")
    cases = [(N, CHAINS, 2) for N in (1, 10, 100, 1000, 10_000)]
    cases += [(100, C, 2) for C in (1, 16, 64)] + [(100, CHAINS, L) for L in (10, 50)]
    for N, C, L in cases:
        command = [sys.executable, "-m", "tests.benchmarks.bench_mcmc", "--case", f"{N}", f"{C}", f"{L}"]
        print(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip(), flush=True)


def case(N, C, L, steps=100):
    """One row of ``growth``: as many steps of warm-up as draws."""
    model, _ = trained(L, epochs=20)
    x = rows(N)
    before = peak_megabytes()
    draws, ess = ours(model, x, num_samples=steps, warmup_steps=steps, num_chains=C)
    seconds, after = draws.seconds - draws.compile_seconds, peak_megabytes()
    print(
        f"| N = {N:,}, C = {C}, L = {L} | {seconds / (2 * steps) * 1e3:.2f} | {ess / seconds:,.0f} | "
        f"{before:,.0f} | {after:,.0f} |"
    )


def peak_megabytes():
    """Of this process so far (Linux counts in kilobytes)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def trajectories(model):
    """The trajectory length of HMC on digits that the decoder was trained on, and on those that it was not."""
    print("\n| trajectory length | ESS a gradient, training digits | worst tenth | held out | worst tenth |")
    print("| --- | --- | --- | --- | --- |")
    sets = [pv.datasets.digits(split="train")[:360], pv.datasets.digits(split="test")]
    for length in (1.0, 1.25, 1.6, 2.0, 2.5, 3.0, 4.0):
        cells = []
        for x in sets:
            draws, _ = ours(model, x, kernel=pv.HMC(trajectory_length=length), num_samples=200, warmup_steps=200)
            efficiency = diagnostics.ess_bulk(draws.samples["z"]).amin(-1) / draws.num_gradients
            cells += [f"{float(efficiency.mean()):.3f}", f"{float(efficiency.quantile(0.1)):.3f}"]
        print(f"| {length} | " + " | ".join(cells) + " |", flush=True)


def truth(model):
    """All held-out digits against quadrature."""
    x = pv.datasets.digits(split="test")
    exact = pv.quadrature(model, x)
    draws, _ = ours(model, x, num_samples=1000)
    good = draws.converged()
    z_mean = ((draws.mean()["z"] - exact.mean) / draws.mcse["z"])[good].abs()
    z_std = ((draws.std()["z"] - exact.variance.sqrt()) / draws.mcse_std["z"])[good].abs()
    began = time.perf_counter()
    diagnostics.convergence(draws.samples["z"])
    judged = time.perf_counter() - began
    low = float((draws.rhat["z"].amax(-1) < 1.01).float().mean())
    print(f"\n{len(x)} held-out digits by quadrature: {draws.verdict}; R-hat < 1.01 on {low:.1%};")
    print(f"largest error of a mean {float(z_mean.max()):.2f} MCSE, of a standard deviation {float(z_std.max()):.2f};")
    print(f"diagnostics take {judged / (draws.seconds - draws.compile_seconds):.1%} of the sampling time")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 100, 1000])
    parser.add_argument("--only", choices=["peers", "kernels", "growth", "truth", "trajectories"])
    parser.add_argument("--draws", type=int, default=500, help="draws a chain in the table of kernels")
    parser.add_argument("--numpyro-most", type=int, default=1000, help="posteriors that NumPyro samples at most")
    parser.add_argument("--case", type=int, nargs=3, metavar=("N", "C", "L"), help="one row of growth")
    options, _ = parser.parse_known_args()  # the other benchmarks' options are no concern of this one
    warnings.simplefilter("ignore")
    if options.case:
        case(*options.case)
        return
    print(
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}\n"
    )
    model, guide = trained()
    for name, part in {
        "peers": lambda: peers(model, guide, options.sizes, options.numpyro_most),
        "kernels": lambda: kernels(model, guide, options.draws),
        "growth": growth,
        "truth": lambda: truth(model),
        "trajectories": lambda: trajectories(model),
    }.items():
        if options.only in (None, name):
            part()


if __name__ == "__main__":
    main()
