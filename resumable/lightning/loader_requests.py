"""In which state Lightning's loaders were requested, and how a resume requests them in the same; knows no loader."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from resumable.state.objects import global_rng


class Requests:
    """The random streams and the epoch of each request, by what it was for: code that makes loaders may draw."""

    def __init__(self, trainer: Any) -> None:
        self.made: dict[str, Any] = {}
        self._trainer = trainer

    def make(self, slot: str, setup_data: Callable[[], None], *, again: bool) -> None:
        """Have the loop request its loaders; with `again` in the state in which it was done before the checkpoint."""
        current = self._trainer.fit_loop.epoch_progress.current
        before = self.made.get(slot) if again else None
        if before is None:
            self.made[slot] = {"rng": global_rng.capture(), "epoch": current.completed}
            return setup_data()
        streams, completed = global_rng.capture(), current.completed
        global_rng.restore(before["rng"])
        current.completed = before["epoch"]
        try:
            return setup_data()
        finally:
            global_rng.restore(streams)
            current.completed = completed
