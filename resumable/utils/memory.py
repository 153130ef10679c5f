"""The memory of this machine."""

from __future__ import annotations

import os


def memory_bytes() -> int:
    """Return the size of this machine's memory, in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
