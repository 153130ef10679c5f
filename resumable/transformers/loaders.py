"""The stand-in for the training loader: it has the epoch of its pass, and moves batches to the device."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

from resumable.data.open_pass import Data
from resumable.drivers.loaders import TrainLoader
from resumable.drivers.state import SavedState
from resumable.prepared.loaders import driven_loader


class DrivenLoader(TrainLoader):
    """Stands in for a loader that Accelerate prepared. The loop sets its epoch before each pass."""

    def __init__(
        self,
        prepared: Iterable[object],
        data: Data,
        *,
        is_read_by_loop: Callable[[Iterator[object]], bool],
        wanted: Callable[[TrainLoader], bool],
        resume: SavedState | None,
    ) -> None:
        self.epoch = 0
        parts = driven_loader(prepared)
        self._moved = None if parts is None else parts.moved
        super().__init__(
            prepared if parts is None else parts.plain,
            data,
            index=0,
            epoch=lambda: self.epoch,
            is_read_by_loop=is_read_by_loop,
            wanted=wanted,
            resume=resume,
        )

    def set_epoch(self, epoch: int) -> None:
        """Begin this epoch with the next pass."""
        self.epoch = epoch

    def _fetch(self, turns: Iterator[object]) -> object:
        batch = super()._fetch(turns)
        return batch if self._moved is None else self._moved(batch)


def updates_of(batches: int, accumulated: int) -> int:
    """Return the number of optimizer updates of that many batches; the last of an epoch may have fewer."""
    return math.ceil(batches / accumulated)
