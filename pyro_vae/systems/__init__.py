"""The lecture's other systems, as they were published: each a torch module that is, or holds, a Pyro program."""

from pyro_vae.systems.nice import NICE
from pyro_vae.systems.real_nvp import RealNVP

__all__ = ["NICE", "RealNVP"]
