"""The command line: ``pyro-vae`` and ``python -m pyro_vae``. It imports torch only when a command runs.

Exit codes: 0 done; 1 the command could not do what was asked, and said why on standard error; 2 wrong usage; 130
interrupted. Results go to standard output, all else to standard error.
"""

from pyro_vae.cli.app import app, main

__all__ = ["app", "main"]
