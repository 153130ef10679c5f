"""The memory of this machine."""

from __future__ import annotations

import os
import sys


def memory_bytes() -> int:
    """Return the size of this machine's memory, in bytes; `sys.maxsize` on Windows, where it is not looked up."""
    if not hasattr(os, "sysconf"):
        return sys.maxsize
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
