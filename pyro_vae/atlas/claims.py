"""What the literature says of variational inference, held against the cells of an atlas."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable

from pyro_vae.atlas.cell import Cell
from pyro_vae.atlas.measure import limit
from pyro_vae.atlas.result import Atlas

__all__ = ["claims"]

_CHAINS = ("Metropolis", "HMC", "ChEES", "NUTS", "tempering")
_MAX_K = 0.7


def claims(atlas: Atlas) -> list[tuple[str, str]]:
    """Return claims of the literature, each with what these cells say of it.

    Counted are the cells of each route's largest budget that have a posterior. "Right" is within the limits of the
    verdict; a claim whose routes were not run is left out.

    Args:
        atlas: what ``pv.atlas.run`` returned.

    Sources: Turner & Sahani 2011 and Blei, Kucukelbir & McAuliffe 2017 (mean field), Yao, Vehtari, Simpson & Gelman
    2018 (k-hat), Zhang, Carpenter, Gelman & Vehtari 2022 (Pathfinder), Agrawal & Domke 2024 (flows).
    """
    cells = [cell for cell in atlas.at_largest_budget() if not cell.refused]
    found = [(claim, check(cells)) for claim, check in _CLAIMS]
    return [(claim, said) for claim, said in found if said]


def _by_problem(cells: Iterable[Cell], *routes: str) -> list[list[Cell]]:
    """The cells of these routes side by side, for every posterior (and seed) that has them all."""
    table = {(cell.problem, cell.seed, cell.route): cell for cell in cells}
    keys = dict.fromkeys((problem, seed) for problem, seed, _ in table)
    rows = [[table.get((*key, route)) for route in routes] for key in keys]
    return [[cell for cell in row if cell is not None] for row in rows if all(row)]


def _narrow(cells: list[Cell]) -> str:
    rows = _by_problem(cells, "mean field")
    if not rows:
        return ""
    ratios = [cell.errors.std_ratio for (cell,) in rows]
    low, high = sum(r < 0.8 for r in ratios), sum(r > 1.25 for r in ratios)
    return (
        f"its worst standard deviation is below 0.8 of the true one on {low} of {len(ratios)} posteriors, above 1.25 "
        f"on {high}; in the median it is {statistics.median(ratios):.2f} of the true one"
    )


def _full(cells: list[Cell]) -> str:
    rows = _by_problem(cells, "mean field", "full rank")
    if not rows:
        return ""
    better = sum(limit(b.errors) < 0.9 * limit(a.errors) for a, b in rows)
    worse = sum(limit(b.errors) > 1.1 * limit(a.errors) for a, b in rows)
    right = [sum(not row[i].errors.wrong for row in rows) for i in (0, 1)]
    return (
        f"of {len(rows)} posteriors full rank has the smaller error on {better} and the larger on {worse} (by a tenth "
        f"or more); right are {right[1]}, of mean field {right[0]}"
    )


def _flows(cells: list[Cell]) -> str:
    rows = _by_problem(cells, "full rank", "flow")
    if not rows:
        return ""
    right = [sum(not row[i].errors.wrong for row in rows) for i in (0, 1)]
    raised = [b.elbo - a.elbo for a, b in rows]
    spent = statistics.median((b.num_gradients or 1) / (a.num_gradients or 1) for a, b in rows)
    return (
        f"of {len(rows)} posteriors the flow is right on {right[1]}, full rank on {right[0]}; the bound rises by "
        f"{statistics.median(raised):.2f} nats in the median, for {spent:.0f} times the evaluations"
    )


def _pathfinder(cells: list[Cell]) -> str:
    rows = _by_problem(cells, "multi-Pathfinder", "mean field")
    if not rows:
        return ""
    better = sum(limit(a.errors) < limit(b.errors) for a, b in rows)
    mended = sum(limit(a.reweighted) < limit(b.errors) for a, b in rows)
    spent = statistics.median((a.num_sequential or 1) / (b.num_sequential or 1) for a, b in rows)
    return (
        f"multi-path Pathfinder has a smaller error than mean field on {better} of {len(rows)} posteriors, and on "
        f"{mended} once re-weighted; it takes {spent:.2f} times the evaluations one after another, in the median"
    )


def _k_hat(cells: list[Cell]) -> str:
    known = [cell for cell in cells if cell.pareto_k == cell.pareto_k]
    if not known:
        return ""
    parts = []
    for words, some in (
        (f"of {{}} cells with k-hat up to {_MAX_K}", [c for c in known if c.pareto_k <= _MAX_K]),
        ("of {} above it", [c for c in known if not c.pareto_k <= _MAX_K]),
    ):
        right, mended = sum(not c.errors.wrong for c in some), sum(not c.reweighted.wrong for c in some)
        parts.append(f"{words.format(len(some))} {right} are right as they are and {mended} once re-weighted")
    return "; ".join(parts)


def _mended(cells: list[Cell]) -> str:
    wrong = [cell for cell in cells if cell.errors.wrong and cell.pareto_k == cell.pareto_k]
    if not wrong:
        return ""
    mended = sum(not cell.reweighted.wrong for cell in wrong)
    spoilt = [cell for cell in cells if not cell.errors.wrong and cell.pareto_k == cell.pareto_k]
    return (
        f"of {len(wrong)} wrong posteriors with a density {mended} are right once re-weighted; of {len(spoilt)} right "
        f"ones {sum(cell.reweighted.wrong for cell in spoilt)} are wrong afterwards"
    )


def _chains(cells: list[Cell]) -> str:
    problems = dict.fromkeys(cell.problem for cell in cells)
    if not any(cell.route in _CHAINS for cell in cells):
        return ""
    only_chains = only_vi = both = neither = 0
    for problem in problems:
        right = {cell.route for cell in cells if cell.problem == problem and not cell.errors.wrong and cell.draws[1:]}
        chains, others = bool(right & set(_CHAINS)), bool(right - set(_CHAINS))
        both, neither = both + (chains and others), neither + (not chains and not others)
        only_chains, only_vi = only_chains + (chains and not others), only_vi + (others and not chains)
    return (
        f"within the budget both some chains and some other route are right on {both} of {len(problems)} posteriors, "
        f"chains alone on {only_chains}, others alone on {only_vi}, none on {neither}"
    )


_CLAIMS: tuple[tuple[str, Callable[[list[Cell]], str]], ...] = (
    ("Mean field underestimates the variance", _narrow),
    ("A full covariance does not always help", _full),
    ("A capable flow is worth its price", _flows),
    ("Pathfinder is no worse than mean-field ADVI, and cheaper", _pathfinder),
    ("k-hat tells a usable guide from one that is not", _k_hat),
    ("Re-weighting mends a posterior", _mended),
    ("Chains, not VI, where the posterior is hard", _chains),
)
