"""Truths of long chains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from pyro_vae.atlas.truth import Truth
from pyro_vae.atlas.values import Symmetry, Values
from pyro_vae.evaluation.evidence.evidence import evidence
from pyro_vae.inference.mcmc.draws import Draws
from pyro_vae.inference.mcmc.kernels.base import Kernel
from pyro_vae.inference.mcmc.kernels.nuts import NUTS
from pyro_vae.inference.mcmc.run import mcmc
from pyro_vae.inference.target.program import Program
from pyro_vae.inference.target.target import Target

__all__ = ["LongChains"]


@dataclass(frozen=True, eq=False)
class LongChains:
    """How to run chains long enough to be the truth; called with the target, it runs them.

    Chains may sample another program with the same posterior, such as the non-centred one, which they explore better:
    its sites, ``pyro.deterministic`` ones among them, must include the target's.

    Attributes:
        program: what to sample in place of the target's own program, called with the same arguments.
        complete: from the draws by site to sites that the sampled program lacks, as by drawing them given the others.
        symmetry: maps under which the posterior is the same.
        kernel: how to move.
        num_samples: draws a chain.
        thinning: keep every so many-th.
        num_chains: chains.
        warmup_steps: steps to adapt on.
        min_ess: the least effective sample size of any number.
    """

    program: Program | None = None
    complete: Callable[[Values], Values] | None = None
    symmetry: Symmetry | None = None
    kernel: Kernel | None = None
    num_samples: int = 2500
    thinning: int = 2
    num_chains: int = 8
    warmup_steps: int = 1500
    min_ess: float = 4000.0

    def __call__(self, target: Target) -> Truth:
        """Run the chains and return what they tell; where no symmetry is in the way, with the evidence.

        Raises:
            ValueError: if they have not converged.
        """
        sampled = target if self.program is None else Target(self.program, target.args, plate=None)
        draws = mcmc(
            sampled,
            kernel=self.kernel or NUTS(target_accept_prob=0.9),
            num_samples=self.num_samples,
            thinning=self.thinning,
            warmup_steps=self.warmup_steps,
            num_chains=self.num_chains,
        )
        truth = Truth.of_chains(
            target, _of_the_sites(target, draws, self.complete), symmetry=self.symmetry, min_ess=self.min_ess
        )
        length = {"chains": self.num_chains, "draws": self.num_samples * self.thinning, "seconds": round(draws.seconds)}
        truth = replace(truth, provenance=truth.provenance | length)
        if self.symmetry is not None:  # a bridge from one Gaussian would not see all modes
            return truth
        found = evidence(sampled, posterior=draws, method="bridge")
        return replace(truth, log_evidence=float(found.log_evidence), log_evidence_error=float(found.standard_error))


def _of_the_sites(target: Target, draws: Draws, complete: Callable[[Values], Values] | None) -> Draws:
    """Draws of the target's own sites, from those of whatever program was sampled."""
    found = draws.samples | draws.deterministic
    if complete is not None:
        found |= complete(found)
    own = {name: found[name] for name in target.sites}
    return replace(draws, samples=own, deterministic={}, marginals={})
