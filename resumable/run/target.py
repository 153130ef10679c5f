"""Parse `RUN@SELECTOR`, and suggest a correction for a misspelt selector. Opens nothing."""

from __future__ import annotations

import re

from resumable.utils.location import location
from resumable.utils.messages import quoted

_TARGET = re.compile(r"(?P<url>.+?)(?:@(?P<selector>latest|best|finite|\d+|step-[0-9.ea]+))?", re.DOTALL)


def parse_target(text: str) -> tuple[str, str | None]:
    """Split `RUN[@latest|@best|@finite|@STEP]` into the run's URL and the selector."""
    match = _TARGET.fullmatch(text)
    assert match is not None or not text
    return (match["url"], match["selector"]) if match else (text, None)


def selector_slip(target: str) -> str | None:
    """Return a hint where `target` ends in an unknown selector; None where it ends in none."""
    url, _, selector = location(target).rpartition("@")
    path = url.partition("://")[2] if "://" in url else url
    if not url or "/" in selector or ("://" in url and "/" not in path) or parse_target(target)[1] is not None:
        return None
    return f"unknown selector {quoted(repr(selector))}: write @latest, @best, @finite, @STEP or @step-NAME"
