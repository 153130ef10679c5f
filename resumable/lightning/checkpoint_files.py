"""Let `ModelCheckpoint` overwrite the files that it wrote after the checkpoint that a run resumes from.

Otherwise a rerun, which writes the same files again, would give each another name (`last-v1.ckpt`). Nothing is deleted:
the rerun overwrites them. Folders on a remote storage are left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from resumable.lightning.protocols import CheckpointCallback, Trainer


def checkpoint_callbacks(trainer: Trainer) -> list[CheckpointCallback]:
    """Return the callbacks that write Lightning's own checkpoints."""
    return [callback for callback in trainer.checkpoint_callbacks if hasattr(callback, "file_exists")]


def capture_files(trainer: Trainer) -> dict[str, list[str]]:
    """Return the files in the folder of each callback, by its state key."""
    return {
        callback.state_key: sorted(map(str, _files(callback.dirpath)))
        for callback in checkpoint_callbacks(trainer)
        if callback.dirpath
    }


def overwriting(callback: CheckpointCallback, saved: Mapping[str, list[str]]) -> Callable[[str, Trainer], bool]:
    """Return a `file_exists` for which files that are not among the `saved` ones do not exist until written again."""
    before = set(saved.get(callback.state_key, []))
    late = {str(file): file.stat().st_mtime_ns for file in _files(callback.dirpath) if str(file) not in before}
    exists = callback.file_exists

    def file_exists(path: str, trainer: Trainer) -> bool:
        file = Path(path)
        if str(file) in late and file.is_file() and file.stat().st_mtime_ns == late[str(file)]:
            return False
        return exists(path, trainer)

    return file_exists


def _files(folder: str | None) -> Iterator[Path]:
    if folder and "://" not in str(folder):
        yield from (file for file in Path(folder).rglob("*") if file.is_file())
