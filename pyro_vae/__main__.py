"""``python -m pyro_vae`` is the command line."""

from pyro_vae.cli import app

if __name__ == "__main__":
    app(prog_name="pyro-vae")
