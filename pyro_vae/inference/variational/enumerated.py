"""The ELBO of a model whose discrete latent sites the guide leaves out: they are summed."""

from __future__ import annotations

from typing import Any

from pyro.infer import ELBO, Trace_ELBO, TraceEnum_ELBO

from pyro_vae.checks import say
from pyro_vae.inference.target.enumeration import Enumeration, is_discrete

__all__ = ["EnumeratedELBO", "fitting_loss"]


class EnumeratedELBO(TraceEnum_ELBO):
    r"""Pyro's ``TraceEnum_ELBO``, :math:`E_q[\log \sum_c p(x, z, c) - \log q(z)]`, of sites that need no declaration.

    Args:
        enumeration: the model's discrete sites that the guide leaves out.
    """

    def __init__(self, enumeration: Enumeration) -> None:
        super().__init__()
        self.enumeration = enumeration

    def _get_traces(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Any:
        return super()._get_traces(self.enumeration.declared(model), guide, args, kwargs)


def fitting_loss(loss: ELBO | None, others: dict[str, Any]) -> ELBO:
    """The ELBO to train with: the given one, or ``Trace_ELBO``, or where the guide leaves sites out one that sums them.

    Args:
        loss: the given one.
        others: the model's sites that are not the guide's, as ``check_guide`` returns them.

    Raises:
        ValueError: if the given one does not sum what the guide leaves out; as :meth:`Enumeration.of`.
    """
    if not any(is_discrete(site) for site in others.values()):
        return Trace_ELBO() if loss is None else loss
    if loss is None:
        return EnumeratedELBO(Enumeration.of(others, None))
    names = [name for name, site in others.items() if is_discrete(site)]
    if not isinstance(loss, TraceEnum_ELBO):
        got = f"{type(loss).__name__}, and a guide without {names}"
        raise ValueError(say("an ELBO that sums discrete sites out", got, "loss=None, or pyro.infer.TraceEnum_ELBO()"))
    if any(others[name]["infer"].get("enumerate") != "parallel" for name in names):
        raise ValueError(
            say(f"enumeration of {names} declared", "none", "pyro.infer.config_enumerate(model), or loss=None")
        )
    return loss
