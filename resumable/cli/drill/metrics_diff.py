"""Compare what two runs logged, step by step and epoch by epoch, bit by bit. Pure."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence

from resumable.cli.checkpoint_diff import CheckpointDifference
from resumable.cli.drill.of_time import is_of_time
from resumable.store.journal.records import MetricsRecord, Place

ABSENT = "not logged"

_Values = Mapping[Place, Mapping[str, float]]


def metrics_differences(a: Sequence[MetricsRecord], b: Sequence[MetricsRecord]) -> list[CheckpointDifference]:
    """Return the first place at which each metric differs, with both values, the earliest first.

    A place that one of the two holds only in a summary of several is not compared, and neither are metrics that by
    their names are measurements of time, or of memory.
    """
    found = []
    for kind in ("step", "epoch"):
        sides = _values(a, kind, b), _values(b, kind, a)
        for name in dict.fromkeys(name for side in sides for metrics in side.values() for name in metrics):
            if is_of_time(name):
                continue
            places = [*_differing(name, *sides)]
            if places:
                found.append((places[0], _difference(name, kind, places, *sides)))
    return [difference for _, difference in sorted(found, key=lambda each: each[0])]


def _values(records: Sequence[MetricsRecord], kind: str, other: Sequence[MetricsRecord]) -> _Values:
    summed = [(record.first, record.place) for record in (*records, *other) if record.kind == kind and record.count > 1]
    return {
        record.place: record.metrics
        for record in records
        if record.kind == kind and not any(first <= record.place <= last for first, last in summed)
    }


def _differing(name: str, a: _Values, b: _Values) -> Iterator[Place]:
    for place in sorted({*a, *b}):
        if _bits(a.get(place, {}).get(name)) != _bits(b.get(place, {}).get(name)):
            yield place


def _bits(value: float | None) -> bytes | None:
    if value is None or value != value:  # every NaN is equal here: the journal has one text for all
        return None if value is None else b"nan"
    return struct.pack("<d", value)


def _difference(name: str, kind: str, places: Sequence[Place], a: _Values, b: _Values) -> CheckpointDifference:
    step, epoch = first = places[0]
    where = f"at step {step}" if kind == "step" else f"at the end of epoch {epoch - 1}"
    more = f", and at {len(places) - 1} later ones" if len(places) > 1 else ""
    return CheckpointDifference(f"logged {name}, {where}{more}", _text(a, first, name), _text(b, first, name))


def _text(values: _Values, place: Place, name: str) -> str:
    value = values.get(place, {}).get(name)
    return ABSENT if value is None else repr(value)
