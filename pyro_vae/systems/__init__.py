"""The lecture's other systems, as they were published: DRAW, NICE, Real NVP, GAN, InfoGAN, StackGAN; and GMMN."""

from pyro_vae.systems.attention import GaussianWindow, gaussian_window
from pyro_vae.systems.captions import Captions, slant, thickness
from pyro_vae.systems.draw import DRAW, DrawDecoder, DrawGuide
from pyro_vae.systems.gan import GAN
from pyro_vae.systems.gmmn import GMMN
from pyro_vae.systems.infogan import InfoGAN, mutual_information
from pyro_vae.systems.mmd import maximum_mean_discrepancy
from pyro_vae.systems.nice import NICE
from pyro_vae.systems.observation import observation_model
from pyro_vae.systems.real_nvp import RealNVP
from pyro_vae.systems.stackgan import StackGAN

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
