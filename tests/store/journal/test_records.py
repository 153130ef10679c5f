"""Lines of a journal: what is written is read, and what is torn, damaged or hostile is no record."""

from __future__ import annotations

import json
import math
import zlib

import pytest

from resumable.store.journal.records import (
    MAX_LINE_BYTES,
    MAX_METRICS,
    MetricsRecord,
    OpenRecord,
    decode,
    decode_all,
    encode,
    lines_of,
    metrics_line,
)

STEPS = [metrics_line("step", (step, step // 10), 0.1 * step, {"loss": 1 / (step + 1)})[0] for step in range(50)]


def records(data: bytes) -> list[MetricsRecord]:
    return [record for record in decode_all(data, 3) if isinstance(record, MetricsRecord)]


def test_what_is_written_is_read_bit_for_bit() -> None:
    metrics = {"loss": 0.1 + 0.2, "a/b": -0.0, "nan": math.nan, "up": math.inf, "down": -math.inf, "tiny": 5e-324}
    line, kept = metrics_line("epoch", (7, 2), 1.5, metrics)
    found = decode(line[:-1], 3)
    assert isinstance(found, MetricsRecord)
    assert (found.kind, found.place, found.attempt, kept) == ("epoch", (7, 2), 3, 6)
    assert repr(dict(found.metrics)) == repr(metrics)
    assert decode(encode({"k": "open", "v": 1, "a": 3, "from": "step-x"})[:-1], 9) == OpenRecord(3, "step-x")


def test_a_file_that_is_cut_anywhere_has_only_the_records_before() -> None:
    data, good = b"".join(STEPS), records(b"".join(STEPS))
    assert len(good) == len(STEPS)
    for cut in range(len(data) - 200, len(data)):
        found = records(data[:cut])
        assert found == good[: len(found)]
        assert len(found) >= len(STEPS) - 3
        behind = records(data[:cut] + b"\0" * 64 + b"\n" + STEPS[0])  # a file that grew, and whose bytes never came
        assert behind[-1] == good[0]
        assert behind[:-1] == good[: len(behind) - 1]
        assert len(behind) >= len(found)


def test_a_bit_that_flips_makes_no_false_record() -> None:
    data, good = b"".join(STEPS), records(b"".join(STEPS))
    for bit in range(0, len(data) * 8, 7):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        found = records(bytes(damaged))
        assert all(record in good for record in found), bit
        assert len(found) >= len(STEPS) - 2


def test_a_line_holds_the_first_metrics_and_is_bounded() -> None:
    line, kept = metrics_line("step", (1, 0), 0.0, {f"m{i}": 0.5 for i in range(100)})
    assert kept == MAX_METRICS
    assert len(line) <= MAX_LINE_BYTES
    line, kept = metrics_line("step", (1, 0), 0.0, {"x" * 100 + str(i): 1 / 3 for i in range(64)})
    assert 0 < kept < 64
    assert len(line) <= MAX_LINE_BYTES
    line, kept = metrics_line("step", (1, 0), 0.0, {"x" * 5000: 1.0})
    assert kept == 0
    assert isinstance(decode(line[:-1], 1), MetricsRecord)


def sealed(body: bytes) -> bytes:
    return b'%s,"c":"%08x"}' % (body[:-1], zlib.crc32(body))


@pytest.mark.parametrize(
    "body",
    [
        b'{"k":"step","s":1,"e":0,"m":{"loss":true}}',
        b'{"k":"step","s":1,"e":0,"m":{"loss":"huge"}}',
        b'{"k":"step","s":1,"e":0,"m":{"loss":1e999}}',
        b'{"k":"step","s":1,"e":0,"m":{"loss":1,"loss":2}}',
        b'{"k":"step","s":-1,"e":0,"m":{}}',
        b'{"k":"step","s":1.0,"e":0,"m":{}}',
        b'{"k":"step","s":1' + b"0" * 30 + b',"e":0,"m":{}}',
        b'{"k":"step","s":1,"m":{}}',
        b'{"k":"step","s":1,"e":0,"m":[]}',
        b'{"k":"step","s":2,"e":0,"m":{"x":1},"n":3,"f":[4,0],"z":{"x":[1,1,1]}}',
        b'{"k":"step","s":2,"e":0,"m":{"x":1},"n":3,"f":[1,0],"z":{}}',
        b'{"k":"open","from":7}',
        b'{"k":"later","what":1}',
        b'{"k":"step","s":1,"e":0,"m":' + b"[" * 2000 + b"]" * 2000 + b"}",
        b'{"k":["step"],"s":1,"e":0,"m":{}}',
        b'[{"k":"step"}]',
    ],
)
def test_a_line_of_another_kind_is_no_record(body: bytes) -> None:
    assert decode(sealed(body), 1) is None


def test_keys_that_a_later_version_adds_are_ignored() -> None:
    found = decode(sealed(b'{"k":"step","s":1,"e":0,"u":2.0,"m":{"loss":1},"w":"00ff","o":["x"]}'), 1)
    assert isinstance(found, MetricsRecord)
    assert found.metrics == {"loss": 1.0}


def test_a_hostile_file_takes_no_more_lines_than_it_may() -> None:
    assert len(list(decode_all(b"\n" * 10_000, 1, most=100))) == 100
    assert list(decode_all(b"x" * 100_000, 1)) == [None]


def test_a_summary_is_read_as_it_was_written() -> None:
    record = MetricsRecord(2, "step", (9, 1), {"loss": 0.5}, (4, 0), 6, {"loss": (0.25, -1.0, math.inf)})
    [line] = lines_of(record)
    assert decode(line[:-1], 7) == record
    assert json.loads(line)["k"] == "step"
