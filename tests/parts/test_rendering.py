"""Pyro's drawing of a program, of every ``Model``: sites, their parents and the plate."""

import pytest
import torch
from pyro.infer.inspect import generate_graph_specification, get_model_relations

import pyro_vae as pv
from tests.table_of_parts import LIKELIHOODS, PRIORS, hierarchical

GAUSSIAN = pv.likelihoods.Gaussian(torch.nn.Linear(1, 2), scale=1.0)
MODELS = {
    **{name: lambda p=make: (pv.Model(p(1), GAUSSIAN), torch.zeros(3, 2)) for name, make in PRIORS.items()},
    "two levels": lambda: (pv.Model(hierarchical(1), GAUSSIAN), torch.zeros(3, 2)),
    "missing": lambda: (
        pv.Model(pv.priors.StandardNormal(1), GAUSSIAN, missing=True),
        torch.tensor([[0.5, torch.nan]]),
    ),
    **{
        name: lambda m=make, d=draw: (pv.Model(pv.priors.StandardNormal(1), m(1, 2)), d(3, 2))
        for name, (make, draw) in LIKELIHOODS.items()
    },
}


@pytest.mark.parametrize("name", MODELS)
def test_relations_are_those_of_the_model(name):
    model, x = MODELS[name]()
    found = get_model_relations(model, (x,))
    above = {"discrete mixture": ["c"], "two levels": ["z_top"]}.get(name, [])
    assert found["sample_sample"] == {site: [] for site in above} | {"z": above, "x": ["z"]}
    assert found["observed"] == ["x"]
    assert found["plate_sample"] == {"data": [*above, "z", "x"]}
    drawn = generate_graph_specification(found, render_params=True)
    assert set(drawn["edge_list"]) >= {("z", "x"), *((site, "z") for site in above)}
