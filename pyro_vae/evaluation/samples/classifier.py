"""A small convolutional classifier of images: the referee of what a generator draws, and its features."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pyro_vae import checks
from pyro_vae.checks import positive_integer, say

__all__ = ["ImageClassifier", "image_classifier"]


class ImageClassifier(nn.Module):
    """Two convolutions, a layer of 64 features, and a linear layer of logits.

    Shapes: x ``(N, D)`` or ``(N, side, side)``, with D a square, to logits ``(N, num_classes)``.

    Args:
        side: of the images.
        num_classes: K.

    Example:
        >>> ImageClassifier(8, 10)(torch.zeros(5, 64)).shape
        torch.Size([5, 10])
    """

    def __init__(self, side: int, num_classes: int) -> None:
        super().__init__()
        self.side = positive_integer(side, "side", minimum=4)
        self.num_classes = positive_integer(num_classes, "num_classes", minimum=2)
        self.trunk = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(32 * (self.side // 4) ** 2, 64), nn.ReLU()),
        )
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(64, self.num_classes))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``(N, K)``."""
        out: Tensor = self.head(self._trunk(x))
        return out

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """Return the layer before the logits, ``(N, 64)``."""
        return torch.cat([self._trunk(part) for part in x.split(_BLOCK)])

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """Return the likeliest class of each image, ``(N,)``."""
        return torch.cat([self(part).argmax(-1) for part in x.split(_BLOCK)])

    def _trunk(self, x: Tensor) -> Tensor:
        if x[0].numel() != self.side**2:
            got = f"shape {tuple(x.shape)}"
            raise ValueError(say(f"images of {self.side} x {self.side} pixels", got, "another classifier"))
        features: Tensor = self.trunk(x.reshape(len(x), 1, self.side, self.side))
        return features


def image_classifier(x: Tensor, labels: Tensor, *, num_steps: int = 1500, batch_size: int = 64) -> ImageClassifier:
    """Train a classifier of images by Adam with a learning rate that comes down to 0; return it in evaluation mode.

    It errs on about 2 % of other images, of the embedded digits and of MNIST.

    Args:
        x: images in [0, 1], ``(N, D)`` with D a square.
        labels: classes 0 to K - 1, ``(N,)``.
        num_steps: of Adam; passes over the data follow.
        batch_size: images a step.

    Raises:
        TypeError: if images or labels are no tensors, or the images whole numbers.
        ValueError: if an image is not finite or outside [0, 1], D no square, the labels are not one whole number from
            0 a datum, or all are the same.

    Example:
        >>> from pyro_vae import datasets
        >>> x, labels = datasets.digits(), datasets.digit_labels()
        >>> classifier = image_classifier(x[:200], labels[:200], num_steps=20)
        >>> classifier.predict(x[:5]).shape
        torch.Size([5])
    """
    checks.finite(checks.tensor(x, min_dim=2))
    checks.tensor(labels, "labels")
    if not x.is_floating_point():
        raise TypeError(say("images as floating-point numbers", f"{x.dtype}", "x.float() / x.max()"))
    if x.min() < 0 or x.max() > 1:
        got = f"values from {float(x.min()):g} to {float(x.max()):g}"
        raise ValueError(say("images in [0, 1]", got, "x / x.max()"))
    side = math.isqrt(x[0].numel())
    if side**2 != x[0].numel():
        raise ValueError(say("square images", f"{x[0].numel()} pixels", "cropping or padding them"))
    if labels.shape != (len(x),) or labels.is_floating_point() or int(labels.min()) < 0:
        got = f"{labels.dtype} of shape {tuple(labels.shape)} for {len(x)} images"
        raise ValueError(say("a class from 0 on for each image", got, "labels of dtype int64"))
    if labels.min() == labels.max():
        got = f"class {int(labels[0])} alone"
        raise ValueError(say("images of at least two classes", got, "images of all that shall be told apart"))
    steps, size = positive_integer(num_steps, "num_steps"), positive_integer(batch_size, "batch_size")
    network = ImageClassifier(side, int(labels.max()) + 1).to(x)
    optimiser = torch.optim.Adam(network.parameters(), lr=_LR)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / steps)
    epochs = -(-steps // -(-len(x) // size))
    batches = (rows for _ in range(epochs) for rows in torch.randperm(len(x)).split(size))
    for rows in itertools.islice(batches, steps):
        chosen = rows.to(x.device)
        optimiser.zero_grad()
        cross_entropy(network(x[chosen]), labels[chosen]).backward()
        optimiser.step()
        schedule.step()
    return network.eval()


_BLOCK = 1000  # images at once
_LR = 2e-3
