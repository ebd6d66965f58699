"""What a variational autoencoder's decoder says of one digit."""

from __future__ import annotations

from importlib.resources import as_file, files

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.atlas.archive import FOLDER, Stored
from pyro_vae.atlas.problem import Problem
from pyro_vae.atlas.truth import Truth
from pyro_vae.inference.exact.quadrature import quadrature
from pyro_vae.inference.target.target import Target

__all__ = ["problem"]

DIGIT = 18  # of the stored ones: a 1 that the decoder can draw in two ways


def program(x: Tensor, first: Tensor, first_bias: Tensor, second: Tensor, second_bias: Tensor) -> None:
    """The decoder's two layers are given; z is the code of one image of 64 pixels."""
    z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
    hidden = torch.nn.functional.silu(z @ first.T + first_bias)
    pyro.sample("x", dist.Bernoulli(logits=hidden @ second.T + second_bias).to_event(1), obs=x)


def data() -> tuple[Tensor, ...]:
    """One digit, and the weights of the decoder 2-32-64."""
    with as_file(files(FOLDER) / "decoder.npz") as path, np.load(path, allow_pickle=False) as stored:
        x = torch.from_numpy(stored["digits"][DIGIT])
        weights = [torch.from_numpy(stored[name]) for name in ("0.weight", "0.bias", "2.weight", "2.bias")]
    return tuple(each.double() for each in (x, *weights))


def _truth(target: Target) -> Truth:
    return Truth.of_distribution(target, quadrature(target, plate=None), how="quadrature")


def problem() -> Problem:
    """The posterior of the digit's two-dimensional code."""
    return Problem(
        name="vae_digit",
        title="The code of a digit",
        model=program,
        args=data(),
        why=(
            "The posterior that an amortised guide has to approximate, for one image. Most are small, bent a little "
            "and nearly Gaussian; this 1 has two codes far apart, because the decoder draws it in two ways. A Gaussian "
            "fitted to this one image is the best that amortisation can reach, and it takes one code, or both and all "
            "that lies between."
        ),
        telling=("z[0]", "z[1]"),
        source="Image from scikit-learn's digits (Alpaydin & Kaynak 1998, Optical Recognition of Handwritten Digits, "
        "CC BY 4.0); decoder trained by python -m pyro_vae.atlas.stored.decoder.",
        find_truth=Stored("vae_digit", _truth),
    )
