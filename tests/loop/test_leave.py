"""`trainer.leave()` at every instant of a launch: in a body, before, behind, and while the training waits."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from resumable import Interrupted, LoopError, Preempted, Run, Trainer
from tests.tiny import Tiny, assert_equal_ends, steps_of


def noticed(trainer: Trainer) -> None:
    """A notice of a preemption comes in a thread of the program, before this returns."""
    thread = threading.Thread(target=trainer.leave)
    thread.start()
    thread.join()


def trains(tiny: Tiny, *, leave_at: int | None = None) -> None:
    with tiny.trainer() as trainer:
        for _ in trainer.epochs(2):
            for batch in trainer.batches(tiny.loader):
                trainer.log(loss=tiny.step(batch))
                if trainer.step == leave_at:
                    noticed(trainer)
                    noticed(trainer)


@pytest.mark.parametrize("step", [0, 2, 3, 7])
def test_it_saves_at_the_next_boundary_and_exits_with_75(
    run: Path, whole: Path, step: int, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Preempted) as left:
        trains(Tiny(run), leave_at=step)
    assert (left.value.code, left.value.signal, left.value.step, left.value.saved) == (75, None, step + 1, True)
    assert not isinstance(left.value, Interrupted)
    assert f"PREEMPT reason=leave() step={step + 1} saved=yes exit=75" in caplog.text
    assert Run(str(run)).latest().step == step + 1
    trains(Tiny(run))
    trains(Tiny(whole))
    assert_equal_ends(run, whole)


class Waits:
    """An iterable that yields one item, and gets the notice while the training waits for the next one."""

    def __init__(self, notice: Callable[[], None]) -> None:
        self.notice = notice

    def __iter__(self) -> Iterator[Any]:
        yield torch.ones(1, 2, 2)
        self.notice()
        yield torch.ones(1, 2, 2)
        yield torch.ones(1, 2, 2)


def test_a_notice_while_an_evaluation_waits_exits_with_the_last_checkpoint(run: Path) -> None:
    evaluated = []

    def script(tiny: Tiny) -> None:
        with tiny.trainer() as trainer:
            for _ in trainer.epochs(2):
                for batch in trainer.batches(tiny.loader):
                    tiny.step(batch)
                evaluated.extend(trainer.evaluate(Waits(lambda: noticed(trainer))))

    with pytest.raises(Preempted) as left:
        script(Tiny(run, saves=()))
    assert len(evaluated) == 1
    assert (left.value.code, left.value.step, left.value.saved) == (75, 4, False)
    assert steps_of(run) == [0]


def test_a_notice_while_the_loop_waits_for_a_batch_exits_behind_its_step(run: Path) -> None:
    def script(tiny: Tiny) -> None:
        with tiny.trainer() as trainer:
            for _ in trainer.epochs(2):
                for batch in trainer.batches(Waits(lambda: noticed(trainer))):
                    tiny.step(batch)

    with pytest.raises(Preempted) as left:
        script(Tiny(run, saves=()))
    assert (left.value.step, left.value.saved) == (2, True)
    assert Run(str(run)).latest().step == 2


@pytest.mark.parametrize("begun", [False, True])
def test_before_the_loop_it_exits_when_the_loop_begins(run: Path, begun: bool) -> None:
    if begun:
        with pytest.raises(Preempted):
            trains(Tiny(run), leave_at=2)
    tiny = Tiny(run)
    with tiny.trainer() as trainer:
        trainer.leave()
        with pytest.raises(Preempted) as left:
            next(trainer.epochs(2))
    assert (left.value.step, left.value.saved) == (3 if begun else 0, True)
    assert not tiny.notes["seen"]


def test_behind_the_loop_and_after_the_close_it_does_nothing(run: Path) -> None:
    tiny = Tiny(run)
    with tiny.trainer() as trainer:
        for _ in trainer.steps(2):
            pass
        trainer.leave()
    trainer.leave()
    assert Run(str(run)).latest().manifest.finished


def test_in_the_last_step_the_run_is_finished_all_the_same(run: Path) -> None:
    with pytest.raises(Preempted):
        Tiny(run).turn(2, lambda trainer: trainer.leave() if trainer.step == 1 else None)
    assert Run(str(run)).latest().manifest.finished
    with Tiny(run).trainer() as trainer:
        assert list(trainer.steps(2)) == []


def test_a_trainer_whose_run_was_taken_over_says_so(run: Path) -> None:
    older = Tiny(run).trainer()
    with Tiny(run).trainer(), pytest.raises(LoopError, match="took the run over"):
        older.leave()


def test_without_signals_and_off_the_main_thread_it_works(run: Path) -> None:
    left: list[Preempted] = []

    def program() -> None:
        with pytest.raises(Preempted) as caught:
            trains(Tiny(run, signals=[]), leave_at=2)
        left.append(caught.value)

    thread = threading.Thread(target=program)
    thread.start()
    thread.join()
    assert [(each.step, each.saved) for each in left] == [(3, True)]
