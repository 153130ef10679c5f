"""Write the journal of one attempt. Never raises: the first failure is logged once, and ends the journal.

In a folder, the file of the attempt grows by one system call a record, so a kill loses nothing. An object cannot grow:
there, records wait in memory, and become the next part right before a manifest, each `flush_seconds`, and at the end.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from resumable.errors import ResumableError
from resumable.store.journal.records import encode
from resumable.store.layout import journal_path
from resumable.store.storage.protocol import AppendedFile, Storage
from resumable.utils.events import warn
from resumable.utils.threads import thread_of

PART_BYTES = 8 * 2**20  # a file that is larger is followed by the next part
MAX_TAKEN = 100  # parts that may exist under the number of a new attempt, if a run was copied without its attempts


class JournalWriter:
    """The journal of one attempt, which begins with its first record. Any thread may call any method.

    Args:
        storage: The run. It retries nothing, so that a lost storage does not hold back a save.
        attempt: The number of the attempt.
        resumed_from: The name of the checkpoint from which it resumed; None for a new run.
        flush_seconds: How long records wait at most where a file cannot grow.
        max_bytes: How much the attempt may write until `compacted` is called.
    """

    def __init__(
        self, storage: Storage, *, attempt: int, resumed_from: str | None, flush_seconds: float, max_bytes: int
    ) -> None:
        self._storage = storage
        self._attempt = attempt
        self._first = encode({"k": "open", "v": 1, "a": attempt, "from": resumed_from})
        self._flush_seconds = flush_seconds
        self._max_bytes = max_bytes
        self._lock = threading.RLock()  # of everything below; held while a part is put
        self._filling = threading.Lock()  # of `_waiting` and `_file`; the training thread waits for nothing else
        self._file: AppendedFile | None = None
        self._waiting: list[bytes] = []
        self._waiting_bytes = self._part_bytes = self._bytes = 0
        self._grows: bool | None = None  # None while nothing was written
        self._part = 0  # the number of the next one
        self._parts = 0  # since the last call of `compacted`
        self._closing = threading.Event()
        self.active = True

    @property
    def begun(self) -> bool:
        """Return whether a record was written."""
        return self._grows is not None

    def has_grown(self, *, most_bytes: int, most_parts: int) -> bool:
        """Return whether more than this was written since the last call of `compacted`."""
        return self._bytes > most_bytes or self._parts > most_parts

    def write(self, line: bytes) -> None:
        """Append one record. Waits for no network, and for no disk but at the first record."""
        if not self.active:
            return
        with self.ended_by_failure():
            if self._grows is None:
                self._begin()
                line = self._first + line
            if self._bytes + len(line) > self._max_bytes:
                raise ResumableError(f"more than journal.max_bytes ({self._max_bytes} bytes)")
            self._bytes += len(line)
            if self._grows:
                self._append(line)
            else:
                self._wait(line)

    def put(self) -> None:
        """Make everything durable that was written so far. Blocks; not for the training thread."""
        if not self.active or self._grows is None:
            return
        with self.ended_by_failure(), self._lock:
            if self._file is not None:
                self._file.sync()
            elif self._waiting:
                self._put_part()

    def close(self) -> None:
        """Put what waits, and end; safe to call twice."""
        self._closing.set()
        self.put()
        if self.active and self._waiting:
            warn("the journal lacks what was logged last: it could not be written")
        self.active = False
        with self._lock:
            if self._file is not None:
                self._file.close()

    def finish_part(self) -> None:
        """Let what follows go into a new file, so that the files so far may be rewritten."""
        if not self.active or not self._grows:
            return
        with self.ended_by_failure(), self._lock:
            created = self._created()
            with self._filling:
                before, self._file = self._file, created
            if before is not None:
                before.close()

    def take_part(self) -> int:
        """Return the number of a new part for the caller to write."""
        with self._lock:
            self._part += 1
            return self._part - 1

    def compacted(self) -> None:
        """Note that what was written so far was rewritten within the bounds of the whole journal."""
        self._bytes = self._parts = 0

    @contextmanager
    def ended_by_failure(self) -> Iterator[None]:
        """Let an exception end the journal instead of the training, with one warning."""
        try:
            yield
        except Exception as error:
            self.active = False
            self._closing.set()
            reason = error.message if isinstance(error, ResumableError) else str(error) or type(error).__name__
            warn(f"the journal ends here, and training goes on without it: {reason}")

    def _begin(self) -> None:
        with self._lock:
            self._file = self._created()
            self._grows = self._file is not None
            if not self._grows:
                thread_of(self._put_regularly, "resumable-journal")

    def _created(self) -> AppendedFile | None:
        for _ in range(MAX_TAKEN):
            try:
                file = self._storage.append(journal_path(self._attempt, self._part))
            except FileExistsError:
                self._part += 1
                continue
            if file is not None:
                self._part, self._parts = self._part + 1, self._parts + 1
            self._part_bytes = 0
            return file
        raise ResumableError(f"{journal_path(self._attempt, 0)} and {MAX_TAKEN} further files exist")

    def _append(self, line: bytes) -> None:
        if self._part_bytes > PART_BYTES:
            self.finish_part()
        with self._filling:
            self._part_bytes += len(line)
            if self._file is not None:
                self._file.write(line)

    def _wait(self, line: bytes) -> None:
        with self._filling:
            self._waiting.append(line)
            self._waiting_bytes += len(line)
        if self._waiting_bytes > PART_BYTES:
            raise ResumableError(f"nothing could be written since {PART_BYTES} bytes were logged")

    def _put_part(self) -> None:
        with self._filling:
            lines, self._waiting, self._waiting_bytes = self._waiting, [], 0
        data = b"".join(lines)
        write: Callable[[str, bytes], None] = self._storage.create if self._storage.exclusive else self._write
        try:
            write(journal_path(self._attempt, self._part), data)
        except FileExistsError:
            self._part += 1  # and again with the next records
            self._put_back(data)
        except Exception:  # a later part has them too, as long as the memory holds them
            self._put_back(data)
        else:
            self._part, self._parts = self._part + 1, self._parts + 1

    def _write(self, path: str, data: bytes) -> None:
        self._storage.write(path, [data])

    def _put_back(self, data: bytes) -> None:
        with self._filling:
            self._waiting.insert(0, data)
            self._waiting_bytes += len(data)

    def _put_regularly(self) -> None:
        while not self._closing.wait(self._flush_seconds) and self.active:
            self.put()
