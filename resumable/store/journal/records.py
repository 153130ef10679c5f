"""One record of a journal, as a line of bytes and back. Pure; a line comes from anybody, and is bounded."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

from resumable.store.layout import MAX_NUMBER
from resumable.utils import strict_json

MAX_LINE_BYTES = 4096
MAX_METRICS = 64
MAX_LINES = 1_000_000  # that are read of one run
_MAX_DEPTH, _MAX_ITEMS = 4, 2048
_CHECKSUM_BYTES = len(b',"c":"01234567"}')
_NON_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}

Place = tuple[int, int]
"""(step, epoch) completed: where in a run a record or a checkpoint is."""

Summary = tuple[float, float, float]
"""The mean, the minimum and the maximum of one metric over several records."""


@dataclass(frozen=True, slots=True)
class MetricsRecord:
    """The metrics of one step, those at the end of one epoch, or a summary of several of either kind.

    A summary stands for the records from `first` on, and `metrics` are the last values. Otherwise `first` is `place`.
    """

    attempt: int
    kind: Literal["step", "epoch"]
    place: Place
    metrics: Mapping[str, float]
    first: Place
    count: int = 1
    summaries: Mapping[str, Summary] | None = None

    @property
    def step(self) -> int:
        """Steps completed in the whole run."""
        return self.place[0]

    @property
    def epoch(self) -> int:
        """Epochs completed."""
        return self.place[1]


@dataclass(frozen=True, slots=True)
class OpenRecord:
    """The first record of an attempt: the name of the checkpoint from which it resumed; None for a new run."""

    attempt: int
    resumed_from: str | None


Record = MetricsRecord | OpenRecord


def encode(record: Mapping[str, object]) -> bytes:
    """Return the line of a record; `ValueError` if it is longer than a line may be."""
    body = json.dumps(record, allow_nan=False, separators=(",", ":")).encode()
    line = b'%s,"c":"%08x"}\n' % (body[:-1], zlib.crc32(body))
    if len(line) > MAX_LINE_BYTES:
        raise ValueError(f"{len(line)} bytes in one line, more than the {MAX_LINE_BYTES} allowed")
    return line


def metrics_line(kind: str, place: Place, seconds: float, metrics: Mapping[str, float]) -> tuple[bytes, int]:
    """Return the line for the metrics at a place, and how many of them it holds: the first ones, as many as fit."""
    kept = dict(islice(metrics.items(), MAX_METRICS))
    head = {"k": kind, "s": place[0], "e": place[1], "u": round(seconds, 3)}
    while True:
        try:
            return encode({**head, "m": {name: as_json(value) for name, value in kept.items()}}), len(kept)
        except ValueError:
            kept = dict(islice(kept.items(), len(kept) // 2))


def lines_of(record: Record) -> Iterator[bytes]:
    """Yield the line of a record that was read, for a file with records of several attempts; none if it is too long."""
    try:
        yield encode(_document(record))
    except ValueError:
        return


def as_json(value: float) -> float | str:
    """Return a number, or the text that stands for one that is not finite."""
    return value if math.isfinite(value) else str(value)


def decode(line: bytes, attempt: int) -> Record | None:
    """Return the record of a line in a file of `attempt`; None if it is torn, damaged, or of an unknown kind."""
    try:
        return _parsed(_checked(line), attempt)
    except (ValueError, KeyError, TypeError):
        return None


def decode_all(data: bytes, attempt: int, *, most: int = MAX_LINES) -> Iterator[Record | None]:
    """Yield what `decode` returns for each line of a file, of at most `most` lines."""
    start = 0
    for _ in range(most):
        if start >= len(data):
            return
        end = data.find(b"\n", start)
        stop = len(data) if end < 0 else end
        yield decode(data[start:stop], attempt) if stop - start <= MAX_LINE_BYTES else None
        start = stop + 1


def _checked(line: bytes) -> dict[str, Any]:
    head, tail = line[:-_CHECKSUM_BYTES], line[-_CHECKSUM_BYTES:]
    if not tail.startswith(b',"c":"') or not tail.endswith(b'"}') or int(tail[6:14], 16) != zlib.crc32(head + b"}"):
        raise ValueError("torn or damaged")
    found = strict_json.loads(head + b"}", max_bytes=MAX_LINE_BYTES, max_depth=_MAX_DEPTH, max_items=_MAX_ITEMS)
    if not isinstance(found, dict):
        raise ValueError("no object")
    return found


def _parsed(found: dict[str, Any], attempt: int) -> Record | None:
    kind, attempt = found["k"], _number(found.get("a", attempt))
    if kind == "open":
        resumed_from = found["from"]
        return OpenRecord(attempt, resumed_from) if resumed_from is None or isinstance(resumed_from, str) else None
    if kind not in ("step", "epoch"):
        return None
    place = _number(found["s"]), _number(found["e"])
    if not isinstance(found["m"], dict) or len(found["m"]) > MAX_METRICS:
        raise ValueError("no metrics, or too many")
    metrics = {name: _value(value) for name, value in found["m"].items()}
    if "n" not in found:
        return MetricsRecord(attempt, kind, place, metrics, place)
    first, count = (_number(found["f"][0]), _number(found["f"][1])), _number(found["n"])
    summaries = {name: _summary(found["z"][name]) for name in metrics}
    if first > place or count < 2:
        raise ValueError("no summary of several records")
    return MetricsRecord(attempt, kind, place, metrics, first, count, summaries)


def _document(record: Record) -> dict[str, object]:
    if isinstance(record, OpenRecord):
        return {"k": "open", "v": 1, "a": record.attempt, "from": record.resumed_from}
    step, epoch = record.place
    metrics = {name: as_json(value) for name, value in record.metrics.items()}
    document: dict[str, object] = {"k": record.kind, "a": record.attempt, "s": step, "e": epoch, "m": metrics}
    if record.summaries is not None:
        document |= {"f": record.first, "n": record.count}
        document["z"] = {name: [as_json(value) for value in each] for name, each in record.summaries.items()}
    return document


def _number(value: object) -> int:
    if type(value) is not int or not 0 <= value <= MAX_NUMBER:
        raise ValueError("no number of steps, epochs, attempts or records")
    return value


def _value(value: object) -> float:
    if isinstance(value, str):
        return _NON_FINITE[value]
    if type(value) not in (int, float):
        raise ValueError("no number")
    return float(value)  # type: ignore[arg-type]


def _summary(values: list[object]) -> Summary:
    mean, low, high = map(_value, values)
    return mean, low, high
