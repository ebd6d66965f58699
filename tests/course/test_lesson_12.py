"""Exercises on the VAE's neighbours: densities by SciPy, by differentiating distribution functions, and by counting."""

import math

import numpy as np
import torch
from scipy import stats
from scipy.special import expit

from tests.course.learners import Answers


def log_density(x):
    """Of sinh z, by differentiating P(sinh z <= x), no Jacobian involved; in double precision."""
    step = 1e-5 * (1 + abs(float(x)))
    z = np.arcsinh(float(x) + np.array([-step, step]))
    below = stats.norm.cdf(z) if x < 0 else stats.norm.sf(z)[::-1]
    return math.log((below[1] - below[0]) / (2 * step))


def normal(x):
    return stats.norm.logpdf(x.asinh())


def logit(x):
    return stats.norm.logpdf(x, 0, 1) - stats.norm.logpdf(x, 0, 2)


# 72 nats on a space that is cut into cells of (1/16)^64: the log probability of a cell, and the bits of its code
CELL = 72 + 64 * math.log(1 / 16)
BITS = -math.log2(math.e) * CELL / 64

MISTAKES = {
    "no determinant": ("12.1", normal, "is missing"),
    "its sign": ("12.1", lambda x: normal(x) + 0.5 * math.log(1 + x**2), "wrong sign"),
    "no root": ("12.1", lambda x: normal(x) - math.log(1 + x**2), "square root"),
    "wrong way round": ("12.1", lambda x: stats.norm.logpdf(math.sinh(x)) + math.log(math.cosh(x)), "wrong way round"),
    "cosh x": ("12.1", lambda x: normal(x) - math.log(math.cosh(x)), "taken at x"),
    "determinant alone": ("12.1", lambda x: -0.5 * math.log(1 + x**2), "alone"),
    "density": ("12.1", lambda x: math.exp(log_density(x)), "natural scale"),
    "upside down": ("12.2", lambda x: -logit(x), "upside down"),
    "probability": ("12.2", lambda x: expit(logit(x)), "D itself"),
    "log probability": ("12.2", lambda x: np.log(expit(logit(x))), "log D;"),
    "variance": ("12.2", lambda x: stats.norm.logpdf(x) - stats.norm.logpdf(x, 0, 2**0.5), "used as a variance"),
    "constants": ("12.2", lambda x: -(x**2) / 2 + x**2 / 8, "constants of the two"),
    "data alone": ("12.2", stats.norm.logpdf, "alone"),
    "ratio": ("12.2", lambda x: math.exp(logit(x)), "natural scale"),
    "no units": ("12.3", -72 / 64 / math.log(2), "units are missing"),
    "units once": ("12.3", -(72 - math.log(16)) / 64 / math.log(2), "every dimension"),
    "units' sign": ("12.3", -(72 + 64 * math.log(16)) / 64 / math.log(2), "wrong sign"),
    "nats": ("12.3", -CELL / 64, "nats per dimension"),
    "image": ("12.3", -CELL / math.log(2), "whole image; divide"),
    "nats of the image": ("12.3", -CELL, "nats of the whole"),
    "log density": ("12.3", CELL, "bits of a code"),
    "sign": ("12.3", -BITS, "sign"),
}
RIGHT = {"12.1": log_density, "12.2": logit, "12.3": torch.tensor(BITS)}


class TestAnswers(Answers):
    right = RIGHT
    mistakes = MISTAKES
    secrets = (BITS,)
