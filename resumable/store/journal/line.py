"""From the records of all attempts to one curve: those on the line, each place once, thinned. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from resumable.store.journal.records import MetricsRecord, OpenRecord, Place, Record, Summary
from resumable.store.layout import CheckpointName

MAX_ROWS = 50_000

Stretches = Mapping[int, tuple[Place, Place]]
"""By attempt on the line: the place behind which it begins, and the last one that belongs to the line."""

_BEGINNING: Place = (-1, -1)
_END: Place = (2**63, 2**63)


def stretches(lineage: Sequence[tuple[int, str | None]], records: Iterable[Record] = ()) -> Stretches:
    """Return the stretch of each attempt on the line to the newest one.

    `lineage` is that of the newest checkpoint. A newer attempt that has logged something goes on with the line if it
    resumed from a checkpoint of it.
    """
    opened = {record.attempt: record.resumed_from for record in records if isinstance(record, OpenRecord)}
    whole = [*lineage]
    for attempt in sorted(opened, reverse=True):
        newest = whole[-1][0] if whole else 0
        parent = CheckpointName.parse(opened[attempt] or "")
        line = {number for number, _ in whole}
        if attempt > newest and (parent.attempt in line if parent else not whole):
            whole = [*(each for each in whole if parent and each[0] <= parent.attempt), (attempt, opened[attempt])]
            break
    ends = [_place(resumed_from) for _, resumed_from in whole[1:]]
    begins = [_place(resumed_from) for _, resumed_from in whole]
    return {
        number: (begin or _BEGINNING, end or _END)
        for (number, _), begin, end in zip(whole, begins, [*ends, _END], strict=True)
    }


def on_line(records: Iterable[Record], line: Stretches) -> list[MetricsRecord]:
    """Return the records of metrics on the line, oldest first, each place once. Of repeated ones the last counts."""
    rows: dict[str, dict[Place, MetricsRecord]] = {"step": {}, "epoch": {}}
    for record in records:
        if isinstance(record, MetricsRecord) and record.attempt in line:
            after, last = line[record.attempt]
            if after < record.place <= last:
                before = rows[record.kind].get(record.place)
                if before is None or record.count >= before.count:
                    rows[record.kind][record.place] = record
    merged = [row for kind in rows.values() for row in _uncovered(kind.values())]
    return sorted(merged, key=lambda row: (row.place, row.kind == "epoch"))


def thinned(rows: Sequence[MetricsRecord], *, most: int, until: Place = _END) -> list[MetricsRecord]:
    """Return the rows, those up to `until` as at most `most` rows, by summaries of neighbors."""
    old = [row for row in rows if row.place <= until]
    size = math.ceil(len(old) / (most - 2)) if len(old) > most else 1
    result: list[MetricsRecord] = []
    for kind in ("step", "epoch"):
        group = [row for row in old if row.kind == kind]
        result += [_summarized(group[start : start + size]) for start in range(0, len(group), size)]
    result += [row for row in rows if row.place > until]
    return sorted(result, key=lambda row: (row.place, row.kind == "epoch"))


def _place(name: str | None) -> Place | None:
    parsed = CheckpointName.parse(name) if name else None
    return parsed.place if parsed else None


def _uncovered(rows: Iterable[MetricsRecord]) -> Iterator[MetricsRecord]:
    """Yield the rows without those that a summary stands for, as a crash leaves both."""
    covered = _BEGINNING
    for row in sorted(rows, key=lambda row: (row.first, -row.count)):
        if row.first > covered:
            covered = row.place
            yield row


def _summarized(rows: Sequence[MetricsRecord]) -> MetricsRecord:
    last = rows[-1]
    if len(rows) == 1:
        return last
    names = dict.fromkeys(name for row in rows for name in row.metrics)
    latest = {name: next(row.metrics[name] for row in reversed(rows) if name in row.metrics) for name in names}
    return MetricsRecord(
        attempt=last.attempt,
        kind=last.kind,
        place=last.place,
        metrics=dict(list(latest.items())[:64]),
        first=rows[0].first,
        count=sum(row.count for row in rows),
        summaries={name: _summary([row for row in rows if name in row.metrics], name) for name in latest},
    )


def _summary(rows: Sequence[MetricsRecord], name: str) -> Summary:
    each = [row.summaries[name] if row.summaries else (row.metrics[name],) * 3 for row in rows]
    counts = [row.count for row in rows]
    mean = sum(mean * count for (mean, _, _), count in zip(each, counts, strict=True)) / sum(counts)
    return mean, min(low for _, low, _ in each), max(high for _, _, high in each)
