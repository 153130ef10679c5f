"""What is repeated, what never is, and when it ends."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from itertools import permutations
from pathlib import Path

import pytest

from resumable.errors import ConfigError, StorageError
from resumable.store.storage.local import LocalStorage
from resumable.store.storage.protocol import storage_error
from resumable.store.storage.retry import FIRST_DELAY_SECONDS, LONGEST_DELAY_SECONDS, Outages, PatientStorage


class Clock:
    """Time that passes only by sleeping, and by `slow` calls."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.delays: list[float] = []

    def __call__(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.delays.append(seconds)
        self.seconds += seconds


class Failing(LocalStorage):
    """A folder whose next calls fail, each after `seconds` of a clock."""

    patience_seconds = 60.0

    def __init__(self, root: Path, clock: Clock) -> None:
        super().__init__(root)
        self.clock = clock
        self.failures: list[OSError] = []
        self.calls = 0
        self.slowness_seconds = 0.0

    def read(self, path: str, *, max_bytes: int | None = None) -> bytes:
        self._fail(path)
        return super().read(path, max_bytes=max_bytes)

    def create(self, path: str, data: bytes) -> None:
        super().create(path, data)
        self._fail(path)

    def _fail(self, path: str) -> None:
        self.calls += 1
        if self.failures:
            self.clock.seconds += self.slowness_seconds
            failure = self.failures.pop()
            raise storage_error("read", path, failure) from failure


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def failing(tmp_path: Path, clock: Clock) -> Failing:
    storage = Failing(tmp_path, clock)
    LocalStorage(tmp_path).write("f", [b"data"])
    return storage


@pytest.fixture
def patient(failing: Failing, clock: Clock) -> PatientStorage:
    return PatientStorage(failing, clock=clock, sleep=clock.sleep)


def away() -> OSError:
    return OSError(errno.EIO, os.strerror(errno.EIO))


def test_what_fails_for_a_while_is_repeated(failing: Failing, patient: PatientStorage, clock: Clock) -> None:
    failing.failures = [away() for _ in range(5)]
    assert patient.read("f") == b"data"
    assert failing.calls == 6
    assert all(delay <= FIRST_DELAY_SECONDS * 2**tries for tries, delay in enumerate(clock.delays))


def test_delays_grow_and_differ_from_job_to_job(failing: Failing, clock: Clock) -> None:
    waits = []
    for _ in range(2):
        clock.delays.clear()
        failing.failures = [away() for _ in range(12)]
        patient = PatientStorage(failing, clock=clock, sleep=clock.sleep)
        patient.read("f")
        waits.append(list(clock.delays))
    assert waits[0] != waits[1]
    assert max(waits[0] + waits[1]) <= LONGEST_DELAY_SECONDS
    assert max(waits[0] + waits[1]) > FIRST_DELAY_SECONDS * 4


@pytest.mark.parametrize("mistake", [TypeError("no option of this name"), ValueError("Invalid endpoint")])
def test_a_mistake_that_a_client_makes_of_its_options_is_told_at_once(
    failing: Failing, patient: PatientStorage, clock: Clock, mistake: Exception
) -> None:
    failing.failures = [mistake]  # type: ignore[list-item]
    with pytest.raises(ConfigError, match=str(mistake)) as caught:
        patient.read("f")
    assert (failing.calls, clock.seconds) == (1, 0.0)
    assert "`storage_options`" in str(caught.value.hint)


def test_a_client_that_has_answered_was_given_the_right_options(failing: Failing, patient: PatientStorage) -> None:
    assert patient.read("f") == b"data"
    failing.failures = [TypeError("'NoneType' object is not subscriptable")]  # type: ignore[list-item]
    assert patient.read("f") == b"data"
    assert failing.calls == 3


def test_failing_ends_with_the_budget_and_tells_the_last_failure(
    failing: Failing, patient: PatientStorage, clock: Clock
) -> None:
    failing.failures = [away() for _ in range(10_000)]
    with pytest.raises(StorageError, match="Input/output error"):
        patient.read("f")
    assert clock.seconds <= 60.0
    assert failing.calls > 5


def test_slow_failures_use_the_budget_up_too(failing: Failing, patient: PatientStorage) -> None:
    failing.slowness_seconds = 25.0
    failing.failures = [away() for _ in range(100)]
    with pytest.raises(StorageError):
        patient.read("f")
    assert failing.calls == 3


def test_one_budget_is_shared_by_all_calls_until_it_is_renewed(failing: Failing, patient: PatientStorage) -> None:
    failing.slowness_seconds = 40.0
    failing.failures = [away()]
    patient.read("f")
    failing.failures = [away(), away()]
    with pytest.raises(StorageError):
        patient.read("f")
    patient.renew()
    failing.failures = [away()]
    assert patient.read("f") == b"data"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.ELOOP])
