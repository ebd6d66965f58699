"""DRAW: an image drawn in several glimpses by a recurrent decoder, and inferred by a recurrent encoder."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from pyro_vae.checks import finite, positive_integer, say, tensor
from pyro_vae.guides.base import Guide
from pyro_vae.likelihoods import Bernoulli, Likelihood
from pyro_vae.model import Model
from pyro_vae.priors import StandardNormal
from pyro_vae.scales import to_scale
from pyro_vae.systems.drawing.glimpses import ReadWhole, ReadWindow, WriteWhole, WriteWindow
from pyro_vae.systems.drawing.sequential import Choose, SequentialNormal

__all__ = ["DRAW", "DrawDecoder", "DrawGuide", "Drawing"]


class Drawing(NamedTuple):
    """What the decoder has after some glimpses: the canvas ``(..., D)``, and its LSTM's state and cell ``(..., H)``."""

    canvas: Tensor
    hidden: Tensor
    cell: Tensor


def lstm(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """Return an LSTM's next state and cell, ``(..., H)``, for the sums of its inputs ``(..., 4 H)``.

    Written out, because torch's cell takes no leading dimensions, and because an input that never changes need be
    multiplied only once.

    Source:
        Gers, Schmidhuber & Cummins 2000; the forget gate starts open, at a bias of 1.
    """
    enter, forget, new, leave = gates.chunk(4, -1)
    cell = torch.sigmoid(forget + 1) * cell + torch.sigmoid(enter) * torch.tanh(new)
    return torch.sigmoid(leave) * torch.tanh(cell), cell


class DrawDecoder(nn.Module):
    r"""DRAW's decoder: from the latents of T glimpses, side by side, to a canvas.

    .. math:: h_t = \mathrm{LSTM}(h_{t-1}, z_t), \quad c_t = c_{t-1} + \mathrm{write}(h_t)

    with learnt :math:`h_0` and :math:`c_0`. Shapes: z ``(..., T L)`` to :math:`c_T` ``(..., D)``; D = B A.

    Args:
        image_shape: B rows and A columns.
        latent_dim: L, of one glimpse.
        num_glimpses: T.
        hidden: H, width of the LSTM.
        window: n, for a window of n x n filters to write through; None writes on the whole canvas.

    Source:
        Gregor et al. 2015, equations 7 and 8.

    Example:
        >>> DrawDecoder((8, 8), latent_dim=2, num_glimpses=3, hidden=16)(torch.zeros(7, 6)).shape
        torch.Size([7, 64])
    """

    def __init__(
        self,
        image_shape: tuple[int, int],
        *,
        latent_dim: int,
        num_glimpses: int,
        hidden: int,
        window: int | None = None,
    ) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.num_glimpses = num_glimpses
        self.gates = nn.Linear(latent_dim + hidden, 4 * hidden)
        nn.init.normal_(self.gates.weight[:, :latent_dim], std=latent_dim**-0.5)  # else z is not heard, and collapses
        sizes = hidden, image_shape
        self.write = WriteWhole(*sizes) if window is None else WriteWindow(*sizes, size=window)
        self.first_canvas = nn.Parameter(torch.zeros(math.prod(image_shape)))
        self.first_hidden = nn.Parameter(torch.zeros(hidden))
        self.first_cell = nn.Parameter(torch.zeros(hidden))

    def start(self, lead: Sequence[int]) -> Drawing:
        """Return the drawing before the first glimpse, with leading dimensions."""
        return Drawing(*(p.expand(*lead, -1) for p in (self.first_canvas, self.first_hidden, self.first_cell)))

    def step(self, z: Tensor, drawing: Drawing) -> Drawing:
        """Return the drawing after one more glimpse, of latents ``(..., L)``."""
        hidden, cell = self._recur(z, drawing.hidden, drawing.cell)
        return Drawing(drawing.canvas + self.write(hidden), hidden, cell)

    def steps(self, z: Tensor) -> Iterator[Drawing]:
        """Yield the drawing after every glimpse."""
        drawing = self.start(z.shape[:-1])
        for glimpse in z.split(self.latent_dim, -1):
            drawing = self.step(glimpse, drawing)
            yield drawing

    def forward(self, z: Tensor) -> Tensor:
        """Return the last canvas, ``(..., D)``: nothing looks at those before, so all glimpses are written at once."""
        canvas, hidden, cell = self.start(z.shape[:-1])
        states: list[Tensor] = []
        for glimpse in z.split(self.latent_dim, -1):
            hidden, cell = self._recur(glimpse, hidden, cell)
            states.append(hidden)
        return canvas + self.write.total(torch.stack(states))

    def _recur(self, z: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        return lstm(self.gates(torch.cat([z, hidden], -1)), cell)


class DrawGuide(Guide):
    r"""DRAW's guide: an encoder that looks at the image, and at what the decoder has not drawn yet.

    .. math::
       \hat x_t = x - s(c_{t-1}), \quad
       e_t = \mathrm{LSTM}\bigl(e_{t-1}, [\mathrm{read}(x, \hat x_t, h_{t-1}), h_{t-1}]\bigr), \quad
       q(z_t | z_{<t}, x) = N(\mu(e_t), \sigma(e_t)^2)

    The decoder is the model's: the guide runs it, and its parameters are shown to Pyro by the model alone.

    Args:
        decoder: of the model.
        image_shape: B rows and A columns.
        hidden: H, width of the encoder's LSTM and of the decoder's.
        window: n, for a window of n x n filters to read through; None reads the whole image.
        link: s, from the canvas to the mean of x.

    Source:
        Gregor et al. 2015, equations 1 to 6.

    Example:
        >>> decoder = DrawDecoder((8, 8), latent_dim=2, num_glimpses=3, hidden=16)
        >>> DrawGuide(decoder, (8, 8), hidden=16).posterior(torch.zeros(7, 64)).event_shape
        torch.Size([6])
    """

    def __init__(
        self,
        decoder: DrawDecoder,
        image_shape: tuple[int, int],
        *,
        hidden: int,
        window: int | None = None,
        link: Callable[[Tensor], Tensor] = torch.sigmoid,
    ) -> None:
        super().__init__()
        self._decoder = [decoder]  # in a list: its parameters are the model's
        self.latent_dim = decoder.num_glimpses * decoder.latent_dim
        self.image_shape = image_shape
        self.link = link
        sizes = hidden, image_shape, 4 * hidden
        self.read = ReadWhole(*sizes) if window is None else ReadWindow(*sizes, size=window)
        self.states = nn.Linear(2 * hidden, 4 * hidden, bias=False)
        self.head = nn.Linear(hidden, 2 * decoder.latent_dim)
        self.first_hidden = nn.Parameter(torch.zeros(hidden))
        self.first_cell = nn.Parameter(torch.zeros(hidden))

    @property
    def decoder(self) -> DrawDecoder:
        """The model's decoder."""
        return self._decoder[0]

    @torch.no_grad()
    def start_from(self, x: Tensor) -> None:
        """Let the first canvas be that of the data's mean, see :meth:`DRAW.start_from`."""
        rows = finite(tensor(_flat_images(x, self.image_shape), min_dim=2), "x")
        if isinstance(self.link, nn.Identity):
            self.decoder.first_canvas.copy_(rows.mean(0))
            return
        if not (isinstance(self.link, nn.Sigmoid) or self.link in (torch.sigmoid, torch.special.expit)):
            got, remedy = f"{self.link!r}", "draw.guide.decoder.first_canvas.copy_(...) under torch.no_grad()"
            raise ValueError(say("link torch.sigmoid or torch.nn.Identity()", got, remedy))
        if rows.min() < 0 or rows.max() > 1:
            got = f"values from {float(rows.min()):g} to {float(rows.max()):g}"
            raise ValueError(say("images in [0, 1]", got, "x / x.max()"))
        self.decoder.first_canvas.copy_(((rows.sum(0) + 0.5) / (len(rows) + 1)).logit())

    def posterior(self, x: Tensor) -> SequentialNormal:
        """Return q(z|x), ``batch_shape (N,)``, ``event_shape (T L,)``."""
        x = _flat_images(x, self.image_shape)
        sizes = {"num_steps": self.decoder.num_glimpses, "latent_dim": self.decoder.latent_dim}

        def unroll(lead: torch.Size, choose: Choose) -> list[tuple[Tensor, Tensor, Tensor]]:
            return self._glimpses(x, lead, choose)

        return SequentialNormal(unroll, x.shape[:-1], **sizes, like=x)

    def _glimpses(self, x: Tensor, lead: torch.Size, choose: Choose) -> list[tuple[Tensor, Tensor, Tensor]]:
        """The latents of every glimpse as they are chosen, with their locations and scales, ``(..., L)`` each."""
        look = self.read.of(x)
        drawing = self.decoder.start(lead)
        hidden, cell = (p.expand(*lead, -1) for p in (self.first_hidden, self.first_cell))
        glimpses: list[tuple[Tensor, Tensor, Tensor]] = []
        for t in range(self.decoder.num_glimpses):
            if t > 0:  # of the last latents, only the model draws
                drawing = self.decoder.step(glimpses[-1][0], drawing)
            gates = look(x - self.link(drawing.canvas), drawing.hidden)
            hidden, cell = lstm(gates + self.states(torch.cat([hidden, drawing.hidden], -1)), cell)
            loc, raw = self.head(hidden).chunk(2, -1)
            scale = to_scale(raw)
            glimpses.append((choose(t, loc, scale), loc, scale))
        return glimpses


class DRAW(nn.Module):
    r"""The Deep Recurrent Attentive Writer: a model that draws in T glimpses, and its guide.

    .. math:: p(x, z_{1:T}) = p(x | c_T(z_{1:T})) \prod_t N(z_t; 0, I), \quad q(z_{1:T}|x) = \prod_t q(z_t|z_{<t}, x)

    ``model`` is a :class:`~pyro_vae.Model` whose one site "z" ``(N, T L)`` holds the latents of all glimpses side by
    side, and ``guide`` an amortised guide of it, so that every route and every measure takes them:
    ``fit(draw.model, draw.guide, x)``, ``evidence(draw.model, x, draw.guide)``. The decoder is the model's; the guide
    runs it too, and trains it where the two are trained together.

    Args:
        image_shape: rows and columns of the images, or the side of square ones; x is ``(N, D)``, D = rows x columns.
        latent_dim: L, of one glimpse.
        num_glimpses: T.
        hidden: width of both LSTMs.
        attention: None reads and writes whole images; a pair of whole numbers reads through a window of as many
            filters a side, and writes through another.
        likelihood: makes p(x|z) of the network that gives the canvas, ``(..., T L)`` to ``(..., D)``.
        link: from the canvas to the mean of x, for what is left to draw; ``torch.nn.Identity()`` for Gaussian data.

    Raises:
        TypeError: if a number is no whole one, ``likelihood`` makes no Likelihood, or ``link`` cannot be called.
        ValueError: if a number is not positive, or a window does not fit the image.

    Source:
        Gregor, Danihelka, Graves, Rezende & Wierstra 2015, DRAW: a recurrent neural network for image generation.

    Example:
        >>> draw = DRAW(8, latent_dim=2, num_glimpses=4, hidden=16, attention=(3, 4))
        >>> draw.model.sample(5)["x"].shape, draw.canvases(torch.zeros(5, 8)).shape
        (torch.Size([5, 64]), torch.Size([4, 5, 64]))
    """

    def __init__(
        self,
        image_shape: int | tuple[int, int],
        *,
        latent_dim: int = 10,
        num_glimpses: int = 8,
        hidden: int = 128,
        attention: tuple[int, int] | None = None,
        likelihood: Callable[[nn.Module], Likelihood] = Bernoulli,
        link: Callable[[Tensor], Tensor] = torch.sigmoid,
    ) -> None:
        super().__init__()
        self.image_shape = _image_shape(image_shape)
        self.latent_dim = positive_integer(latent_dim, "latent_dim")
        self.num_glimpses = positive_integer(num_glimpses, "num_glimpses")
        hidden = positive_integer(hidden, "hidden")
        read, write = _windows(attention)
        _callables(likelihood=likelihood, link=link)
        sizes = {"latent_dim": self.latent_dim, "num_glimpses": self.num_glimpses, "hidden": hidden}
        decoder = DrawDecoder(self.image_shape, **sizes, window=write)
        self.model = Model(StandardNormal(self.num_glimpses * self.latent_dim), likelihood(decoder))
        self.guide = DrawGuide(decoder, self.image_shape, hidden=hidden, window=read, link=link)

    @torch.no_grad()
    def start_from(self, x: Tensor) -> Self:
        r"""Let the first canvas be that of the data's mean, so that glimpses draw what differs from it; return self.

        :math:`c_0` is learned too, but a glimpse through a window whitens no edge, and from zeros a learning rate of
        0.001 takes thousands of steps to do so. With ``link=torch.sigmoid`` it is the logit of
        :math:`(\sum_n x_n + 1/2) / (N + 1)`.

        Args:
            x: training data ``(N, D)``, binary or in [0, 1]; any with ``link=torch.nn.Identity()``.

        Raises:
            ValueError: if the images are of another size, or outside [0, 1], or the link is of another kind.

        Example:
            >>> draw = DRAW(8, hidden=16).start_from(torch.ones(1, 64))
            >>> draw.canvases(torch.zeros(1, 80)).shape, draw.guide.decoder.first_canvas[0].exp().round().item()
            (torch.Size([8, 1, 64]), 3.0)
        """
        self.guide.start_from(x)
        return self

    @torch.no_grad()
    def canvases(self, z: Tensor) -> Tensor:
        """Return the mean of x that the canvas gives after every glimpse, ``(T, ..., D)``, for z ``(..., T L)``."""
        drawings = self.guide.decoder.steps(self._latents(z))
        return torch.stack([self.guide.link(drawing.canvas) for drawing in drawings])

    @torch.no_grad()
    def write_boxes(self, z: Tensor) -> Tensor | None:
        """Return where every glimpse writes, ``(T, ..., 4)``, see :class:`GaussianWindow`; None without attention."""
        write = self.guide.decoder.write
        if not isinstance(write, WriteWindow):
            return None
        return torch.stack([write.window(drawing.hidden).box for drawing in self.guide.decoder.steps(self._latents(z))])

    @torch.no_grad()
    def read_boxes(self, z: Tensor) -> Tensor | None:
        """Return where every glimpse reads if z is what was read, ``(T, ..., 4)``; None without attention."""
        read, decoder = self.guide.read, self.guide.decoder
        if not isinstance(read, ReadWindow):
            return None
        before = [decoder.start(z.shape[:-1]), *decoder.steps(self._latents(z))][:-1]
        return torch.stack([read.window(drawing.hidden).box for drawing in before])

    def _latents(self, z: Tensor) -> Tensor:
        width = self.num_glimpses * self.latent_dim
        if z.shape[-1:] != (width,):
            expected = f"latents of all {self.num_glimpses} glimpses side by side, (..., {width})"
            raise ValueError(say(expected, f"shape {tuple(z.shape)}", 'model.sample(5)["z"]'))
        return z


def _image_shape(image_shape: int | tuple[int, int]) -> tuple[int, int]:
    sides = image_shape if isinstance(image_shape, Sequence) else (image_shape, image_shape)
    if len(sides) != 2:
        raise ValueError(say("image_shape of rows and columns", f"{image_shape!r}", "image_shape=(28, 28)"))
    rows, columns = (positive_integer(side, "image_shape") for side in sides)
    return rows, columns


def _windows(attention: tuple[int, int] | None) -> tuple[int, int] | tuple[None, None]:
    if attention is None:
        return None, None
    if not isinstance(attention, Sequence) or isinstance(attention, str) or len(attention) != 2:
        expected = "attention None, or the filters a side of reading and of writing"
        raise ValueError(say(expected, f"{attention!r}", "attention=(2, 5)"))
    return attention[0], attention[1]


def _callables(**functions: Any) -> None:
    for name, function in functions.items():
        if not callable(function):
            remedy = {"likelihood": "likelihood=pv.likelihoods.Bernoulli", "link": "link=torch.sigmoid"}[name]
            raise TypeError(say(f"{name} to be a function or a class", f"{function!r}", remedy))


def _flat_images(x: Tensor, image_shape: tuple[int, int]) -> Tensor:
    D = math.prod(image_shape)
    if x.shape[-1:] != (D,):
        expected = f"flat images of {image_shape[0]} x {image_shape[1]}, (N, {D})"
        remedy = "x.flatten(1)" if math.prod(x.shape[1:]) == D else "image_shape= with the images' rows and columns"
        raise ValueError(say(expected, f"shape {tuple(x.shape)}", remedy))
    return x
