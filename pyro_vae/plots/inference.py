"""Figures. Each function returns a matplotlib figure; matplotlib is imported when one is drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyro_vae import checks
from pyro_vae.checks import say
from pyro_vae.inference.exact.quadrature import QuadraturePosterior
from pyro_vae.inference.posterior import Answer, answer
from pyro_vae.inference.target.program import Program
from pyro_vae.inference.target.target import Target, as_target
from pyro_vae.inference.variational.fit import History
from pyro_vae.plots import canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["decoder_plane", "images", "latent_space", "learning_curve", "posterior_contours"]

_COLOURS = ("#d1495b", "#00798c", "#edae49", "#6a4c93", "#66a182", "#2e4057")
_LEVELS = (0.5, 0.95)  # mass inside the contours


def learning_curve(history: History, *, title: str = "Learning") -> Figure:
    """Draw the ELBO over epochs, for training and held-out data.

    Args:
        history: what ``fit`` returned.
        title: of the figure.
    """
    figure, axes = canvas.one(6.4, 4.0)
    epochs = range(1, len(history.train_elbo) + 1)
    axes.plot(epochs, history.train_elbo, color=_COLOURS[1], label="training")
    if history.validation_elbo:
        axes.plot(epochs, history.validation_elbo, color=_COLOURS[0], label="validation")
        axes.axvline(history.best_epoch + 1, color="0.6", lw=0.8, ls=":", label="best")
    scores = history.validation_elbo or history.train_elbo
    low = min(scores[len(scores) // 10 :])  # the first epochs would flatten the rest
    high = max([*scores, *history.train_elbo])
    margin = 0.1 * (high - low) + 1e-3
    axes.set(xlabel="epoch", ylabel="ELBO (nats per datum)", title=title, ylim=(low - margin, high + margin))
    axes.legend(frameon=False)
    return figure


def latent_space(mean: Tensor, labels: Tensor | None = None, *, title: str = "Posterior means") -> Figure:
    """Draw posterior means in the latent plane, coloured by class.

    Args:
        mean: ``(N, 2)``.
        labels: classes ``(N,)``, or None.
        title: of the figure.

    Raises:
        ValueError: if the latent dimension is not two.
    """
    _must_be_plane(mean.shape[-1])
    figure, axes = canvas.one(5.6, 5.0)
    z = mean.detach().cpu().numpy()
    if labels is None:
        axes.scatter(z[:, 0], z[:, 1], s=10, color=_COLOURS[1], linewidths=0)
    else:
        from matplotlib import colormaps

        classes = sorted(set(labels.tolist()))
        for i, label in enumerate(classes):
            some = z[labels.cpu().numpy() == label]
            axes.scatter(some[:, 0], some[:, 1], s=12, color=colormaps["tab10"](i % 10), label=str(label), linewidths=0)
        axes.legend(title="class", frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.set(xlabel="$z_1$", ylabel="$z_2$", title=title, aspect="equal")
    return figure


@torch.no_grad()
def decoder_plane(
    decode: Any, *, image_shape: tuple[int, int], num_points: int = 15, extent: float = 2.5, title: str = "The decoder"
) -> Figure:
    """Draw the mean of p(x|z) over a grid of the latent plane.

    Args:
        decode: maps z ``(..., 2)`` to a distribution over x: a likelihood, or ``model.decode``.
        image_shape: rows and columns of one image.
        num_points: images a side.
        extent: the plane from -extent to extent.
        title: of the figure.
    """
    line = torch.linspace(-extent, extent, num_points)
    z = torch.stack(torch.meshgrid(line, line.flip(0), indexing="xy"), -1).reshape(-1, 2)
    rows, columns = image_shape
    mean = decode(z).mean.reshape(num_points, num_points, rows, columns)
    gap = max(1, columns // 8)  # of NaN, which is drawn as the paper: strokes of neighbours must not join
    mean = torch.nn.functional.pad(mean.detach(), (0, gap, 0, gap), value=math.nan)
    picture = mean.transpose(1, 2).reshape(num_points * (rows + gap), num_points * (columns + gap))[:-gap, :-gap]
    figure, axes = canvas.one(5.6, 5.6 * rows / columns)
    axes.imshow(picture.cpu().numpy(), cmap="gray_r", extent=(-extent, extent, -extent, extent), aspect="auto")
    axes.set(xlabel="$z_1$", ylabel="$z_2$", title=title)
    return figure


def images(
    x: Tensor,
    *,
    image_shape: tuple[int, int],
    captions: Sequence[str] | None = None,
    columns: int = 10,
    title: str = "",
) -> Figure:
    """Draw data as images.

    Args:
        x: ``(N, D)``.
        image_shape: rows and columns of one image.
        captions: one an image, or None.
        columns: images a row.
        title: of the figure.
    """
    figure, panels = canvas.panels(len(x), columns, cell=(0.9, 1.05), margin=0.3)
    for i, axes in enumerate(panels):
        axes.axis("off")
        axes.imshow(x[i].reshape(image_shape).detach().cpu().numpy(), cmap="gray_r")
        if captions is not None:
            axes.set_title(captions[i], fontsize=8)
    figure.suptitle(title)
    return figure


@torch.no_grad()
def posterior_contours(
    model: Program | Target,
    x: Tensor | tuple[Any, ...] | None = None,
    posteriors: Mapping[str, Any] | None = None,
    *,
    truth: QuadraturePosterior,
    rows: Sequence[int],
    plate: str | None = "data",
    num_points: int = 160,
    columns: int = 3,
) -> Figure:
    """Draw each route over the exact posterior density, for a few data of a two-dimensional model.

    Shades are the exact density; lines hold 50 % and 95 % of a route's mass; chains are drawn as points. The plane is
    that of the latent site itself where it is real, else of the unconstrained u, as its labels say.

    Args:
        model: a Pyro program, or a Target in place of it and x.
        x: data ``(N, *D)``, or the program's arguments as a tuple.
        posteriors: by name, as for ``compare``; None for the exact density alone.
        truth: the result of ``quadrature`` on x.
        rows: which data to draw.
        plate: the data plate.
        num_points: pixels a side.
        columns: panels a row.

    Raises:
        ValueError: if the latent dimension is not two.
    """
    target = as_target(model, x, plate=plate)
    _must_be_plane(target.latent_dim)
    index = checks.rows(rows, target.num_data)
    grid, extents = _planes(truth.mean[index], truth.variance[index].sqrt(), num_points)  # (G, n, 2)
    exact = target.rows(index).log_joint(grid) - truth.log_evidence[index]
    letter = "z" if target.plain else "u"
    figure, panels = canvas.panels(len(index), columns)
    for i, axes in enumerate(panels):
        image = exact[:, i].exp().reshape(num_points, num_points).T.cpu().numpy()
        axes.imshow(image, origin="lower", extent=extents[i], cmap="Greys", aspect="auto")
        axes.set(title=f"datum {int(index[i])}", xlabel=f"${letter}_1$", ylabel=f"${letter}_2$")
    handles = []
    for number, (name, value) in enumerate((posteriors or {}).items()):
        posterior, covered = value if isinstance(value, tuple) else (value, range(target.num_data))
        covered = checks.rows(covered, target.num_data, f"rows of {name!r}")
        place = {int(row): k for k, row in enumerate(covered)}
        colour = _COLOURS[number % len(_COLOURS)]
        seen = answer(target.rows(covered), posterior)
        handles.append(_handle(seen, name, colour))
        for i, axes in enumerate(panels):
            k = place.get(int(index[i]))
            if k is not None:
                _draw_route(axes, seen, k, grid[:, i], colour)
    for axes, extent in zip(panels, extents, strict=True):
        axes.set(xlim=extent[:2], ylim=extent[2:])
    figure.legend(handles=handles, loc="outside lower center", ncols=max(1, len(handles)), frameon=False)
    return figure


def _planes(mean: Tensor, std: Tensor, num_points: int) -> tuple[Tensor, list[tuple[float, ...]]]:
    """Points ``(G, n, 2)`` of a plane around each posterior, and its edges."""
    low, high = mean - 4.5 * std, mean + 4.5 * std
    unit = torch.linspace(0, 1, num_points).to(mean)
    cells = torch.cartesian_prod(unit, unit).unsqueeze(1)
    edges = torch.stack([low[:, 0], high[:, 0], low[:, 1], high[:, 1]], -1)
    return low + cells * (high - low), [tuple(edge) for edge in edges.tolist()]


def _draw_route(axes: Any, seen: Answer, k: int, points: Tensor, colour: str) -> None:
    """Draw one route's posterior of its k-th datum: contours of a density, else its draws."""
    if seen.log_prob is None:
        point = bool((seen.std[k] == 0).all())
        u = seen.u[:1, k] if point else seen.u[:: max(len(seen.u) // 200, 1), k]
        size, marker = (60, "x") if point else (6, ".")
        axes.scatter(*u.T.cpu().numpy(), s=size, marker=marker, color=colour, alpha=1 if point else 0.6)
        return
    u = torch.zeros(len(points), *seen.mean.shape).to(points)
    u[:, k] = points
    density = seen.log_prob(u)[:, k].exp()
    ranked = density.sort(descending=True).values
    share = ranked.cumsum(0) / ranked.sum()
    levels = sorted(float(ranked[int((share < mass).sum().clamp_max(len(share) - 1))]) for mass in _LEVELS)
    side = math.isqrt(len(points))
    first, second = points.reshape(side, side, 2).movedim(-1, 0).cpu().numpy()
    if levels[0] < levels[1]:
        axes.contour(
            first, second, density.reshape(side, side).cpu().numpy(), levels=levels, colors=colour, linewidths=1.4
        )


def _handle(seen: Answer, name: str, colour: str) -> Any:
    from matplotlib.lines import Line2D

    if seen.log_prob is not None:
        return Line2D([], [], color=colour, label=name)
    marker = "x" if bool((seen.std == 0).all()) else "."
    return Line2D([], [], color=colour, ls="", marker=marker, label=name)


def _must_be_plane(latent_dim: int) -> None:
    if latent_dim != 2:
        raise ValueError(say("a two-dimensional latent space to draw", f"{latent_dim}", "a model with latent_dim=2"))
