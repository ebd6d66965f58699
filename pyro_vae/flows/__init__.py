"""Normalising flows: what priors, guides and densities share."""
