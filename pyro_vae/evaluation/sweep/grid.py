"""A grid of priors, likelihoods, guides, objectives and seeds on one data set: what did a swap change?"""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pyro.infer import Trace_ELBO
from torch import Tensor

from pyro_vae import checks
from pyro_vae.checks import positive_integer, say
from pyro_vae.distributed import agree, alone, everyones, rank, size
from pyro_vae.evaluation.sweep.runs import AT_ONCE, Trained, run, side_by_side
from pyro_vae.evaluation.sweep.table import PARTS, Sweep
from pyro_vae.inference.variational.settings import Settings
from pyro_vae.inference.variational.training_input import fitting_batch
from pyro_vae.progress import progress_bar

__all__ = ["Sweep", "sweep"]


def sweep(
    x: Tensor | tuple[Tensor, ...],
    *,
    test: Tensor | tuple[Tensor, ...],
    priors: Mapping[str, Callable[[Any], Any]],
    likelihoods: Mapping[str, Callable[[], Any]],
    guides: Mapping[str, Callable[[], Any]],
    objectives: Mapping[str, Callable[[], Any]] | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    epochs: int = 50,
    batch_size: int = 64,
    lr: float = 1e-3,
    num_particles: int = 64,
    compile: bool | str = "auto",
    missing: bool = False,
    path: str | Path | None = None,
    progress: bool = True,
) -> Sweep:
    """Train every combination of parts and seeds for the same epochs, and measure each on the test data.

    A run that fails is a row with its reason, not a gap in the table. Where a prior is constrained, as on a box, the
    guide is moved to its support by ``guides.Transformed``. A point mass has no ELBO: its row says NaN.

    Runs that differ in their seeds only are trained side by side, as one program with stacked parameters: each ends
    with the weights that it would have alone, up to rounding, and its ``seconds`` are its share. Where that cannot be
    done, or one of them breaks, or with ``compile=False``, each is trained alone; so are networks too large or runs too
    short to gain by it.

    In a process group of torch's (``torchrun``) each process takes a share of the runs, neighbours in the grid, and
    trains them as if it were alone: their numbers are the same. All get all rows.

    With ``path``, every measured run is appended to that file, and a sweep of the same data and settings takes it from
    there by its names and seed; runs that failed are tried again. What a name makes is not looked at: another part is
    another name.

    Args:
        x: training data ``(N, *D)``, or a tuple of tensors that run over the same data, ``(counts, library)``.
        test: test data, on which all figures are measured.
        priors: by name, functions of the guide that make a prior (a VampPrior needs the guide; others ignore it).
        likelihoods: by name, functions that make a likelihood.
        guides: by name, functions that make a guide.
        objectives: by name, functions that make a Pyro ELBO; ``Trace_ELBO`` if None.
        seeds: one run each.
        epochs: passes over the data of every run.
        batch_size: data a step.
        lr: Adam's learning rate.
        num_particles: K of the evidence's estimate where integration is too costly (more than 3 latent dimensions).
        compile: as in :func:`~pyro_vae.inference.variational.fit.fit`.
        missing: whether NaN in the data is a missing entry, as in :class:`~pyro_vae.model.Model`.
        path: a file of JSON lines that makes the sweep resumable.
        progress: show a progress bar.

    Returns:
        One row a run.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if a grid is empty, a setting out of range or a seed there twice, or if ``path`` holds runs of other
            settings or data.

    Example:
        >>> import torch
        >>> from pyro_vae import guides, likelihoods, networks, priors
        >>> x = torch.bernoulli(torch.full((80, 6), 0.4))
        >>> result = sweep(
        ...     x, test=x[:10], seeds=[0], epochs=1, progress=False,
        ...     priors={"normal": lambda guide: priors.StandardNormal(1)},
        ...     likelihoods={"Bernoulli": lambda: likelihoods.Bernoulli(networks.mlp(1, 6))},
        ...     guides={"diagonal": lambda: guides.DiagonalGaussian(networks.mlp(6, 2))},
        ... )
        >>> result.rows[0]["evidence_by"]
        'quadrature'
    """
    objectives = {"ELBO": Trace_ELBO} if objectives is None else objectives
    grids = dict(zip(PARTS, (priors, likelihoods, guides, objectives), strict=True))
    for name, grid in grids.items():
        if not grid or not all(callable(make) for make in grid.values()):
            raise ValueError(say(f"at least one {name} by name, each a function", f"{grid!r}", "{'name': lambda: ...}"))
    data = _tensors(x, "x"), _tensors(test, "test")
    seeds = _seeds(seeds)
    positive_integer(num_particles, "num_particles")
    Settings(epochs, batch_size, lr, None, 0, None)  # what no run could take is said before the first
    fitting_batch(batch_size, len(data[0][0]))
    options: dict[str, Any] = {
        "epochs": epochs,
        "batch_size": batch_size,
        "lr": lr,
        "num_particles": num_particles,
        "missing": missing,
    }
    log = _Log(path, {**options, "data": [_digest(parts) for parts in data]} if path is not None else options)
    log.done = agree(log.done)  # what others append meanwhile is theirs
    rows = dict(log.done)
    combinations: list[tuple[str, ...]] = list(itertools.product(*grids.values()))
    open_runs = [(*names, seed) for names in combinations for seed in seeds if (*names, seed) not in log.done]
    own = _share(open_runs)
    with alone(), progress_bar(len(own), "sweep", show=progress) as bar:
        for names in combinations:
            todo = [int(seed) for seed in seeds if (*names, seed) in own]
            makers = [grids[part][name] for part, name in zip(PARTS, names, strict=True)]
            trained: dict[int, Trained] = {}
            for seed in list(todo):
                bar.set_postfix_str(", ".join(map(str, (*names, seed))))
                if compile is not False and todo and todo[0] == seed:
                    group, todo = todo[:AT_ONCE], todo[AT_ONCE:]
                    trained = side_by_side(makers, group, data, compile=compile, **options)
                found = trained.pop(seed, None)
                row = dict(zip((*PARTS, "seed"), (*names, seed), strict=True))
                row |= found.figures() if found else run(makers, seed, data, compile=compile, **options)
                log.append(row)
                rows[*names, seed] = row
                bar.update()
    rows = {key: row for each in everyones(rows) for key, row in each.items()}
    return Sweep([rows[*names, seed] for names in combinations for seed in seeds])


