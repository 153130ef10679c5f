"""Compare the live names of two loops, as their last checkpoints note them. Pure; independent of how they are found.

A note has, for each function that drives the loop, the facts of each name: the type of its value, and the value or a
digest of it. Clocks and handles are in no note. What has neither value nor digest is not compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from resumable.cli.checkpoint_diff import CheckpointDifference
from resumable.cli.drill.of_time import is_of_time

NOTE = "live_names"  # the key of the notes of a checkpoint
ABSENT = "absent"

_Facts = Mapping[str, Any]
_Name = tuple[str, str]


def name_differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[CheckpointDifference]:
    """Return the names that differ in the notes of two checkpoints, but for those that are times by their names."""
    one, other = dict(_names(a)), dict(_names(b))
    if not one or not other:
        return []  # one of the two was not looked at
    return [
        CheckpointDifference(_where(name), _text(one.get(name)), _text(other.get(name)))
        for name in dict.fromkeys([*one, *other])
        if _differs(one.get(name), other.get(name)) and not is_of_time(name[1])
    ]


def _names(notes: Mapping[str, Any]) -> Iterator[tuple[_Name, _Facts]]:
    for function, names in _mapping(notes.get(NOTE)).items():
        for name, facts in _mapping(names).items():
            yield (str(function), str(name)), _mapping(facts)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _differs(one: _Facts | None, other: _Facts | None) -> bool:
    if one is None or other is None:
        return one is not other
    return one != other and _is_known(one) and _is_known(other)


def _is_known(facts: _Facts) -> bool:
    return "value" in facts or "digest" in facts or facts.get("type") == "unbound"


def _where(name: _Name) -> str:
    function, variable = name
    return (
        f"variable {variable}, at the end"
        if function == "<module>"
        else f"variable {variable} of {function}, at the end"
    )


def _text(facts: _Facts | None) -> str:
    if facts is None:
        return ABSENT
    if "value" in facts:
        return str(facts["value"])
    return f"{facts.get('type')} {str(facts.get('digest', ''))[:8]}".rstrip()
