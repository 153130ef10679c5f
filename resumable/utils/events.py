"""Log one greppable line per event of a run, through `logging`. Independent of when events happen."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Mapping

from resumable.utils.messages import printable
from resumable.utils.other_bars import above_bars

log = logging.getLogger("resumable")
_unused = logging.getLogger("resumable.witness")  # logs nothing; see `_log`

_WARNINGS = {"WARN", "REJECT", "CHANGED"}
_OURS = "resumable"  # the name of our handler
# Each is about the whole run. Libraries and notebooks set the root logger to WARNING on their own.
_ALWAYS_SHOWN = {"NEW", "RESUME", "TAKEOVER", "DONE", "PREEMPT"}


def emit(event: str, /, *subject: str, **fields: object) -> None:
    """Log `EVENT subject key=value ...`; warnings at WARNING, the rest at INFO. Values with spaces are quoted.

    Events that must not be missed are logged at WARNING if INFO would be hidden.
    """
    _emit(_level(event), event, subject, fields)


def emit_aloud(event: str, /, *subject: str, **fields: object) -> None:
    """Log an event as `emit` does, but at WARNING, which Python shows in any script. For events usually at INFO."""
    _emit(logging.WARNING, event, subject, fields)


def _emit(level: int, event: str, subject: Iterable[str], fields: Mapping[str, object]) -> None:
    words = " ".join((*subject, *(f"{key}={_word(value)}" for key, value in fields.items() if value is not None)))
    _log(level, event, words)


def warn(message: str) -> None:
    """Log a sentence as one WARN line."""
    _log(logging.WARNING, "WARN", message)


def note(message: str) -> None:
    """Log a sentence as one NOTE line at INFO, which a program sees that asks for this level."""
    _log(logging.INFO, "NOTE", message)


def _log(level: int, event: str, words: str) -> None:
    if log.disabled and _unused.disabled:
        # `dictConfig` disables every logger that it does not name, which is hardly intended. A program that means this
        # one disables it alone.
        log.disabled = _unused.disabled = False
    log.log(level, "%-7s %s", event, words)


def show_events() -> None:
    """Print the lines on stderr until the program has a handler of its own for them."""
    for former in [handler for handler in log.handlers if handler.name == _OURS]:  # also from before a reload
        log.removeHandler(former)
    log.addHandler(_StderrHandler())


def _level(event: str) -> int:
    if event in _WARNINGS:
        return logging.WARNING
    return logging.WARNING if (event in _ALWAYS_SHOWN or _is_unconfigured()) and not _shows_info() else logging.INFO


def _shows_info() -> bool:
    """Return whether a line at INFO reaches any handler."""
    hidden = max(log.getEffectiveLevel(), log.manager.disable + 1) > logging.INFO
    return not hidden and any(handler.level <= logging.INFO for handler in _program_handlers() or log.handlers)


def _is_unconfigured() -> bool:
    """Return whether only our handler prints the lines and no level is set: then it prints all of them."""
    ours = any(handler.name == _OURS for handler in log.handlers)
    return ours and not _program_handlers() and log.level == logging.NOTSET and log.manager.disable < logging.INFO


def _program_handlers() -> list[logging.Handler]:
    """Return the program's own handlers that a line reaches, without ours."""
    found: list[logging.Handler] = []
    at: logging.Logger | None = log
    while at is not None:
        found += [handler for handler in at.handlers if handler.name != _OURS]
        at = at.parent if at.propagate else None
    return found


class _StderrHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """Write to the `sys.stderr` of the moment, so that progress bars can stay below the lines."""

    def __init__(self) -> None:
        super().__init__()
        self.name = _OURS
        self.setFormatter(logging.Formatter("resumable: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        if not _program_handlers():
            self.stream = sys.stderr
            with above_bars(sys.stderr):
                super().emit(record)


def _word(value: object) -> str:
    text = str(value)
    text = text if text.isprintable() else "".join(c if c == "\n" else printable(c) for c in text)
    return (
        text if text and not any(c in text for c in ' "\n') else '"' + text.replace('"', "'").replace("\n", " ") + '"'
    )


def duration(seconds: float) -> str:
    """Format a duration for people: 41ms, 9.8s, 6m, 3.2h."""
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 120:
        return f"{seconds:.1f}s"
    if seconds < 7200:
        return f"{seconds / 60:.0f}m"
    return f"{seconds / 3600:.1f}h"


def size(size_bytes: int) -> str:
    """Format a size for people, in binary units: 512B, 3.1GiB."""
    value = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{value:.0f}{unit}" if unit == "B" else f"{value:.1f}{unit}"
