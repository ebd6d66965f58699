"""A Pyro program as N densities over an unconstrained vector."""
