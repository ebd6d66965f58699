"""Data sets that are known: real digits that need no network, two image sets by their files, synthetic sets."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pyro_vae.checks import among, positive_integer, positive_number, say
from pyro_vae.datasets.files import load, read_idx

__all__ = [
    "LinearGaussianData",
    "digit_labels",
    "digits",
    "frey_faces",
    "linear_gaussian",
    "mnist",
    "mnist_labels",
    "pinwheel",
    "ring",
]

_FREY_SHAPE = (1965, 28, 20)
_SPLITS = ("all", "test", "train")


def digits(split: str = "train", *, values: str = "binary") -> Tensor:
    """Return the 1,797 real 8 x 8 digits that scikit-learn embeds, ``(N, 64)``.

    Rows are put in the order of ``numpy.random.RandomState(0).permutation(1797)``; the first 1,437 are the training
    set, the last 360 the test set.

    Args:
        split: "train" (1,437), "test" (360) or "all".
        values: "binary" (pixels of at least half the brightness are 1), "intensity" in [0, 1], or "counts" 0 to 16.

    Raises:
        ValueError: on an unknown split or kind of values.

    Source:
        Alpaydin & Kaynak 1998, Optical Recognition of Handwritten Digits.

    Example:
        >>> digits("test").shape
        torch.Size([360, 64])
    """
    among(values, ("binary", "intensity", "counts"), "values")
    counts = torch.as_tensor(_digits(split)[0], dtype=torch.get_default_dtype())
    if values == "counts":
        return counts
    return counts / 16 if values == "intensity" else (counts >= 8).to(counts)


def digit_labels(split: str = "train") -> Tensor:
    """Return the classes 0 to 9 of :func:`digits`, ``(N,)``, in the same order.

    Raises:
        ValueError: on an unknown split.
    """
    return torch.as_tensor(_digits(split)[1])


def _digits(split: str) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = np.random.RandomState(0).permutation(len(images))  # the legacy stream is frozen for ever
    rows = order[_split_rows(split, len(images), 1437)]
    return images[rows], labels[rows]


def _split_rows(split: str, total: int, num_train: int) -> slice:
    among(split, _SPLITS, "split")
    return {"train": slice(0, num_train), "test": slice(num_train, total), "all": slice(0, total)}[split]


@dataclass(frozen=True)
class LinearGaussianData:
    """Data of the linear-Gaussian model x = W z + mu + noise, with everything that made them.

    Attributes:
        x: data ``(N, D)``.
        z: latents ``(N, L)``.
        weight: W ``(D, L)``.
        bias: mu ``(D,)``.
        scale: standard deviation of the noise, ``(D,)``.
    """

    x: Tensor
    z: Tensor
    weight: Tensor
    bias: Tensor
    scale: Tensor


def linear_gaussian(
    num_data: int = 500, *, latent_dim: int = 2, data_dim: int = 10, scale: float = 0.5
) -> LinearGaussianData:
    r"""Draw data of a random linear-Gaussian model, :math:`x = W z + \mu + \sigma \epsilon`.

    Args:
        num_data: N.
        latent_dim: L.
        data_dim: D.
        scale: sigma.

    Raises:
        TypeError: if a size is no whole number.
        ValueError: if a size or the scale is not positive.

    Example:
        >>> linear_gaussian(100, latent_dim=3, data_dim=8).x.shape
        torch.Size([100, 8])
    """
    N, L, D = (
        positive_integer(value, name)
        for value, name in ((num_data, "num_data"), (latent_dim, "latent_dim"), (data_dim, "data_dim"))
    )
    positive_number(scale, "scale", example=0.5)
    weight, bias, z = torch.randn(D, L), torch.randn(D), torch.randn(N, L)
    sigma = torch.full((D,), float(scale))
    return LinearGaussianData(z @ weight.T + bias + sigma * torch.randn(N, D), z, weight, bias, sigma)


def ring(num_data: int = 1000, *, radius: float = 2.0, scale: float = 0.1) -> Tensor:
    """Draw points around a circle, ``(N, 2)``: uniform angle, Gaussian radius.

    Raises:
        TypeError: if ``num_data`` is no whole number.
        ValueError: if it is not positive, or radius or scale negative or not finite.
    """
    positive_number(radius, "radius", example=2.0, zero=True)
    positive_number(scale, "scale", example=0.1, zero=True)
    angle = 2 * math.pi * torch.rand(positive_integer(num_data, "num_data"))
    r = radius + scale * torch.randn(num_data)
    return torch.stack([r * angle.cos(), r * angle.sin()], -1)


def pinwheel(num_data: int = 1000, *, arms: int = 5, twist: float = 0.25, scale: float = 0.05) -> Tensor:
    """Draw points of a pinwheel with curved arms, ``(N, 2)``.

    Source: Johnson et al. 2016, Structured VAEs, figure 4.

    Raises:
        TypeError: if ``num_data`` or ``arms`` is no whole number.
        ValueError: if one of them is not positive, the scale negative, or twist or scale not finite.
    """
    positive_number(scale, "scale", example=0.05, zero=True)
    positive_number(abs(twist), "twist", example=0.25, zero=True)
    N = positive_integer(num_data, "num_data")
    arm = torch.randint(positive_integer(arms, "arms"), (N,))
    along = 1 + 0.3 * torch.randn(N)
    angle = 2 * math.pi * arm / arms + twist * along.exp()
    across = scale * torch.randn(N)
    return torch.stack([along * angle.cos() - across * angle.sin(), along * angle.sin() + across * angle.cos()], -1)


def mnist(folder: str | Path, split: str = "train") -> Tensor:
    """Return MNIST from its idx files (plain or .gz), ``(N, 784)`` with intensities in [0, 1].

    A folder with the 60,000 training images is split as published. A folder with the 10,000 test images alone is
    split into its first 8,000 (train) and last 2,000 (test): figures on that split do not compare with papers.

    Args:
        folder: where ``train-images-idx3-ubyte[.gz]`` or ``t10k-images-idx3-ubyte[.gz]`` lie.
        split: "train", "test" or "all".

    Raises:
        FileNotFoundError: if the folder holds neither file.
        ValueError: if a file is no idx file or is truncated, or the split is unknown.
    """
    return _intensities(_mnist_part(Path(folder), split, "images-idx3-ubyte"))


def mnist_labels(folder: str | Path, split: str = "train") -> Tensor:
    """Return the classes 0 to 9 of :func:`mnist`, ``(N,)``, in the same order.

    Raises:
        FileNotFoundError: if the folder holds no labels.
        ValueError: if a file is no idx file or is truncated, or the split is unknown.
    """
    return torch.as_tensor(_mnist_part(Path(folder), split, "labels-idx1-ubyte").astype(np.int64))


def _intensities(images: np.ndarray) -> Tensor:
    return torch.tensor(images.reshape(len(images), -1), dtype=torch.get_default_dtype()) / 255


def _mnist_part(folder: Path, split: str, what: str) -> np.ndarray:
    among(split, _SPLITS, "split")
    found = {part: _idx_path(folder, f"{part}-{what}") for part in ("train", "t10k")}
    if found["train"] is None:
        if found["t10k"] is None:
            raise FileNotFoundError(
                say(f"train-{what}[.gz] or t10k-{what}[.gz] in a folder", f"{folder}", "the folder that holds them")
            )
        data = read_idx(found["t10k"])
        return data[_split_rows(split, len(data), 8000)]
    parts = {"train": ["train"], "test": ["t10k"], "all": ["train", "t10k"]}[split]
    paths = [found[part] for part in parts]
    missing = [part for part, path in zip(parts, paths, strict=True) if path is None]
    if missing:
        raise FileNotFoundError(say(f"{missing[0]}-{what}[.gz] in the folder", f"{folder}", "adding it"))
    return np.concatenate([read_idx(path) for path in paths if path is not None])


def _idx_path(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def frey_faces(path: str | Path, split: str = "train") -> Tensor:
    """Return the Frey faces of an ``.npz`` file with key ``images`` ``(1965, 28, 20)``, ``(N, 560)`` in [0, 1].

    Rows are put in the order of ``numpy.random.RandomState(0).permutation(1965)``; the last 365 are the test set.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read or holds other images, or the split is unknown.
    """
    images = load(path, key="images").values
    if images.shape != _FREY_SHAPE or images.min() < 0 or images.max() > 255:
        got = f"shape {tuple(images.shape)}, values from {images.min():g} to {images.max():g}, in {path}"
        raise ValueError(say(f"images {_FREY_SHAPE} of 0 to 255", got, "the file of the Frey faces"))
    order = np.random.RandomState(0).permutation(len(images))  # the legacy stream is frozen for ever
    return _intensities(images[order[_split_rows(split, len(images), len(images) - 365)]])
