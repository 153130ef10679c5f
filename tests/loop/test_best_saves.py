"""When a better value of `keep.best.metric` is saved for its own sake, what it is compared with, what that costs."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import resumable.checkpointing.checkpointer
from resumable import Run, Trainer
from resumable.policy import save_policy
from resumable.policy.save_policy import Schedule, may_save_best
from resumable.store.layout import CHECKPOINTS
from resumable.store.storage.local import LocalStorage
from resumable.store.storage.protocol import Entry, storage_error
from resumable.store.storage.retry import PatientStorage
from tests.tiny import Tiny, saved, until_written, warnings_of

pytestmark = pytest.mark.usefixtures("_every_line")

BEST = {"last": 1000, "best": {"metric": "loss"}}


@pytest.fixture
def _each_third(monkeypatch: pytest.MonkeyPatch) -> None:
    """A better value may be saved at every third step, whatever the clock says."""
    monkeypatch.setattr(save_policy, "BEST_SECONDS", 0.0)
    monkeypatch.setattr(save_policy, "BEST_STEPS", 3)


def logging_losses(losses: Mapping[int, float], more: Callable[[Trainer], None] = lambda trainer: None) -> Any:
    """A body that logs the loss of its step, if it has one, with an idle writer at each boundary."""

    def body(trainer: Trainer) -> None:
        until_written()
        if trainer.step + 1 in losses:
            trainer.log(loss=losses[trainer.step + 1])
        more(trainer)

    return body


def falling(steps: int) -> dict[int, float]:
    return {step: 1.0 / step for step in range(1, steps + 1)}


# -- how often --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "seconds", "may"),
    [(None, 0.0, True), (100, 30.0, True), (99, 1e9, False), (10**9, 29.9, False), (100, 29.9, False), (1, 0.1, False)],
)
def test_without_a_share_both_the_seconds_and_the_steps_must_have_passed(
    steps: int | None, seconds: float, may: bool
) -> None:
    found = may_save_best(Schedule(steps=1), steps_since_best=steps, seconds_since_best=seconds, cost_seconds=9e9)
    assert found is may


@pytest.mark.parametrize(
    ("steps", "seconds", "cost", "may"),
    [(None, 0.0, 9.0, True), (1, 100.0, 2.0, True), (10**9, 99.9, 2.0, False), (1, 0.0, 0.0, True)],
)
def test_with_a_share_to_hold_it_is_held(steps: int | None, seconds: float, cost: float, may: bool) -> None:
    schedule = Schedule(overhead_percent=2.0, minutes=10)
    found = may_save_best(schedule, steps_since_best=steps, seconds_since_best=seconds, cost_seconds=cost)
    assert found is may


def test_a_better_value_at_every_step_is_saved_once_and_one_line_says_so(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Tiny(run, saves=(), keep=BEST).turn(60, logging_losses(falling(60)))
    assert saved(run) == [(0, "start"), (1, "best"), (60, "final")]
    assert len(warnings_of(caplog)) == 1
    assert "keep.best.metric: loss at step 2 is better than what is stored, and was not saved" in warnings_of(caplog)[0]
    assert "at most once in 30 s and 100 steps, at the end of one always" in warnings_of(caplog)[0]


def test_with_a_share_that_no_save_fits_into_one_line_names_it(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    every = {"steps": None, "minutes": None, "overhead_percent": 1e-6}
    Tiny(run, saves=(), keep=BEST, every=every).turn(60, logging_losses(falling(60)))
    assert saved(run) == [(0, "start"), (1, "best"), (60, "final")]
    assert len(warnings_of(caplog)) == 1
    assert "as often as every.overhead_percent: 1e-06 allows" in warnings_of(caplog)[0]


@pytest.mark.usefixtures("_each_third")
def test_a_value_is_compared_with_what_is_stored_and_what_was_skipped_is_gone(run: Path) -> None:
    losses = {1: 9.0, 2: 8.0, 3: 1.0, 4: 8.5, 5: 7.0, 6: 3.0, 7: 8.6, 8: 8.4, 9: 8.3}
    Tiny(run, saves=(), keep=BEST).turn(10, logging_losses(losses))
    # At 4 the best stored is 9.0: the 8.0 and 1.0 before it are gone. At 7 the 8.6 is worse than the 8.5 of 4.
    assert saved(run) == [(0, "start"), (1, "best"), (4, "best"), (8, "best"), (10, "final")]
    assert Run(str(run)).best().step == 8


def test_at_the_end_of_an_epoch_a_better_value_is_never_skipped(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    tiny = Tiny(run, saves=(), keep=BEST)
    with tiny.trainer() as trainer:
        for epoch in trainer.epochs(6):
            for batch in trainer.batches(tiny.loader):
                tiny.step(batch)
            trainer.log(loss=[5.0, 4.0, 6.0, 3.0, 2.0, 1.0][epoch])
    assert saved(run) == [(0, "start"), (4, "best"), (8, "best"), (16, "best"), (20, "best"), (24, "final")]
    assert not warnings_of(caplog)


def test_a_save_that_is_due_for_another_reason_is_not_skipped(run: Path) -> None:
    tiny = Tiny(run, saves=[6], keep=BEST, every={"steps": 4, "minutes": None})
    tiny.turn(12, logging_losses(falling(12), tiny.ends))
    assert saved(run) == [(0, "start"), (1, "best"), (4, "steps"), (7, "request"), (8, "steps"), (12, "final")]


def test_what_is_saved_for_another_reason_or_at_the_next_boundary_is_not_said_to_be_lost(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tiny = Tiny(run, saves=(), keep=BEST)
    losses = {1: 9.0, 4: 8.0, 8: 7.0}  # the last steps of two epochs
    with tiny.trainer() as trainer:
        for _ in trainer.epochs(3):
            for batch in trainer.batches(tiny.loader):
                tiny.step(batch)
                logging_losses(losses)(trainer)
    assert saved(run) == [(0, "start"), (1, "best"), (4, "best"), (8, "best"), (12, "final")]
    Tiny(f"{run}2", saves=(), keep=BEST, every={"steps": 1, "minutes": None}).turn(9, logging_losses(falling(9)))
    assert not warnings_of(caplog)


@pytest.mark.usefixtures("_each_third")
def test_a_value_that_another_save_stored_is_what_later_ones_are_compared_with(run: Path) -> None:
    tiny = Tiny(run, saves=[2], keep=BEST)
    losses = {1: 9.0, 3: 2.0, 4: 8.0, 5: 2.0, 6: 1.5}
    tiny.turn(8, logging_losses(losses, tiny.ends))
    assert saved(run) == [(0, "start"), (1, "best"), (3, "request"), (6, "best"), (8, "final")]


@pytest.mark.usefixtures("_each_third")
def test_another_launch_compares_with_what_the_first_stored(run: Path) -> None:
    Tiny(run, saves=(), keep=BEST).turn(4, logging_losses({1: 9.0, 4: 5.0}))
    Tiny(run, saves=(), keep=BEST).turn(12, logging_losses({5: 6.0, 6: 4.0, 9: 3.0}))
    assert saved(run) == [(0, "start"), (1, "best"), (4, "final"), (6, "best"), (9, "best"), (12, "final")]


@pytest.mark.usefixtures("_each_third")
@pytest.mark.parametrize("bad", [float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize("mode", ["min", "max"])
def test_what_is_not_finite_is_never_best_and_keeps_no_other_from_it(run: Path, bad: float, mode: str) -> None:
    keep = {"last": 1, "best": {"metric": "loss", "mode": mode}}
    sign = 1.0 if mode == "min" else -1.0
    Tiny(run, saves=(), keep=keep).turn(12, logging_losses({1: bad, 3: sign * 5, 6: bad, 9: sign * 4}))
    assert [(step, reason) for step, reason in saved(run) if reason == "best"] == [(9, "best")]
    assert Run(str(run)).best().step == 9


# -- what stands ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_each_third")
def test_the_count_best_stand_and_a_value_has_to_beat_the_worst_of_them(run: Path) -> None:
    keep = {"last": 1, "best": {"metric": "loss", "count": 2}}
    losses = {1: 5.0, 4: 7.0, 7: 8.0, 10: 6.0, 13: 6.5, 16: 1.0}
    Tiny(run, saves=(), keep=keep).turn(20, logging_losses(losses))
    assert saved(run) == [(1, "best"), (16, "best"), (20, "final")]
    assert [line[1] for line in _saved_lines(run)] == ["5.0", "1.0", "None"]


def _saved_lines(run: Path) -> list[tuple[int, str]]:
    return [(c.step, str(c.manifest.metrics.get("loss"))) for c in Run(str(run)).checkpoints()]


@pytest.mark.usefixtures("_each_third")
def test_after_another_program_deleted_the_best_the_next_save_that_deletes_finds_out(run: Path) -> None:
    tiny = Tiny(run, saves=[5], keep=BEST | {"last": 2})

    def deletes(trainer: Trainer) -> None:
        if trainer.step == 4:
            shutil.rmtree(run / CHECKPOINTS / "step-000000004.e0000.a0001")
        tiny.ends(trainer)

    tiny.turn(12, logging_losses({1: 9.0, 4: 1.0, 8: 5.0, 9: 8.0}, deletes))
    assert saved(run) == [(8, "best"), (12, "final")]


class Full(LocalStorage):
    """A folder whose disk is full while the checkpoints of the `steps` are written, and which counts its listings."""

    steps: tuple[int, ...] = ()
    listed = 0

    def write(self, path: str, chunks: Iterable[bytes | memoryview]) -> None:
        if any(f"step-{step:09d}" in path for step in self.steps):
            raise storage_error("write", path, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        super().write(path, chunks)

    def list(self, path: str) -> list[Entry]:
        self.listed += 1
        return super().list(path)


def opened(storage: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        resumable.checkpointing.checkpointer, "open_storage", lambda url, options, probe: PatientStorage(storage)
    )


@pytest.mark.usefixtures("_each_third")
def test_a_value_whose_save_failed_is_not_what_stands(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Full(run)
    storage.steps = (4,)
    opened(storage, monkeypatch)
    Tiny(run, saves=(), keep=BEST).turn(10, logging_losses({1: 9.0, 4: 1.0, 7: 8.0}))
    assert saved(run) == [(0, "start"), (1, "best"), (7, "best"), (10, "final")]


# -- what it costs ----------------------------------------------------------------------------------------------------


def test_steps_that_save_nothing_ask_nothing_of_the_storage(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage, listed = Full(run), []
    opened(storage, monkeypatch)
    losses = {step: 1.0 if step == 1 else 2.0 + step % 7 if step < 40 else 1.0 / step for step in range(1, 81)}
    Tiny(run, saves=(), keep=BEST).turn(80, logging_losses(losses, lambda trainer: listed.append(storage.listed)))
    assert saved(run) == [(0, "start"), (1, "best"), (80, "final")]
    assert len(set(listed[2:])) == 1


def test_no_step_waits_for_the_save_in_flight_unless_its_value_is_better(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = threading.Event()

    class Slow(LocalStorage):
        def write(self, path: str, chunks: Iterable[bytes | memoryview]) -> None:
            if "step-000000002" in path:
                assert written.wait(60), "a step waited for a save that it could not better"
            super().write(path, chunks)

    opened(Slow(run), monkeypatch)
    tiny = Tiny(run, saves=[1], keep=BEST)

    def body(trainer: Trainer) -> None:
        if trainer.step == 1:
            until_written()
        trainer.log(loss=1.0 if trainer.step == 0 else [2.0, float("nan"), 1.0][trainer.step % 3])
        tiny.ends(trainer)
        if trainer.step == 9:
            written.set()

    tiny.turn(10, body)
    assert saved(run) == [(0, "start"), (1, "best"), (2, "request"), (10, "final")]


class Unread(torch.Tensor):
    """A value on a device, of which it counts how often it is waited for."""

    reads = 0

    def __float__(self) -> float:
        Unread.reads += 1
        return super().__float__()


def test_while_nothing_may_be_saved_for_it_the_value_is_not_even_read(run: Path) -> None:
    Unread.reads = 0

    def body(trainer: Trainer) -> None:
        until_written()
        trainer.log(loss=torch.tensor(1.0 / (trainer.step + 1)).as_subclass(Unread))

    Tiny(run, saves=(), keep=BEST).turn(50, body)
    assert saved(run) == [(0, "start"), (1, "best"), (50, "final")]
    # Whether it is finite is looked at where it lies, on the host here, and the journal reads what lies there; besides
    # that, to save, to tell, and to save.
    assert Unread.reads - 2 * 50 <= 6
