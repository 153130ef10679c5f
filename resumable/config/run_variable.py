"""Resolve `run` between the code and the environment variable `RESUMABLE_RUN`, also in a drill."""

from __future__ import annotations

import hashlib
import os
import re

DRILL = "RESUMABLE_DRILL"  # set by the drill: each run of the code then has its own folder below RESUMABLE_RUN


class Origin:
    """The run that the code names, and the one that the environment puts in its place; either may be None.

    All origins compare equal: two configurations with equal values are equal, wherever the values come from.
    """

    def __init__(self, configured: str | None = None, moved_by: str | None = None) -> None:
        self.configured = configured
        self.moved_by = moved_by

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Origin)

    __hash__ = None  # type: ignore[assignment]

    def behind(self, before: str | None) -> Origin:
        """Return the origin of a `Config` that is loaded again, given the run `before` that its code named first.

        The value of such a `Config` came from the environment, unless it was changed since.
        """
        earlier = Origin(before, self.moved_by)
        return earlier if self.moved_by is not None and self.configured in (self.moved_by, placed(earlier)) else self


def text_of(run: object) -> str | None:
    """Return `run` as text with `~` expanded, or None for an invalid value: validation reports that later."""
    run = os.fspath(run) if isinstance(run, os.PathLike) else run
    return os.path.expanduser(run) if isinstance(run, str) and run.strip() else None


def placed(origin: Origin) -> str | None:
    """Return the run that the environment chooses; in a drill, one folder for each run that the code names."""
    if origin.moved_by is None or not os.environ.get(DRILL):
        return origin.moved_by
    return f"{origin.moved_by}/{_folder(origin.configured)}"


def _folder(run: str | None) -> str:
    if run is None:
        return "run"
    whole = run if "://" in run else os.path.realpath(run)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", whole.rstrip("/").rpartition("/")[2])[:40].strip(".-")
    return f"{name or 'run'}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"
