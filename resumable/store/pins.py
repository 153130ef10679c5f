"""Checkpoints that somebody wants to stay: one empty file named like each; knows nothing of what prunes."""

from __future__ import annotations

from resumable.store.layout import PINS, CheckpointName, pin_path
from resumable.store.storage.protocol import Storage


def pinned(storage: Storage) -> set[CheckpointName]:
    """The checkpoints that are pinned, whether they are there or not. Asks the storage."""
    found = (CheckpointName.parse(entry.name) for entry in storage.list(PINS) if not entry.is_dir)
    return {name for name in found if name}


def pin(storage: Storage, name: CheckpointName) -> None:
    """From here on nothing prunes this checkpoint; pinning twice is fine."""
    storage.write(pin_path(name), [])


def unpin(storage: Storage, name: CheckpointName) -> None:
    """Retention decides again; one that is not pinned is fine."""
    storage.remove(pin_path(name))
