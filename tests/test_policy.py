"""When a checkpoint is due."""

from __future__ import annotations

import pytest

from resumable.policy import Schedule, due


def _due(
    schedule: Schedule,
    *,
    step: int = 1,
    last_step: int = 0,
    epoch_ended: int | None = None,
    seconds_since_save: float = 0.0,
    save_seconds: float | None = 1.0,
) -> str | None:
    return due(
        schedule,
        step=step,
        last_step=last_step,
        epoch_ended=epoch_ended,
        seconds_since_save=seconds_since_save,
        save_seconds=save_seconds,
    )


def test_an_empty_schedule_is_never_due() -> None:
    assert _due(Schedule(), step=10**9, epoch_ended=10**6, seconds_since_save=1e9, save_seconds=0.0) is None


@pytest.mark.parametrize(
    ("last_step", "step", "expected"),
    [(0, 99, None), (0, 100, "steps"), (100, 100, None), (100, 199, None), (130, 200, "steps"), (99, 305, "steps")],
)
def test_steps_are_due_when_a_multiple_was_crossed_since_the_last_checkpoint(
    last_step: int, step: int, expected: str | None
) -> None:
    assert _due(Schedule(steps=100), step=step, last_step=last_step) == expected


def test_a_late_save_does_not_shift_the_ones_after_it() -> None:
    saved, last_step = [], 0
    for step in range(1, 41):
        late = step == 10  # the boundary at 10 could not save: another save was in flight
        if not late and _due(Schedule(steps=10), step=step, last_step=last_step):
            saved.append(step)
            last_step = step
    assert saved == [11, 20, 30, 40]


@pytest.mark.parametrize(
    ("epoch_ended", "expected"), [(None, None), (1, None), (2, "epochs"), (3, None), (4, "epochs")]
)
def test_epochs_are_due_only_where_a_multiple_of_them_ended(epoch_ended: int | None, expected: str | None) -> None:
    assert _due(Schedule(epochs=2), epoch_ended=epoch_ended) == expected


def test_minutes_are_due_once_they_have_passed_since_the_last_save() -> None:
    assert _due(Schedule(minutes=1.5), seconds_since_save=89.9) is None
    assert _due(Schedule(minutes=1.5), seconds_since_save=90.0) == "minutes"


@pytest.mark.parametrize(("seconds_since_save", "expected"), [(79.9, None), (80.0, "overhead"), (1000.0, "overhead")])
def test_overhead_is_due_once_training_has_paid_for_the_save(seconds_since_save: float, expected: str | None) -> None:
    schedule = Schedule(overhead_percent=5)
    assert _due(schedule, seconds_since_save=seconds_since_save, save_seconds=4.0) == expected


def test_overhead_is_not_due_before_the_cost_of_a_save_is_known() -> None:
    assert _due(Schedule(overhead_percent=5), seconds_since_save=1e9, save_seconds=None) is None


def test_whichever_comes_first_decides() -> None:
    schedule = Schedule(steps=100, minutes=1, epochs=1, overhead_percent=1)
    assert _due(schedule, step=5, seconds_since_save=61, save_seconds=100) == "minutes"
    assert _due(schedule, step=5, epoch_ended=1, save_seconds=100) == "epochs"
    assert _due(schedule, step=100, save_seconds=100) == "steps"
    assert _due(schedule, step=5, seconds_since_save=100, save_seconds=1.0) == "minutes"
    assert _due(schedule, step=5, seconds_since_save=50, save_seconds=0.5) == "overhead"
