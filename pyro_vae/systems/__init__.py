"""Whole systems of the literature, built of the package's parts and trained on it."""

from pyro_vae.systems.gan import GAN
from pyro_vae.systems.infogan import InfoGAN, mutual_information

__all__ = [
    "GAN",
    "InfoGAN",
    "mutual_information",
]
