"""The target of a command: `RUN@SELECTOR`, and what to correct in one that is misspelt. Opens nothing."""

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
    """What to write where `target` ends as if in a selector and is none; None where it does not."""
    url, _, selector = location(target).rpartition("@")
    path = url.partition("://")[2] if "://" in url else url
    if not url or "/" in selector or ("://" in url and "/" not in path) or parse_target(target)[1] is not None:
        return None
    return f"unknown selector {quoted(repr(selector))}: write @latest, @best, @finite, @STEP or @step-NAME"
