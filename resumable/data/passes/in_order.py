"""Passes over a range, of which any item is found by arithmetic: skipping costs nothing, however far."""

from __future__ import annotations

from resumable.data.pass_base import Opening, Pass, PassPosition
from resumable.errors import ChangedDataError


class RangePass(Pass[int]):
    """One pass over a range; a position holds what the range was, in place of digests."""

    def __init__(self, numbers: range, opening: Opening) -> None:
        super().__init__(opening.address)
        self.length = len(numbers)
        self._numbers = numbers
        self._at = opening.batches_done
        before = opening.resume["order"] if opening.resume else repr(numbers)
        if before != repr(numbers) or self._at > len(numbers):
            raise ChangedDataError(
                f"{opening.address}: over {numbers!r}, it was over {before} when the checkpoint was written",
                "continue with the range that the run began with, or start another run",
            )

    def _fetch(self) -> int:
        if self._at >= len(self._numbers):
            raise StopIteration
        self._at += 1
        return self._numbers[self._at - 1]

    def _position(self) -> PassPosition:
        return {"kind": "replay", "batches": self._at, "workers": 0, "order": repr(self._numbers)}

    def _release(self) -> None:
        return
