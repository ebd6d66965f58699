"""What a training run is given: checked against model and guide, put on one device, and split."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae import checks
from pyro_vae.checks import say
from pyro_vae.datasets.rows import Rows, pieces
from pyro_vae.datasets.shards import Shards
from pyro_vae.distributed import by_all, own_rows
from pyro_vae.inference.target.enumeration import is_discrete
from pyro_vae.inference.target.legality import check_missing, without_data
from pyro_vae.inference.target.modules import check_dtypes, evaluating
from pyro_vae.inference.target.program import Program, run_once
from pyro_vae.inference.target.substitution import DrawImproper
from pyro_vae.inference.target.supports import check_shape, check_support, in_words, is_real, same_support, underlying
from pyro_vae.inference.variational.mini_batches import check_batches
from pyro_vae.inference.variational.steppers import Data
from pyro_vae.randomness import fork_rng

__all__ = ["check_guide", "check_programs", "fitting_batch", "split", "training_device"]


def training_device(device: Any) -> torch.device | None:
    """The device to train on; None leaves everything where it is.

    Raises:
        TypeError: if it is neither a name nor a torch.device.
        ValueError: if there is no such device here.
    """
    remedy = 'device="auto", "cpu" or "cuda"'
    if not isinstance(device, str | torch.device):
        raise TypeError(say("a device by name", f"{device!r}", remedy))
    if device == "auto":
        return torch.device("cuda") if torch.cuda.is_available() else None
    try:
        where = torch.device(device)
        torch.empty(0, device=where)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            say("a device of this machine", f"{device!r}: {str(error).splitlines()[0]}", remedy)
        ) from error
    return where


def split(
    x: Tensor | Rows | Data,
    validation: Tensor | Rows | Data | float | None,
    device: torch.device | None,
) -> tuple[Data, Data | None]:
    """Check the data, put them on the device, and take some out for validation.

    Raises:
        TypeError: if data are no tensors, or ``validation`` neither data nor a number.
        ValueError: if data are empty, not finite or of different lengths, or the share is not in [0, 1).
    """
    data = _checked(x, device)
    if validation is None:
        return data, None
    if isinstance(validation, Tensor | Rows | tuple):
        return data, _checked(validation, device, "validation")
    share = "validation data, or a share of x in [0, 1)"
    if isinstance(validation, bool) or not isinstance(validation, int | float):
        raise TypeError(say(share, f"{validation!r}", "validation=0.1"))
    if not 0 <= validation < 1:
        raise ValueError(say(share, f"{validation}", "validation=0.1"))
    if isinstance(data[0], Shards):
        train, held_out = data[0].parted(validation)
        return (train,), (held_out,) if len(held_out) else None
    count = int(validation * len(data[0]))
    if count == 0:
        return data, None
    order = torch.randperm(len(data[0])).to(data[0].device)
    return _chosen(data, order[count:]), _chosen(data, order[:count])


def _chosen(data: Data, rows: Tensor) -> Data:
    """Some of the rows; those on disk stay there until they are asked for."""
    return tuple(part.select(rows) if isinstance(part, Rows) else part[rows] for part in data)


def _checked(x: Tensor | Rows | Data, device: torch.device | None, name: str = "x") -> Data:
    """Return data as a tuple on the device, each part checked."""
    parts: Any = x if isinstance(x, tuple) else (x,)
    for i, part in enumerate(parts):
        own = name if i == 0 else f"{name}[{i}]"
        if isinstance(part, Rows):  # read like a tensor, and checked as they are read
            continue
        checks.finite(checks.tensor(part, own), own, missing=True)
        checks.same_length(parts[0], part, name, own)
    return tuple(part.to(device) if device is not None else part for part in parts)


def fitting_batch(batch_size: int, num_data: int) -> int:
    """Return the size of a batch of so many data.

    Raises:
        ValueError: if there are fewer.
    """
    if batch_size > num_data:
        got = f"batch_size={batch_size} for {num_data} training data"
        raise ValueError(say("a batch no larger than the data", got, f"batch_size={num_data}"))
    return batch_size


def check_programs(
    model: Program,
    guide: Program,
    train: Data,
    held_out: Data | None,
    *,
    batch_size: int,
    plate: str,
    binary: bool,
) -> tuple[dict[str, Any], int | None]:
    """Check that model and guide fit each other and the data, whole and in batches.

    Returns:
        As :func:`check_guide`, and as :func:`check_batches`.

    Raises:
        TypeError, ValueError: if they do not.
    """
    for program, role in ((model, "model"), (guide, "guide")):
        if not callable(program):
            raise TypeError(say(f"a Pyro program as {role}", f"{program!r}", "a function or module that samples"))
        check_dtypes(program, train)
        check_dtypes(program, held_out or ())
    size = fitting_batch(batch_size, len(train[0]))
    sites = _observing(model, train, binary=binary)
    if held_out is not None:
        _observing(model, held_out, binary=binary)
    batch = tuple(part[:size] for part in train)
    others = check_guide(model, guide, *((torch.bernoulli(batch[0]), *batch[1:]) if binary else batch))
    full_size = check_batches(model, guide, train, batch_size=size, plate=plate)
    for name, site in sites.items() if full_size is None else ():
        inside = any(frame.name == plate for frame in site["cond_indep_stack"])
        if not site["is_observed"] and size < len(train[0]) and not inside:
            N = len(train[0])
            remedy = f"pyro.plate({plate!r}, {N}, subsample_size=len(x)) in the program, batch_size={N}, or plate= "
            remedy += "with the data plate's name"
            raise ValueError(say(f"latent site {name!r} inside plate {plate!r}", "one outside, and batches", remedy))
    return others, full_size


def _observing(model: Program, data: Data, *, binary: bool) -> dict[str, Any]:
    """Check that data fit the model's observed sites; return all its sites."""
    if any(isinstance(part, Rows) for part in data):
        if binary or len(data) > 1:
            raise ValueError(say("rows on disk alone, as they are", "others, or new draws of them", "data in memory"))
        found: dict[str, Any] = {}

        def look() -> None:
            for piece in pieces(own_rows(data[0])):
                found.update(_observing(model, (piece,), binary=False))

        by_all(look)
        return found or _observing(model, (data[0][:1],), binary=False)
    if binary:
        low, high = float(data[0].min()), float(data[0].max())
        if low < 0 or high > 1:
            raise ValueError(say("probabilities in [0, 1]", f"values from {low:g} to {high:g}", "x / x.max()"))
        data = ((data[0] > 0.5).to(data[0].dtype), *data[1:])
    with pyro.validation_enabled(False):
        sites, again = _sites(model, data, seed=0), _sites(model, data, seed=1)
    check_missing(model, data, sites)
    determined = without_data([sites, again])
    observed = {name: site for name, site in sites.items() if site["is_observed"] and name not in determined}
    if not observed:
        raise ValueError(say("a model that observes the data", f"sites {list(sites)}", "fit(model, guide, x)"))
    for name, site in observed.items():
        check_shape(name, site)
        if name in again and same_support(*(getattr(run[name]["fn"], "support", None) for run in (sites, again))):
            check_support(name, site)  # one that depends on latents rules out latents, not data
    return sites


