"""What an evidence method is: the base class, what it may be given, and what it returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from pyro_vae.inference.target.target import Target

__all__ = ["Estimate", "EvidenceMethod", "Settings"]


@dataclass(frozen=True)
class Settings:
    """The numbers that methods may heed, as :func:`~pyro_vae.evaluation.evidence.evidence.evidence` takes them."""

    num_samples: int = 5000
    num_chains: int = 16
    num_temperatures: int = 100
    num_steps: int = 3
    start: Any = "chains"


@dataclass(frozen=True)
class Estimate:
    """What a method returns.

    Attributes:
        log_evidence: ``(N,)``, nats.
        standard_error: ``(N,)``, nats; infinite where it is not to be believed.
        reason: why this method, and what its number means.
        log_weights: of annealing, ``(C, N)``; else None.
        u: final states of annealing, ``(C, N, L)``; else None.
    """

    log_evidence: Tensor
    standard_error: Tensor
    reason: str
    log_weights: Tensor | None = None
    u: Tensor | None = None


class EvidenceMethod(ABC):
    """One way to log p(x).

    To add one, write a file in this room with a subclass:

    1. set ``name``, the word that ``evidence(..., method=name)`` takes;
    2. define ``estimate``: from the densities ``target.log_joint(u)`` and a posterior to an :class:`Estimate`; raise
       TypeError or ValueError for a posterior or a program that it cannot use;
    3. if ``method="auto"`` may choose it, define ``attempt``: the estimate, or None to leave it to the next method;
    4. if its number is only ever a bound, set ``bound = True``: no datum counts as resolved then;
    5. name the class in ``_CLASSES`` of ``evidence.py``, in the order in which "auto" asks, and its word in ``METHODS``
       of ``pyro_vae/cli/evaluate.py``, which imports no torch;
    6. test it against ``pv.analytic`` on a linear-Gaussian model, in ``tests/evaluation/test_evidence.py``.

    An error that nobody knows is an infinite ``standard_error``.
    """

    name: ClassVar[str]
    bound: ClassVar[bool] = False

    @abstractmethod
    def estimate(self, target: Target, posterior: Any, settings: Settings) -> Estimate:
        """Return log p(x) of every datum with its error."""

    def attempt(self, target: Target, posterior: Any, settings: Settings) -> Estimate | None:
        """Return the estimate if "auto" may take it here, else None."""
        return None
