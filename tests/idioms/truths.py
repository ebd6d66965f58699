"""What Pyro itself says of a small program: its potential, and integrals of that on a grid."""

import math
from dataclasses import dataclass

import pyro
import torch
from pyro import poutine
from pyro.infer.mcmc.util import initialize_model

from tests.idioms.programs import make


@dataclass
class Truth:
    """Pyro's log joint over its unconstrained values, and on a grid of it the evidence and the moments.

    Attributes:
        log_joints: one a posterior, of points ``(P, L)``.
        log_evidence: ``(N,)``.
        mean, std: ``(N, L)``.
        grid, log_weights: ``(P, L)`` and ``(N, P)``, normalised.
    """

    log_joints: list
    log_evidence: torch.Tensor
    mean: torch.Tensor
    std: torch.Tensor
    grid: torch.Tensor
    log_weights: torch.Tensor

    def log_joint(self, u):
        """Log p(x, u) at u ``(P, N, L)``, ``(P, N)``."""
        return torch.stack([f(u[:, n]) for n, f in enumerate(self.log_joints)], -1)

    def draws(self, num_samples):
        """Exact draws u ``(S, N, L)``, as fine as the grid."""
        width = self.grid[-1] - self.grid[-2]
        index = torch.distributions.Categorical(logits=self.log_weights).sample((num_samples,))
        return self.grid[index] + width.max() * (torch.rand(*index.shape, self.grid.shape[-1]) - 0.5)


def log_joint(program, args):
    """Pyro's trace and transforms: log p at points ``(P, L)``, sites side by side in the program's order, and L."""
    with pyro.validation_enabled(False):
        start, _, transforms, prototype = initialize_model(program, args)
    start = {name: start[name] for name in prototype.nodes if name in start}
    sizes = [value.numel() for value in start.values()]

    def one(u):
        parts = zip(start.items(), u.split(sizes), strict=True)
        raw = {name: part.reshape(value.shape) for (name, value), part in parts}
        values, log_det = _moving(raw) if "top" in raw and "z" in raw and len(raw) == 2 else (None, 0.0)
        if values is None:
            values = {name: transforms[name].inv(value) for name, value in raw.items()}
            log_det = -sum(_log_det(transforms[name], values[name], raw[name]) for name in raw)
        trace = poutine.trace(poutine.condition(program, data=values)).get_trace(*args)
        return trace.log_prob_sum() + log_det

    def many(u):
        with pyro.validation_enabled(False):
            return torch.cat([torch.vmap(one)(part) for part in u.split(20_000)])

    return many, sum(sizes)


def _log_det(transform, value, raw):
    return transform.log_abs_det_jacobian(value, raw).sum()


def _moving(raw):
    """By hand, the one program whose transform is not the same everywhere, which Pyro's potential takes it to be."""
    top, share = raw["top"].exp(), raw["z"].sigmoid()
    return {"top": top, "z": top * share}, raw["top"] + (top * share * (1 - share)).log()


def truth(name, *, per_datum, low=-9.0, high=9.0):
    """Integrate Pyro's density of an idiom by a plain sum on a grid."""
    program, args = make(name)
    rows = [tuple(arg[n : n + 1] for arg in args) for n in range(len(args[0]))] if per_datum else [args]
    pairs = [log_joint(program, row) for row in rows]
    L = pairs[0][1]
    line = torch.linspace(low, high, {1: 2001, 2: 361, 3: 61}[L], dtype=torch.float64)
    grid = torch.cartesian_prod(*[line] * L).reshape(-1, L)
    with torch.no_grad():
        values = torch.stack([f(grid) for f, _ in pairs]).nan_to_num(-math.inf)
    total = values.logsumexp(-1)
    weights = (values - total.unsqueeze(-1)).exp()
    mean = weights @ grid
    std = (weights @ grid.square() - mean.square()).sqrt()
    evidence = total + L * math.log(float(line[1] - line[0]))
    return Truth([f for f, _ in pairs], evidence, mean, std, grid, values - total.unsqueeze(-1))
