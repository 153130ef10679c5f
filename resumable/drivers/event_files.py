"""The event files of TensorBoard in one folder: their sizes, and how they are truncated to those of a checkpoint."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

_EVENTS = "events.out.tfevents."


def event_files(folder: Path) -> list[Path]:
    """Return the event files in the folder, in the order in which TensorBoard reads them."""
    return sorted(folder.glob(_EVENTS + "*"))


def sizes_of(folder: Path) -> dict[str, int]:
    """Return the size of each event file in bytes, by its name."""
    return {file.name: file.stat().st_size for file in event_files(folder)}


def truncate(files: Iterable[Path], sizes: Mapping[str, int]) -> None:
    """Truncate files to these sizes, and remove those that had none."""
    for file in files:
        if file.name not in sizes:
            file.unlink(missing_ok=True)
        elif file.stat().st_size > sizes[file.name]:
            os.truncate(file, sizes[file.name])
