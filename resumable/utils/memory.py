"""The memory of this machine, and the garbage collector of this interpreter."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def memory_bytes() -> int:
    """Return the size of this machine's memory, in bytes; `sys.maxsize` on Windows, where it is not looked up."""
    if not hasattr(os, "sysconf"):
        return sys.maxsize
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


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
