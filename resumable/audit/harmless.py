"""Advice may fail, training may not: what the audit raises is logged at DEBUG, and goes no further."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from resumable.utils.events import log


@contextmanager
def harmless(what: str) -> Iterator[None]:
    """Swallow any exception. The line has its text alone: a traceback would keep frames alive."""
    try:
        yield
    except Exception as error:
        log.debug("audit   %s failed: %s: %s", what, type(error).__name__, error)
