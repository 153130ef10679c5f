"""Parse `RUN@SELECTOR` and the path of a checkpoint's folder, and name a misspelt selector. Opens nothing."""

from __future__ import annotations

import re

from resumable.errors import NoCheckpointError
from resumable.store.layout import CHECKPOINTS, CheckpointName
from resumable.utils.location import location
from resumable.utils.messages import quoted

_TARGET = re.compile(r"(?P<url>.+?)(?:@(?P<selector>latest|best|finite|\d+|step-[0-9.ea]+))?", re.DOTALL)


def parse_target(text: str) -> tuple[str, str | None]:
    """Split `RUN[@latest|@best|@finite|@STEP]` into the run's URL and the selector."""
    match = _TARGET.fullmatch(text)
    assert match is not None or not text
    return (match["url"], match["selector"]) if match else (text, None)


def parse_target_or_folder(text: str) -> tuple[str, str | None]:
    """Split as `parse_target`; `RUN/checkpoints/step-NAME`, a checkpoint's folder, is split as `RUN@step-NAME`."""
    run, _, folder = text.rstrip("/").rpartition(f"/{CHECKPOINTS}/")
    return (run, folder) if run and CheckpointName.parse(folder) else parse_target(text)


def unknown_selector(target: str) -> NoCheckpointError | None:
    """Return the error for a `target` without a file that ends in an unknown selector; None where it ends in none."""
    url, _, selector = location(target).rpartition("@")
    path = url.partition("://")[2] if "://" in url else url
    if not url or "/" in selector or ("://" in url and "/" not in path) or parse_target(target)[1] is not None:
        return None
    return NoCheckpointError(
        f"{location(target)}: unknown selector {quoted(repr(selector))}, and no folder of this name",
        "write @latest, @best, @finite, @STEP or @step-NAME",
    )
