"""One posterior of a whole program: effective samples a second, side by side with NumPyro and with nutpie and PyMC.

Run as ``python -m tests.benchmarks.bench_one_posterior [--peers PYTHON] [--posteriordb DIR] [--rounds 3]``. The peers
run in the interpreter named (``numpyro``, ``pymc``, ``nutpie`` installed), each sampler in a process of its own, one
after the other and round by round, 8 chains of 1,000 draws after 1,000 steps, threads as torch is given them
(``OMP_NUM_THREADS``). A figure is the smallest bulk ESS over all numbers, by the seconds of warm-up and sampling, and,
in brackets, by those with compilation: a process' first call. Of the rounds it is the median. With ``--posteriordb``, a
checkout of stan-dev/posteriordb, the data are its kidiq, arK, mesquite and earnings; without, drawn like them.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np

CHAINS, DRAWS, WARMUP = 8, 1000, 1000
SCHOOLS = {"y": [28.0, 8, -3, 7, -1, 1, 18, 12], "sigma": [15.0, 10, 16, 11, 9, 11, 10, 18]}


def stored(folder, name):
    path = Path(folder) / "posterior_database" / "data" / "data" / f"{name}.json.zip"
    with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as archive:
        raw = json.loads(archive.read(archive.namelist()[0]))
    return {key: np.asarray(value, dtype=float) for key, value in raw.items()}


def drawn(name):
    rng = np.random.default_rng(0)
    if name == "kidiq":
        mom_iq, mom_hs = rng.normal(100, 15, 434), (rng.random(434) < 0.79).astype(float)
        score = -11.5 + 51 * mom_hs + (1.1 - 0.48 * mom_hs) * mom_iq + rng.normal(0, 18, 434)
        return {"mom_iq": mom_iq, "mom_hs": mom_hs, "kid_score": score}
    if name == "arK":
        y = [0.0] * 5
        for _ in range(195):
            y.append(0.7 * y[-1] + 0.45 * y[-2] + 0.1 * y[-3] - 0.1 * y[-4] - 0.25 * y[-5] + rng.normal(0, 0.15))
        return {"y": np.array(y)}
    if name == "mesquite":
        columns = ["diam1", "diam2", "canopy_height", "total_height", "density"]
        logs = 0.4 * rng.normal(size=(46, 1)) + 0.3 * rng.normal(size=(46, 5)) + [0.5, 0.3, 0.0, 0.3, 0.3]
        weight = np.exp(5.3 + logs @ [0.4, 1.1, 0.4, 0.4, 0.1] + rng.normal(0, 0.33, 46))
        return dict(zip(columns, np.exp(logs).T, strict=True)) | {
            "group": (rng.random(46) < 0.5).astype(float), "weight": weight
        }  # fmt: skip
    height = rng.normal(66.6, 0.65, 1192)  # the slope and the intercept have a correlation of -0.9999 in the posterior
    return {"height": height, "earn": -84000 + 1560 * height + rng.normal(0, 18800, 1192)}


def posteriors(folder):
    """By name: columns and observations of a regression with scales of the priors, or eight schools."""
    take = drawn if folder is None else lambda name: stored(folder, name)
    kid, lags, bush, pay = take("kidiq"), take("arK")["y"], take("mesquite"), drawn("earnings")
    one, iq, hs = np.ones(len(kid["mom_iq"])), kid["mom_iq"], kid["mom_hs"]
    logs = [np.log(bush[n]) for n in ("diam1", "diam2", "canopy_height", "total_height", "density")]
    shape = [np.ones(len(bush["group"])), *logs, bush["group"]]
    past = [lags[5 - k : len(lags) - k] for k in range(1, 6)]
    return {
        "regression, 434 rows": (np.stack([one, iq], 1), kid["kid_score"], 100.0),
        "two predictors, interaction": (np.stack([one, hs, iq, hs * iq], 1), kid["kid_score"], 100.0),
        "eight schools, non-centred": None,
        "AR(5), 195 points": (np.stack([np.ones(len(lags) - 5), *past], 1), lags[5:], 10.0),
        "log-log, 7 coefficients": (np.stack(shape, 1), np.log(bush["weight"]), 10.0),
        "one slope far from zero": (np.stack([np.ones(len(pay["earn"])), pay["height"]], 1), pay["earn"] / 1e4, 100.0),
    }


def ours(case, seed, **settings):
    import pyro
    import pyro.distributions as dist
    import torch

    import pyro_vae as pv

    def regression(X, y):
        beta = pyro.sample("beta", dist.Normal(0.0, case[2]).expand([X.shape[1]]).to_event(1))
        sigma = pyro.sample("sigma", dist.HalfCauchy(2.5))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(X @ beta, sigma), obs=y)

    def schools(y, sigma):
        mu, tau = pyro.sample("mu", dist.Normal(0.0, 5.0)), pyro.sample("tau", dist.HalfCauchy(5.0))
        with pyro.plate("schools", len(y)):
            theta = pyro.sample("theta", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(mu + tau * theta, sigma), obs=y)

    data = SCHOOLS.values() if case is None else case[:2]
    program = schools if case is None else regression
    times = []
    for i in range(2):
        pyro.set_rng_seed(seed + i)
        began = time.perf_counter()
        draws = pv.mcmc(
            program, tuple(torch.tensor(np.asarray(a), dtype=torch.float32) for a in data), kernel=pv.NUTS(),
            num_samples=DRAWS, num_chains=CHAINS, plate=None, **settings,
        )  # fmt: skip
        times.append(time.perf_counter() - began)
    values = [value.reshape(CHAINS, DRAWS, -1).numpy() for value in draws.samples.values()]
    return np.concatenate(values, -1), times[0], draws.seconds - draws.compile_seconds


def numpyro_vectorised(case, seed):
    import jax
    import numpyro
    import numpyro.distributions as dist
    from numpyro.infer import MCMC, NUTS

    def regression(X, y):
        beta = numpyro.sample("beta", dist.Normal(0.0, case[2]).expand([X.shape[1]]).to_event(1))
        sigma = numpyro.sample("sigma", dist.HalfCauchy(2.5))
        numpyro.sample("y", dist.Normal(X @ beta, sigma), obs=y)

    def schools(y, sigma):
        mu, tau = numpyro.sample("mu", dist.Normal(0.0, 5.0)), numpyro.sample("tau", dist.HalfCauchy(5.0))
        with numpyro.plate("schools", len(y)):
            theta = numpyro.sample("theta", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(mu + tau * theta, sigma), obs=y)

    data = [jax.numpy.array(a) for a in (SCHOOLS.values() if case is None else case[:2])]
    mcmc = MCMC(
        NUTS(schools if case is None else regression), num_warmup=WARMUP, num_samples=DRAWS, num_chains=CHAINS,
        chain_method="vectorized", progress_bar=False,
    )  # fmt: skip
    times = []
    for i in range(2):
        began = time.perf_counter()
        mcmc.run(jax.random.PRNGKey(seed + i), *data)
        samples = {name: np.asarray(value) for name, value in mcmc.get_samples(group_by_chain=True).items()}
        times.append(time.perf_counter() - began)
    return np.concatenate([value.reshape(CHAINS, DRAWS, -1) for value in samples.values()], -1), *times


def nutpie_pymc(case, seed):
    import nutpie
    import pymc as pm

    began = time.perf_counter()
    with pm.Model() as model:
        if case is None:
            mu, tau = pm.Normal("mu", 0.0, 5.0), pm.HalfCauchy("tau", 5.0)
            theta = pm.Normal("theta", 0.0, 1.0, shape=8)
            pm.Normal("y", mu + tau * theta, SCHOOLS["sigma"], observed=SCHOOLS["y"])
        else:
            beta = pm.Normal("beta", 0.0, case[2], shape=case[0].shape[1])
            sigma = pm.HalfCauchy("sigma", 2.5)
            pm.Normal("y", case[0] @ beta, sigma, observed=case[1])
    compiled = nutpie.compile_pymc_model(model)
    settings = {"draws": DRAWS, "tune": WARMUP, "chains": CHAINS, "progress_bar": False, "save_warmup": False}
    found = nutpie.sample(compiled, seed=seed, **settings)
    first = time.perf_counter() - began
    began = time.perf_counter()
    found = nutpie.sample(compiled, seed=seed + 1, **settings)
    seconds = time.perf_counter() - began
    names = [n for n in ("beta", "sigma", "mu", "tau", "theta") if n in found.posterior]
    values = [found.posterior[n].to_numpy().reshape(CHAINS, DRAWS, -1) for n in names]
    return np.concatenate(values, -1), first, seconds


SAMPLERS = {
    "this": lambda case, seed: ours(case, seed, warmup_steps=WARMUP),
    "this, its own warm-up": ours,
    "NumPyro, vectorised": numpyro_vectorised,
    "nutpie with PyMC": nutpie_pymc,
}


def in_its_process(python, sampler, name, options, seed):
    """Draws, seconds of the first call and of the second."""
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "draws.npz")
        command = [python, __file__, "--worker", sampler, name, out, "--seed", str(seed)]
        command += ["--posteriordb", options.posteriordb] if options.posteriordb else []
        subprocess.run(command, check=True, capture_output=True, env=dict(os.environ))
        with np.load(out) as found:
            return found["draws"], float(found["first"]), float(found["second"])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", help="a Python with numpyro, pymc and nutpie; none: this package alone")
    parser.add_argument("--posteriordb", help="a checkout of stan-dev/posteriordb")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", help="names of posteriors")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    options, _ = parser.parse_known_args()
    cases = posteriors(options.posteriordb)
    if options.worker:
        sampler, name, out = options.worker
        draws, first, second = SAMPLERS[sampler](cases[name], options.seed)
        np.savez(out, draws=draws, first=first, second=second)
        return
    import torch

    from pyro_vae.inference.mcmc import diagnostics

    samplers = list(SAMPLERS) if options.peers else list(SAMPLERS)[:2]
    print("| posterior | " + " | ".join(f"{s}, ESS/s (with compilation), R-hat" for s in samplers) + " |")
    print("| --- " * (1 + len(samplers)) + "|")
    for name in options.only or cases:
        found = {sampler: [] for sampler in samplers}
        for seed in range(options.rounds):
            for sampler in samplers:
                python = sys.executable if sampler.startswith("this") else options.peers
                draws, first, second = in_its_process(python, sampler, name, options, 100 * seed)
                r_hat, bulk, _ = diagnostics.convergence(torch.as_tensor(draws, dtype=torch.float64))
                found[sampler].append((float(bulk.min()) / second, float(bulk.min()) / first, float(r_hat.max())))
        middle = {sampler: np.median(rows, 0) for sampler, rows in found.items()}
        cells = [f"{rate:,.0f} ({whole:,.0f}) {r_hat:.3f}" for rate, whole, r_hat in middle.values()]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
