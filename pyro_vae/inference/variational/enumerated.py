"""The ELBO of a model whose discrete latent sites the guide leaves out: they are summed."""

from __future__ import annotations

from typing import Any

import pyro
from pyro.infer import ELBO, Trace_ELBO, TraceEnum_ELBO
from torch import Tensor

from pyro_vae.checks import say
from pyro_vae.inference.target.enumeration import Enumeration
from pyro_vae.inference.target.program import Program
from pyro_vae.inference.variational.training_input import sites_of

__all__ = ["EnumeratedELBO", "fitting_loss"]


class EnumeratedELBO(TraceEnum_ELBO):
    r"""Pyro's ``TraceEnum_ELBO``, :math:`E_q[\log \sum_c p(x, z, c) - \log q(z)]`, of sites that need no declaration.

    Args:
        enumeration: the model's discrete sites that the guide leaves out.
    """

    def __init__(self, enumeration: Enumeration) -> None:
        super().__init__(max_plate_nesting=-1 - enumeration.first_available_dim)
        self.enumeration = enumeration

    def _get_traces(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Any:
        return super()._get_traces(self.enumeration.declared(model), guide, args, kwargs)


def fitting_loss(loss: ELBO | None, model: Program, guide: Program, batch: tuple[Tensor, ...]) -> ELBO:
    """The ELBO to train with: the given one, or ``Trace_ELBO``, or where the guide leaves sites out one that sums them.

    Raises:
        ValueError: if the given one does not sum what the guide leaves out; as :meth:`Enumeration.of`.
    """
    with pyro.validation_enabled(False):
        proposed, sites = sites_of(guide, batch), sites_of(model, batch)
    left_out = Enumeration.of({name: site for name, site in sites.items() if name not in proposed}, None)
    if not left_out.sites:
        return Trace_ELBO() if loss is None else loss
    if loss is None:
        return EnumeratedELBO(left_out)
    names = list(left_out.sites)
    if not isinstance(loss, TraceEnum_ELBO):
        got = f"{type(loss).__name__}, and a guide without {names}"
        raise ValueError(say("an ELBO that sums discrete sites out", got, "loss=None, or pyro.infer.TraceEnum_ELBO()"))
    if any(sites[name]["infer"].get("enumerate") != "parallel" for name in names):
        raise ValueError(
            say(f"enumeration of {names} declared", "none", "pyro.infer.config_enumerate(model), or loss=None")
        )
    return loss
