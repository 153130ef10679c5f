"""The memory of this machine, and the garbage collector of this interpreter."""

from __future__ import annotations

import gc
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def memory_bytes() -> int:
    """Return the size of this machine's memory, in bytes; `sys.maxsize` on Windows, where it is not looked up."""
    if not hasattr(os, "sysconf"):
        return sys.maxsize
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def available_bytes() -> int:
    """Return how much memory programs may still take without swapping; where it is not known, `memory_bytes`."""
    with suppress(OSError):
        found = re.search(r"^MemAvailable: +(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
        if found:
            return int(found[1]) * 1024
    return memory_bytes()


@contextmanager
def collector_paused() -> Iterator[None]:
    """Keep the collector from running; afterwards it is on or off as before, also after an exception.

    Pauses may be nested. A full collection traverses all objects of the program, which takes longer than a save.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
