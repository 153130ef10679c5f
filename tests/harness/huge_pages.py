"""Gathers the memory of a process that forks many children into huge pages, so that each fork costs less than half."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

HUGE_PAGE_BYTES = 2**21
MADV_COLLAPSE = 25


def gather_in_huge_pages() -> None:
    """Gather what this process has written to into huge pages, where Linux can.

    A fork copies one entry of a table per page. Where a child writes to a huge page, it copies 4 KiB of it.
    """
    if sys.platform != "linux":
        return
    import ctypes

    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for start, end in _private_memory():
        first, last = -(-start // HUGE_PAGE_BYTES) * HUGE_PAGE_BYTES, end // HUGE_PAGE_BYTES * HUGE_PAGE_BYTES
        if first < last:
            madvise(first, last - first, MADV_COLLAPSE)


def _private_memory() -> Iterator[tuple[int, int]]:
    """Yield start and end of each piece of memory that is this process's own and no file's."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        bounds, mode, _, _, _, *name = line.split(maxsplit=5)
        if mode == "rw-p" and name in ([], ["[heap]"]):
            start, end = bounds.split("-")
            yield int(start, 16), int(end, 16)
