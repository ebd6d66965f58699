"""What cells say of the literature's claims, on cells that are written out."""

import pytest

from pyro_vae.atlas.cell import Cell
from pyro_vae.atlas.claims import claims
from pyro_vae.atlas.measure import Errors
from pyro_vae.atlas.result import Atlas


def cell(problem, route, *, mean=0.0, ratio=1.0, k=0.2, mended=True, spent=100, elbo=0.0):
    wrong = mean > 0.25 or not 0.8 <= ratio <= 1.25
    return Cell(
        problem,
        route,
        1000,
        0,
        errors=Errors(mean=mean, std_ratio=ratio, wrong=wrong),
        reweighted=Errors(mean=0.0, std_ratio=1.0, wrong=not mended),
        pareto_k=k,
        num_gradients=spent,
        num_sequential=spent,
        elbo=elbo,
        draws=[[0.0, 0.0], [1.0, 1.0]],
    )


@pytest.fixture
def found():
    nothing = float("nan")
    cells = (
        cell("a", "mean field", ratio=0.5),
        cell("a", "full rank", spent=200),
        cell("a", "flow", spent=2000, elbo=1.0),
        cell("a", "NUTS", k=nothing),
        cell("b", "mean field", ratio=0.7, k=0.9, mended=False),
        cell("b", "full rank", ratio=0.6, k=0.9, mended=False),
        cell("b", "flow", spent=1000, elbo=0.5, ratio=0.5),
        cell("b", "NUTS", k=nothing),
        cell("c", "mean field"),
        cell("c", "NUTS", k=nothing, mean=1.0),
    )
    return dict(claims(Atlas(cells)))


@pytest.mark.parametrize(
    ("claim", "words"),
    [
        ("Mean field underestimates the variance", "below 0.8 of the true one on 2 of 3 posteriors, above 1.25 on 0"),
        (
            "A full covariance does not always help",
            "full rank has the smaller error on 1 and the larger on 1",
        ),
        (
            "A capable flow is worth its price",
            "full rank on 1; the bound rises by 0.75 nats in the median, for 10",
        ),
        (
            "k-hat tells a usable guide from one that is not",
            "with k-hat up to 0.7 3 are right as they are and 5",
        ),
        ("k-hat tells a usable guide from one that is not", "of 2 above it 0 are right as they are and 0 once"),
        (
            "Re-weighting mends a posterior",
            "with a density 2 are right once re-weighted; of 3 right",
        ),
        (
            "Chains, not VI, where the posterior is hard",
            "on 1 of 3 posteriors, chains alone on 1, others alone on 1",
        ),
    ],
)
def test_claims(found, claim, words):
    assert words in found[claim]


def test_a_claim_without_its_routes_is_left_out(found):
    assert "Pathfinder is no worse than mean-field ADVI, and cheaper" not in found
