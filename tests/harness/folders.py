"""Folders in memory, for runs whose programs die and whose machine does not: nothing there waits for a disk."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def quick_folder() -> Iterator[Path]:
    """Make a folder in memory where there is one, and remove it at the end."""
    memory = Path("/dev/shm")
    place = memory if os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="resumable-tests-", dir=place) as folder:
        yield Path(folder)
