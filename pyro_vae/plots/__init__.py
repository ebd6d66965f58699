"""Figures: of learning and latent spaces, and of what the evaluation found."""

from pyro_vae.plots.criticism import criticism
from pyro_vae.plots.evaluation import bracket_widths, calibration_ranks, gap_ledger, verdict_map
from pyro_vae.plots.inference import decoder_plane, images, latent_space, learning_curve, posterior_contours

__all__ = [
    "bracket_widths",
    "calibration_ranks",
    "criticism",
    "decoder_plane",
    "gap_ledger",
    "images",
    "latent_space",
    "learning_curve",
    "posterior_contours",
    "verdict_map",
]
