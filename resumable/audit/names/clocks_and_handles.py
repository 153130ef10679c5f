"""Values that no resume needs: readings of a clock, and handles of files, loggers, bars and writers. Pure."""

from __future__ import annotations

import datetime
import io
import logging
import time
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType

_CLOCKS = (time.time, time.perf_counter, time.monotonic)
_BEGAN = {clock: clock() for clock in _CLOCKS}
_SLACK_SECONDS = 3600  # a parent's clock may have been read earlier; smaller readings look like losses
_NANOSECONDS = 10**12
_KINDS = (
    *(ModuleType, FunctionType, BuiltinFunctionType, MethodType, type),
    *(io.IOBase, logging.Logger, logging.LoggerAdapter, logging.Handler),
)
_TYPES = ("tqdm", "SummaryWriter", "Progress", "Logger", "Run", "Event", "Stream", "Pbar", "Live", "Console")
_OURS = "resumable"


def is_clock(value: object) -> bool:
    """Return whether this is a date, a duration, or a reading of a clock since this program began."""
    if isinstance(value, datetime.date | datetime.time | datetime.timedelta):
        return True
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    seconds = value / 1e9 if isinstance(value, int) and value > _NANOSECONDS else value
    if isinstance(seconds, int) or not seconds > _SLACK_SECONDS:
        return False
    return any(began - _SLACK_SECONDS <= seconds <= clock() for clock, began in _BEGAN.items())


def is_handle(value: object) -> bool:
    """Return whether this is a module, function, class, file, logger, bar or writer, or an object of this package."""
    kind = type(value)
    of_ours = kind.__module__.partition(".")[0] == _OURS
    return of_ours or isinstance(value, _KINDS) or any(name in kind.__name__ for name in _TYPES)
