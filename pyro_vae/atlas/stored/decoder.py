"""Train the small decoder of the atlas' digit and store its weights: ``python -m pyro_vae.atlas.stored.decoder``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pyro_vae.datasets import digits
from pyro_vae.guides import DiagonalGaussian
from pyro_vae.inference.variational.fit import fit
from pyro_vae.likelihoods import Bernoulli
from pyro_vae.model import Model
from pyro_vae.networks import mlp
from pyro_vae.priors import StandardNormal

__all__ = ["main"]

HIDDEN = 32
SEED = 0


def main(folder: Path = Path(__file__).parent) -> None:
    """Fit a variational autoencoder to scikit-learn's digits; keep its decoder, and test digits to choose from."""
    import pyro

    pyro.set_rng_seed(SEED)
    decoder = mlp(2, HIDDEN, 64)
    history = fit(
        Model(StandardNormal(2), Bernoulli(decoder)),
        DiagonalGaussian(mlp(64, 64, 4)),
        digits("train"),
        epochs=300,
        batch_size=64,
        lr=2e-3,
        seed=SEED,
        compile=False,
        progress=False,
    )
    weights = {name: value.numpy() for name, value in decoder.state_dict().items()}
    np.savez_compressed(folder / "decoder.npz", digits=digits("test")[:20].numpy().astype(np.uint8), **weights)
    print(f"ELBO on held-out digits: {history.validation_elbo[-1]:.2f} nats")


if __name__ == "__main__":
    main()
