"""A file for torch's archive writer that reports a failed write only after torch is done. Independent of the model.

torch's writer aborts the whole process if a write fails, because it tries to finish the archive while unwinding.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class _DeferringFile(io.FileIO):
    """Accepts every write. After the first failed one it keeps the error and writes nothing more."""

    failure: OSError | None = None

    def write(self, data: ReadableBuffer) -> int:
        rest = memoryview(data).cast("B")
        size = len(rest)
        try:
            while rest and self.failure is None:
                rest = rest[super().write(rest) :]
        except OSError as error:
            self.failure = error
        return size


@contextmanager
def archive(path: Path) -> Iterator[io.FileIO]:
    """Open the new file `path` for one of torch's writers; at the end raise the `OSError` of the first failed write."""
    file = _DeferringFile(path, "xb")
    try:
        yield file
    finally:
        file.close()
        if file.failure is not None:
            raise file.failure
