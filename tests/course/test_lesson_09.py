"""Exercises on the VAE: the divergence by SciPy's integrals, samples by their moments."""

import numpy as np
import torch
from scipy import integrate, stats

from tests.course.learners import Answers, Later


def by_dimension(mu, sigma):
    """KL(q || N(0, 1)) of every number by integration, in NumPy."""
    found = np.zeros(mu.shape)
    for place in np.ndindex(*mu.shape):
        q = stats.norm(float(mu[place]), float(sigma[place]))
        low, high = q.mean() - 12 * q.std(), q.mean() + 12 * q.std()
        found[place] = integrate.quad(lambda z, q=q: q.pdf(z) * (q.logpdf(z) - stats.norm.logpdf(z)), low, high)[0]
    return found


def kl(mu, sigma):
    return by_dimension(mu, sigma).sum(-1)


def reversed_kl(mu, sigma):
    return (torch.log(sigma) + (1 + mu**2) / (2 * sigma**2) - 0.5).sum(-1)


def samples(num=4000, *, scale=1.5, intercept=1.0, slope=2.0):
    return Later(lambda: intercept + slope * torch.randn(num) + scale * torch.randn(num))


MISTAKES = {
    "reversed": ("9.1", reversed_kl, "wrong way round"),
    "mean": ("9.1", lambda mu, sigma: by_dimension(mu, sigma).mean(-1), "mean over dimensions"),
    "half a logarithm": ("9.1", lambda m, s: ((m**2 + s**2 - 1 - torch.log(s)) / 2).sum(-1), "half too little"),
    "variance": ("9.1", lambda m, s: ((m**2 + s - 1 - torch.log(s)) / 2).sum(-1), "used as a variance"),
    "log variance for sigma": ("9.1", lambda m, s: ((m**2 + s.exp() - 1 - s) / 2).sum(-1), "used as a log variance"),
    "no means": ("9.1", lambda m, s: ((s**2 - 1) / 2 - torch.log(s)).sum(-1), "means is missing"),
    "no one": ("9.1", lambda m, s: ((m**2 + s**2) / 2 - torch.log(s)).sum(-1), "half a nat a dimension"),
    "no half": ("9.1", lambda m, s: 2 * kl(m, s), "one half"),
    "sum of all": ("9.1", lambda m, s: kl(m, s).sum(), "returns a number; expected"),
    "sign": ("9.1", lambda m, s: -kl(m, s), "sign"),
    "not summed": ("9.1", by_dimension, "numbers of shape \\(3, 2\\)"),
    "means only": ("9.2", samples(scale=0.0), "means of p\\(x\\|z\\)"),
    "one z": ("9.2", Later(lambda: 1 + 2 * torch.randn(()) + 1.5 * torch.randn(4000)), "one and the same z"),
    "the mean z": ("9.2", samples(slope=0.0), "one and the same z"),
    "one noise": ("9.2", Later(lambda: 1 + 2 * torch.randn(4000) + 1.5 * torch.randn(())), "one draw of the noise"),
    "squared": ("9.2", samples(scale=1.5**2), "squared"),
    "taken for a variance": ("9.2", samples(scale=1.5**0.5), "taken for a variance"),
    "no constant": ("9.2", samples(intercept=0.0), "left out"),
    "z itself": ("9.2", Later(lambda: torch.randn(4000)), "draws of z"),
    "too few": ("9.2", samples(40), "take more"),
    "one number": ("9.2", Later(lambda: torch.ones(4000)), "never moves"),
    "formula": ("9.3", {"a", "c"}, "^c is no mistake"),
    "log variance": ("9.3", ["d"], "^d is no mistake"),
    "one is missing": ("9.3", "b", "there is more"),
}
RIGHT = {"9.1": kl, "9.2": samples(), "9.3": ["e", "b", "A"]}


class TestAnswers(Answers):
    right = RIGHT
    mistakes = MISTAKES
    secrets = (2.5,)
