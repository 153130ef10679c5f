"""Files that torch writes archives into: what fails is told when torch is done; knows no model.

torch's own writer ends the whole program where a write fails, since it tries to finish the archive as it is taken down.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class _Unfailing(io.FileIO):
    """Takes all that it is given; of what could not be written it keeps the first reason, and writes no more."""

    failure: OSError | None = None

    def write(self, data: Any) -> int:
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
    """The new file `path` for one of torch's writers; raises the `OSError` of a write that failed when all is done."""
    file = _Unfailing(path, "xb")
    try:
        yield file
    finally:
        file.close()
        if file.failure is not None:
            raise file.failure
