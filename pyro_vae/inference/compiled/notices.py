"""What the compiled room warns of."""

__all__ = ["LeftToPyro", "NotCompiled", "Retraced"]


class LeftToPyro(UserWarning):
    """A program, or a call of it, is run by Pyro."""


class NotCompiled(UserWarning):
    """Graphs run operation by operation, for Inductor cannot be used."""


class Retraced(UserWarning):
    """A graph was found wrong while in use, and dropped."""
