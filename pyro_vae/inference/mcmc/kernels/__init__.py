"""Transition kernels over chains x data, one to a file."""
