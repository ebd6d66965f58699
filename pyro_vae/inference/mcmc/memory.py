"""What a run will need of memory, said before it starts."""

from __future__ import annotations

import torch

from pyro_vae.checks import say
from pyro_vae.inference.target.target import Target
from pyro_vae.memory import available_memory

__all__ = ["check_memory", "estimate_memory"]


def estimate_memory(target: Target, num_chains: int, num_samples: int) -> int:
    """Return the bytes that a run needs: the draws twice (both scales) and one gradient of the batched log joint.

    What the gradient saves for its backward pass is counted on one chain and multiplied.

    Example:
        >>> import pyro_vae as pv
        >>> model = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(torch.nn.Linear(2, 8)))
        >>> estimate_memory(Target(model, torch.ones(10, 8)), 4, 100) > 2 * 4 * 100 * 10 * 2 * 4
        True
    """
    u = target.sample_prior(1)[0].requires_grad_()
    saved: dict[int, int] = {}

    def note(t: torch.Tensor) -> torch.Tensor:
        storage = t.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return t

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        target.log_joint(u)
    draws = 2 * num_chains * num_samples * u.numel() * u.element_size()
    # a tensor saved and one in flight: the backward pass holds about as much again
    return draws + 2 * num_chains * sum(saved.values())


def check_memory(target: Target, num_chains: int, num_samples: int) -> None:
    """Refuse a run that would not fit.

    Raises:
        MemoryError: saying how much is needed, and how much there is.
    """
    needed = estimate_memory(target, num_chains, num_samples)
    free = available_memory(target.origin.device)
    if needed > free:
        raise MemoryError(
            say(
                f"at most {free / 1e9:.1f} GB (what is free)",
                f"about {needed / 1e9:.1f} GB for {num_chains} chains of {num_samples} draws of {target.num_data} data",
                "fewer data at a time, fewer chains, or thinning",
            )
        )
