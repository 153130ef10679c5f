"""Where the value of `run` comes from, and where a drill puts it; knows no other key (pure, but for one variable)."""

from __future__ import annotations

import hashlib
import os
import re

DRILL = "RESUMABLE_DRILL"  # set by the drill, for which each run that the code names has a folder below RESUMABLE_RUN


class Origin:
    """The run that the code names, and the one that the environment puts in its place; None where there is none.

    All are equal: two configurations that say the same are the same.
    """

    def __init__(self, configured: str | None = None, moved_by: str | None = None) -> None:
        self.configured = configured
        self.moved_by = moved_by

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Origin)

    __hash__ = None  # type: ignore[assignment]

    def behind(self, before: str | None) -> Origin:
        """Look through a `Config` that was loaded before, when its code named the run `before`.

        Its own run is what the environment said then, unless somebody changed it since.
        """
        earlier = Origin(before, self.moved_by)
        return earlier if self.moved_by is not None and self.configured in (self.moved_by, placed(earlier)) else self


def text_of(run: object) -> str | None:
    """Return a run as far as it can be one; what cannot is refused with everything else that is wrong."""
    run = os.fspath(run) if isinstance(run, os.PathLike) else run
    return os.path.expanduser(run) if isinstance(run, str) and run.strip() else None


def placed(origin: Origin) -> str | None:
    """Return where the environment puts the run; in a drill each that the code names has a folder of its own."""
    if origin.moved_by is None or not os.environ.get(DRILL):
        return origin.moved_by
    return f"{origin.moved_by}/{_folder(origin.configured)}"


def _folder(run: str | None) -> str:
    if run is None:
        return "run"
    whole = run if "://" in run else os.path.realpath(run)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", whole.rstrip("/").rpartition("/")[2])[:40].strip(".-")
    return f"{name or 'run'}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"
