"""Runs: a recipe by name, a folder that keeps everything, and training that survives being killed."""
