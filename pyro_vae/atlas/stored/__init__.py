"""Truths that take long to find, as files; ``python -m pyro_vae.atlas.stored NAME`` makes them again."""
