"""`every.overhead_percent` in real trainings, with real saves, by a clock that only the test moves."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

import resumable.checkpointing.checkpointer
from resumable import Trainer
from resumable.checkpointing.checkpointer import Checkpointer
from resumable.store.storage.local import LocalStorage
from resumable.store.storage.retry import PatientStorage
from tests.tiny import BATCHES, Crash, Tiny, assert_equal_ends, saved, until_written

pytestmark = pytest.mark.usefixtures("_every_line")

KEPT = {"keep": {"last": 1000}, "progress": "never"}


class GatedDisk(LocalStorage):
    """A folder whose writes wait while `gate` is not set."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.folder = root
        self.gate = threading.Event()
        self.gate.set()

    def write(self, path: str, chunks: Iterable[bytes | memoryview]) -> None:
        assert self.gate.wait(30)
        super().write(path, chunks)


class Timed:
    """Seconds that are counted, not waited for: a step takes one, a capture `stall`, and a save so many steps.

    Each of the steps beside a save takes `slower` longer. `state_dict` is where a capture takes its time.
    """

    def __init__(self, disk: GatedDisk, *, stall: float = 0.5, beside: int = 4, slower: float = 0.5) -> None:
        self.now = 100.0
        self.disk = disk
        self.stall, self.beside, self.slower = stall, beside, slower
        self.saves: list[float] = []  # when each began
        self.lost = 0.0
        self._left = 0  # steps until the save in flight is let through
        self._capturing = False

    def state_dict(self) -> dict[str, Any]:
        if self._capturing:
            self.now += self.stall
            self._capturing = False
        return {"none": 0}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass

    def save(self, save: Callable[..., None], checkpointer: Checkpointer, *arguments: Any, **more: Any) -> None:
        """Around the real one."""
        self._capturing, self._left = True, self.beside
        self.saves.append(self.now)
        if len(self.saves) > 1 and more["reason"] != "final":
            self.disk.gate.clear()
            self.lost += self.stall
        save(checkpointer, *arguments, **more)
        assert not self._capturing

    def step(self, seconds: float = 1.0) -> None:
        """The body of a step."""
        self.now += seconds
        if self.disk.gate.is_set():
            until_written()  # nothing but the memory for the next save is made ready
            return
        self.now += self.slower
        self.lost += self.slower
        self._left -= 1
        if self._left == 0:
            self.finish_writing()

    def between_saves(self) -> list[float]:
        """Seconds from save to save."""
        return [later - earlier for earlier, later in itertools.pairwise(self.saves)]

    def paid_share(self) -> float:
        """What saving cost, over all time; without one save, because the last is not paid for yet."""
        return (self.lost - self.stall - self.beside * self.slower) / (self.now - 100)

    def finish_writing(self) -> None:
        self.disk.gate.set()
        until_written()


@pytest.fixture
def timed(run: Path, monkeypatch: pytest.MonkeyPatch) -> Timed:
    return installed(Timed(GatedDisk(run)), monkeypatch)


def installed(timed: Timed, monkeypatch: pytest.MonkeyPatch) -> Timed:
    monkeypatch.setattr(time, "monotonic", lambda: timed.now)
    disk = PatientStorage(timed.disk)
    monkeypatch.setattr(resumable.checkpointing.checkpointer, "open_storage", lambda url, options, probe: disk)
    save = Checkpointer.save
    monkeypatch.setattr(
        Checkpointer, "save", lambda self, *arguments, **more: timed.save(save, self, *arguments, **more)
    )
    return timed


