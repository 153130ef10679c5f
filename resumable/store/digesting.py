"""Cuts what is written into pieces, and digests each of them while it is written; knows no storage and no names."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from queue import SimpleQueue

import xxhash

from resumable.utils.threads import thread_of

# Large, so that few times is waited for the interpreter's lock, which the training holds most of the time. What is
# digested last is digested when all is written, so not larger.
DIGEST_PIECE_BYTES = 32 * 2**20

# Below, to ask another thread takes longer than the digest.
BESIDE_BYTES = 2**20


class Digested:
    """The pieces of `chunks`, each digested by a second thread until the next one is asked for.

    Iterating again begins again: a storage that tries once more asks for all of them once more.
    """

    def __init__(self, chunks: Iterable[memoryview]) -> None:
        self._chunks = chunks
        self._seen = xxhash.xxh3_128()
        self.size = 0
        """In bytes, of what was asked for last."""

    def __iter__(self) -> Iterator[memoryview]:
        # Its own, for an iteration that was given up may still be at its last piece.
        self._seen, self.size = xxhash.xxh3_128(), 0
        with _Beside(self._seen.update) as beside:
            for piece in pieces(self._chunks):
                self.size += len(piece)
                beside.begin(piece)
                yield piece
                beside.finish()

    def hexdigest(self) -> str:
        """XXH3-128 of what was asked for last."""
        return self._seen.hexdigest()


def pieces(chunks: Iterable[memoryview]) -> Iterator[memoryview]:
    """The same bytes, at most `DIGEST_PIECE_BYTES` at once, none copied."""
    for chunk in chunks:
        view = chunk.cast("B")
        for start in range(0, len(view), DIGEST_PIECE_BYTES):
            yield view[start : start + DIGEST_PIECE_BYTES]


def digest_of(chunks: Iterable[memoryview]) -> str:
    """XXH3-128 of all of it. Blocks, but lets other threads run."""
    seen = xxhash.xxh3_128()
    for piece in pieces(chunks):
        seen.update(piece)
    return seen.hexdigest()


class _Beside:
    """Calls `action` for one piece at a time: in a thread of its own, from the first large piece on."""

    def __init__(self, action: Callable[[memoryview], object]) -> None:
        self._action = action
        self._asked: SimpleQueue[memoryview | None] = SimpleQueue()
        self._outcomes: SimpleQueue[BaseException | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._pending = False

    def __enter__(self) -> _Beside:
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread is not None:
            self._asked.put(None)
            self._thread.join()  # whoever gave the piece may use its memory again

    def begin(self, piece: memoryview) -> None:
        if len(piece) >= BESIDE_BYTES and self._thread is None:
            self._thread = thread_of(self._run, "resumable-digest")
        if len(piece) < BESIDE_BYTES or self._thread is None:
            self._action(piece)
            return
        self._pending = True
        self._asked.put(piece)

    def finish(self) -> None:
        if self._pending:
            self._pending = False
            failure = self._outcomes.get()
            if failure is not None:
                raise failure

    def _run(self) -> None:
        while (piece := self._asked.get()) is not None:
            try:
                self._action(piece)
            except BaseException as failure:
                self._outcomes.put(failure)
            else:
                self._outcomes.put(None)