def check_guide(model: Program, guide: Program, *args: Any) -> dict[str, Any]:
    """Check that a guide samples the model's latent sites, in the same shapes and plates and in the prior's support.

    Discrete ones it may leave out.

    Returns:
        The model's sites that are not the guide's: observed ones, and discrete ones that are left out.

    Raises:
        ValueError: if a site is missing, unknown, of another shape or support, or in a plate that the model's is not.
    """
    sites = _sites(model, args)
    proposed = {
        name: site
        for name, site in _sites(guide, args).items()
        if not site["is_observed"] and (name in sites or not site["infer"].get("is_auxiliary", False))
    }
    others = {n: s for n, s in sites.items() if s["is_observed"] or (n not in proposed and is_discrete(s))}
    latent = {name: site for name, site in sites.items() if name not in others}
    if set(proposed) != set(latent):
        remedy = "the same names in both (latent= of Model and guide)"
        if len(proposed) != len(latent):
            remedy = "guides.BottomUp or guides.TopDown for two levels, any other guide for one"
        raise ValueError(say(f"a guide over the latent sites {sorted(latent)}", f"{sorted(proposed)}", remedy))
    for name, site in latent.items():
        want, got = tuple(site["value"].shape), tuple(proposed[name]["value"].shape)
        if want != got:
            remedy = f"a guide of latent dimension {want[-1]}, or a prior of {got[-1]}"
            raise ValueError(say(f"guide values of shape {want} at site {name!r}", f"{got}", remedy))
        own, around = _plates(site), _plates(proposed[name])
        if around - own:
            remedy = "the same names in both (plate= of Model and guide)"
            raise ValueError(say(f"site {name!r} of the guide in plates {sorted(own)}", f"{sorted(around)}", remedy))
        support, q = site["fn"].support, proposed[name]["fn"]
        with torch.no_grad(), fork_rng():
            inside = bool(support.check(q.sample((100,))).all())
        vague = dist.Delta | torch.distributions.TransformedDistribution  # whose support may say more than is drawn
        fits = is_real(support) or not is_real(q.support) or isinstance(underlying(q), vague)
        if not (inside and fits):  # a draw outside may come late, and then end the training
            remedy = "guides.Transformed(guide, torch.distributions.biject_to(prior().support))"
            expected = f"a guide over {in_words(support)}, as the prior at site {name!r}"
            raise ValueError(say(expected, in_words(q.support), remedy))
    return others


def _sites(program: Program, args: tuple[Any, ...], *, seed: int | None = None) -> dict[str, Any]:
    """Run a program without a trace in the random state; return its sites. An error about dtypes says what to do."""
    try:
        with evaluating(program), torch.no_grad(), fork_rng(seed=seed), DrawImproper():
            return run_once(program, *args)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        if "dtype" not in reason and "scalar type" not in reason:
            raise
        got = f"{[str(arg.dtype) for arg in args if isinstance(arg, Tensor)]}: {reason}"
        raise ValueError(say("data of a dtype that model and guide take", got, "x.float()")) from error


def _plates(site: dict[str, Any]) -> set[str]:
    return {frame.name for frame in site["cond_indep_stack"]}
