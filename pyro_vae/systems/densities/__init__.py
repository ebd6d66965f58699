"""NICE and Real NVP: flows as densities of x itself, and what turns whole numbers into data with a density."""
