"""Data sets: real digits that need no network, synthetic sets whose truth is known, and files of the user's.

Every loader returns a float tensor ``(N, D)`` in the default dtype. Splits are fixed and documented. Synthetic sets
follow ``pyro.set_rng_seed``.
"""

from pyro_vae.datasets.files import read
from pyro_vae.datasets.known import (
    LinearGaussianData,
    digit_labels,
    digits,
    frey_faces,
    linear_gaussian,
    mnist,
    mnist_labels,
    pinwheel,
    ring,
)

__all__ = [
    "LinearGaussianData",
    "digit_labels",
    "digits",
    "frey_faces",
    "linear_gaussian",
    "mnist",
    "mnist_labels",
    "pinwheel",
    "read",
    "ring",
]
