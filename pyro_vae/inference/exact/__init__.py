"""Exact posteriors and evidences: closed form and quadrature."""
