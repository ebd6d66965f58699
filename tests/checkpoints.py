"""A checkpoint in memory, for tests of what is taken up again."""

import json

from pyro_vae.inference.variational.training_state import TrainingState


class Stop(Exception):
    """Raised in place of a power cut."""


class InMemory:
    """Keeps the last state as it would lie on disk; stops the run after ``stop`` epochs."""

    def __init__(self, stop=None):
        self.stop = stop
        self.kept = None

    def load(self):
        return None if self.kept is None else TrainingState(dict(self.kept[0]), json.loads(self.kept[1]))

    def due(self):
        return True

    def save(self, state):
        self.kept = ({name: t.clone() for name, t in state.tensors.items()}, json.dumps(state.numbers))
        if state.numbers["epoch"] == self.stop:
            raise Stop
