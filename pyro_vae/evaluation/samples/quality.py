"""What samples of a generator are worth beside held-out data: quality, variety, classes, copies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae.checks import same_width, say
from pyro_vae.evaluation.samples.classifier import ImageClassifier
from pyro_vae.evaluation.samples.frechet import frechet_distance
from pyro_vae.evaluation.samples.neighbours import copying, precision_recall
from pyro_vae.evaluation.tables import as_text

__all__ = ["SampleQuality", "sample_quality"]


@dataclass(frozen=True)
class SampleQuality:
    """Samples beside held-out data, each figure with the one that training data in their place have.

    Attributes:
        precision: share of samples among the real ones.
        recall: share of held-out data among the samples.
        frechet: squared Frechet distance of features.
        copying: how often a sample is nearer to the training data than a held-out datum; 1/2 is right.
        copying_p_value: of "no nearer"; small if training data are repeated.
        class_shares: share of each class among the samples, ``(K,)``; None without a classifier.
        real_class_shares: of the held-out data, by the same classifier.
        of_training_data: precision, recall and Frechet distance of training data in place of samples: what can be
            reached.
    """

    precision: float
    recall: float
    frechet: float
    copying: float
    copying_p_value: float
    class_shares: Tensor | None
    real_class_shares: Tensor | None
    of_training_data: tuple[float, float, float]

    @property
    def classes_present(self) -> int | None:
        """How many classes have at least a tenth of their share of the data."""
        if self.class_shares is None or self.real_class_shares is None:
            return None
        seen = (self.class_shares > 0) & (self.class_shares >= self.real_class_shares / 10)
        return int(seen.sum())

    def to_dataframe(self) -> Any:
        """Return a pandas DataFrame with one line."""
        import pandas as pd

        line = {
            "precision": self.precision,
            "recall": self.recall,
            "frechet": self.frechet,
            "copying": self.copying,
            "copying_p_value": self.copying_p_value,
            "classes_present": self.classes_present,
        }
        return pd.DataFrame([line])

    def __str__(self) -> str:
        from rich.table import Table

        table = Table("", "samples", "training data", title="Samples beside held-out data")
        pairs = zip(
            ("precision", "recall", "Frechet distance"),
            (self.precision, self.recall, self.frechet),
            self.of_training_data,
            strict=True,
        )
        for name, own, reached in pairs:
            table.add_row(name, f"{own:.3f}", f"{reached:.3f}")
        table.add_row("nearer to training data than held-out data are", f"{self.copying:.2f}", "")
        if self.class_shares is not None:
            table.add_row("classes present", f"{self.classes_present} of {len(self.class_shares)}", "")
        return as_text(table)


def sample_quality(
    samples: Tensor, train: Tensor, held_out: Tensor, *, classifier: ImageClassifier | None = None
) -> SampleQuality:
    """Compare samples of a generator with held-out data.

    Distances of precision, recall and Frechet are between a classifier's features, or, without one, between the rows
    themselves; copies are looked for among the rows. As many samples as held-out data are used (the first ones), and
    as many training data, because precision, recall and the Frechet distance depend on how many there are.

    Args:
        samples: ``(S, D)``.
        train: what the generator learned from, ``(N, D)``.
        held_out: ``(M, D)``.
        classifier: of :func:`~pyro_vae.image_classifier`, for images.

    Raises:
        TypeError: if the classifier has not the features and the classes of one.
        ValueError: if the widths differ, or a set has fewer than 8 rows.

    Source:
        The papers named at :func:`~pyro_vae.evaluation.samples.neighbours.precision_recall`,
        :func:`~pyro_vae.evaluation.samples.frechet.frechet_distance` and
        :func:`~pyro_vae.evaluation.samples.neighbours.copying`.

    Example:
        >>> x = torch.randn(300, 2)
        >>> sample_quality(torch.randn(100, 2), x[:200], x[200:]).classes_present is None
        True
    """
    same_width(samples, held_out, "samples", "held_out")
    same_width(train, held_out, "train", "held_out")
    if classifier is not None and not isinstance(classifier, ImageClassifier):
        got = f"{type(classifier).__name__}"
        raise TypeError(say("a classifier with features of images", got, "pv.image_classifier(x, labels)"))
    size = min(len(samples), len(held_out), len(train))
    if size < _FEWEST:
        got = f"{len(samples)}, {len(train)} and {len(held_out)}"
        raise ValueError(say(f"at least {_FEWEST} samples, training and held-out data", got, "more of them"))
    if not bool(torch.isfinite(samples).all()):
        raise ValueError(say("finite samples", "NaN or infinity", "looking at how training ended"))
    own, reference, real = (t[:size].flatten(1) for t in (samples, train, held_out))
    shares = None, None
    features = own, reference, real
    if classifier is not None:
        features = tuple(classifier.features(t) for t in features)  # type: ignore[assignment]
        shares = tuple(_shares(classifier, t) for t in (samples, held_out))  # type: ignore[assignment]
    f_own, f_reference, f_real = features
    reached = (*precision_recall(f_real, f_reference), frechet_distance(f_real, f_reference))
    precision, recall = precision_recall(f_real, f_own)
    distance = frechet_distance(f_real, f_own)
    return SampleQuality(precision, recall, distance, *copying(own, train, held_out), *shares, reached)


def _shares(classifier: ImageClassifier, x: Tensor) -> Tensor:
    return torch.bincount(classifier.predict(x), minlength=classifier.num_classes).double() / len(x)


_FEWEST = 8  # of the rows of each set
