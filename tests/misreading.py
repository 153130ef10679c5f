"""A folder of which chosen reads go wrong in one bit, while the files are right; knows no format."""

from __future__ import annotations

import os
from collections.abc import Callable, Container
from pathlib import Path

from resumable.store.storage.local import LocalStorage
from resumable.store.storage.protocol import Seen

Harm = Callable[[memoryview, int], None]
"""Changes what a read brought; the second argument is the number of the read."""


def one_bit(data: memoryview, number: int) -> None:
    """The same bit at each read, as a file that is damaged itself would show it."""
    if data:
        data[len(data) // 2] ^= 4


def another_bit(data: memoryview, number: int) -> None:
    """Another bit at each read, as faulty memory would show it."""
    if data:
        data[number % len(data)] ^= 4


class Misreading(LocalStorage):
    """Reads whose number, counted from 1 among those of paths that hold `path`, is in `wrong` go wrong."""

    def __init__(self, root: Path, *, path: str = "", wrong: Container[int] = (), harm: Harm = one_bit) -> None:
        super().__init__(root)
        self.path = path
        self.wrong = wrong
        self.harm = harm
        self.reads: list[str] = []
        self.dropped: list[str] = []

    def read(self, path: str, *, max_bytes: int | None = None) -> bytes:
        data = bytearray(super().read(path, max_bytes=max_bytes))
        self._harm(path, memoryview(data))
        return bytes(data)

    def read_into(self, path: str, buffer: memoryview, *, offset: int = 0, seen: Seen | None = None) -> int:
        got = super().read_into(path, buffer, offset=offset)
        self._harm(path, buffer.cast("B")[:got])
        if seen:
            seen(buffer.cast("B")[:got], offset)
        return got

    def drop_cache(self, path: str) -> None:
        self.dropped.append(path)
        super().drop_cache(path)

    def _harm(self, path: str, data: memoryview) -> None:
        if self.path in path:
            self.reads.append(path)
            if len(self.reads) in self.wrong:
                self.harm(data, len(self.reads))


class EveryRead(Container[int]):
    """Every number from `first` on."""

    def __init__(self, first: int = 1) -> None:
        self._first = first

    def __contains__(self, number: object) -> bool:
        return isinstance(number, int) and number >= self._first


def flip(path: Path, at: int) -> None:
    """Damage the file itself, in one bit."""
    with open(path, "r+b") as file:
        data = os.pread(file.fileno(), 1, at)
        os.pwrite(file.fileno(), bytes([data[0] ^ 4]), at)
