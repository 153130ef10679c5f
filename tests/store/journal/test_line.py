"""From records of several attempts to one curve. Pure."""

from __future__ import annotations

import math

from resumable.store.journal.line import on_line, stretches, thinned
from resumable.store.journal.records import MetricsRecord, OpenRecord, Record

AT_4, AT_2 = "step-000000004.e0000.a0001", "step-000000002.e0000.a0002"


def step(attempt: int, number: int, loss: float = 0.0, epoch: int = 0) -> MetricsRecord:
    return MetricsRecord(attempt, "step", (number, epoch), {"loss": loss}, (number, epoch))


def curve(records: list[Record], lineage: list[tuple[int, str | None]]) -> list[tuple[int, int]]:
    return [(row.step, row.attempt) for row in on_line(records, stretches(lineage, records))]


def test_steps_that_ran_again_count_as_they_ran_last() -> None:
    records: list[Record] = [*(step(1, n) for n in range(1, 7)), *(step(2, n) for n in range(5, 9))]
    expected = [(n, 1) for n in range(1, 5)] + [(n, 2) for n in range(5, 9)]
    assert curve(records, [(1, None), (2, AT_4)]) == expected


def test_what_an_attempt_off_the_line_logged_is_left_out() -> None:
    records: list[Record] = [step(1, 4), step(2, 5), step(3, 5)]
    assert curve(records, [(1, None), (3, AT_4)]) == [(4, 1), (5, 3)]


def test_an_attempt_without_a_checkpoint_goes_on_with_the_line_that_it_resumed_from() -> None:
    opened = OpenRecord(2, AT_4)
    assert curve([step(1, 4), step(1, 6), opened, step(2, 5)], [(1, None)]) == [(4, 1), (5, 2)]
    other = OpenRecord(3, AT_2)  # of attempt 2, which is not on the line
    assert curve([step(1, 4), step(1, 6), other, step(3, 3)], [(1, None)]) == [(4, 1), (6, 1)]


def test_the_end_of_an_epoch_lies_behind_its_last_step_and_on_the_line_if_the_checkpoint_is_behind_it() -> None:
    end = MetricsRecord(1, "epoch", (4, 1), {"val": 1.0}, (4, 1))
    again = MetricsRecord(2, "epoch", (4, 1), {"val": 2.0}, (4, 1))
    before = [step(1, 4), end, again, step(2, 5, epoch=1)]
    assert [row.attempt for row in on_line(before, stretches([(1, None), (2, AT_4)]))] == [1, 2, 2]
    behind = "step-000000004.e0001.a0001"
    assert [row.attempt for row in on_line(before, stretches([(1, None), (2, behind)]))] == [1, 1, 2]


def test_old_rows_are_summed_up_and_the_newer_ones_stay() -> None:
    rows = [step(1, n, float(n)) for n in range(1, 1001)]
    thin = thinned(rows, most=100, until=(800, 0))
    assert thin[-200:] == rows[-200:]
    old = thin[:-200]
    assert 80 <= len(old) <= 100
    assert sum(row.count for row in old) == 800
    assert [row.first[0] for row in old] == [1, *(row.step + 1 for row in old[:-1])]
    first = old[0]
    assert first.summaries == {"loss": ((1 + first.count) / 2, 1.0, float(first.count))}
    again = thinned(thin, most=50)
    assert len(again) <= 50
    assert sum(row.count for row in again) == 1000
    assert math.isclose(sum(row.summaries["loss"][0] * row.count for row in again if row.summaries) / 1000, 500.5)


def test_a_summary_takes_the_place_of_the_rows_that_it_stands_for() -> None:
    rows = [step(1, n, float(n)) for n in range(1, 101)]
    thin = thinned(rows, most=20)
    left = thinned(rows, most=50)  # of an earlier rewriting, which a crash kept from being removed
    found = on_line([*rows[:30], *left, *thin], stretches([(1, None)]))
    assert found == thin
