"""The course: each lesson's exercises, and a check that says what is wrong with an answer and never the answer.

The lessons are the notebooks in ``tutorials/``, their solutions those in ``tutorials/solutions/``.
"""

from pyro_vae.course.check import check, exercises
from pyro_vae.course.exercise import Result

__all__ = ["Result", "check", "exercises"]
