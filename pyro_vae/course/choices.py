"""Answers that are chosen among several."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pyro_vae.course.exercise import Exercise, Finding

__all__ = ["Choice"]


@dataclass(frozen=True)
class Choice(Exercise):
    """An exercise whose answer is one of several, or a set of them.

    Attributes:
        options: a letter or word for each, and what is said of those who choose it: why not, or why it is so.
        right: those that are right; a learner hands in one string, or all of them as a set, list or tuple.

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
        chosen = {answer} if isinstance(answer, str) else answer
        if not isinstance(chosen, set | frozenset | list | tuple) or not all(isinstance(c, str) for c in chosen):
            return Finding(False, f"{expected}; got {type(answer).__name__}.")
        known = {option.lower(): option for option in self.options}
        words = {str(word).strip().lower() for word in chosen}
        unknown = sorted(words - set(known))
        if unknown or not words:
            return Finding(False, f"{expected}; got {unknown[0][:20]!r}." if unknown else f"{expected}; got none.")
        picked = {known[word] for word in words}
        wrong = sorted(picked - set(self.right))
        if wrong:
            return Finding(False, self.options[wrong[0]])
        if picked != set(self.right):
            return Finding(False, "What you chose is right, and there is more.")
        return Finding(True, " ".join(self.options[option] for option in sorted(picked)))
