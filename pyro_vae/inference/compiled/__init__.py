"""A Pyro program as one compiled graph of tensor operations."""
