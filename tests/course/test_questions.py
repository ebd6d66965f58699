"""A question stands in the lesson's notebook, for readers, and in the package, for ``exercises``: the same numbers."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from pyro_vae.course import exercises

TUTORIALS = Path(__file__).parents[2] / "tutorials"
WORDS = {"one": 1, "two": 2, "three": 3, "eight": 8, "ten": 10, "a million": 1e6}
# What only one of the two says: hints, references, and numbers that the code cell or the list of options has.
NOTEBOOK_ALONE = {
    "1.3": [1, 900],  # "cells of one width", "values like -900"
    "2.3": [1],  # (1 - b) in the hint
    "4.2": [1],  # "the one step that Gibbs needs"
    "5.3": [1],  # sites that are N(0, 1)
    "7.3": [2.9, 0.2],  # in the options
    "8.3": [3, 1e6],  # in the hint
    "9.1": [1],  # "from one draw"
    "9.2": [1, 1],  # "one latent and one pixel"
    "9.3": [1, 1, 0.5],  # in the options
    "10.1": [1],  # 1 - rho^2 in the hint
    "10.3": [4000, 10],  # in the options
}
PACKAGE_ALONE = {
    "2.1": [0.5],  # "where 0.5 is the standard deviation"
    "3.1": [2],  # "as a list of two"
    "5.1": [1, 2],  # "one leapfrog step": at the beginning of the notebook's sentence; shape (2,)
    "5.2": [1, 1],  # "of one number", n - 1
    "5.3": [0, 3, 2],  # the funnel, which stands above in the lesson
    "6.2": [2],  # "as a list of two"
}


def in_the_notebooks():
    """The questions by number: from the bold number to the end of the cell."""
    found = {}
    for path in sorted(TUTORIALS.glob("[0-9]*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf8"))["cells"]:
            text = "".join(cell["source"])
            if cell["cell_type"] == "markdown":
                for number, question in re.findall(r"\*\*Exercise (\d+\.\d)\.\*\*(.*?)(?=\*\*Exercise|\Z)", text, re.S):
                    found[number] = question
    return found


def numbers(question):
    """The numbers that a question gives, without exponents, subscripts and names of exercises."""
    text = re.sub(r"(exercise|Lesson|lesson|Step|step) \d+(\.\d+)?", "", question)
    text = re.sub(r"\\times\s*10\^\{(\d+)\}", r"e\1", text).replace(" e1", "e1").replace(r"\,", " ")
    for word, value in WORDS.items():
        text = re.sub(rf"\b{word}\b", f" {value} ", text)
    text = re.sub(r"(?<=\d),(?=\d\d\d\b)", "", text)  # thousands
    text = re.sub(r"\^\{?-?\d+(?![\d.])\}?|(?<=[a-z])_\{?\d+\}?|(?<=[a-z])\d+", "", text)
    return Counter(float(found) for found in re.findall(r"\d+(?:\.\d+)?(?:e\+?\d+)?", text))


NOTEBOOKS = in_the_notebooks()


def test_the_same_exercises_stand_in_both():
    assert list(NOTEBOOKS) == list(exercises())


@pytest.mark.parametrize("number", exercises())
def test_both_questions_give_the_same_numbers(number):
    there, here = numbers(NOTEBOOKS[number]), numbers(exercises()[number])
    assert there - here == Counter(NOTEBOOK_ALONE.get(number, ())), "the notebook has more"
    assert here - there == Counter(PACKAGE_ALONE.get(number, ())), "the package has more"
