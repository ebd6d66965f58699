"""The routes from data x to the posterior of z."""
