"""Whole systems of the literature, built of the package's parts and trained on it."""

from pyro_vae.systems.captions import Captions, slant, thickness
from pyro_vae.systems.gan import GAN
from pyro_vae.systems.infogan import InfoGAN, mutual_information
from pyro_vae.systems.stackgan import StackGAN

__all__ = [
    "GAN",
    "Captions",
    "InfoGAN",
    "StackGAN",
    "mutual_information",
    "slant",
    "thickness",
]
