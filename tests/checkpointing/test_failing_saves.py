"""A disk that is slow, full or closed: what is told, what is tried again, and what ends the training."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

import resumable.checkpointing.checkpointer
from resumable import FencedError, Preempted, Run, StorageError, Trainer
from resumable.store.attempts import begin
from resumable.store.layout import CHECKPOINTS
from resumable.store.storage.local import LocalStorage
from resumable.store.storage.protocol import storage_error
from resumable.store.storage.retry import PatientStorage
from tests.tiny import Tiny, crashed, saved, steps_of, until_written, warnings_of

pytestmark = pytest.mark.usefixtures("_every_line")

EVERYTHING = {"last": 1000}


class Moody(LocalStorage):
    """A folder on a disk that is full for the next `failures` saves, and whose writes wait while `open` is not set."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.failures = 0
        self.failing_removals = 0
        self.open = threading.Event()
        self.open.set()

    def write(self, path: str, chunks: Iterable[bytes | memoryview]) -> None:
        self.open.wait(30)
        if self.failures and path.startswith(CHECKPOINTS):
            self.failures -= 1
            raise storage_error("write", path, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        super().write(path, chunks)

    def remove(self, path: str) -> None:
        if self.failing_removals and path.endswith("manifest.json"):
            self.failing_removals -= 1
            raise storage_error("remove", path, OSError(errno.EACCES, os.strerror(errno.EACCES)))
        super().remove(path)


@pytest.fixture
def moody(run: Path, monkeypatch: pytest.MonkeyPatch) -> Moody:
    storage = Moody(run)
    monkeypatch.setattr(
        resumable.checkpointing.checkpointer, "open_storage", lambda url, options, probe: PatientStorage(storage)
    )
    return storage


def test_a_save_that_comes_due_while_one_is_written_is_taken_at_the_first_boundary_after_it(
    run: Path, moody: Moody
) -> None:
    tiny = Tiny(run, every={"steps": 2, "minutes": None}, keep=EVERYTHING)
    with tiny.trainer() as trainer:
        for step in trainer.steps(8):
            if step == 1:
                moody.open.clear()
            if step == 4:
                moody.open.set()
                until_written()
    assert saved(run)[:3] == [(0, "start"), (2, "steps"), (5, "steps")]


# -- saves that fail --------------------------------------------------------------------------------------------------


def test_a_failed_save_is_told_and_tried_again_when_one_is_due(
    run: Path, moody: Moody, caplog: pytest.LogCaptureFixture
) -> None:
    tiny = Tiny(run, saves=(), every={"steps": 2, "minutes": None}, keep=EVERYTHING)

    def body(trainer: Trainer) -> None:
        until_written()
        moody.failures = int(trainer.step == 1)

    tiny.turn(8, body)
    assert saved(run) == [(0, "start"), (4, "steps"), (6, "steps"), (8, "final")]
    [warning] = warnings_of(caplog)
    assert "save failed (1 of 3 before training stops): cannot write" in warning
    assert "No space left on device" in warning


def test_so_many_failures_in_a_row_end_the_training_with_the_cause(run: Path, moody: Moody) -> None:
    tiny = Tiny(run, every={"steps": 1, "minutes": None}, max_failed_saves=2)
    steps = []

    def body(trainer: Trainer) -> None:
        steps.append(trainer.step)
        moody.failures = 100
        until_written()

    with pytest.raises(StorageError, match="No space left") as caught:
        tiny.turn(8, body)
    assert steps == [0, 1, 2]
    assert "free some space" in str(caught.value.hint)
    assert steps_of(run) == [0]


def test_a_success_in_between_forgives_what_failed_before(run: Path, moody: Moody) -> None:
    tiny = Tiny(run, every={"steps": 1, "minutes": None}, max_failed_saves=2)

    def body(trainer: Trainer) -> None:
        until_written()
        moody.failures = trainer.step % 2

    tiny.turn(8, body)
    assert Run(str(run)).latest().manifest.finished


def test_a_run_that_cannot_save_its_beginning_does_not_begin(run: Path, moody: Moody) -> None:
    moody.failures = 1
    tiny = Tiny(run)
    with pytest.raises(StorageError, match="No space left"):
        tiny.train()
    assert not tiny.notes["seen"]


def test_the_final_save_is_tried_again_at_once_and_never_given_up_silently(run: Path, moody: Moody) -> None:
    def fail(times: int) -> Callable[[Trainer], None]:
        return lambda trainer: setattr(moody, "failures", times * (trainer.step in (3, 5)))

    Tiny(run, saves=()).turn(4, fail(2))
    assert Run(str(run)).latest().manifest.finished
    with pytest.raises(StorageError, match="No space left"):
        Tiny(run, saves=()).turn(6, fail(3))


def test_a_deletion_that_fails_is_told_and_is_no_failed_save(
    run: Path, moody: Moody, caplog: pytest.LogCaptureFixture
) -> None:
    moody.failing_removals = 1
    Tiny(run, max_failed_saves=1, keep={"last": 1, "best": None}).train(1)
    assert Run(str(run)).latest().manifest.finished
    [warning] = warnings_of(caplog)
    assert "could not delete" in warning
    assert "Permission denied" in warning
    assert steps_of(run) == [4]


def test_a_newer_attempt_elsewhere_ends_this_one_at_its_next_save(run: Path) -> None:
    tiny, steps = Tiny(run), []

    def body(trainer: Trainer) -> None:
        until_written()
        steps.append(trainer.step)
        if trainer.step == 2:
            begin(LocalStorage(run), resumed_from=None, lineage_before=[])
        tiny.ends(trainer)

    with pytest.raises(FencedError, match=r"attempt 2 .* owns this run now; this is attempt 1"):
        tiny.turn(8, body)
    assert steps == [0, 1, 2, 3, 4]
    assert steps_of(run)[-1] == 2


def test_a_full_disk_is_cleared_of_what_a_killed_save_left_and_the_next_save_finds_room(
    run: Path, moody: Moody, caplog: pytest.LogCaptureFixture
) -> None:
    first = Tiny(run)
    first.turn(6, first.ends)
    newest = max((run / CHECKPOINTS).iterdir())
    (newest / "manifest.json").unlink()
    tiny = Tiny(run, every={"steps": 1, "minutes": None}, keep=EVERYTHING, audit={"ignore": ["left"]})
    left = []

    def body(trainer: Trainer) -> None:
        until_written()
        left.append(newest.exists())
        moody.failures = int(len(left) == 1)

    tiny.turn(8, body)
    assert left[0]
    assert not left[-1]
    assert len(warnings_of(caplog)) == 1
    assert Run(str(run)).latest().manifest.finished


def test_a_displaced_launch_whose_checkpoint_was_pruned_before_it_restored_is_told_that_it_is_displaced(
    run: Path,
) -> None:
    crashed(run, step=7)
    with Tiny(run).trainer() as trainer:
        trainer._launch.begin_attempt()
        begin(LocalStorage(run), resumed_from=None, lineage_before=[])
        for folder in (run / CHECKPOINTS).iterdir():
            shutil.rmtree(folder)
        with pytest.raises(FencedError, match="owns this run now"):
            trainer.restore()


# -- a storage that is away -------------------------------------------------------------------------------------------


class Distant(LocalStorage):
    """A folder behind a network that does not answer while `away`."""

    patience_seconds = 0.02

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.away = False

    def _folder(self, path: str) -> AbstractContextManager[int]:
        if self.away:
            raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
        return super()._folder(path)


def test_training_goes_on_while_the_storage_is_away_and_saves_again_when_it_is_back(
    run: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    storage = Distant(run)
    monkeypatch.setattr(
        resumable.checkpointing.checkpointer, "open_storage", lambda url, options, probe: PatientStorage(storage)
    )
    tiny = Tiny(run, every={"steps": 1, "minutes": None}, keep={"last": 1, "best": {"metric": "score"}})
    steps = []

    def body(trainer: Trainer) -> None:
        until_written()
        steps.append(trainer.step)
        storage.away = trainer.step in (3, 4)
        trainer.log(score=1.0)  # is it the best? that too is asked of the storage

    tiny.turn(8, body)
    assert steps == list(range(8))
    assert any("save failed (1 of 3" in warning and "timed out" in warning for warning in warnings_of(caplog))
    assert Run(str(run)).latest().manifest.finished


def test_a_best_that_cannot_be_compared_now_is_saved(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Distant(run)
    monkeypatch.setattr(
        resumable.checkpointing.checkpointer, "open_storage", lambda url, options, probe: PatientStorage(storage)
    )
    Tiny(run, saves=()).turn(4, lambda trainer: None)

    def body(trainer: Trainer) -> None:
        storage.away = trainer.step == 4
        trainer.log(val_loss=1.0)

    Tiny(run, saves=()).turn(8, body)
    assert Run(str(run)).latest().manifest.finished


# -- signals while a save is written, or fails ------------------------------------------------------------------------


class Signalling(LocalStorage):
    """A folder on a machine that asks its programs to end while the manifest of step 4 is written."""

    def write(self, path: str, chunks: Iterable[bytes | memoryview]) -> None:
        if "step-000000004" in path and path.endswith("manifest.json"):
            os.kill(os.getpid(), signal.SIGTERM)
        super().write(path, chunks)


@pytest.mark.usefixtures("_sigterm_ends_no_tests")
@pytest.mark.parametrize(("steps", "last"), [(4, (4, "final")), (8, (5, "signal"))])
def test_a_signal_that_comes_while_a_save_is_written_leaves_at_that_boundary_or_the_next(
    run: Path, monkeypatch: pytest.MonkeyPatch, steps: int, last: tuple[int, str]
) -> None:
    storage, tiny = Signalling(run), Tiny(run)
    monkeypatch.setattr(
        resumable.checkpointing.checkpointer, "open_storage", lambda url, options, probe: PatientStorage(storage)
    )

    def body(trainer: Trainer) -> None:
        until_written()
        tiny.ends(trainer)

    with pytest.raises(Preempted) as caught:
        tiny.turn(steps, body)
    assert (caught.value.code, caught.value.signal, caught.value.saved) == (75, "SIGTERM", True)
    assert (caught.value.step, saved(run)[-1]) == (last[0], last)
    assert Run(str(run)).latest().manifest.finished is (steps == 4)


@pytest.mark.usefixtures("_sigterm_ends_no_tests")
@pytest.mark.parametrize(("failures", "is_saved"), [(1, True), (2, False)])
def test_the_save_of_a_signal_is_tried_twice(
    run: Path, moody: Moody, caplog: pytest.LogCaptureFixture, failures: int, is_saved: bool
) -> None:
    def body(trainer: Trainer) -> None:
        if trainer.step == 2:
            moody.failures = failures
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Preempted) as caught:
        Tiny(run, saves=()).turn(8, body)
    assert (caught.value.code, caught.value.step, caught.value.saved) == (75, 3, is_saved)
    assert saved(run) == [(0, "start"), *([(3, "signal")] if is_saved else [])]
    assert "No space left on device" in " ".join(warnings_of(caplog))
