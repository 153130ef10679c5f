"""Cut bytes into pieces, and digest each piece while it is written. Independent of storages and names."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from queue import SimpleQueue

import xxhash

from resumable.utils.threads import thread_of

# Large, so that threads seldom wait for the interpreter's lock, which the training holds most of the time. Not larger,
# since the last piece is digested when everything is written.
DIGEST_PIECE_BYTES = 32 * 2**20

# For less, handing over to another thread takes longer than the digest.
BESIDE_BYTES = 2**20


class Digested:
    """The pieces of `chunks`, each digested by a second thread until the next one is requested.

    Each iteration begins again: a storage that retries a write needs all of them again.
    """

    def __init__(self, chunks: Iterable[memoryview]) -> None:
        self._chunks = chunks
        self._seen = xxhash.xxh3_128()
        self.size = 0
        """In bytes, of the last iteration."""

    def __iter__(self) -> Iterator[memoryview]:
        # A new one, since an abandoned iteration may still digest its last piece.
        self._seen, self.size = xxhash.xxh3_128(), 0
        with _Beside(self._seen.update) as beside:
            for piece in pieces(self._chunks):
                self.size += len(piece)
                beside.begin(piece)
                yield piece
                beside.finish()

    def hexdigest(self) -> str:
        """Return the XXH3-128 of the last iteration."""
        return self._seen.hexdigest()


def pieces(chunks: Iterable[memoryview]) -> Iterator[memoryview]:
    """Yield the same bytes in pieces of at most `DIGEST_PIECE_BYTES`, without copying."""
    for chunk in chunks:
        view = chunk.cast("B")
        for start in range(0, len(view), DIGEST_PIECE_BYTES):
            yield view[start : start + DIGEST_PIECE_BYTES]


def digest_of(chunks: Iterable[memoryview]) -> str:
    """Return the XXH3-128 of all chunks. Blocks, but lets other threads run."""
    seen = xxhash.xxh3_128()
    for piece in pieces(chunks):
        seen.update(piece)
    return seen.hexdigest()


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
