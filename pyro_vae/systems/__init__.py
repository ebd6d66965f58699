"""Systems as they were published, each made of this package's parts: DRAW."""

from pyro_vae.systems.attention import GaussianWindow, gaussian_window
from pyro_vae.systems.draw import DRAW, DrawDecoder, DrawGuide

__all__ = [
    "DRAW",
    "DrawDecoder",
    "DrawGuide",
    "GaussianWindow",
    "gaussian_window",
]
