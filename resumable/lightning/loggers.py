"""Where the files of CSVLogger and TensorBoardLogger stood at a boundary, and how they are cut back to it.

A launch goes on in the version of the run that it resumes, so there is one curve. Whatever was logged after the
checkpoint is logged again, so it is cut off first. Loggers of other kinds are left alone.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from resumable.lightning import private

_EVENTS = "events.out.tfevents."
_CSV = "metrics.csv"
_ASIDE = "metrics.csv.aside"  # from before Lightning opens its writer, which removes the table, until it is cut back


def capture(loggers: Sequence[Any]) -> list[dict[str, Any] | None]:
    """Where each logger stands, after everything that it holds is in its files."""
    return [_captured(logger) for logger in loggers]


def _captured(logger: Any) -> dict[str, Any] | None:
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
    return place | {"files": {file.name: file.stat().st_size for file in _event_files(folder)}}


Found = list[Any]


def go_on_in(loggers: Sequence[Any], saved: Sequence[Mapping[str, Any] | None]) -> Found:
    """Have each logger that would choose a new version go on in the one it had; returns what is there, for `cut_back`.

    Before anything is logged: opening a writer may remove what is there.
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
            private.log_no_default_metric(logger)  # it stands in the files already
            found.append(_event_files(Path(logger.log_dir)))
    return found


def _set_aside(folder: Path) -> bytes:
    """The table, out of the way of Lightning: a launch that dies before it was cut back must not cost the curve."""
    if (folder / _CSV).is_file() and not (folder / _ASIDE).exists():
        (folder / _CSV).replace(folder / _ASIDE)
    return _read(folder / _ASIDE)


def cut_back(loggers: Sequence[Any], saved: Sequence[Mapping[str, Any] | None], found: Found, *, keep: bool) -> None:
    """Take out of the files what was logged after the checkpoint, unless it is to stay; the loggers go on behind it."""
    for logger, place, there in zip(loggers, saved, found, strict=False):
        if place is None or there is None:
            continue
        if place["kind"] == "csv":
            _cut_csv(logger, place, there, keep=keep)
        elif not keep:
            _cut_events(there, place["files"])


def _cut_csv(logger: Any, place: Mapping[str, Any], there: bytes, *, keep: bool) -> None:
    file = Path(logger.log_dir) / _CSV
    names, *rows = _table(there)
    keys = names if keep else list(place["keys"])
    kept = [dict(zip(names, row, strict=False)) for row in (rows if keep else rows[: place["rows"]])]
    file.unlink(missing_ok=True)  # Lightning would remove it, with a warning, when the writer is made
    if kept:
        writer = logger.experiment
        text = io.StringIO(newline="")
        table = csv.DictWriter(text, fieldnames=keys, extrasaction="ignore")
        table.writeheader()
        table.writerows(kept)
        _write(file, text.getvalue().encode())
        writer.metrics_keys = keys
    file.with_name(_ASIDE).unlink(missing_ok=True)


def _cut_events(files: list[Path], sizes: Mapping[str, int]) -> None:
    for file in files:
        if file.name not in sizes:
            file.unlink(missing_ok=True)
        elif file.stat().st_size > sizes[file.name]:
            os.truncate(file, sizes[file.name])


def _event_files(folder: Path) -> list[Path]:
    return sorted(folder.glob(_EVENTS + "*"))


def _table(text: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text.decode(), newline=""))) or [[]]


def _read(file: Path) -> bytes:
    return file.read_bytes() if file.is_file() else b""


def _write(file: Path, data: bytes) -> None:
    temporary = file.with_name(f".{file.name}.tmp")
    temporary.write_bytes(data)
    temporary.replace(file)


def _kind(logger: Any) -> str | None:
    """`csv` or `tensorboard`, where its files are on a local disk."""
    names = {kind.__name__ for kind in type(logger).__mro__}
    kind = "csv" if "CSVLogger" in names else "tensorboard" if "TensorBoardLogger" in names else None
    return kind if kind and "://" not in str(logger.save_dir) else None  # asking for its log_dir chooses a version
