"""A folder of shards on two processes, at two sizes: time and memory, their slope, and what follows for 10^9 rows.

python -m tests.benchmarks.bench_scale [ROWS]
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

SHARD = 31_250  # rows: 23 MiB
BYTES = 784

STORY = """
import json, resource, sys, time
import torch; torch.set_num_threads(1)
from pyro_vae.distributed import everyones, joined, rank
from pyro_vae.runs.checkpoints import Checkpoints
from pyro_vae.runs.folder import Run
from pyro_vae.runs.recipe import Recipe
from pyro_vae.runs.training import train
data, output = sys.argv[1:]
ends, save = [], Checkpoints.save
def noted(self, state):
    ends.append(time.perf_counter())
    save(self, state)
Checkpoints.save = noted
recipe = {"data": data, "epochs": 3, "hidden": "64", "batch_size": 1024, "validation": 0.0, "test": 0.0}
with joined():
    start = time.perf_counter()
    train(Run(output), Recipe.of(recipe), every=1)
    peaks = everyones(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    if rank() == 0:
        epoch = min(b - a for a, b in zip(ends, ends[1:]))
        print("FIGURES", json.dumps({"epoch": epoch, "before": ends[0] - start - epoch, "peak": max(peaks)}))
"""


def measured(count, processes, folder):
    """Seconds an epoch and before the first, and the largest peak memory in MiB, of so many rows."""
    shards = folder / str(count)
    if not shards.exists():
        values = np.random.default_rng(0).integers(0, 256, (SHARD, BYTES), np.uint8)
        shards.mkdir()
        for i in range(count // SHARD):
            np.save(shards / f"{i:05d}.npy", np.roll(values, i, axis=1))
    story = folder / "story.py"
    story.write_text(STORY)
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes))
    words = [sys.executable, *launch, str(story), str(shards), f"{folder}/run-{count}-{processes}"]
    done = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    return json.loads(next(line for line in done.splitlines() if line.startswith("FIGURES"))[len("FIGURES") :])


def main(many=1_000_000):
    """Print time and memory at a quarter of the rows and at all, on two processes and on one, and the slope."""
    few = many // 4
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        slopes = {}
        for processes in (2, 1):
            found = {count: measured(count, processes, folder) for count in (few, many)}
            for count, one in found.items():
                each = f"{one['epoch'] / count * 1e6:.1f} us a row an epoch, {one['before']:.0f} s before the first"
                print(f"{processes} process(es), {count:,} rows: {each}, peak {one['peak']:,.0f} MiB", flush=True)
            slopes[processes] = {key: (found[many][key] - found[few][key]) / (many - few) for key in found[many]}
        for processes, slope in slopes.items():
            epoch, before = (slope[key] * 1e6 for key in ("epoch", "before"))
            told = f"{epoch:.1f} us a row an epoch, {before:.1f} us a row before the first"
            print(f"slope on {processes}: {told}, {slope['peak'] * 2**20:.0f} bytes of memory a row")
            hours = [slope[key] * 1e9 / 3600 for key in ("epoch", "before")]
            print(f"so 10^9 rows on {processes}: {hours[0]:.1f} h an epoch after {hours[1]:.1f} h of looking")
        ratio = slopes[2]["epoch"] / slopes[1]["epoch"]
        print(f"two processes take {ratio:.2f} of the time of one an epoch")


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:] if word.isdecimal()))
