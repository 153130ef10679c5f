"""Truncate the files of CSVLogger and TensorBoardLogger to the checkpoint that a run resumes from.

A launch continues in the version of the run that it resumes, so there is one curve. Rows after the checkpoint are
logged again, so they are cut off first. Loggers of other kinds are left alone.
"""

from __future__ import annotations

import csv
import io
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from resumable.drivers.event_files import event_files, sizes_of, truncate
from resumable.drivers.state import SavedState, State
from resumable.lightning import private
from resumable.lightning.protocols import Logger

_CSV = "metrics.csv"
_ASIDE = "metrics.csv.aside"  # the table, from before Lightning's writer would remove it until it is truncated


def capture_loggers(loggers: Sequence[Logger]) -> list[State | None]:
    """Flush each logger, and return the position in its files; None for loggers of other kinds."""
    return [_captured(logger) for logger in loggers]


def _captured(logger: Logger) -> State | None:
    kind = _kind(logger)
    if kind is None:
        return None
    if private.experiment_is_open(logger):
        logger.save() if kind == "csv" else logger.experiment.flush()
    folder = Path(logger.log_dir)
    place = {"kind": kind, "version": logger.version, "folder": os.path.abspath(folder)}
    if kind == "csv":
        text = _read(folder / _CSV)
        return place | {"rows": max(text.count(b"\n") - 1, 0), "keys": _table(text.partition(b"\n")[0])[0]}
    return place | {"files": sizes_of(folder)}


Found: TypeAlias = list[bytes | list[Path] | None]
"""Per logger, its table or its event files, as they were before the launch."""


def continue_versions(loggers: Sequence[Logger], saved: Sequence[SavedState | None]) -> Found:
    """Let each logger continue in the version that it had, and return its files for `cut_back`.

    Call it before anything is logged: opening a writer may remove the files.
    """
    found: Found = []
    for logger, place in zip(loggers, saved, strict=False):
        fits = place is not None and _kind(logger) == place["kind"]
        if fits and place is not None and not private.has_own_version(logger):
            private.set_version(logger, place["version"])
        if not fits or place is None or os.path.abspath(logger.log_dir) != place["folder"]:
            found.append(None)
        elif place["kind"] == "csv":
            found.append(_set_aside(Path(logger.log_dir)))
        else:
            private.log_no_default_metric(logger)  # the files have it already
            found.append(event_files(Path(logger.log_dir)))
    return found


def _set_aside(folder: Path) -> bytes:
    """Move the table aside, so that a launch that dies before it is truncated does not lose the curve; return it."""
    if (folder / _CSV).is_file() and not (folder / _ASIDE).exists():
        (folder / _CSV).replace(folder / _ASIDE)
    return _read(folder / _ASIDE)


def cut_back(loggers: Sequence[Logger], saved: Sequence[SavedState | None], found: Found, *, keep: bool) -> None:
    """Truncate the files to the checkpoint, unless `keep`; the loggers continue after their last row."""
    for logger, place, there in zip(loggers, saved, found, strict=False):
        if place is None or there is None:
            continue
        if isinstance(there, bytes):
            _cut_csv(logger, place, there, keep=keep)
        elif not keep:
            truncate(there, place["files"])


def _cut_csv(logger: Logger, place: SavedState, there: bytes, *, keep: bool) -> None:
    file = Path(logger.log_dir) / _CSV
    names, *rows = _table(there)
    keys = names if keep else list(place["keys"])
    kept = [dict(zip(names, row, strict=False)) for row in (rows if keep else rows[: place["rows"]])]
    file.unlink(missing_ok=True)  # Lightning would remove it, with a warning, when the writer is created
    if kept:
        writer = logger.experiment
        text = io.StringIO(newline="")
        table = csv.DictWriter(text, fieldnames=keys, extrasaction="ignore")
        table.writeheader()
        table.writerows(kept)
        _write(file, text.getvalue().encode(), like=file.with_name(_ASIDE))
        writer.metrics_keys = keys
    file.with_name(_ASIDE).unlink(missing_ok=True)


def _table(text: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text.decode(), newline=""))) or [[]]


def _read(file: Path) -> bytes:
    return file.read_bytes() if file.is_file() else b""


def _write(file: Path, data: bytes, *, like: Path) -> None:
    """Write a file atomically, with the permissions of `like`."""
    temporary = file.with_name(f".{file.name}.tmp")
    temporary.write_bytes(data)
    shutil.copymode(like, temporary)
    temporary.replace(file)


def _kind(logger: Logger) -> str | None:
    """Return `csv` or `tensorboard` if the logger writes to a local disk."""
    names = {kind.__name__ for kind in type(logger).__mro__}
    kind = "csv" if "CSVLogger" in names else "tensorboard" if "TensorBoardLogger" in names else None
    return kind if kind and "://" not in str(logger.save_dir) else None  # reading log_dir would choose a version
