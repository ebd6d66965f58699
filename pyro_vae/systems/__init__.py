"""Whole systems of the literature, built of the package's parts and trained on it."""

from pyro_vae.systems.gan import GAN
from pyro_vae.systems.gmmn import GMMN
from pyro_vae.systems.infogan import InfoGAN, mutual_information
from pyro_vae.systems.mmd import maximum_mean_discrepancy
from pyro_vae.systems.observation import observation_model

__all__ = [
    "GAN",
    "GMMN",
    "InfoGAN",
    "maximum_mean_discrepancy",
    "mutual_information",
    "observation_model",
]
