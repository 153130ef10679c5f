"""Count the checkpoints in a row that name files of others, as they do on storages without hard links.

Retention keeps each checkpoint that another names. So one of them has to name no other in time: each would keep the few
before it, those the few before them, and nothing would ever be deleted.
"""

from __future__ import annotations

from collections.abc import Callable

from resumable.errors import CheckpointError, StorageError
from resumable.store.documents.manifest import MAX_NAMED, BlobRecord, Manifest
from resumable.store.layout import CheckpointName, checkpoint_of

MAX_CHAIN = MAX_NAMED - 1  # checkpoints in a row that name others; the next one shares nothing


def names_others(manifest: Manifest) -> bool:
    """Return whether a checkpoint names files in the folders of others."""
    return bool(_of_others(manifest))


def chain_length(newest: Manifest, manifest_of: Callable[[CheckpointName], Manifest]) -> int:
    """Return how many checkpoints in a row, the newest included, name others; at most `MAX_CHAIN`.

    Each file was written `named` - 1 checkpoints before, so the oldest ones lead to the end of the chain. The length of
    a chain that cannot be followed is `MAX_CHAIN`. It ends for any records: two checkpoints may name each other.
    """
    length = 0
    while length < MAX_CHAIN and (others := _of_others(newest)):
        oldest = max(others, key=lambda blob: blob.named)
        length += max(oldest.named - 1, 1)
        try:
            newest = manifest_of(checkpoint_of(oldest.path))
        except (CheckpointError, StorageError):
            return MAX_CHAIN
    return min(length, MAX_CHAIN)


def _of_others(manifest: Manifest) -> list[BlobRecord]:
    return [blob for blob in manifest.blobs.values() if checkpoint_of(blob.path) != manifest.name]
