"""Independent truths, and the one constant of every Monte Carlo tolerance."""

import math

import numpy as np
import torch
from scipy import stats

import pyro_vae as pv

# A test compares at most some thousands of numbers with their truth: at 4.5 standard errors a right program fails
# one such comparison in 150,000, and the seeds are fixed.
STANDARD_ERRORS = 4.5


def linear_gaussian(latent_dim, data_dim, *, scale=0.5):
    """A linear-Gaussian model with random weights, and those weights as NumPy arrays."""
    network = pv.networks.mlp(latent_dim, data_dim)
    torch.nn.init.normal_(network[0].weight)
    torch.nn.init.normal_(network[0].bias)
    model = pv.Model(pv.priors.StandardNormal(latent_dim), pv.likelihoods.Gaussian(network, scale=scale))
    return model, network[0].weight.detach().double().numpy(), network[0].bias.detach().double().numpy()


def linear_gaussian_posterior(x, W, b, scale):
    """Mean ``(N, L)``, covariance ``(L, L)`` and log evidence ``(N,)`` by the textbook, in NumPy and SciPy."""
    x = np.asarray(x, dtype=np.float64)
    D, L = W.shape
    V = np.linalg.inv(np.eye(L) + W.T @ W / scale**2)
    mean = (x - b) @ W @ V / scale**2
    return mean, V, stats.multivariate_normal(b, W @ W.T + scale**2 * np.eye(D)).logpdf(x)


def bernoulli_joint(model, x, z):
    """Log p(x, z) of the Bernoulli model by SciPy, for z ``(..., N, L)``."""
    with torch.no_grad():
        logits = model.likelihood.network(z).double().numpy()
    p = 1 / (1 + np.exp(-logits))
    log_likelihood = stats.bernoulli(p).logpmf(np.asarray(x)).sum(-1)
    return log_likelihood + stats.norm.logpdf(z.double().numpy()).sum(-1)


def grid_integral(log_density, dim, *, low=-8.0, high=8.0, num=801):
    """Log integral of a function of ``(G, dim)`` points by a plain trapezoidal sum: no code of the package."""
    line = np.linspace(low, high, num)
    points = np.stack(np.meshgrid(*(line,) * dim, indexing="ij"), -1).reshape(-1, dim)
    values = log_density(points)
    top = values.max(0)
    return np.log(np.exp(values - top).sum(0)) + top + dim * math.log(line[1] - line[0])
