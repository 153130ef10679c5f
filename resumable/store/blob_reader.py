"""Read one blob of a checkpoint, whole or in parts, with errors that name it. Independent of its content."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import cycle

import xxhash

from resumable.errors import CorruptCheckpointError
from resumable.store.digesting import RangeDigester
from resumable.store.documents.manifest import BlobRecord
from resumable.store.storage.protocol import Seen, Storage
from resumable.store.verified_images import BlobImage
from resumable.utils.reread import reread

READ_PIECE_BYTES = 4 * 2**20  # several fit into a cache that cores share: one thread reads, another digests


class BlobReader:
    """The blob `name`. Every method raises `CorruptCheckpointError` with that name, once two reads agree.

    If a blob is missing because its checkpoint was pruned, `refuse_pruned` raises another error instead. `kept` is the
    memory for its bytes: they are verified there, and then read from there until the cache is dropped.
    """

    def __init__(
        self,
        storage: Storage,
        name: str,
        record: BlobRecord,
        refuse_pruned: Callable[[], None],
        *,
        in_ranges: bool,
        kept: BlobImage | None = None,
    ) -> None:
        self._kept = kept
        self._storage = storage
        self._record = record
        self._in_ranges = in_ranges  # whether the recorded digest is that of the digests of its ranges
        self._refuse_pruned = refuse_pruned
        self.name = name
        self.where = f"{storage.url}/{record.path}"
        self.size = record.size
        self.readers = storage.readers
        self.range_bytes = storage.range_bytes

    def check_size(self, size: int | None = None) -> None:
        """Compare its size with the record: the `size` from a listing first, or else that of a request."""
        listed = [] if size is None else [size]
        reread([self], lambda: listed.pop() if listed else self._stored_size(), self._check_size)

    def drop_cache(self) -> None:
        """Make the next read bypass the caches, as far as possible."""
        self._kept = None
        self._storage.drop_cache(self._record.path)

    def read(self, buffer: memoryview, offset: int, seen: Seen | None = None) -> None:
        """Fill the whole of `buffer` from `offset` on; `seen` as in `Storage.read_into`."""
        if self._kept is not None and self._kept.verified:
            self._kept.copy_to(buffer, offset, seen)
            return

        def read() -> int:
            with self._explained():
                return offset + self._storage.read_into(self._record.path, buffer, offset=offset, seen=seen)

        def check(end: int) -> None:
            if end != offset + len(buffer):
                raise self._of_size(end)

        reread([self], read, check)

    def image(self) -> bytearray:
        """Read all of it, and verify it in the same pass."""
        if self._kept is not None and self._kept.verified:
            return bytearray(self._kept.memory)
        self.check_size()
        image = bytearray(self.size)
        with memoryview(image) as view:
            self._verify(lambda start: view[start : start + self._step])
        return image

    def verify(self, seen: Seen | None = None) -> None:
        """Read it in pieces, through a few buffers or into the memory where it is kept, and compare its digest.

        `seen` is called for each piece in order, and for all of them again if the read is repeated.
        """
        kept = self._kept
        if kept is None:
            buffers = cycle([memoryview(bytearray(min(self._step, self.size))) for _ in range(self.readers + 1)])
            self._verify(lambda start: next(buffers)[: self.size - start], seen)
        else:
            kept.verified = False
            self._verify(lambda start: kept.memory[start : start + self._step], seen)
            kept.verified = True

    def _stored_size(self) -> int:
        with self._explained():
            return self._storage.size(self._record.path)

    def _check_size(self, size: int) -> None:
        if size != self.size:
            raise self._of_size(size)

    def _of_size(self, size: int) -> CorruptCheckpointError:
        return CorruptCheckpointError(f"{self.name}: {size} bytes, expected {self.size}")

    @property
    def _step(self) -> int:
        return max(READ_PIECE_BYTES, self.range_bytes)

    @property
    def _starts(self) -> range:
        return range(0, self.size, self._step)

    def _verify(self, room: Callable[[int], memoryview], seen: Seen | None = None) -> None:
        reread([self], lambda: self._digest(room, seen), self._check_digest)

    def _digest(self, room: Callable[[int], memoryview], seen: Seen | None) -> str:
        """Return the digest of the blob, read piece by piece into the `room` for each start."""
        digest = RangeDigester() if self._in_ranges else xxhash.xxh3_128()
        for start, piece in zip(self._starts, self._filled(room), strict=True):
            digest.update(piece)
            if seen:
                seen(piece, start)
        return digest.digest().value if isinstance(digest, RangeDigester) else digest.hexdigest()

    def _check_digest(self, digest: str) -> None:
        if digest != self._record.digest:
            raise CorruptCheckpointError(f"{self.name}: digest differs")

    def _filled(self, room: Callable[[int], memoryview]) -> Iterator[memoryview]:
        """Yield each piece in order, filled, while further ones are read."""
        if len(self._starts) <= 1:
            for start in self._starts:
                piece = room(start)
                self.read(piece, start)
                yield piece
            return
        with ThreadPoolExecutor(self.readers) as pool:
            ahead: deque[tuple[memoryview, Future[None]]] = deque()
            try:
                for start in self._starts:
                    piece = room(start)
                    ahead.append((piece, pool.submit(self.read, piece, start)))
                    if len(ahead) > self.readers:
                        yield _done(ahead)
                while ahead:
                    yield _done(ahead)
            finally:
                for _, reading in ahead:
                    reading.cancel()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            self._refuse_pruned()
            raise CorruptCheckpointError(f"{self.name}: missing") from error
        except ValueError as error:
            if isinstance(error, CorruptCheckpointError):
                raise
            raise CorruptCheckpointError(f"{self.name}: {error}") from error


def _done(ahead: deque[tuple[memoryview, Future[None]]]) -> memoryview:
    piece, reading = ahead.popleft()
    reading.result()
    return piece
