"""Figures: of learning and latent spaces, and of what the evaluation found."""

from pyro_vae.plots.atlas import atlas_costs, atlas_map, atlas_posteriors
from pyro_vae.plots.criticism import criticism
from pyro_vae.plots.drawing import canvases, save_canvases_gif
from pyro_vae.plots.evaluation import bracket_widths, calibration_ranks, gap_ledger, verdict_map
from pyro_vae.plots.inference import decoder_plane, images, latent_space, learning_curve, posterior_contours

__all__ = [
    "atlas_costs",
    "atlas_map",
    "atlas_posteriors",
    "bracket_widths",
    "calibration_ranks",
    "canvases",
    "criticism",
    "decoder_plane",
    "gap_ledger",
    "images",
    "latent_space",
    "learning_curve",
    "posterior_contours",
    "save_canvases_gif",
    "verdict_map",
]
