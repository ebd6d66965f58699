"""The page of ``pv.explore``: its size, and how fast its code is in Node, by decoder.

python -m tests.benchmarks.bench_explore

Decoders are fitted for some epochs, so that posteriors are as narrow as they are in use. Seconds of the wall.
"""

import tempfile
from pathlib import Path

import pyro
import torch.nn.functional as F

import pyro_vae as pv
from tests.explorer.conftest import numbers


def enlarged(split):
    """The digits on 28 x 28 pixels, ``(N, 784)``."""
    small = pv.datasets.digits(split, values="intensity").reshape(-1, 1, 8, 8)
    large = (F.interpolate(small, size=(24, 24), mode="bilinear") > 0.5).float()
    return F.pad(large, (2, 2, 2, 2)).flatten(1)


def cases():
    yield "mlp 2-128-64", pv.networks.mlp(2, 128, 64), pv.networks.mlp(64, 128, 4), pv.datasets.digits, 20
    yield "mlp 2-400-784", pv.networks.mlp(2, 400, 784), pv.networks.mlp(784, 400, 4), enlarged, 8
    decoder, encoder = pv.networks.ConvDecoder(28, latent_dim=2), pv.networks.ConvEncoder(28, out_features=4)
    yield "convolutions, 28 x 28", decoder, encoder, enlarged, 2


def main():
    print("| decoder | page, MB | decode, ms | survey of the plane, s | posterior, both terms refined, s | points |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, decoder, encoder, data, epochs in cases():
        pyro.set_rng_seed(0)
        model = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(decoder))
        guide = pv.guides.DiagonalGaussian(encoder)
        pv.fit(model, guide, data("train"), epochs=epochs, lr=2e-3, progress=False, compile=False)
        with tempfile.TemporaryDirectory() as folder:
            path = pv.explore(model, guide, data("test"), path=Path(folder) / "page.html")
            decode, survey, exact = numbers(
                path, ("speed", {"count": 300}), ("survey", {}), ("exact", {"rows": [0, 1, 2]})
            )
            size = path.stat().st_size / 1e6
        seconds = sum(one["milliseconds"] for one in exact) / 3000
        points = sum(one["points"] for one in exact) // 3
        print(f"| {name} | {size:.2f} | {decode:.2f} | {survey:.1f} | {seconds:.1f} | {points:,} |", flush=True)


if __name__ == "__main__":
    main()
