"""Captions of digits, "a three, slanted, thick": of class, and of slant and thickness measured in the image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae import checks
from pyro_vae.checks import say
from pyro_vae.systems.adversaries.image_networks import side_of

__all__ = ["Captions", "slant", "thickness"]

_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_SLANT = ("leaning back", "upright", "slanted")
_THICKNESS = ("thin", "medium", "thick")
_UNSAID = -1


def slant(x: Tensor) -> Tensor:
    r"""Return how far the strokes of flat images ``(N, D)`` lean to the right, in columns a row.

    With image moments :math:`\mu_{pq}` about the centre of mass, rows counted downwards, it is
    :math:`-\mu_{11} / \mu_{02}`: the slope of columns regressed on rows. Shearing an image by a column a row adds one.
    An image without ink, or in one row, has slant 0.

    Example:
        >>> slant(torch.eye(5).flip(0).reshape(1, 25))
        tensor([1.])
    """
    image, row, column = _centred(x)
    down = (image * row.square()).sum((-1, -2))
    across = (image * row * column).sum((-1, -2))
    return torch.where(down > 0, -across / down.clamp_min(1e-12), 0.0)


def thickness(x: Tensor) -> Tensor:
    r"""Return the width of the strokes of flat images ``(N, D)`` in [0, 1], in pixels.

    A stroke of width w and length l has area w l and perimeter about 2 l: the width is twice the area over the
    perimeter, which for grey images is the total variation :math:`\sum |\nabla x|` (the coarea formula: the mean
    perimeter of the level sets). A bar of w x l along the axes gives w l / (w + l), up to two pixels at its corners. An
    image without ink has thickness 0.

    Source: Federer 1959, Curvature measures, theorem 3.1 (the coarea formula).

    Example:
        >>> thickness(torch.zeros(1, 25))
        tensor([0.])
    """
    image = torch.nn.functional.pad(_square(x), (1, 1, 1, 1))
    down = image[..., 1:, :-1] - image[..., :-1, :-1]
    right = image[..., :-1, 1:] - image[..., :-1, :-1]
    perimeter = torch.hypot(down, right).sum((-1, -2))
    return torch.where(perimeter > 0, 2 * image.sum((-1, -2)) / perimeter.clamp_min(1e-12), 0.0)


class Captions(nn.Module):
    """The words of a data set: names of its classes, and adjectives between quantiles of what is measured.

    A caption is "a three, slanted, thick". Its adjectives are thirds of the training images: a third is "slanted", a
    third "thin", whatever the classes. Either may be left unsaid. Codes are whole numbers ``(N, 3)``: class, word for
    slant, word for thickness; -1 where it is unsaid.

    Args:
        x: training images ``(N, D)`` in [0, 1], laid flat.
        labels: their classes ``(N,)``, from 0.
        classes: a name for each class; "zero" to "nine" if None.

    Raises:
        TypeError: if images or labels are no tensors, or labels no whole numbers.
        ValueError: if images are not square, values outside [0, 1], or a label has no name.

    Example:
        >>> from pyro_vae import datasets
        >>> x, labels = datasets.digits(values="intensity"), datasets.digit_labels()
        >>> captions = Captions(x, labels)
        >>> captions.parse("a three, slanted")
        (3, 2, -1)
        >>> captions.describe(captions.codes(x[:2], labels[:2]))
        ['a two, leaning back, medium', 'a eight, upright, thin']
    """

    cuts: Tensor

    def __init__(self, x: Tensor, labels: Tensor, *, classes: Sequence[str] | None = None) -> None:
        super().__init__()
        self.nouns = tuple(_NUMBERS if classes is None else classes)
        self._check(x, labels)
        thirds = torch.tensor([1 / 3, 2 / 3], dtype=x.dtype)
        cuts = torch.stack([torch.quantile(measured, thirds.to(x.device)) for measured in (slant(x), thickness(x))])
        self.register_buffer("cuts", cuts)

    @property
    def words(self) -> tuple[tuple[str, ...], ...]:
        """The names of classes, the words for slant, and those for thickness."""
        return self.nouns, _SLANT, _THICKNESS

    @property
    def width(self) -> int:
        """How long a one-hot caption is."""
        return sum(map(len, self.words))

    def codes(self, x: Tensor, labels: Tensor) -> Tensor:
        """Return the codes of images ``(N, D)`` and their classes, ``(N, 3)``.

        Raises:
            TypeError, ValueError: as the constructor.
        """
        self._check(x, labels)
        measured = (slant(x), thickness(x))
        words = [torch.bucketize(value, cut.to(value)) for value, cut in zip(measured, self.cuts, strict=True)]
        return torch.stack([labels.long(), *words], -1)

    def describe(self, codes: Tensor) -> list[str]:
        """Return a caption for each row of codes ``(N, 3)``."""
        return [
            ", ".join([f"a {self.nouns[noun]}", *(_words[i] for _words, i in _said(rest))])
            for noun, *rest in codes.tolist()
        ]

    def parse(self, caption: str) -> tuple[int, int, int]:
        """Return the codes of a caption, -1 where nothing is said.

        Raises:
            TypeError: if it is no string.
            ValueError: if a word is unknown or said twice, or no class is named; the known words are named.
        """
        if not isinstance(caption, str):
            raise TypeError(say("a caption as a string", f"{caption!r}", f"{self._example!r}"))
        found = [_UNSAID] * 3
        for phrase in caption.split(","):
            word = " ".join(phrase.lower().split())
            word = word.removeprefix("an ").removeprefix("a ")
            place = next((place for place, words in enumerate(self.words) if word in words), None)
            if place is None or found[place] != _UNSAID:
                got = f"{word!r} in {caption!r}" + ("" if place is None else ", where one of its kind was said before")
                raise ValueError(say(f"a class of {list(self.nouns)}, with {self._adjectives}", got, self._example))
            found[place] = self.words[place].index(word)
        if found[0] == _UNSAID:
            got = f"no class in {caption!r}"
            raise ValueError(say(f"a caption that names one of {list(self.nouns)}", got, self._example))
        return found[0], found[1], found[2]

    def encode(self, captions: Sequence[str] | Tensor) -> Tensor:
        """Return the codes ``(N, 3)`` of captions, or codes as they are, checked.

        Raises:
            TypeError: if they are neither strings nor whole numbers.
            ValueError: if one is unknown.
        """
        if not isinstance(captions, Tensor):
            return torch.tensor([self.parse(one) for one in ([captions] if isinstance(captions, str) else captions)])
        if captions.is_floating_point() or captions.dim() != 2 or captions.shape[-1] != 3:
            got = f"{captions.dtype} of shape {tuple(captions.shape)}"
            raise ValueError(say("codes of captions as whole numbers (N, 3)", got, "captions.codes(x, labels)"))
        sizes = torch.tensor([len(words) for words in self.words], device=captions.device)
        low = torch.tensor([0, _UNSAID, _UNSAID], device=captions.device)
        bad = ((captions < low) | (captions >= sizes)).any(-1).nonzero().flatten()
        if len(bad):
            row = int(bad[0])
            expected = f"codes below {sizes.tolist()} and of at least {low.tolist()}"
            raise ValueError(say(expected, f"{captions[row].tolist()} in row {row}", "captions.codes(x, labels)"))
        return captions.long()

    def complete(self, codes: Tensor) -> Tensor:
        """Return codes with a word drawn for whatever was unsaid: each is as common as the others."""
        drawn = torch.stack([torch.randint(len(words), codes.shape[:1]) for words in self.words], -1).to(codes)
        return torch.where(codes == _UNSAID, drawn, codes)

    def one_hot(self, codes: Tensor) -> Tensor:
        """Return complete codes ``(N, 3)`` as the words' indicators side by side, ``(N, W)``."""
        parts = [nn.functional.one_hot(codes[..., i], len(words)) for i, words in enumerate(self.words)]
        return torch.cat(parts, -1).to(self.cuts)

    @property
    def _example(self) -> str:
        return f"a {self.nouns[-1]}, {_SLANT[-1]}, {_THICKNESS[0]}"

    @property
    def _adjectives(self) -> str:
        return f"one of {list(_SLANT)} and one of {list(_THICKNESS)}"

    def _check(self, x: Any, labels: Any) -> None:
        checks.finite(checks.tensor(x, "x", min_dim=2))
        checks.tensor(labels, "labels")
        checks.same_length(x, labels, "x", "labels")
        side_of(x[0].numel())
        if float(x.min()) < 0 or float(x.max()) > 1:
            got = f"values from {float(x.min()):g} to {float(x.max()):g}"
            raise ValueError(say("images in [0, 1]", got, "x / x.max()"))
        if labels.is_floating_point():
            raise TypeError(say("labels as whole numbers", f"{labels.dtype}", "labels.long()"))
        if int(labels.min()) < 0 or int(labels.max()) >= len(self.nouns):
            got = f"labels from {int(labels.min())} to {int(labels.max())}"
            raise ValueError(say(f"labels from 0 to {len(self.nouns) - 1}", got, "classes=, a name for each"))


def _said(codes: Sequence[int]) -> list[tuple[tuple[str, ...], int]]:
    """The adjectives that are said, each with its list of words."""
    return [(words, i) for words, i in zip((_SLANT, _THICKNESS), codes, strict=True) if i != _UNSAID]


def _square(x: Tensor) -> Tensor:
    side = side_of(x.shape[-1])
    return x.reshape(*x.shape[:-1], side, side)


def _centred(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Images ``(N, H, H)``, and each pixel's row and column from the centre of mass."""
    image = _square(x)
    index = torch.arange(image.shape[-1], dtype=image.dtype, device=image.device)
    mass = image.sum((-1, -2), keepdim=True).clamp_min(1e-12)
    row, column = index[:, None].expand_as(image), index.expand_as(image)
    return (
        image,
        row - (image * row).sum((-1, -2), keepdim=True) / mass,
        column - (image * column).sum((-1, -2), keepdim=True) / mass,
    )