class _Log:
    """A file of JSON lines, one a finished run with its settings; without a path, nothing.

    Attributes:
        done: the runs that it holds, by the names of their parts and seed; failed ones and lines cut short are not.
    """

    def __init__(self, path: str | Path | None, settings: dict[str, Any]) -> None:
        self.path = None if path is None else Path(path)
        self.settings = settings
        self.done: dict[tuple[Any, ...], dict[str, Any]] = {}
        for line in self._text().splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            theirs = row.pop("settings", None)
            if theirs != settings:
                raise ValueError(say(f"{path} to hold runs with {settings}", f"one with {theirs}", "another path"))
            if not row["error"]:
                self.done[tuple(row[name] for name in (*PARTS, "seed"))] = row

    def _text(self) -> str:
        return self.path.read_text() if self.path is not None and self.path.exists() else ""

    def append(self, row: dict[str, Any]) -> None:
        """Write a run's row, on a line of its own even if an interrupted run left the last one open."""
        if self.path is not None:
            with self.path.open("a") as stream:
                fcntl.flock(stream, fcntl.LOCK_EX)  # other processes append too
                text = self._text()
                stream.write(
                    "\n" * bool(text and text[-1] != "\n") + json.dumps({**row, "settings": self.settings}) + "\n"
                )


def _share(runs: list[tuple[Any, ...]]) -> set[tuple[Any, ...]]:
    """This process's share of the runs, neighbours in the grid."""
    base, more = divmod(len(runs), size())
    first = rank() * base + min(rank(), more)
    return {*runs[first : first + base + (rank() < more)]}


def _seeds(seeds: Any) -> list[int]:
    """One or more seeds, each once."""
    if not isinstance(seeds, Iterable):
        raise TypeError(say("seeds, one a run", repr(seeds), f"seeds=range({seeds})"))
    found = [positive_integer(seed, "a seed", minimum=0) for seed in seeds]
    if not found or len(set(found)) < len(found):
        raise ValueError(say("one or more seeds, each once", f"seeds={found}", "seeds=[0, 1, 2]"))
    return found


def _digest(parts: tuple[Tensor, ...]) -> str:
    """What tells data apart: their shapes, kinds and bytes."""
    found = hashlib.blake2b(repr([(tuple(part.shape), str(part.dtype)) for part in parts]).encode(), digest_size=16)
    for part in parts:
        found.update(part.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def _tensors(x: Any, name: str) -> tuple[Tensor, ...]:
    parts = x if isinstance(x, tuple) else (x,)
    return tuple(checks.tensor(part, name) for part in parts)
