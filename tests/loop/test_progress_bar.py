"""The bar: a step costs it nothing to speak of, and its last word is right."""

from __future__ import annotations

import sys

import pytest

from resumable.loop.process.progress_bar import Shown, TrainingBar
from tests.harness.screen import terminal


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def at(step: int, total: int | None = 5000, epoch: int | None = 1, epochs: int | None = 10) -> Shown:
    return Shown(step=step, total_steps=total, epoch=epoch, epochs=epochs, saved_seconds=2.0)


def counted(monkeypatch: pytest.MonkeyPatch, written: list[str]) -> None:
    """Note down what is written to stderr."""
    write = sys.stderr.write
    monkeypatch.setattr(sys.stderr, "write", lambda text: written.append(text) or write(text))


def test_steps_that_follow_faster_than_a_terminal_is_drawn_are_not_drawn_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, written = Clock(), list[str]()
    with terminal(monkeypatch) as shown:
        counted(monkeypatch, written)
        bar = TrainingBar("auto", resumed_from=None, clock=clock)
        bar.start()
        for step in range(1, 1000):
            bar.update(at(step))
        assert len(written) == 1
        clock.seconds = 1.0
        bar.update(at(1000))
    assert len(written) == 2
    [line] = shown
    assert line.startswith("epoch 1/10 step 1000/5000 ━")


def test_the_last_step_stays_where_the_loop_is_complete(capsys: pytest.CaptureFixture[str]) -> None:
    bar = TrainingBar("always", resumed_from=40, clock=Clock())
    bar.start()
    for step in range(41, 78):
        bar.update(at(step, total=77, epoch=3, epochs=3))
    bar.update(at(77, total=None, epoch=3, epochs=3))  # behind the last pass the number of its batches is unknown
    bar.stop(complete=True)
    [last] = capsys.readouterr().err.splitlines()
    assert last.startswith("epoch 3/3 step 77/77 ━━━━━━━━━━ ")
    assert last.endswith("from 40")


@pytest.mark.parametrize(
    ("shown", "begins"), [(at(7, 9, None, None), "step 7/9 "), (at(7, None, 2, None), "epoch 2 step 7/7 ")]
)
def test_only_what_is_known_is_counted(capsys: pytest.CaptureFixture[str], shown: Shown, begins: str) -> None:
    bar = TrainingBar("always", resumed_from=None, clock=Clock())
    bar.start()
    bar.update(shown)
    bar.stop(complete=True)
    assert capsys.readouterr().err.startswith(begins)


def test_a_replay_is_shown_while_it_lasts_also_without_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, written = Clock(), list[str]()
    with terminal(monkeypatch) as shown:
        counted(monkeypatch, written)
        with TrainingBar("auto", resumed_from=3, clock=clock).skipping("replaying a pass", 40) as advance:
            advance(10)
            advance(10)
            clock.seconds = 1.0
            advance(10)
    assert len([each for each in written if "replaying a pass" in each]) == 2
    assert " 75%" in written[1]
    assert shown == []


def _gone(text: str) -> int:
    raise OSError(5, "Input/output error")


def test_a_terminal_that_is_gone_ends_no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch):
        monkeypatch.setattr(sys.stderr, "write", _gone)
        bar = TrainingBar("auto", resumed_from=None, clock=Clock())
        bar.start()
        bar.update(at(1))
        bar.stop(complete=True)


def test_where_nothing_is_drawn_nothing_runs(capsys: pytest.CaptureFixture[str]) -> None:
    bar = TrainingBar("never", resumed_from=None)
    bar.start()
    assert not bar.running
    bar.update(at(1))
    bar.stop(complete=True)
    assert capsys.readouterr().err == ""
