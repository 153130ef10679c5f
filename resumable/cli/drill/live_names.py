"""Compare the live names of two loops, as their last checkpoints note them. Pure; independent of how they are found.

A note maps each name to what is known of its value: its type, and its value or the digest of it. Names whose value is
that of a clock or a handle differ in any two launches: they are left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from resumable.cli.checkpoint_diff import CheckpointDifference

NOTE = "names"  # the key of the notes of a checkpoint
VOLATILE = frozenset({"clock", "handle"})
ABSENT = "absent"


def name_differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[CheckpointDifference]:
    """Return the live names that differ in the notes of two checkpoints."""
    one, other = dict(_live(a.get(NOTE))), dict(_live(b.get(NOTE)))
    if not one or not other:
        return []  # one of the two was looked at in another way
    return [
        CheckpointDifference(f"variable {name}, at the end", _text(one.get(name)), _text(other.get(name)))
        for name in dict.fromkeys([*one, *other])
        if one.get(name) != other.get(name)
    ]


def _live(noted: object) -> Iterator[tuple[str, object]]:
    if not isinstance(noted, Mapping):
        return
    for name, fact in noted.items():
        if not isinstance(fact, Mapping) or not VOLATILE.intersection(map(str, fact.values())):
            yield str(name), fact


def _text(fact: object) -> str:
    if fact is None:
        return ABSENT
    if isinstance(fact, Mapping) and "value" in fact:
        return str(fact["value"])
    return json.dumps(fact, default=str)[:200]
