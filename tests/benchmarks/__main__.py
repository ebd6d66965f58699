"""``make bench``: every benchmark, one after the other; ``--data DIR`` names a folder with MNIST and Frey faces."""

import subprocess
import sys
from pathlib import Path

for path in sorted(Path(__file__).parent.glob("bench_*.py")):
    print(f"\n## {path.stem}\n", flush=True)
    subprocess.run([sys.executable, "-m", f"tests.benchmarks.{path.stem}", *sys.argv[1:]], check=True)
