"""What NICE and Real NVP share: a flow as the density of x itself, as a torch module and as a Pyro program."""

from __future__ import annotations

import math
from typing import Any, Self

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_vae import checks
from pyro_vae.checks import among, positive_integer, positive_number, say
from pyro_vae.flows.networks import FlowDistribution
from pyro_vae.model import RegisteredModule, forget_store
from pyro_vae.systems.densities.dequantisation import Dequantiser, UniformDequantiser, VariationalDequantiser, WholePart
from pyro_vae.systems.densities.layers import Chain, FlowWithin, Layer, LayerTransform
from pyro_vae.systems.densities.preprocessing import LevelsToUnit, Logit, Standardised

__all__ = ["DensityGuide", "DensityProgram", "FlowDensity"]


class FlowDensity(torch.nn.Module):
    r"""Base class of flows as densities of x: :math:`\log p(x) = \log p_b(f(x)) + \log|\det \partial f/\partial x|`.

    To write one, subclass it and set ``self.layers`` to a :class:`~pyro_vae.systems.densities.layers.Layer` of rows
    ``(N, D)``.
    Preprocessing comes before the layers, and its Jacobian is counted: densities are in the units of the data.

    **Whole numbers** have no density. With ``num_levels=K`` the data are the levels 0 to K - 1, or, with
    ``intensities=True``, the numbers k / (K - 1); they are dequantised to y in [0, K], and the density is of y, in
    levels. :meth:`bound` and :meth:`bits_per_dimension` then are of the probability of the levels, which no coding of
    them changes.

    ``pyro_vae.fit(system.model, system.guide, x)`` trains it. ``model`` is the Pyro program with site "x" in the plate
    "data", and ``guide`` an empty one; with ``num_levels`` the latent site "y" is what was dequantised.

    Args:
        data_dim: D, at least 2.
        base: the law of f(x), "normal" or "logistic": independent, of mean 0 and variance 1.
        num_levels: K of whole numbers; None for real numbers.
        intensities: whether levels are given as k / (K - 1).
        dequantisation: "uniform", or "variational" for a learned q(y|x).
        alpha: take logits of alpha + (1 - 2 alpha) x first, of x in [0, 1] or y / K; None for none.

    Attributes:
        data_dim: D.
        model: the Pyro program.
        guide: its guide.

    Raises:
        TypeError: if a size is no whole number.
        ValueError: if a size or alpha is out of its range, or a word unknown.
    """

    layers: Layer
    loc: Tensor

    def __init__(
        self,
        data_dim: int,
        *,
        base: str = "normal",
        num_levels: int | None = None,
        intensities: bool = False,
        dequantisation: str = "uniform",
        alpha: float | None = None,
    ) -> None:
        super().__init__()
        self.data_dim = positive_integer(data_dim, "data_dim", minimum=2)
        self.base = among(base, ("normal", "logistic"), "base")
        among(dequantisation, ("uniform", "variational"), "dequantisation")
        self.num_levels = None if num_levels is None else positive_integer(num_levels, "num_levels", minimum=2)
        self.intensities = bool(intensities)
        self.alpha = None if alpha is None else positive_number(alpha, "alpha", example=0.05)
        if self.alpha is not None and self.alpha >= 0.5:
            raise ValueError(say("alpha below 1/2", f"{self.alpha:g}", "alpha=0.05"))
        if self.num_levels is None and (self.intensities or dequantisation == "variational"):
            raise ValueError(say("num_levels, where data are dequantised", "None", "num_levels=256"))
        before: list[Layer] = [] if self.num_levels is None else [LevelsToUnit(self.num_levels)]
        self.units = Chain(before + ([] if self.alpha is None else [Logit(self.alpha)]))
        self.standardised = Standardised(self.data_dim)
        self.dequantiser: Dequantiser | None = None
        if self.num_levels is not None:
            uniform = dequantisation == "uniform"
            D, K = self.data_dim, self.num_levels
            kind = UniformDequantiser(K) if uniform else VariationalDequantiser(D, K)
            self.dequantiser = kind
        self.register_buffer("loc", torch.zeros(self.data_dim), persistent=False)
        # in a tuple, hence no child modules: a child that holds its parent has no end
        self._programs = DensityProgram(self), DensityGuide(self.dequantiser, self._levels)

    @property
    def model(self) -> DensityProgram:
        """The Pyro program."""
        return self._programs[0]

    @property
    def guide(self) -> DensityGuide:
        """Its guide."""
        return self._programs[1]

    def __getstate__(self) -> Any:
        forget_store(self)
        return super().__getstate__()

    # -- the density ---------------------------------------------------------------------------------------------

    def distribution(self) -> FlowDistribution:
        """Return the density as a Pyro distribution, ``event_shape (D,)``: of x, or of y where data are levels."""
        one = torch.ones_like(self.loc)
        normal = self.base == "normal"
        law = dist.Normal(self.loc, one) if normal else dist.Logistic(self.loc, math.sqrt(3) / math.pi * one)
        end = self._end()
        support = constraints.real if end is None else constraints.interval(0.0, end)
        return FlowWithin(LayerTransform(self._whole()), law.to_event(1), support)

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log p(x), ``(N,)`` in nats, in the units of x; with ``num_levels``, of y in [0, K], in levels.

        Raises:
            TypeError: if x is no tensor.
            ValueError: if x is not finite, of another width, or outside [0, 1] (or [0, K]) where logits are taken.
        """
        return self.distribution().log_prob(self._checked(x))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return z = f(x) ``(N, D)`` and its log-determinant ``(N,)``; of y where data are whole numbers.

        Raises:
            TypeError, ValueError: as :meth:`log_prob`.
        """
        return self._whole()(self._checked(x))

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return x (or y) of z ``(N, D)``, and the log-determinant of the inverse ``(N,)``.

        Raises:
            TypeError, ValueError: if z is no finite tensor of D columns.
        """
        return self._whole().inverse(self._finite(z, "z"))

    @torch.no_grad()
    def sample(self, num_samples: int = 1) -> Tensor:
        """Draw x, ``(num_samples, D)``, as data are given: levels or intensities are whole parts of what is drawn.

        Raises:
            TypeError, ValueError: if ``num_samples`` is no positive whole number.
        """
        y = self.distribution().sample((positive_integer(num_samples, "num_samples"),))
        if self.num_levels is None:
            return y
        level = WholePart(y, self.num_levels).sample()
        return level / (self.num_levels - 1) if self.intensities else level

    # -- whole numbers -------------------------------------------------------------------------------------------

    @torch.no_grad()
    def dequantise(self, x: Tensor) -> Tensor:
        """Draw y ~ q(y|x) in [0, K] for levels or intensities x, ``(N, D)``.

        Raises:
            TypeError: if x is no tensor.
            ValueError: if there are no levels here, or x holds others.
        """
        return self._dequantiser()(self._checked_levels(x)).rsample()

    def bound(self, x: Tensor, num_samples: int = 1) -> Tensor:
        """Return the dequantised bound on log P(x), ``(N,)`` in nats: a mean over ``num_samples`` draws of y.

        Raises:
            TypeError, ValueError: as :meth:`dequantise`.
        """
        q = self._dequantiser()(self._checked_levels(x))
        total = self.loc.new_zeros(len(x))
        for _ in range(positive_integer(num_samples, "num_samples")):
            y = q.rsample()
            total = total + self.distribution().log_prob(y) - q.log_prob(y)
        return total / num_samples

    @torch.no_grad()
    def bits_per_dimension(self, x: Tensor, num_samples: int = 1) -> Tensor:
        r"""Return :math:`-\log p(x) / (D \log 2)`, ``(N,)``: of the density, or of the bound where data are levels.

        Raises:
            TypeError, ValueError: as :meth:`log_prob` or :meth:`bound`.
        """
        nats = self.log_prob(x) if self.num_levels is None else self.bound(x, num_samples)
        return -nats / (self.data_dim * math.log(2))

    # -- data ----------------------------------------------------------------------------------------------------

    def standardise(self, x: Tensor, *, whiten: bool = False) -> Self:
        """Take location and scale of the data, after levels and logits, for a first, fixed affine layer; return self.

        Whitening is done in the manner of the published NICE, which whitens CIFAR-10 and SVHN.

        Args:
            x: training data ``(N, D)``.
            whiten: take the whole covariance (Ledoit and Wolf's) rather than each column's variance.

        Raises:
            TypeError, ValueError: as :meth:`log_prob` or :meth:`dequantise`; if a column does not vary.
        """
        y = self._checked(x) if self.num_levels is None else self.dequantise(x)
        with torch.no_grad():
            self.standardised.fit(self.units(y)[0], whiten=whiten)
        return self

    def _whole(self) -> Chain:
        return Chain([self.units, self.standardised, self.layers])

    def _end(self) -> float | None:
        """The end of the interval from 0 that x or y lie in, if logits are taken."""
        return None if self.alpha is None else float(self.num_levels or 1)

    def _levels(self, x: Tensor) -> Tensor:
        """The levels of data as they are given; what is none stays none."""
        if not (self.intensities and self.num_levels):
            return x
        level = x * (self.num_levels - 1)
        return torch.where((level - level.round()).abs() < 1e-3, level.round(), level)

    def _dequantiser(self) -> Dequantiser:
        if self.dequantiser is None:
            raise ValueError(say("num_levels, where data are dequantised", "None", "num_levels=256"))
        return self.dequantiser

    def _finite(self, x: Tensor, name: str) -> Tensor:
        rows = checks.finite(checks.tensor(x, name, min_dim=2), name).flatten(1)
        if rows.shape[-1] != self.data_dim:
            got = f"{name} of shape {tuple(x.shape)}"
            raise ValueError(say(f"{self.data_dim} columns (or pixels) a row", got, f"data_dim={rows.shape[-1]}"))
        if rows.is_floating_point() and rows.dtype != self.loc.dtype:
            got, remedy = f"{name} of {rows.dtype}", f"{name}.to({self.loc.dtype})"
            raise ValueError(say(f"{name} of {self.loc.dtype}, as the flow is", got, remedy))
        return rows

    def _checked(self, x: Tensor) -> Tensor:
        rows, end = self._finite(x, "x"), self._end()
        if end is not None and (rows.min() < 0 or rows.max() > end):
            got = f"values from {float(rows.min()):g} to {float(rows.max()):g}"
            raise ValueError(say(f"values in [0, {end:g}] for logits", got, "alpha=None, or x scaled to its range"))
        return rows

    def _checked_levels(self, x: Tensor) -> Tensor:
        level = self._levels(self._finite(x, "x"))
        K = self.num_levels or 0
        wrong = ~constraints.integer_interval(0, K - 1).check(level)
        if wrong.any():
            row = int(wrong.any(-1).nonzero()[0])
            coding = f"k / {K - 1}, k from 0 to {K - 1}" if self.intensities else f"whole numbers from 0 to {K - 1}"
            remedy = f"intensities={not self.intensities}, or another num_levels"
            raise ValueError(say(coding, f"{float(self._finite(x, 'x')[wrong][0]):g} in row {row}", remedy))
        return level


class DensityProgram(RegisteredModule):
    """A density as a Pyro program: site "x" in the plate "data", and the latent "y" above it where data are levels.

    Args:
        density: NICE or Real NVP.
    """

    def __init__(self, density: FlowDensity) -> None:
        super().__init__()
        self.density = density

    def forward(self, x: Tensor | None = None, *, num_data: int = 1) -> Tensor:
        """Run the program; return x, observed or sampled, ``(N, D)``; levels as whole numbers.

        Raises:
            ValueError: if x has another width.
        """
        self.register()
        density = self.density
        if x is not None:
            x = density._levels(x.flatten(1))
            if x.shape[-1] != density.data_dim:
                got = f"x of shape {tuple(x.shape)}"
                raise ValueError(say(f"{density.data_dim} columns (or pixels) a row", got, f"data_dim={x.shape[-1]}"))
        with pyro.plate("data", num_data if x is None else len(x)):
            law = density.distribution()
            if density.num_levels is None:
                return pyro.sample("x", law, obs=x)
            y = pyro.sample("y", law)
            return pyro.sample("x", WholePart(y, density.num_levels), obs=x)


class DensityGuide(RegisteredModule):
    """The guide of a density: empty, or the dequantiser's q(y|x) where data are levels.

    Args:
        dequantiser: gives q(y|x); None for real data.
        levels: maps data as they are given to levels.
    """

    def __init__(self, dequantiser: Dequantiser | None, levels: Any) -> None:
        super().__init__()
        self.dequantiser = dequantiser
        self.levels = levels

    def forward(self, x: Tensor) -> FlowDistribution | None:
        """Run the guide; return q(y|x), or None."""
        self.register()
        if self.dequantiser is None:
            return None
        with pyro.plate("data", len(x)):
            q = self.dequantiser(self.levels(x.flatten(1)))
            pyro.sample("y", q)
        return q
