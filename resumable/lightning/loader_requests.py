"""Request Lightning's loaders on a resume in the same state as before: random streams and epoch."""

from __future__ import annotations

from collections.abc import Callable

from resumable.drivers.state import State
from resumable.lightning.protocols import Trainer
from resumable.state.objects import global_rng


class Requests:
    """The random streams and the epoch at each request, by its purpose: code that creates loaders may draw numbers."""

    def __init__(self, trainer: Trainer) -> None:
        self.made: State = {}
        self._trainer = trainer

    def make(self, slot: str, setup_data: Callable[[], None], *, again: bool) -> None:
        """Let the loop request its loaders; with `again`, in the state in which it did before the checkpoint."""
        current = self._trainer.fit_loop.epoch_progress.current
        before = self.made.get(slot) if again else None
        if before is None:
            self.made[slot] = {"rng": global_rng.capture_streams(), "epoch": current.completed}
            return setup_data()
        streams, completed = global_rng.capture_streams(), current.completed
        global_rng.restore_streams(before["rng"])
        current.completed = before["epoch"]
        try:
            return setup_data()
        finally:
            global_rng.restore_streams(streams)
            current.completed = completed
