"""A trained model of two latent dimensions as one page to play with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_vae.checks import finite, misfit, positive_integer, say, tensor
from pyro_vae.datasets.encoding import log_jacobian
from pyro_vae.datasets.kinds import Schema
from pyro_vae.explorer.assembly import assembled
from pyro_vae.explorer.guides import guide_spec
from pyro_vae.explorer.likelihoods import likelihood_spec
from pyro_vae.explorer.priors import prior_spec
from pyro_vae.explorer.store import Store
from pyro_vae.explorer.tables import column_specs, image_size
from pyro_vae.guides import Guide
from pyro_vae.model import Model
from pyro_vae.runs.folder import write_whole

__all__ = ["explore"]


@torch.no_grad()
def explore(
    model: Model,
    guide: Guide,
    x: Tensor,
    *,
    path: str | Path = "explore.html",
    title: str = "The latent plane",
    labels: Sequence[Any] | Tensor | None = None,
    columns: Sequence[str] | None = None,
    schema: Schema | None = None,
    image_shape: Sequence[int] | None = None,
    rows: int = 60,
) -> Path:
    r"""Write one HTML file in which a model with two latent dimensions is dragged, drawn on and sampled from.

    The decoder runs in the page, and so does the encoder where it is made of the layers of :mod:`pyro_vae.networks`.
    For a datum, or a digit drawn by hand, the page computes :math:`p(z|x) = p(x|z)\,p(z) / p(x)` on a grid, Laplace's
    approximation, and for any Gaussian q over the plane both terms of :math:`\log p(x) = \mathrm{ELBO} + \mathrm{KL}`;
    chains of Metropolis-Hastings, Gibbs and Hamiltonian Monte Carlo walk over it. The file needs no network.

    Weights are kept in single precision; the page computes in double.

    Args:
        model: a prior over the plane and a likelihood of this package, with networks that the page can run.
        guide: one whose q is a Gaussian or a mixture of some.
        x: data ``(N, *D)``; the page holds the first ``rows`` of them.
        path: the HTML file; its folder is made.
        title: of the page.
        labels: a class for each datum, ``(N,)``, by which points are coloured.
        columns: names of the columns of x, if it is a table.
        schema: of a run's table in place of names: rows are then shown in the table's own units.
        image_shape: height and width of a datum, where the page should not guess whether it is an image.
        rows: how many data the page holds.

    Returns:
        The path of the file.

    Raises:
        TypeError: if a part is of the wrong kind.
        ValueError: if the latent dimension is not 2; if the page does not know the prior, the likelihood, q or a layer
            of a network; if x does not fit the model; if names, labels or ``image_shape`` do not fit x.

    Example:
        >>> import tempfile
        >>> from pyro_vae import guides, likelihoods, networks, priors
        >>> model = Model(priors.StandardNormal(2), likelihoods.Bernoulli(networks.mlp(2, 16, 64)))
        >>> guide = guides.DiagonalGaussian(networks.mlp(64, 16, 4))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     explore(model, guide, torch.ones(5, 64), path=f"{folder}/explore.html").name
        'explore.html'
    """
    _check(model, guide)
    x = finite(tensor(x, min_dim=2), missing=model.missing)
    rows = min(positive_integer(rows, "rows"), len(x))
    _must_fit(model, x)
    if labels is not None and len(labels) != len(x):
        raise ValueError(say(f"{len(x)} labels, one a datum", f"{len(labels)}", "labels=None"))
    store = Store()
    named = columns is not None or (schema is not None and schema.tabular)
    image = image_size(model.likelihood, x, named=named, image_shape=image_shape or _shape_of(schema))
    content = {
        "title": title,
        "prior": prior_spec(model.prior, store),
        "likelihood": likelihood_spec(model.likelihood, store),
        "guide": guide_spec(guide, x, store, rows),
        "x": store.put(x[:rows].flatten(1)),
        "missing": model.missing,
        "shift": _shift(schema, x[:rows].flatten(1)),
        "labels": None if labels is None else [_label(label) for label in labels[:rows]],
        "image": None if image is None else list(image),
        "columns": None if image is not None else column_specs(x, columns, schema),
        "shared": store.shared,
    }
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, assembled(title, content, store.encoded()).encode())
    return path


def _shape_of(schema: Schema | None) -> tuple[int, ...] | None:
    """Height and width of a run's images."""
    return schema.shape if schema is not None and len(schema.shape) == 2 else None


def _shift(schema: Schema | None, x: Tensor) -> dict[str, Any]:
    """What makes log p(x) one of the table's own units, a datum, and of an image drawn by hand."""
    if schema is None:
        return {"data": [0.0] * len(x), "drawn": 0.0, "units": ""}
    found = log_jacobian(schema, x.double())
    drawn = log_jacobian(schema, torch.ones_like(x[:1], dtype=torch.float64))
    return {"data": found.tolist(), "drawn": float(drawn), "units": schema.units}


def _label(label: Any) -> str:
    value = label.item() if hasattr(label, "item") else label
    return str(value)


def _check(model: Any, guide: Any) -> None:
    """Check the kinds of the parts, and that there is a plane."""
    if not isinstance(model, Model):
        remedy = "pyro_vae.Model(priors.StandardNormal(2), likelihoods.Bernoulli(network))"
        raise TypeError(say("a pyro_vae.Model first", type(model).__name__, remedy))
    if not isinstance(guide, Guide):
        remedy = "pyro_vae.guides.DiagonalGaussian(network)"
        raise TypeError(say("a Guide second", type(guide).__name__, remedy))
    if model.latent_dim != 2 or getattr(guide, "latent_dim", 2) != 2:
        got = f"{model.latent_dim} of the model and {getattr(guide, 'latent_dim', 2)} of the guide"
        raise ValueError(say("2 latent dimensions, a plane", got, "priors.StandardNormal(2), or --latent-dim 2"))


def _must_fit(model: Model, x: Tensor) -> None:
    """Check that the likelihood takes the data."""
    z = next((p.new_zeros(1, 2) for p in model.likelihood.parameters()), torch.zeros(1, 2))
    try:
        model.decode(z).log_prob(x[:1])
    except (RuntimeError, ValueError) as error:
        raise misfit(error, model.likelihood, x, what="the likelihood", name="x") from error
