"""Drop-in replacements for parts of ``pyro.infer``, for any Pyro program."""

from pyro_vae.inference.mcmc.interface import MCMC

__all__ = ["MCMC"]
