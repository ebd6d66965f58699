"""The mode, Laplace's approximation, and the climb that finds them."""
