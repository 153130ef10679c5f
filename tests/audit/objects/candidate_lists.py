"""Candidates that change from one look to the next; knows no test."""

from __future__ import annotations

from collections.abc import Callable

from resumable.audit.objects.candidates import Candidate
from resumable.audit.objects.uses import Evidence


def changing_lists(count: int) -> Callable[[], list[Candidate]]:
    """Return what appends to lists, and returns them as candidates."""
    values: list[list[int]] = [[] for _ in range(count)]

    def candidates() -> list[Candidate]:
        for value in values:
            value.append(1)
        return [
            Candidate(f"list{number}", value, Evidence.CHANGED, set(), set(), set(), False, False, False)
            for number, value in enumerate(values)
        ]

    return candidates
