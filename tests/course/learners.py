"""What learners hand in that is no answer at all, and what every message has to keep to itself."""

import math
import re

import torch

import pyro_vae as pv


def _raises(*_):
    raise RuntimeError("of the learner's own making")


GARBAGE = {
    "None": None,
    "text": "x",
    "empty": [],
    "words": ["one", 2],
    "NaN": math.nan,
    "NaNs": torch.full((7, 3), math.nan),
    "infinite": math.inf,
    "complex": 1j,
    "truth value": True,
    "wrong shape": torch.zeros(2, 3, 5),
    "dictionary": {"a": 1},
    "object": object(),
    "function that raises": _raises,
    "function without a return": lambda *_: None,
    "function of nothing": lambda: 1.0,
    "function to a word": lambda *_: "x",
    "function to NaN": lambda *_: math.nan,
    "function to a wrong shape": lambda *_: torch.zeros(2, 3, 5),
}


def said_of(number, answer):
    """The message for a wrong answer, which has to be a sentence."""
    result = pv.course.check(number, answer)
    assert not result, f"{number} takes {answer!r} for right"
    assert len(result.message) > 10, f"{number} says nothing of {answer!r}"
    return result.message


def tells(message, truth):
    """Whether a message holds the answer, to three digits."""
    numbers = [float(found) for found in re.findall(r"-?\d+\.\d+(?:e-?\d+)?|-?\d+", message)]
    return any(math.isclose(number, truth, rel_tol=1e-3, abs_tol=1e-9) for number in numbers)
