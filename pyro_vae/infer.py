"""Drop-in replacements for parts of ``pyro.infer``, for any Pyro program."""

from pyro_vae.inference.compiled import CompiledTrace_ELBO, CompiledTraceMeanField_ELBO

__all__ = ["CompiledTraceMeanField_ELBO", "CompiledTrace_ELBO"]
