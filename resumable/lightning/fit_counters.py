"""The counters of a fit: steps and epochs, read from Lightning's loops."""

from __future__ import annotations

from resumable.lightning.protocols import Trainer


class FitCounters:
    """The counters of a Lightning trainer, over the whole run."""

    def __init__(self, trainer: Trainer) -> None:
        self._fit_loop = trainer.fit_loop

    @property
    def step(self) -> int:
        """Return the number of trained batches."""
        return int(self._fit_loop.epoch_loop.batch_progress.total.ready)

    @property
    def trained(self) -> int:
        """Return the number of trained batches whose hooks have run, too."""
        return int(self._fit_loop.epoch_loop.batch_progress.total.completed)

    @property
    def epoch(self) -> int:
        """Return the number of completed epochs, which is the index of the one in progress."""
        return int(self._fit_loop.epoch_progress.current.processed)
