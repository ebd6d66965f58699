"""Drop-in replacements for parts of ``pyro.infer``, for any Pyro program."""

from pyro_vae.inference.compiled.elbos import CompiledTrace_ELBO, CompiledTraceMeanField_ELBO
from pyro_vae.inference.mcmc.interface import MCMC

__all__ = ["MCMC", "CompiledTraceMeanField_ELBO", "CompiledTrace_ELBO"]
