"""The counters of a fit: steps and epochs, read from Lightning's loops."""

from __future__ import annotations

from typing import Any


class FitCounters:
    """Read where a Lightning trainer stands, in the whole run."""

    def __init__(self, trainer: Any) -> None:
        self._fit_loop = trainer.fit_loop

    @property
    def step(self) -> int:
        """The number of batches that were trained."""
        return int(self._fit_loop.epoch_loop.batch_progress.total.ready)

    @property
    def trained(self) -> int:
        """The number of batches that were trained and whose hooks have run, too."""
        return int(self._fit_loop.epoch_loop.batch_progress.total.completed)

    @property
    def epoch(self) -> int:
        """Epochs completed, which is the number of the one in progress."""
        return int(self._fit_loop.epoch_progress.current.processed)
