"""Keep the verified blobs of one checkpoint in memory, so that each is read once. Independent of storages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from resumable.store.layout import CheckpointName
from resumable.store.storage.protocol import Seen

PIECE_BYTES = 256 * 2**10  # of a copy: it stays in the cache until `seen` has looked at it

Reserve = Callable[[Mapping[str, int]], Mapping[str, memoryview]]
"""Returns memory of the given sizes in bytes, by name; an empty mapping if nothing is to be kept."""


@dataclass
class BlobImage:
    """The memory for the bytes of one blob, and whether they are there and were verified."""

    memory: memoryview
    verified: bool = False

    def copy_to(self, buffer: memoryview, offset: int, seen: Seen | None) -> None:
        """Fill all of `buffer` from `offset` on; call `seen` with each part right behind the copy."""
        target = buffer.cast("B")
        for start in range(0, len(target), PIECE_BYTES):
            part = target[start : start + PIECE_BYTES]
            part[:] = self.memory[offset + start : offset + start + len(part)]
            if seen:
                seen(part, offset + start)


class VerifiedImages:
    """The images of the blobs of one checkpoint at a time: verifying a blob fills its image, reads copy out of it.

    Args:
        reserve: Called for each checkpoint. The memory that it returned before may be reused then.
    """

    def __init__(self, reserve: Reserve) -> None:
        self._reserve = reserve
        self._images: Mapping[str, BlobImage] = {}
        self._checkpoint: CheckpointName | None = None

    def begin(self, checkpoint: CheckpointName, sizes: Mapping[str, int]) -> None:
        """Discard what is kept, and keep the blobs with these sizes of this checkpoint from now on."""
        self.release()
        self._images = {name: BlobImage(memory) for name, memory in self._reserve(sizes).items()}
        self._checkpoint = checkpoint

    def of(self, checkpoint: CheckpointName, blob: str) -> BlobImage | None:
        """Return the image of a blob; None if it is read from the storage."""
        return self._images.get(blob) if checkpoint == self._checkpoint else None

    def release(self) -> None:
        """Read everything from the storage from now on: the memory is about to be reused."""
        for image in self._images.values():
            image.verified = False
        self._checkpoint, self._images = None, {}
