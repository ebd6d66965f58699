"""Idioms of Pyro's users x routes: every cell is Pyro's own answer, or a sentence that says why there is none."""

import re

import pytest

from pyro_vae.inference.compiled.backend import NotTraceableError
from tests.idioms.programs import IDIOMS
from tests.idioms.routes import ROUTES, case_of

PYTHON = r"its course in Python depends on the values of tensors"
VMAP = r"torch.vmap can vectorise; got accessing `data`.*last latent site reached: 'x_exponential'"
CONJUGATE = r"got 'z' drawn by ConjugateReparam; try the program without ConjugateReparam"

# (idiom, route): the sentence; None as route stands for all others
REFUSED = {
    ("SymmetricStableReparam", "fit_compiled"): PYTHON,
    ("SymmetricStableReparam", None): VMAP,  # Pyro asserts about values
    ("ConjugateReparam", None): CONJUGATE,
    ("LatentStableReparam", "fit_compiled"): PYTHON,
    ("MinimalReparam", "fit_compiled"): PYTHON,
    ("ProjectedNormalReparam", "fit_compiled"): PYTHON,
    ("sequential plate", "fit_compiled"): PYTHON,
    ("sequential plate", "compiled_gradient"): r"Pyro: only integers.*are valid indices",
    ("LKJCholesky", "fit_compiled"): r"the shape of a tensor depends on values \(aten.index.Tensor\)",
    ("LKJCholesky of three", "fit_compiled"): r"the shape of a tensor depends on values \(aten.index.Tensor\)",
}
RUN = {
    ("SymmetricStableReparam", "fit"),
    ("SymmetricStableReparam", "fitted_guide_as_posterior"),
    ("ConjugateReparam", "fit"),
    ("ConjugateReparam", "fit_compiled"),
}


def _sentence(idiom, route):
    return None if (idiom, route) in RUN else REFUSED.get((idiom, route), REFUSED.get((idiom, None)))


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("idiom", IDIOMS)
def test_a_cell_is_pyros_answer_or_a_sentence(idiom, route, float64):
    sentence = _sentence(idiom, route)
    if sentence is None:
        ROUTES[route](case_of(idiom))
        return
    with pytest.raises((ValueError, NotTraceableError)) as refused:
        ROUTES[route](case_of(idiom))
    assert re.search(sentence, str(refused.value)), refused.value