def conflicts(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [line for record in caplog.records if "overhead_percent" in (line := record.getMessage())]


def train(
    timed: Timed, steps: int, every: dict[str, Any], body: Callable[[Trainer], None] = lambda trainer: None
) -> list[tuple[int, str]]:
    """A loop without a loader; the checkpoints that it leaves, but for the last."""
    tiny = Tiny(timed.disk.folder, saves=(), every={"minutes": None} | every, **KEPT)
    with tiny.trainer(timed=timed) as trainer:
        for step in trainer.steps(steps):
            timed.step()
            body(trainer)
            if step == steps - 1:
                timed.finish_writing()
    return saved(timed.disk.folder)[:-1]


def intervals(saves: list[tuple[int, str]]) -> list[int]:
    steps = [step for step, _ in saves]
    return [later - earlier for earlier, later in itertools.pairwise(steps)]


# -- the share --------------------------------------------------------------------------------------------------------


def test_saves_come_as_often_as_their_share_of_the_time_allows(timed: Timed) -> None:
    saves = train(timed, 400, {"overhead_percent": 5})
    assert {reason for _, reason in saves[1:]} == {"overhead"}
    # Half a second of waiting and four steps that are half a second longer: 2.5 s, in 50 s of training.
    assert intervals(saves)[2:] == [48] * len(intervals(saves)[2:])
    assert len(saves) > 7
    assert 0.04 <= timed.paid_share() <= 0.05


def test_the_first_save_beside_training_comes_when_the_one_at_the_start_is_paid_for(timed: Timed) -> None:
    saves = train(timed, 100, {"overhead_percent": 5})
    assert saves[:2] == [(0, "start"), (int(0.5 * 20), "overhead")]


def test_an_attempt_that_resumed_measures_anew_and_changes_no_bit(
    timed: Timed, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(trainer: Trainer) -> None:
        if trainer.step == 130:
            timed.finish_writing()
            raise Crash

    def trained(timed: Timed, every: dict[str, Any], body: Callable[[Trainer], None]) -> None:
        tiny = Tiny(timed.disk.folder, saves=(), every={"minutes": None} | every, **KEPT)
        with tiny.trainer(timed=timed) as trainer:
            for _ in trainer.epochs(50):
                for batch in trainer.batches(tiny.loader):
                    tiny.step(batch)
                    timed.step()
                    body(trainer)
                    if trainer.step == 50 * BATCHES - 1:
                        timed.finish_writing()

    with pytest.raises(Crash):
        trained(timed, {"overhead_percent": 5}, crash)
    from_step = saved(run)[-1][0]
    trained(timed, {"overhead_percent": 5}, lambda trainer: None)
    assert next(step for step, _ in saved(run) if step > from_step) < from_step + 10
    monkeypatch.undo()
    whole = installed(Timed(GatedDisk(tmp_path / "whole")), monkeypatch)
    trained(whole, {"steps": 1000}, lambda trainer: None)
    assert_equal_ends(run, tmp_path / "whole")


# -- what is no cost of a save ----------------------------------------------------------------------------------------


def test_an_evaluation_while_a_save_is_written_is_no_cost_of_it(timed: Timed) -> None:
    tiny = Tiny(timed.disk.folder)

    def evaluate(trainer: Trainer) -> None:
        if trainer.step % 10 == 1:
            for _ in trainer.evaluate(tiny.loader):
                timed.now += 25.0

    saves = train(timed, 400, {"overhead_percent": 5}, evaluate)
    assert len(saves) > 20
    assert max(timed.between_saves()) < 50 + 2 * 100  # late by the evaluations in which it came due
    assert timed.paid_share() <= 0.05


@pytest.mark.parametrize("place", ["before the first batch", "behind the last batch", "between two passes", "break"])
def test_what_lies_outside_of_a_pass_is_no_cost_of_a_save(timed: Timed, run: Path, place: str) -> None:
    tiny = Tiny(run, saves=(), every={"minutes": None, "overhead_percent": 5}, **KEPT)

    def pause(here: str) -> None:
        if here == place and not timed.disk.gate.is_set():  # so that it only ever happens beside a save
            timed.now += 40.0

    with tiny.trainer(timed=timed) as trainer:
        for epoch in trainer.epochs(50):
            pause("before the first batch")
            for _ in trainer.batches(tiny.loader):
                timed.step()
            pause("between two passes")
            for index, _ in trainer.enumerate(tiny.loader):
                timed.step()
                if place == "break" and index == 2:
                    break
            pause("break")
            for _ in trainer.batches(tiny.loader):
                timed.step()
            pause("behind the last batch")
            if epoch == 49:
                timed.finish_writing()
    spent = timed.between_saves()
    assert len(spent) > 6
    assert max(spent) < 50 + 40 + 12  # what was outside, and the epoch at whose end a save may have to wait


def test_with_accumulation_slow_optimizer_steps_are_no_cost_of_a_save(timed: Timed, run: Path) -> None:
    tiny = Tiny(run, saves=(), every={"minutes": None, "overhead_percent": 1}, **KEPT)
    with tiny.trainer(timed=timed) as trainer:
        for step in trainer.steps(400):
            if step % 8 == 7:
                tiny.step(next(iter(tiny.loader)))
                timed.step(seconds=36.0)
            else:
                tiny.backward(next(iter(tiny.loader)))
                timed.step(seconds=4.0)
            if step == 399:
                timed.finish_writing()
    assert all(step % 8 == 0 for step, _ in saved(run))
    assert max(timed.between_saves()) < 250 + 2 * 66  # it comes due in one window and is taken at the end of the next
    assert timed.paid_share() <= 0.01


# -- together with what else asks for saves ---------------------------------------------------------------------------


def test_minutes_win_over_the_share_and_both_figures_are_told_once(
    timed: Timed, caplog: pytest.LogCaptureFixture
) -> None:
    timed.stall = 0.8
    saves = train(timed, 700, {"minutes": 1, "overhead_percent": 2})
    assert {reason for _, reason in saves[3:]} == {"minutes"}
    assert intervals(saves)[3:] == [58] * len(intervals(saves)[3:])
    [line] = conflicts(caplog)
    assert line == (
        "WARN    every.minutes: 1 requests a save every 60 s, every.overhead_percent: 2 allows one every 140 s: "
        "saving costs 4.7 % of the time; raise one of the two"
    )


def test_a_conflict_that_comes_back_is_told_only_once(timed: Timed, caplog: pytest.LogCaptureFixture) -> None:
    def cheap_for_a_while(trainer: Trainer) -> None:
        timed.stall = timed.slower = 0.0 if 200 < trainer.step < 500 else 0.5

    saves = train(timed, 800, {"minutes": 0.5, "overhead_percent": 2}, cheap_for_a_while)
    assert "overhead" in {reason for step, reason in saves if 200 < step < 500}
    assert {reason for step, reason in saves if step > 700} == {"minutes"}
    assert len(conflicts(caplog)) == 1


def test_minutes_that_leave_the_share_its_room_are_no_conflict(timed: Timed, caplog: pytest.LogCaptureFixture) -> None:
    saves = train(timed, 400, {"minutes": 1, "overhead_percent": 5})
    assert {reason for _, reason in saves[1:]} == {"overhead"}
    assert not conflicts(caplog)


@pytest.mark.parametrize("every", [{"minutes": 1}, {"steps": 5}, {"minutes": 1, "overhead_percent": None}])
def test_without_a_share_nothing_is_told(timed: Timed, caplog: pytest.LogCaptureFixture, every: dict[str, Any]) -> None:
    assert len(train(timed, 200, every)) > 3
    assert not conflicts(caplog)


def test_steps_that_come_too_soon_for_the_share_are_told_too(timed: Timed, caplog: pytest.LogCaptureFixture) -> None:
    saves = train(timed, 200, {"steps": 25, "overhead_percent": 5})
    assert intervals(saves)[-3:] == [25, 25, 25]
    [line] = conflicts(caplog)
    assert line.startswith("WARN    every.steps: 25 requests a save every 27 s, every.overhead_percent: 5 allows one")


def test_a_conflict_is_told_again_by_the_next_attempt(timed: Timed, caplog: pytest.LogCaptureFixture) -> None:
    for steps in (300, 600):
        train(timed, steps, {"minutes": 0.5, "overhead_percent": 2})
    assert len(conflicts(caplog)) == 2


def test_saves_that_the_code_asks_for_are_no_conflict(timed: Timed, caplog: pytest.LogCaptureFixture) -> None:
    def ask_each_ten_steps(trainer: Trainer) -> None:
        if trainer.step % 10 == 4:
            trainer.request_save()

    saves = train(timed, 100, {"overhead_percent": 2}, ask_each_ten_steps)
    assert len(saves) == 1 + 10
    assert not conflicts(caplog)
