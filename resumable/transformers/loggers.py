"""Let TensorBoard's callback continue in the folder of the run, from where the checkpoint was taken.

A launch would begin another folder, named by the clock. Points after the checkpoint are logged again, so they are cut
off first: there is one curve.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from resumable.drivers.event_files import event_files, sizes_of, truncate
from resumable.drivers.state import SavedState, State
from resumable.transformers.protocols import Trainer


def capture_loggers(trainer: Trainer) -> State | None:
    """Flush TensorBoard's writer, and return the position in its files; None where there is none on a local disk."""
    for callback in _callbacks(trainer):
        folder = getattr(callback.tb_writer, "log_dir", None)
        if folder is None or "://" in str(folder):
            continue
        callback.tb_writer.flush()
        return {"folder": os.path.abspath(folder), "files": sizes_of(Path(folder))}
    return None


def continue_loggers(trainer: Trainer, saved: SavedState | None, *, keep: bool) -> None:
    """Let TensorBoard's callback write into the folder that it had, truncated to the checkpoint unless `keep`.

    A writer that the program made itself is left alone: it writes already.
    """
    for callback in _callbacks(trainer):
        if saved is None or callback.tb_writer is not None:
            continue
        if _chooses_by_clock(trainer, callback):
            _set_folder(trainer, callback, saved["folder"])
        if not keep and os.path.abspath(_folder(trainer, callback)) == saved["folder"]:
            truncate(event_files(Path(saved["folder"])), saved["files"])


def _callbacks(trainer: Trainer) -> list[Any]:
    return [
        each
        for each in trainer.callback_handler.callbacks
        if any(kind.__name__ == "TensorBoardCallback" for kind in type(each).__mro__)
    ]


def _has_own(callback: Any) -> bool:
    """Return whether the callback itself holds its folder, as from transformers 5 on."""
    return hasattr(callback, "logging_dir")


def _folder(trainer: Trainer, callback: Any) -> str:
    return str(callback.logging_dir if _has_own(callback) else getattr(trainer.args, "logging_dir", ""))


def _chooses_by_clock(trainer: Trainer, callback: Any) -> bool:
    if _has_own(callback):
        return callback.logging_dir is None
    return Path(_folder(trainer, callback)).parent == Path(trainer.args.output_dir, "runs")


def _set_folder(trainer: Trainer, callback: Any, folder: str) -> None:
    holder: Any = callback if _has_own(callback) else trainer.args
    holder.logging_dir = folder
