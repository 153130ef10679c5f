"""The versions of a framework with which exact resume was checked."""

from __future__ import annotations

from collections.abc import Sequence

from resumable.utils.events import warn


def warn_of_unchecked(framework: str, version: str, checked: Sequence[str]) -> None:
    """Log a warning where `version` begins with none of the versions in `checked`."""
    if not f"{version}.".startswith(tuple(f"{each}." for each in checked)):
        warn(
            f"{framework} {version}: exact resume was checked with {', '.join(checked)}; "
            "compare a resumed run with an uninterrupted one before you rely on it (`resumable drill`)"
        )
