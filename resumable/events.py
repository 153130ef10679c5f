"""One greppable log line per event of a run, through `logging`; knows nothing of when they happen."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Mapping

from resumable.errors import printable

log = logging.getLogger("resumable")

QUIET = {"WARN", "REJECT", "CHANGED"}


def emit(event: str, /, *subject: str, **fields: object) -> None:
    """Log `EVENT subject key=value ...`; warnings at WARNING, the rest at INFO. Values with spaces are quoted."""
    _emit(logging.WARNING if event in QUIET else logging.INFO, event, subject, fields)


def emit_aloud(event: str, /, *subject: str, **fields: object) -> None:
    """As `emit`, at WARNING: of an event that is none by itself, and is this time. Python shows it in any script."""
    _emit(logging.WARNING, event, subject, fields)


def _emit(level: int, event: str, subject: Iterable[str], fields: Mapping[str, object]) -> None:
    words = " ".join((*subject, *(f"{key}={_word(value)}" for key, value in fields.items() if value is not None)))
    log.log(level, "%-7s %s", event, words)


def warn(message: str) -> None:
    """Log one WARN line that is a sentence."""
    log.warning("%-7s %s", "WARN", message)


def show_events() -> None:
    """Print the lines on stderr, unless the program has set up logging of its own."""
    if log.hasHandlers():
        return
    handler = _StderrHandler()
    handler.setFormatter(logging.Formatter("resumable: %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False


class _StderrHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """Looks `sys.stderr` up at each line, so that a progress bar can put itself below."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def _word(value: object) -> str:
    text = str(value)
    text = text if text.isprintable() else "".join(c if c == "\n" else printable(c) for c in text)
    return (
        text if text and not any(c in text for c in ' "\n') else '"' + text.replace('"', "'").replace("\n", " ") + '"'
    )


def duration(seconds: float) -> str:
    """A duration for people: 41ms, 9.8s, 6m, 3.2h."""
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 120:
        return f"{seconds:.1f}s"
    if seconds < 7200:
        return f"{seconds / 60:.0f}m"
    return f"{seconds / 3600:.1f}h"


def size(size_bytes: int) -> str:
    """A size for people, in binary units: 512B, 3.1GiB."""
    value = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{value:.0f}{unit}" if unit == "B" else f"{value:.1f}{unit}"
