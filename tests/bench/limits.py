"""What memory and disk allow on this machine: the yardsticks, measured in the same rounds as what is held to them."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy
import torch
import xxhash
from torch import Tensor

from tests.bench.timing import clock

PIECE_BYTES = 32 * 2**20
_PAGE_BYTES = 4096


class Limits:
    """One reused buffer of the size of the state, already touched, and one file beside it."""

    def __init__(self, tensors: Sequence[Tensor], folder: Path) -> None:
        self._tensors = tensors
        self._path = folder / "limit"
        self.nbytes = sum(tensor.nbytes for tensor in tensors)
        self._room = mmap.mmap(-1, -(-self.nbytes // _PAGE_BYTES) * _PAGE_BYTES or _PAGE_BYTES)
        self._buffer = numpy.frombuffer(self._room, dtype=numpy.uint8)
        self._buffer[:] = 1

    def memcpy(self) -> float:
        """Seconds to copy every tensor into the buffer, one after the other, in one thread with the C library."""
        started, target = clock(), self._buffer.ctypes.data
        for tensor in self._tensors:
            ctypes.memmove(target, tensor.data_ptr(), tensor.nbytes)
            target += tensor.nbytes
        return clock() - started

    def write(self) -> float:
        """Seconds to write the buffer into a new file, past the page cache, in large pieces, and to fsync it."""
        started = clock()
        file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_DIRECT, 0o600)
        try:
            view = memoryview(self._room)
            for start in range(0, len(view), PIECE_BYTES):
                os.write(file, view[start : start + PIECE_BYTES])
            os.fsync(file)
        finally:
            os.close(file)
        taken = clock() - started
        view.release()
        return taken

    def read(self) -> float:
        """Seconds to read the file that `write` left into the buffer; its pages are not in memory before."""
        file = os.open(self._path, os.O_RDONLY)
        try:
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            view, started = memoryview(self._room), clock()
            for start in range(0, len(view), PIECE_BYTES):
                os.preadv(file, [view[start : start + PIECE_BYTES]], start)
            taken = clock() - started
            view.release()
            return taken
        finally:
            os.close(file)

    def digest(self) -> float:
        """Seconds for the XXH3-128 of the buffer."""
        started = clock()
        xxhash.xxh3_128_digest(self._buffer)
        return clock() - started

    def two_threads(self) -> float:
        """Seconds to copy one half of the state into the other half's room with torch's own threads, times two."""
        half = len(self._buffer) // 2
        flat = torch.from_numpy(self._buffer)
        started = clock()
        flat[:half].copy_(flat[half : 2 * half])
        return 2 * (clock() - started)

    def close(self) -> None:
        """Remove the file and give the memory back."""
        with suppress(FileNotFoundError):
            self._path.unlink()
        del self._buffer
        with suppress(BufferError):
            self._room.close()
