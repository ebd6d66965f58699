"""Find the truths of some of the atlas' posteriors that take long, and store them.

``python -m pyro_vae.atlas.stored NAME ...``; without names, of all that are stored.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pyro_vae import atlas
from pyro_vae.atlas.archive import Stored, write
from pyro_vae.atlas.programs import NAMES


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, judge and store; return how many could not be stored."""
    parser = argparse.ArgumentParser(prog="python -m pyro_vae.atlas.stored", description="Make stored truths again.")
    parser.add_argument("names", nargs="*", help="posteriors of the atlas; all that are stored if none is named")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent)
    options = parser.parse_args(arguments)
    refused = 0
    for name in options.names or NAMES:
        problem = atlas.load(name)
        if not isinstance(problem.find_truth, Stored):
            if options.names:
                print(f"{name}: is not stored, as it is found at once")
            continue
        try:
            truth = problem.find_truth.make(problem.target, seed=options.seed)
        except ValueError as error:
            print(f"{name}: {error}", file=sys.stderr)
            refused += 1
            continue
        write(truth, options.folder / f"{name}.npz")
        print(f"{name}: {truth.provenance} log evidence {truth.log_evidence} +- {truth.log_evidence_error}")
    return refused


if __name__ == "__main__":
    sys.exit(main())
