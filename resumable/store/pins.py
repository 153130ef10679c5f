"""Pin checkpoints so that they are never pruned: one empty file per pin. Independent of pruning."""

from __future__ import annotations

from resumable.store.layout import PINS, CheckpointName, pin_path
from resumable.store.storage.protocol import Storage


def pinned(storage: Storage) -> set[CheckpointName]:
    """List the pinned checkpoints, whether they exist or not, by one request."""
    found = (CheckpointName.parse(entry.name) for entry in storage.list(PINS) if not entry.is_dir)
    return {name for name in found if name}


def pin(storage: Storage, name: CheckpointName) -> None:
    """Pin a checkpoint: from here on it is not pruned. Idempotent."""
    storage.write(pin_path(name), [])


def unpin(storage: Storage, name: CheckpointName) -> None:
    """Remove the pin of a checkpoint, so that retention decides again. Idempotent."""
    storage.remove(pin_path(name))
