"""What Pyro itself says of a small program: its trace, and integrals of that on a grid."""

import functools
import math
from dataclasses import dataclass

import pyro
import torch
from pyro import poutine
from pyro.infer.mcmc.util import initialize_model

from tests.idioms.programs import BY_HAND, IDIOMS


@dataclass
class Truth:
    """Pyro's log joint over its unconstrained values, and on a grid of it the evidence and the moments.

    Attributes:
        densities: one a posterior, of points ``(P, L)``; called with ``jacobian``.
        log_evidence: ``(N,)``.
        mean, std: ``(N, L)``.
        grid, log_weights: ``(P, L)`` and ``(N, P)``, normalised.
    """

    densities: list
    log_evidence: torch.Tensor
    mean: torch.Tensor
    std: torch.Tensor
    grid: torch.Tensor
    log_weights: torch.Tensor

    def log_joint(self, u, *, jacobian=True):
        """Log p(x, u) at u ``(P, N, L)``, ``(P, N)``."""
        return torch.stack([f(u[:, n], jacobian) for n, f in enumerate(self.densities)], -1)

    def draws(self, num_samples):
        """Draws u ``(S, N, L)``, exact but for the width of a cell of the grid."""
        width = (self.grid[-1] - self.grid[-2]).max()
        index = torch.distributions.Categorical(logits=self.log_weights).sample((num_samples,))
        return self.grid[index] + width * (torch.rand(*index.shape, self.grid.shape[-1]) - 0.5)


def density_of(program, args):
    """Pyro's trace at points ``(P, L)`` of its unconstrained values, sites in the program's order; and L."""
    with pyro.validation_enabled(False):
        start, _, transforms, prototype = initialize_model(program, args)
    start = {name: start[name] for name in prototype.nodes if name in start}
    sizes = [value.numel() for value in start.values()]

    def values_at(u):
        parts = zip(start.items(), u.split(sizes, -1), strict=True)
        raw = {name: part.reshape(part.shape[:-1] + value.shape) for (name, value), part in parts}
        if list(raw) == ["top", "z"]:
            return _moving(raw)
        values = {name: transforms[name].inv(value) for name, value in raw.items()}
        dets = [transforms[name].log_abs_det_jacobian(values[name], raw[name]) for name in raw]
        return values, -sum(det.reshape(*u.shape[:-1], -1).sum(-1) for det in dets)

    def one(u, jacobian):
        values, log_det = values_at(u)
        trace = poutine.trace(poutine.condition(program, data=values)).get_trace(*args)
        return trace.log_prob_sum() + (log_det if jacobian else 0.0)

    def batched(u, jacobian):
        """The same of programs that vmap does not take: points in front, with a place for one plate behind them."""
        values, log_det = values_at(u)
        values = {
            n: v if start[n].dim() and len(prototype.nodes[n]["fn"].batch_shape) else v.unsqueeze(1)
            for n, v in values.items()
        }
        trace = poutine.trace(poutine.condition(program, data=values)).get_trace(*args)
        trace.compute_log_prob()
        terms = [site["log_prob"] for site in trace.nodes.values() if "log_prob" in site]
        return sum(
            term.expand(len(u), *term.shape[1:]).reshape(len(u), -1).sum(-1) for term in terms if term.dim() > 1
        ) + (log_det if jacobian else 0.0)

    def many(u, jacobian=True):
        with pyro.validation_enabled(False):
            try:
                return torch.cat([torch.vmap(lambda v: one(v, jacobian))(part) for part in u.split(20_000)])
            except RuntimeError:
                return batched(u, jacobian)

    return many, sum(sizes)


def _moving(raw):
    """By hand, the one program whose transform is not the same everywhere, which Pyro's potential takes it to be."""
    top, share = raw["top"].exp(), raw["z"].sigmoid()
    return {"top": top, "z": top * share}, raw["top"] + (top * share * (1 - share)).log()


@functools.cache
def truth(name, per_datum):
    """Integrate Pyro's density of an idiom by a plain sum on a grid."""
    make, args = BY_HAND.get(name, IDIOMS[name])
    program = make()
    rows = [tuple(arg[n : n + 1] for arg in args) for n in range(len(args[0]))] if per_datum else [args]
    pairs = [density_of(program, row) for row in rows]
    L = pairs[0][1]
    line = torch.linspace(-9.0, 9.0, {1: 2001, 2: 361, 3: 61}[L], dtype=torch.float64)
    grid = torch.cartesian_prod(*[line] * L).reshape(-1, L)
    with torch.no_grad():
        values = torch.stack([f(grid) for f, _ in pairs]).nan_to_num(-math.inf)
    total = values.logsumexp(-1)
    weights = (values - total.unsqueeze(-1)).exp()
    mean = weights @ grid
    std = (weights @ grid.square() - mean.square()).sqrt()
    evidence = total + L * math.log(float(line[1] - line[0]))
    return Truth([f for f, _ in pairs], evidence, mean, std, grid, values - total.unsqueeze(-1))
