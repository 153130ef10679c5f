"""Several things at once, one job beside the program, and their failures."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from resumable.utils.threads import Background, ahead, in_lanes


@pytest.mark.parametrize("lanes", [1, 2, 3, 8])
def test_results_come_in_the_order_of_what_they_are_of(lanes: int) -> None:
    assert in_lanes(lambda number: number * number, range(7), lanes) == [0, 1, 4, 9, 16, 25, 36]
    assert in_lanes(str, [], lanes) == []


def test_as_many_are_in_work_at_once_as_there_are_lanes() -> None:
    together = threading.Barrier(3)
    assert in_lanes(lambda _: together.wait(60) >= 0, range(6), 3) == [True] * 6


def test_one_lane_is_the_calling_thread() -> None:
    assert set(in_lanes(lambda _: threading.current_thread(), range(3), 1)) == {threading.current_thread()}


def test_the_first_failure_is_raised_when_the_others_have_ended_and_no_other_is_begun() -> None:
    both = threading.Barrier(2)
    first: list[threading.Thread] = []
    ended: list[int] = []

    def work(number: int) -> None:
        if number == 0:
            first.append(threading.current_thread())
        both.wait(60)
        if number == 0:
            raise SystemExit("of the first")  # whatever it is: none is lost
        first[0].join()
        ended.append(number)
        raise OSError("of a later one")

    with pytest.raises(SystemExit, match="of the first"):
        in_lanes(work, range(9), 2)
    assert ended == [1]


def test_a_job_runs_beside_the_program_and_its_end_can_be_waited_for() -> None:
    background = Background()
    go, done = threading.Event(), threading.Event()
    background.wait()
    background.submit(lambda: go.wait() and done.set())
    assert background.busy
    assert background.failure() is None
    with pytest.raises(RuntimeError, match="in flight"):
        background.submit(done.set)
    go.set()
    background.wait()
    assert done.is_set()
    assert not background.busy


def test_a_failure_waits_until_it_is_fetched_and_blocks_the_next_job() -> None:
    def fail() -> None:
        raise SystemExit(3)

    background = Background()
    background.submit(fail)
    background.wait()
    with pytest.raises(RuntimeError, match="never fetched"):
        background.submit(fail)
    assert isinstance(background.failure(), SystemExit)
    assert background.failure() is None
    background.submit(lambda: None)
    background.wait()


def test_the_next_item_is_produced_while_one_is_used() -> None:
    begun = [threading.Event() for _ in range(4)]

    def items() -> Iterator[int]:
        for number, event in enumerate(begun):
            event.set()
            yield number

    for number in ahead(items()):
        assert all(event.wait(60) for event in begun[: number + 2])
    assert number == 3
    assert list(ahead(iter([]))) == []


def test_a_failure_to_produce_an_item_is_raised_in_its_place() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("no more")

    produced = ahead(items())
    assert next(produced) == 1
    with pytest.raises(OSError, match="no more"):
        next(produced)


def test_an_abandoned_production_has_ended_when_the_iterator_is_closed() -> None:
    ended = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        ended.set()
        yield 2

    produced = ahead(items())
    next(produced)
    produced.close()  # type: ignore[attr-defined]
    assert ended.is_set(), "its memory may be reused now"
