"""A page of the latent plane on the site itself, of a VAE that is trained while the site is built."""

from pathlib import Path
from typing import Any

from sphinx.application import Sphinx


def _write(app: Sphinx, error: Exception | None) -> None:
    if error is not None:
        return
    import pyro

    import pyro_vae as pv

    with pyro.get_param_store().scope():
        pyro.set_rng_seed(0)
        x, x_test = pv.datasets.digits("train"), pv.datasets.digits("test")
        model = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(pv.networks.mlp(2, 128, 64)))
        guide = pv.guides.DiagonalGaussian(pv.networks.mlp(64, 128, 4))
        pv.fit(model, guide, x, epochs=40, batch_size=128, lr=5e-3, progress=False)
        labels = pv.datasets.digit_labels("test")
        pv.explore(model, guide, x_test, path=Path(app.outdir, "explore.html"), title="A VAE on digits", labels=labels)


def setup(app: Sphinx) -> dict[str, Any]:
    """Write the page when the rest is written."""
    app.connect("build-finished", _write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
