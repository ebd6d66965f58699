"""What a recogniser can learn from data without labels: classes that small distortions do not change."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from pyro_vae.systems.adversaries.image_networks import side_of

__all__ = ["invariance_loss", "warped"]

_BALANCE = 4.0  # how much more the classes' evenness counts than their certainty
_CERTAINTY = 0.25  # how much the information counts beside the invariance


def warped(x: Tensor, amount: float = 0.12) -> Tensor:
    """Return flat images ``(N, D)``, each under a random affine map about the identity.

    Args:
        x: square images, laid flat.
        amount: standard deviation of the map's six numbers, an image being from -1 to 1.

    Raises:
        ValueError: if they are not square.

    Example:
        >>> x = torch.rand(3, 64)
        >>> torch.allclose(warped(x, 0.0), x, atol=1e-6)
        True
    """
    side = side_of(x.shape[-1])
    identity = torch.eye(2, 3, dtype=x.dtype, device=x.device)
    image = x.reshape(-1, 1, side, side)
    grid = affine_grid(
        identity + amount * torch.randn(len(x), 2, 3, dtype=x.dtype, device=x.device), list(image.shape), False
    )
    return grid_sample(image, grid, align_corners=False).flatten(1)


def invariance_loss(logits: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    r"""Return :math:`E[KL(q(c|x) \| q(c|Tx))] + \mu (E[H(q(c|x))] - \lambda H(E[q(c|x)]))`, nats a datum.

    T is a random distortion (:func:`warped`); mu is 1/4 and lambda 4. The first term asks that the class stays; the
    others are minus the mutual information of class and image, with evenness counted more: without labels, the class is
    what can be told for certain, is common, and survives distortion.

    Args:
        logits: of the recogniser's categories, from x ``(N, D)`` to ``(N, K)``.
        x: square images ``(N, D)``.

    Source: Hu et al. 2017, Learning discrete representations via information maximizing self-augmented training,
        equations 7 and 10; for InfoGAN, after Ojha et al. 2020, Elastic-InfoGAN.

    Example:
        >>> float(invariance_loss(lambda x: torch.zeros(len(x), 1), torch.rand(4, 64)))
        0.0
    """
    q = logits(x).log_softmax(-1)
    stays = (q.detach().exp() * (q.detach() - logits(warped(x)).log_softmax(-1))).sum(-1).mean()
    uncertain = -(q.exp() * q).sum(-1).mean()
    mean = q.exp().mean(0)
    even = -torch.special.xlogy(mean, mean.clamp_min(1e-12)).sum()
    return stays + _CERTAINTY * (uncertain - _BALANCE * even)
