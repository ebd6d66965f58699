"""Batch normalisation as an invertible layer."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_vae.systems.densities.layers import Layer

__all__ = ["BatchNorm"]


class BatchNorm(Layer):
    r"""Each channel on mean 0 and variance 1, :math:`y = (x - \tilde\mu) / \sqrt{\tilde\sigma^2 + \epsilon}`.

    Its log-determinant is :math:`-\tfrac{1}{2} \sum \log(\tilde\sigma^2 + \epsilon)`. The moments are running
    averages, :math:`\tilde\mu \leftarrow \rho \tilde\mu + (1 - \rho) \hat\mu`, in training too, where the gradient
    goes through the present batch's :math:`\hat\mu` and :math:`\hat\sigma^2`; in evaluation they rest, and the layer
    is one affine map for all rows. The way back always takes them as they are.

    Source: Dinh, Sohl-Dickstein & Bengio 2017, section 3.7 and appendix E.

    Args:
        num_channels: of x ``(N, C, ...)``, or D of rows ``(N, D)``.
        momentum: rho; 0 takes each batch's own moments.
        eps: epsilon.

    Example:
        >>> layer = BatchNorm(2, momentum=0.0)
        >>> y, _ = layer(torch.tensor([[0.0, 3.0], [2.0, 5.0]]))
        >>> y.detach().round(decimals=3)
        tensor([[-1., -1.],
                [ 1.,  1.]])
    """

    mean: Tensor
    var: Tensor

    def __init__(self, num_channels: int, *, momentum: float = 0.9, eps: float = 1e-4) -> None:
        super().__init__()
        self.momentum = momentum
        self.eps = eps
        self.register_buffer("mean", torch.zeros(num_channels))
        self.register_buffer("var", torch.ones(num_channels))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the normalised x; in training, move the averages."""
        mean, var = self.mean, self.var
        if self.training and len(x) > 1:  # one row says nothing of a variance
            over = [dim for dim in range(x.dim()) if dim != 1]
            mean = self.momentum * mean + (1 - self.momentum) * x.mean(over)
            var = self.momentum * var + (1 - self.momentum) * x.var(over, correction=0)
            self.mean.copy_(mean.detach())
            self.var.copy_(var.detach())
        scale = (var + self.eps).sqrt()
        return (x - _beside(mean, x)) / _beside(scale, x), -_log_det(scale, x)

    def inverse(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return x by the running averages."""
        scale = (self.var + self.eps).sqrt()
        return y * _beside(scale, y) + _beside(self.mean, y), _log_det(scale, y)


def _beside(channels: Tensor, x: Tensor) -> Tensor:
    return channels.reshape(-1, *[1] * (x.dim() - 2))


def _log_det(scale: Tensor, x: Tensor) -> Tensor:
    places = x[0, 0].numel()  # a channel's scale is that of each of its places
    return (places * scale.log().sum()).expand(len(x))
