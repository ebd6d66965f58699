"""How an image comes about step by step: a figure of canvases, and the same as an animated GIF."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from pyro_vae.checks import positive_integer, positive_number, say
from pyro_vae.plots import canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["canvases", "save_canvases_gif"]

_COLOURS = {"read": "#00798c", "write": "#d1495b"}


def canvases(
    steps: Tensor,
    *,
    image_shape: tuple[int, int],
    read: Tensor | None = None,
    write: Tensor | None = None,
    x: Tensor | None = None,
    title: str = "",
) -> Figure:
    """Draw canvases over time, one row a datum and one column a step, with the windows of every step.

    A side of a window that lies beyond the image is drawn on the image's outermost pixels.

    Args:
        steps: means of x in [0, 1] after every step, ``(T, N, D)``, such as those of ``systems.DRAW.canvases``.
        image_shape: rows and columns of one image.
        read: left, top, right and bottom of what every step reads, ``(T, N, 4)`` in pixels, or None.
        write: of what it writes.
        x: the images that are drawn again, ``(N, D)``, for a last column; None for samples.
        title: of the figure.

    Raises:
        ValueError: if a shape is another.
    """
    _check(steps, image_shape, read=read, write=write)
    T, N = steps.shape[:2]
    columns = T + (x is not None)
    figure, panels = canvas.panels(N * columns, columns, cell=(0.9, 0.9), margin=0.5)
    for i, axes in enumerate(panels):
        n, t = divmod(i, columns)
        picture = x[n] if x is not None and t == T else steps[t, n]
        axes.imshow(picture.reshape(image_shape).detach().cpu().numpy(), cmap="gray_r", vmin=0, vmax=1)
        axes.set(xticks=[], yticks=[])
        if n == 0:
            axes.set_title(f"{t + 1}" if t < T else "x", fontsize=8)
        for name, boxes in (("read", read), ("write", write)):
            if boxes is not None and t < T:
                axes.add_patch(_rectangle(_inside(boxes[t, n], image_shape), name))
    figure.suptitle(title)
    if read is not None or write is not None:
        kinds = [name for name, boxes in (("read", read), ("write", write)) if boxes is not None]
        figure.legend(
            handles=[_rectangle((0, 0, 1, 1), name) for name in kinds],
            labels=kinds,
            loc="outside lower center",
            ncols=2,
            frameon=False,
            fontsize=8,
        )
    return figure


def save_canvases_gif(
    path: str | Path,
    steps: Tensor,
    *,
    image_shape: tuple[int, int],
    read: Tensor | None = None,
    write: Tensor | None = None,
    columns: int = 8,
    zoom: int = 4,
    seconds: float = 0.4,
) -> Path:
    """Write canvases over time as an animated GIF, one frame a step; the last one stays four times as long.

    Args:
        path: of the file.
        steps: as for :func:`canvases`, ``(T, N, D)``.
        image_shape: rows and columns of one image.
        read: as for :func:`canvases`.
        write: as for :func:`canvases`.
        columns: images a row.
        zoom: screen pixels a pixel.
        seconds: that a frame stays.

    Returns:
        The path.

    Raises:
        TypeError: if a number is of the wrong kind.
        ValueError: if a shape is another, or a number is not positive.
    """
    _check(steps, image_shape, read=read, write=write)
    columns, zoom = positive_integer(columns, "columns"), positive_integer(zoom, "zoom")
    milliseconds = round(1000 * positive_number(seconds, "seconds", example=0.4))
    windows = {name: boxes for name, boxes in (("read", read), ("write", write)) if boxes is not None}
    frames = [
        _frame(step, image_shape, {name: boxes[t] for name, boxes in windows.items()}, columns, zoom)
        for t, step in enumerate(steps)
    ]
    stay = [milliseconds] * (len(frames) - 1) + [4 * milliseconds]
    frames[0].save(path, format="GIF", save_all=True, append_images=frames[1:], duration=stay, loop=0)
    return Path(path)


def _frame(step: Tensor, image_shape: tuple[int, int], windows: dict[str, Tensor], columns: int, zoom: int) -> Any:
    """One step of N images ``(N, D)`` side by side, as an image of PIL's, a pixel of white between neighbours."""
    from PIL import Image, ImageDraw

    B, A = image_shape
    N = len(step)
    columns = min(columns, N)
    height, width = (zoom * (B + 1), zoom * (A + 1))
    frame = Image.new("RGB", (columns * width - zoom, -(-N // columns) * height - zoom), "white")
    for n, picture in enumerate(step.detach().cpu()):
        row, column = divmod(n, columns)
        grey = ((1 - picture.clamp(0, 1)) * 255).round().byte().reshape(B, A).numpy()
        tile = Image.fromarray(grey).resize((zoom * A, zoom * B), Image.Resampling.NEAREST).convert("RGB")
        for name, boxes in windows.items():
            corners = [zoom * (c + 0.5) for c in _inside(boxes[n], image_shape)]  # a pixel's centre is half a pixel in
            ImageDraw.Draw(tile).rectangle(corners, outline=_COLOURS[name])
        frame.paste(tile, (column * width, row * height))
    return frame


def _inside(box: Tensor, image_shape: tuple[int, int]) -> list[float]:
    """A window's sides, on the image's edge where they lie beyond it."""
    rows, columns = image_shape
    last = [columns - 1.0, rows - 1.0] * 2
    return [min(max(side, 0.0), most) for side, most in zip(box.tolist(), last, strict=True)]


def _rectangle(box: Sequence[float], name: str) -> Any:
    """A window's outline in a figure."""
    from matplotlib.patches import Rectangle

    left, top, right, bottom = box
    return Rectangle((left, top), right - left, bottom - top, fill=False, color=_COLOURS[name], lw=1)


def _check(steps: Tensor, image_shape: tuple[int, int], **boxes: Tensor | None) -> None:
    D = image_shape[0] * image_shape[1]
    if steps.dim() != 3 or steps.shape[-1] != D:
        want = f"canvases (T, N, {D}) for images of {image_shape[0]} x {image_shape[1]}"
        raise ValueError(say(want, f"shape {tuple(steps.shape)}", "draw.canvases(z) for z (N, T L)"))
    for name, box in boxes.items():
        if box is not None and box.shape != (*steps.shape[:2], 4):
            want = f"{name} windows of shape {(*steps.shape[:2], 4)}"
            raise ValueError(say(want, f"{tuple(box.shape)}", f"draw.{name}_boxes(z) of the same z"))
