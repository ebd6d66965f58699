"""The ELBO of a model whose discrete latent sites the guide leaves out: they are summed."""

from __future__ import annotations

from typing import Any

import pyro
import torch
from pyro.infer import ELBO, Trace_ELBO, TraceEnum_ELBO

from pyro_vae.checks import say
from pyro_vae.inference.compiled.kl_weight import KLWeight
from pyro_vae.inference.target.enumeration import Enumeration, is_discrete
from pyro_vae.inference.target.program import Program
from pyro_vae.randomness import fork_rng

__all__ = ["EnumeratedELBO", "fitting_loss", "outside_the_kl"]


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


@torch.no_grad()
def outside_the_kl(
    loss: Any, programs: tuple[Program, Program], batch: tuple[Any, ...], others: dict[str, Any]
) -> frozenset[str]:
    """Names of summed sites that a KL weight leaves alone: where x depends on them, their sum is of p(x|z).

    Where z does, it is of p(z), and has the weight.

    Args:
        loss: the ELBO, tried with both.
        programs: model and guide.
        batch: their arguments.
        others: as :func:`fitting_loss`.

    Raises:
        ValueError: if both depend on them, so that one sum holds both.
    """
    summed = frozenset(name for name, site in others.items() if is_discrete(site) and not site["is_observed"])
    for spared in (frozenset(), summed) if summed else ():
        weighted: Any = map(KLWeight(0.5, spared), programs)
        try:
            with fork_rng(), pyro.validation_enabled(False):
                loss.loss(*weighted, *batch)
        except ValueError as error:
            if "common poutine.scale" not in str(error):
                raise
        else:
            return spared
    if not summed:
        return frozenset()
    got = "data that depend on them, and latent sites of the guide that do"
    raise ValueError(
        say(f"a KL term that the sum over {sorted(summed)} does not mix with the data", got, "kl_warmup=0")
    )
