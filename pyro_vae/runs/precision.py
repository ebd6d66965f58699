"""Networks that multiply in bfloat16 while they train; densities, evaluation and all else keep the run's precision."""

from __future__ import annotations

from typing import Any

import pyro
import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from pyro_vae.checks import say

__all__ = ["HalfLinear", "bias", "halve", "must_not_bias"]


class HalfLinear(nn.Linear):
    """A linear layer that multiplies in bfloat16, of 8 bits, while it trains; in evaluation an ordinary one.

    Shapes: ``(..., in_features)`` to ``(..., out_features)``, in the dtype of the input.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Apply the layer."""
        if not self.training:
            return super().forward(input)
        half = torch.bfloat16
        shift = None if self.bias is None else self.bias.to(half)
        return linear(input.to(half), self.weight.to(half), shift).to(input.dtype)


def halve(module: nn.Module) -> None:
    """Make a module's linear layers half-precise in training, in place; their parameters and names stay.

    Example:
        >>> network = nn.Sequential(nn.Linear(3, 2))
        >>> halve(network)
        >>> list(network.state_dict()), type(network[0]).__name__
        (['0.weight', '0.bias'], 'HalfLinear')
    """
    for name, child in module.named_children():
        if type(child) is nn.Linear:
            layer = HalfLinear(child.in_features, child.out_features, child.bias is not None, device="meta")
            layer.weight, layer.bias = child.weight, child.bias
            setattr(module, name, layer)
        else:
            halve(child)


@torch.no_grad()
def bias(model: Any, guide: Any, loss: Any, x: Tensor, *, num_batches: int = 16) -> tuple[float, float]:
    """Return what half precision adds to the ELBO, and the ELBO's own standard error; nats per datum.

    The same batches under the same noise are scored with and without; the error is that of the mean over batches.

    Args:
        model: its linear layers halved.
        guide: its linear layers halved.
        loss: a Pyro ELBO.
        x: data ``(N, D)``.
        num_batches: into which they are cut.
    """
    scores: dict[bool, list[float]] = {True: [], False: []}
    with torch.random.fork_rng(), pyro.validation_enabled(False):
        for training, found in scores.items():
            model.train(training)
            guide.train(training)
            torch.manual_seed(0)
            found += [-loss.loss(model, guide, part) / len(part) for part in x.tensor_split(num_batches) if len(part)]
    model.eval()
    guide.eval()
    half, full = (torch.tensor(scores[training], dtype=torch.float64) for training in (True, False))
    return float((half - full).mean()), float(full.std() / len(full) ** 0.5)


def must_not_bias(found: tuple[float, float]) -> str:
    """Say how much half precision adds to the ELBO.

    Raises:
        ValueError: if it is more than the ELBO's error.
    """
    added, error = found
    if not abs(added) <= error:
        got = f"{added:+.2g} nats per datum, with an error of {error:.2g}"
        raise ValueError(say("a bias of half precision below the ELBO's error", got, "mixed_precision=false"))
    return f"bfloat16 products add {added:+.2g} nats per datum to the ELBO, whose own error is {error:.2g}"
