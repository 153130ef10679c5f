"""Digest files range by range, each piece while it is written. Independent of storages and names."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from queue import SimpleQueue

import xxhash

from resumable.utils.threads import thread_of

# A reader that needs a part of a file verifies the ranges in which it lies.
RANGE_BYTES = 16 * 2**20

# Large, so that threads seldom wait for the interpreter's lock, which the training holds most of the time. Not larger,
# since the last piece is digested when everything is written.
DIGEST_PIECE_BYTES = 32 * 2**20

# For less, handing over to another thread takes longer than the digest.
BESIDE_BYTES = 2**20


@dataclass(frozen=True)
class FileDigest:
    """The XXH3-128 (hex) of each range of `RANGE_BYTES` of a file, from its first byte on; the last is shorter."""

    ranges: tuple[str, ...]

    @property
    def value(self) -> str:
        """Return the digest of the file: the XXH3-128 (hex) of the digests of its ranges, one after the other."""
        return xxhash.xxh3_128_hexdigest(bytes.fromhex("".join(self.ranges)))


class RangeDigester:
    """Digests a file that is passed in order, in pieces of any length."""

    def __init__(self) -> None:
        self._ranges: list[str] = []
        self._range = xxhash.xxh3_128()
        self._filled = 0  # bytes of the current range

    def update(self, piece: memoryview) -> None:
        """Digest the next bytes of the file."""
        while piece:
            part = piece[: RANGE_BYTES - self._filled]
            self._range.update(part)
            self._filled += len(part)
            piece = piece[len(part) :]
            if self._filled == RANGE_BYTES:
                self._end_range()

    def digest(self) -> FileDigest:
        """Return the digest of the bytes so far, after which no more may be passed."""
        if self._filled:
            self._end_range()
        return FileDigest(tuple(self._ranges))

    def _end_range(self) -> None:
        self._ranges.append(self._range.hexdigest())
        self._range.reset()
        self._filled = 0


class Digested:
    """The pieces of `chunks`, each digested by a second thread until the next one is requested.

    Each iteration begins again: a storage that retries a write needs all of them again.
    """

    def __init__(self, chunks: Iterable[memoryview]) -> None:
        self._chunks = chunks
        self._seen = RangeDigester()
        self.size = 0
        """In bytes, of the last iteration."""

    def __iter__(self) -> Iterator[memoryview]:
        # A new one, since an abandoned iteration may still digest its last piece.
        self._seen, self.size = RangeDigester(), 0
        with _Beside(self._seen.update) as beside:
            for piece in pieces(self._chunks):
                self.size += len(piece)
                beside.begin(piece)
                yield piece
                beside.finish()

    def digest(self) -> FileDigest:
        """Return the digest of the last iteration."""
        return self._seen.digest()


def pieces(chunks: Iterable[memoryview]) -> Iterator[memoryview]:
    """Yield the same bytes in pieces of at most `DIGEST_PIECE_BYTES`, without copying."""
    for chunk in chunks:
        view = chunk.cast("B")
        for start in range(0, len(view), DIGEST_PIECE_BYTES):
            yield view[start : start + DIGEST_PIECE_BYTES]


def digest_of(chunks: Iterable[memoryview]) -> FileDigest:
    """Return the digest of a file. Blocks, but lets other threads run."""
    seen = RangeDigester()
    for piece in pieces(chunks):
        seen.update(piece)
    return seen.digest()


class _Beside:
    """Call `action` for one piece at a time: in a thread of its own, from the first large piece on."""

    def __init__(self, action: Callable[[memoryview], object]) -> None:
        self._action = action
        self._pieces: SimpleQueue[memoryview | None] = SimpleQueue()
        self._outcomes: SimpleQueue[BaseException | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._pending = False

    def __enter__(self) -> _Beside:
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread is not None:
            self._pieces.put(None)
            self._thread.join()  # the caller may reuse the memory of the piece

    def begin(self, piece: memoryview) -> None:
        if len(piece) >= BESIDE_BYTES and self._thread is None:
            self._thread = thread_of(self._run, "resumable-digest")
        if len(piece) < BESIDE_BYTES or self._thread is None:
            self._action(piece)
            return
        self._pending = True
        self._pieces.put(piece)

    def finish(self) -> None:
        if self._pending:
            self._pending = False
            failure = self._outcomes.get()
            if failure is not None:
                raise failure

    def _run(self) -> None:
        while (piece := self._pieces.get()) is not None:
            try:
                self._action(piece)
            except BaseException as failure:
                self._outcomes.put(failure)
            else:
                self._outcomes.put(None)
