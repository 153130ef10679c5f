"""The bar: a step costs it nothing to speak of, and its last word is right."""

from __future__ import annotations

import pytest

from resumable.loop.process.progress_bar import TrainingBar


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def shown(bar: TrainingBar) -> tuple[float, str]:
    assert bar._bar is not None
    [task] = bar._bar.tasks
    return task.completed, task.description


def test_steps_that_follow_faster_than_a_terminal_is_drawn_are_not_drawn_one_by_one() -> None:
    clock = Clock()
    bar = TrainingBar("always", resumed_from=None, clock=clock)
    bar.start()
    try:
        for step in range(1, 1000):
            bar.update(step=step, epoch=0, total_steps=5000, saved_seconds=1.0)
        assert shown(bar) == (1, "epoch 0 step 1/5000")
        clock.seconds = 1.0
        bar.update(step=1000, epoch=0, total_steps=5000, saved_seconds=1.0)
        assert shown(bar) == (1000, "epoch 0 step 1000/5000")
    finally:
        bar.stop()


def test_the_last_step_stays_on_the_screen(capsys: pytest.CaptureFixture[str]) -> None:
    bar = TrainingBar("always", resumed_from=40, clock=Clock())
    bar.start()
    for step in range(41, 78):
        bar.update(step=step, epoch=3, total_steps=77, saved_seconds=2.0)
    bar.stop()
    last = capsys.readouterr().err
    assert "epoch 3 step 77/77" in last
    assert "from 40" in last


def test_where_nothing_is_drawn_nothing_runs(capsys: pytest.CaptureFixture[str]) -> None:
    bar = TrainingBar("never", resumed_from=None)
    bar.start()
    assert not bar.running
    bar.update(step=1, epoch=0, total_steps=None, saved_seconds=0.0)
    bar.stop()
    assert capsys.readouterr().err == ""
