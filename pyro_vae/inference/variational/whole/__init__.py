"""Variational inference of a posterior without tuning: families, fixed noise, flows, and the choice among them."""
