"""Answers that are chosen among several."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pyro_vae.course.exercise import Exercise, Finding

__all__ = ["Choice"]


@dataclass(frozen=True)
class Choice(Exercise):
    """An exercise whose answer is one of several, or a set of them.

    Attributes:
        options: a letter or word for each, and what is said of those who choose it: why not, or why it is so.
        right: those that are right; a learner hands in a string, ``"ace"`` or ``"a, c, e"``, or a set, list, tuple or
            array of them.

    Example:
        >>> exercise = Choice("0.1", "Which is smaller?", {"a": "No: one is below two.", "b": "Yes."}, right={"b"})
        >>> exercise.examine("a").message
        'No: one is below two.'
    """

    options: Mapping[str, str]
    right: frozenset[str] | set[str]

    def examine(self, answer: object) -> Finding:
        """Compare what was chosen with what is right."""
        expected = f"Expected {' or '.join(repr(option) for option in sorted(self.options))}, or several of them"
        known = {option.lower(): option for option in self.options}
        words = _words(answer, set(known))
        if words is None:
            return Finding(False, f"{expected}; got {type(answer).__name__}.")
        unknown = sorted(words - set(known))
        if unknown or not words:
            return Finding(False, f"{expected}; got {unknown[0][:20]!r}." if unknown else f"{expected}; got none.")
        picked = {known[word] for word in words}
        wrong = sorted(picked - set(self.right))
        if len(picked) > 1 and (len(wrong) > 1 or picked == set(self.options)):
            return Finding(False, f"{len(wrong)} of the {len(picked)} that you chose {_are(len(wrong))} not right.")
        if wrong:
            return Finding(False, self.options[wrong[0]])
        if picked != set(self.right):
            return Finding(False, "What you chose is right, and there is more.")
        return Finding(True, " ".join(self.options[option] for option in sorted(picked)))


def _are(num: int) -> str:
    return "is" if num == 1 else "are"


def _words(answer: object, known: set[str]) -> set[str] | None:
    """What was chosen, in small letters; None if it is no string, and no collection of strings."""
    if isinstance(answer, np.ndarray):
        answer = answer.ravel().tolist()
    if isinstance(answer, str):
        answer = answer.strip(" {}[]()").replace(",", " ").replace(";", " ").split()
    if not isinstance(answer, set | frozenset | list | tuple) or not all(isinstance(c, str) for c in answer):
        return None
    words: set[str] = set()
    for word in (str(part).strip(" '\"").lower() for part in answer):
        letters = set(word)
        words |= letters if word not in known and letters <= known else {word}
    return words
