"""The files that `ModelCheckpoint` had written at a boundary; those written after it count as not there.

Otherwise a rerun, which writes the same files once more, would give each another name (`last-v1.ckpt`). Nothing is
deleted: the rerun writes over them. Folders that are not on a local disk are left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any


def checkpoint_callbacks(trainer: Any) -> list[Any]:
    """The callbacks that write checkpoints of Lightning's own."""
    return [callback for callback in trainer.checkpoint_callbacks if hasattr(callback, "file_exists")]


def capture(trainer: Any) -> dict[str, list[str]]:
    """By callback, the files in its folder."""
    return {
        callback.state_key: sorted(map(str, _files(callback.dirpath)))
        for callback in checkpoint_callbacks(trainer)
        if callback.dirpath
    }


def overwriting(callback: Any, saved: Mapping[str, list[str]]) -> Callable[[Any, Any], bool]:
    """`callback.file_exists`, to which a file that is there but not among those `saved` does not exist.

    Once it was written again, it does.
    """
    known = set(saved.get(callback.state_key, []))
    late = {str(file): file.stat().st_mtime_ns for file in _files(callback.dirpath) if str(file) not in known}
    exists: Callable[[Any, Any], bool] = callback.file_exists

    def file_exists(path: Any, trainer: Any) -> bool:
        file = Path(path)
        if str(file) in late and file.is_file() and file.stat().st_mtime_ns == late[str(file)]:
            return False
        return exists(path, trainer)

    return file_exists


def _files(folder: str | None) -> Iterator[Path]:
    if folder and "://" not in str(folder):
        yield from (file for file in Path(folder).rglob("*") if file.is_file())
