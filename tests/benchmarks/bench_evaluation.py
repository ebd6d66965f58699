"""The evaluation of all 360 held-out digits: time of every part, error of every verdict, memory at K = 100,000.

python -m tests.benchmarks.bench_evaluation [--epochs 60]
"""

import argparse
import resource
import time
from collections import Counter

import pyro
import torch

import pyro_vae as pv
from pyro_vae.evaluation.evidence.importance import importance_weights

LIMITS = {"mean": 0.25, "std": 1.25}


def right(mean, std, truth):
    """Whether moments are within the limits of the exact ones, in every latent number, ``(N,)``."""
    sd = truth.variance.sqrt()
    close = ((mean - truth.mean).abs() / sd).amax(-1) <= LIMITS["mean"]
    return close & ((std / sd).log().abs().amax(-1) <= torch.tensor(LIMITS["std"]).log())


def confusion(found, truth):
    """How often each verdict was given, and how often the exact error says otherwise."""
    own = right(found.weights.own_mean, found.weights.own_std, truth)
    mended = right(found.weights.mean, found.weights.std, truth)
    counts = Counter()
    for row, decision in enumerate(found.decision):
        counts[decision, bool(own[row]), bool(mended[row])] += 1
    for (decision, good, good_after), number in sorted(counts.items()):
        print(f"{number:5d}  {decision:26s} exact error: own {'small' if good else 'large'}, "
              f"re-weighted {'small' if good_after else 'large'}")  # fmt: skip


def timed(name, function):
    began = time.perf_counter()
    result = function()
    print(f"{name:42s} {time.perf_counter() - began:7.1f} s", flush=True)
    return result


def memory(model, guide, x):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    timed(
        "importance weights, K = 100,000", lambda: importance_weights(pv.Target(model, x), guide, num_samples=100_000)
    )
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"peak memory {before / 1024:.0f} MB before, {after / 1024:.0f} MB after")


def one_by_one(model, x, rows=3):
    began = time.perf_counter()
    for row in range(rows):
        pv.evidence(model, x[row : row + 1], method="ais")
    return (time.perf_counter() - began) / rows


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--epochs", type=int, default=60)
    chosen = options.parse_args()
    pyro.set_rng_seed(0)
    x_train, x = pv.datasets.digits("train"), pv.datasets.digits("test")
    model = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(pv.networks.mlp(2, 128, 64)))
    guide = pv.guides.DiagonalGaussian(pv.networks.mlp(64, 128, 4))
    pv.fit(model, guide, x_train, epochs=chosen.epochs, lr=3e-3, progress=False)
    truth = timed("quadrature (the yardstick)", lambda: pv.quadrature(model, x))

    began = time.perf_counter()
    timed("ELBO and IWAE-5000", lambda: pv.evidence(model, x, guide, method="importance", num_samples=5000))
    annealed = timed("AIS, 24 chains x 100 temperatures", lambda: pv.evidence(
        model, x, method="ais", num_chains=24, tolerance=0.2))  # fmt: skip
    ledger = timed("ledger of gaps", lambda: pv.gaps(model, x, guide, truth=annealed))
    found = timed("k-hat and verdict", lambda: pv.verdict(model, x, guide, reference=annealed))
    print(f"{'360 digits, complete':42s} {time.perf_counter() - began:7.1f} s")

    off = annealed.log_evidence - truth.log_evidence
    print(f"AIS less quadrature: mean {float(off.mean()):+.3f}, mean absolute {float(off.abs().mean()):.3f} nats; "
          f"z standard deviation {float((off / annealed.standard_error).std()):.2f}")  # fmt: skip
    print(ledger)
    print(found)
    confusion(found, truth)
    batched = timed("AIS of 360 data at once, 16 chains", lambda: pv.evidence(model, x, method="ais"))
    single = one_by_one(model, x)
    print(f"AIS per datum, one after the other, is {single * len(x) / batched.seconds:.0f} times as slow")
    memory(model, guide, x)


if __name__ == "__main__":
    main()
