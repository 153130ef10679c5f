"""Which objects changed between two looks, by fingerprints. Holds nothing of the user's alive.

An object is recognized by a weak reference. Built-in containers have none, so of those only names count that the loop
does not bind: an object that is built anew in each turn may get the id of the one before.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from typing import NamedTuple

from resumable.audit.objects.candidates import Candidate
from resumable.audit.objects.findings import difference
from resumable.audit.objects.fingerprint import Fingerprint, Fingerprints
from resumable.audit.objects.kinds import is_holder, is_iterator
from resumable.audit.objects.uses import Evidence

MAX_SECONDS = 0.005  # of the thread's own time, in each look but the first


class Change(NamedTuple):
    """A candidate that differs from what it was at an earlier look."""

    candidate: Candidate
    text: str
    holds_parts: bool  # whether it is the object of a whole training


class _Seen(NamedTuple):
    reference: Callable[[], object] | None
    fingerprint: Fingerprint


class Changes:
    """The fingerprints of the last looks. A look that its clock ends goes on at the next one where it stopped."""

    def __init__(self, max_seconds: float = MAX_SECONDS) -> None:
        self._max_seconds = max_seconds
        self._seen: dict[int, _Seen] = {}
        self._done: set[int] = set()  # the objects of the sweep in progress that were looked at
        self.sweeps = 0  # how often all objects were looked at

    def look(self, candidates: Iterable[Candidate], given: Collection[int]) -> list[Change]:
        """Return the candidates that changed since they were looked at last."""
        fingerprints = Fingerprints(given)
        ends = time.thread_time() + self._max_seconds if self.sweeps else None
        found: list[Change] = []
        for each in candidates:
            if id(each.value) in self._done:
                continue
            self._done.add(id(each.value))
            with suppress(Exception):  # of one object that cannot be read: the others are looked at
                holds_parts = is_holder(each.value, given)
                text = self._difference(each, fingerprints.of(each.value), each.attributes if holds_parts else None)
                found += [Change(each, text, holds_parts)] if text is not None else []
            if ends is not None and time.thread_time() > ends:
                return found
        self._seen = {number: seen for number, seen in self._seen.items() if number in self._done}
        self._done.clear()
        self.sweeps += 1
        return found

    def _difference(self, each: Candidate, fingerprint: Fingerprint, only: Collection[str] | None) -> str | None:
        before = self._seen.get(id(each.value))
        try:
            reference = weakref.ref(each.value)
        except TypeError:
            reference = None
        self._seen[id(each.value)] = _Seen(reference, fingerprint)
        if before is None or not _is_same(before, each):
            return None
        if is_iterator(each.value):
            return "gave items" if each.evidence is Evidence.CHANGED else None
        return difference(before.fingerprint, fingerprint, only)


def _is_same(before: _Seen, now: Candidate) -> bool:
    return before.reference() is now.value if before.reference is not None else not now.is_rebound
