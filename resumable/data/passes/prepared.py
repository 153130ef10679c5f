"""Passes over a loader that Accelerate or Fabric prepared: the plain loader inside, and what the wrapper does."""

from __future__ import annotations

from typing import Any

from resumable.data.pass_base import Pass, PassPosition
from resumable.data.passes.map_style import KeyedPass
from resumable.prepared.loaders import PreparedLoader


class PreparedPass(Pass[Any]):
    """One pass over the plain loader, whose batches are moved to the device of the wrapper."""

    def __init__(self, plain: Pass[Any], prepared: PreparedLoader) -> None:
        super().__init__(plain.address)
        self.length, self.replayed = plain.length, plain.replayed
        self._plain = plain
        self._moved = prepared.moved

    def _fetch(self) -> Any:
        return self._moved(next(self._plain))

    def _position(self) -> PassPosition:
        return self._plain.position()

    def _release(self) -> None:
        self._plain.close()


class FollowedPass(PreparedPass):
    """One pass over a map-style dataset, which the wrapper follows as if its own iterator read it."""

    def __init__(self, plain: KeyedPass, prepared: PreparedLoader) -> None:
        super().__init__(plain, prepared)
        assert prepared.follower is not None
        self._order = plain.order
        self._follower = prepared.follower
        self._follower.begin()

    def _fetch(self) -> Any:
        batch = super()._fetch()
        self._follower.end_of_dataloader = self._order.is_over()
        return batch

    def _release(self) -> None:
        super()._release()
        self._follower.end()
