"""Tell by its name whether a number is a measurement of time or memory, which differs in any two launches. Pure."""

from __future__ import annotations

import re

_OF_TIME = re.compile(
    r"(?:^|[_/. -])(?:\w*time|elapsed|secs?|seconds|ms|dt|latency|duration|throughput|memory|speed|fps|sps|timestamp)"
    r"(?:$|[_/. -])|per_sec|_per_s$",
    re.IGNORECASE,
)


def is_of_time(name: str) -> bool:
    """Return whether the name of a metric or a variable says so."""
    return _OF_TIME.search(name) is not None
