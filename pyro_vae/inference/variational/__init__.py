"""Stochastic variational inference, its objectives, and coordinate ascent."""

from pyro_vae.inference.variational import objectives

__all__ = ["objectives"]