def test_an_answer_that_asking_again_does_not_change_is_told_at_once(
    failing: Failing, patient: PatientStorage, number: int
) -> None:
    failing.failures = [OSError(number, os.strerror(number))]
    with pytest.raises(StorageError, match=os.strerror(number)):
        patient.read("f")
    assert failing.calls == 1


@pytest.mark.parametrize(
    ("call", "answer"),
    [
        (lambda storage: storage.read("missing"), FileNotFoundError),
        (lambda storage: storage.read("f", max_bytes=1), ValueError),
        (lambda storage: storage.create("f", b"other"), FileExistsError),
    ],
)
def test_answers_pass_as_they_are(
    failing: Failing, patient: PatientStorage, call: Callable[[PatientStorage], object], answer: type[Exception]
) -> None:
    with pytest.raises(answer):
        call(patient)
    assert failing.calls <= 1


def test_a_create_whose_answer_was_lost_is_not_refused_because_of_itself(
    failing: Failing, patient: PatientStorage
) -> None:
    failing.failures = [away()]
    patient.create("attempts/000001.json", b"token of mine")
    assert failing.calls == 2
    assert patient.read("attempts/000001.json") == b"token of mine"


def test_the_random_streams_of_the_training_are_left_alone(failing: Failing, patient: PatientStorage) -> None:
    import random

    before = random.getstate()
    failing.failures = [away() for _ in range(3)]
    patient.read("f")
    assert random.getstate() == before


def test_who_waits_is_told_once_for_what(
    failing: Failing, patient: PatientStorage, caplog: pytest.LogCaptureFixture
) -> None:
    failing.failures = [away() for _ in range(5)]
    patient.read("f")
    failing.failures = [away()]
    patient.read("f")
    [told] = [record.getMessage() for record in caplog.records]
    assert told.endswith("cannot read f: Input/output error; retrying, for up to 60.0s of failing")


# -- several threads --------------------------------------------------------------------------------------------------


def test_a_second_counts_once_however_many_fail_in_it_and_in_whatever_order_they_end() -> None:
    spans = [(0.0, 10.0), (8.0, 9.0), (9.5, 12.0), (20.0, 21.0), (12.0, 13.0)]
    for order in permutations(spans):
        outages = Outages()
        for start, stop in order:
            outages.cover(start, stop)
        assert outages.seconds == 14.0


THREADS = 8


class FailingTogether(Failing):
    """Fails the first call of each of several threads, which all begin before any of them ends."""

    def __init__(self, root: Path, clock: Clock) -> None:
        super().__init__(root, clock)
        self._together = threading.Barrier(THREADS, action=self._pass)
        self._thread = threading.local()

    def _pass(self) -> None:
        self.clock.seconds += self.slowness_seconds

    def _fail(self, path: str) -> None:
        if not hasattr(self._thread, "failed"):
            self._thread.failed = True
            self._together.wait(60)
            raise storage_error("read", path, away())


def read_at_once(patient: PatientStorage) -> list[object]:
    """What each of several threads got."""
    results: list[object] = []

    def read() -> None:
        try:
            results.append(patient.read("f"))
        except StorageError as error:
            results.append(error)

    threads = [threading.Thread(target=read, daemon=True) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results


def test_an_outage_that_several_threads_see_counts_once_and_is_told_once(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    failing = FailingTogether(tmp_path, clock)
    LocalStorage(tmp_path).write("f", [b"data"])
    failing.slowness_seconds = 50.0
    patient = PatientStorage(failing, clock=clock, sleep=lambda seconds: None)
    assert read_at_once(patient) == [b"data"] * THREADS
    assert len(caplog.records) == 1


def test_several_threads_give_up_together_when_the_budget_is_spent(tmp_path: Path, clock: Clock) -> None:
    failing = FailingTogether(tmp_path, clock)
    LocalStorage(tmp_path).write("f", [b"data"])
    failing.slowness_seconds = 61.0
    results = read_at_once(PatientStorage(failing, clock=clock, sleep=lambda seconds: None))
    assert [type(result) for result in results] == [StorageError] * THREADS
