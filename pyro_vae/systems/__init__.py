"""The lecture's other systems, as they were published: DRAW, NICE, Real NVP, GAN, InfoGAN, StackGAN; and GMMN."""

from pyro_vae.systems.adversaries.captions import Captions, slant, thickness
from pyro_vae.systems.adversaries.gan import GAN
from pyro_vae.systems.adversaries.gmmn import GMMN
from pyro_vae.systems.adversaries.infogan import InfoGAN, mutual_information
from pyro_vae.systems.adversaries.mmd import maximum_mean_discrepancy
from pyro_vae.systems.adversaries.stackgan import StackGAN
from pyro_vae.systems.densities.nice import NICE
from pyro_vae.systems.densities.real_nvp import RealNVP
from pyro_vae.systems.drawing.attention import GaussianWindow, gaussian_window
from pyro_vae.systems.drawing.draw import DRAW, DrawDecoder, DrawGuide
from pyro_vae.systems.observation import observation_model

__all__ = [
    "DRAW",
    "GAN",
    "GMMN",
    "NICE",
    "Captions",
    "DrawDecoder",
    "DrawGuide",
    "GaussianWindow",
    "InfoGAN",
    "RealNVP",
    "StackGAN",
    "gaussian_window",
    "maximum_mean_discrepancy",
    "mutual_information",
    "observation_model",
    "slant",
    "thickness",
]
