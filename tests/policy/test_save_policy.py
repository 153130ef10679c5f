"""When a checkpoint is due."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from resumable.policy.save_policy import Schedule, conflict, due, exceeds


def _due(
    schedule: Schedule,
    *,
    step: int = 1,
    last_step: int = 0,
    epoch_ended: int | None = None,
    seconds_since_save: float = 0.0,
    cost_seconds: float | None = 1.0,
) -> str | None:
    return due(
        schedule,
        step=step,
        last_step=last_step,
        epoch_ended=epoch_ended,
        seconds_since_save=seconds_since_save,
        cost_seconds=cost_seconds,
    )


def test_an_empty_schedule_is_never_due() -> None:
    assert _due(Schedule(), step=10**9, epoch_ended=10**6, seconds_since_save=1e9, cost_seconds=0.0) is None


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
    assert _due(schedule, seconds_since_save=seconds_since_save, cost_seconds=4.0) == expected


def test_overhead_is_not_due_before_the_cost_of_a_save_is_known() -> None:
    assert _due(Schedule(overhead_percent=5), seconds_since_save=1e9, cost_seconds=None) is None


def test_whichever_comes_first_decides() -> None:
    schedule = Schedule(steps=100, minutes=1, epochs=1, overhead_percent=1)
    assert _due(schedule, step=5, seconds_since_save=61, cost_seconds=100) == "minutes"
    assert _due(schedule, step=5, epoch_ended=1, cost_seconds=100) == "epochs"
    assert _due(schedule, step=100, cost_seconds=100) == "steps"
    assert _due(schedule, step=5, seconds_since_save=100, cost_seconds=1.0) == "minutes"
    assert _due(schedule, step=5, seconds_since_save=50, cost_seconds=0.5) == "overhead"


# -- keys that cannot all hold ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seconds_since_save", "expected"), [(71.9, True), (72.1, False), (80.0, False)])
def test_a_save_exceeds_its_share_where_it_comes_clearly_sooner_than_it_is_paid_for(
    seconds_since_save: float, expected: bool
) -> None:
    schedule = Schedule(overhead_percent=5, minutes=1)
    assert exceeds(schedule, seconds_since_save=seconds_since_save, cost_seconds=4.0) is expected


def test_without_a_share_or_before_the_cost_is_known_nothing_is_exceeded() -> None:
    assert not exceeds(Schedule(minutes=1), seconds_since_save=1, cost_seconds=100)
    assert not exceeds(Schedule(overhead_percent=1), seconds_since_save=1, cost_seconds=None)


@pytest.mark.parametrize(
    ("reason", "asked"),
    [("minutes", "every.minutes: 1.5"), ("steps", "every.steps: 40"), ("epochs", "every.epochs: 2")],
)
def test_a_conflict_names_both_keys_and_both_figures(reason: str, asked: str) -> None:
    schedule = Schedule(minutes=1.5, steps=40, epochs=2, overhead_percent=0.5)
    assert conflict(schedule, reason, seconds_since_save=90.04, cost_seconds=1.8) == (
        f"{asked} requests a save every 90 s, every.overhead_percent: 0.5 allows one every 360 s: "
        "saving costs 2 % of the time; raise one of the two"
    )


# -- what the guide says ----------------------------------------------------------------------------------------------

GUIDE = " ".join((Path(__file__).parents[2] / "resumable" / "guides" / "saving.md").read_text("utf-8").split())


def young(cost: float, between_failures: float) -> float:
    return math.sqrt(2 * cost * between_failures)


def daly(cost: float, between_failures: float) -> float:
    ratio = cost / (2 * between_failures)
    return young(cost, between_failures) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - cost


def test_the_intervals_in_the_guide_are_what_its_formulas_give() -> None:
    six_hours = 6 * 3600.0
    assert f"each {young(0.3, six_hours):.0f} s, at a share of {100 * 0.3 / young(0.3, six_hours):.2f} %" in GUIDE
    assert f"each {young(20, six_hours) / 60:.1f} min, at {100 * 20 / young(20, six_hours):.1f} %" in GUIDE
    assert f"gives {daly(0.3, six_hours):.1f} s and {daly(20, six_hours) / 60:.1f} min" in GUIDE
    assert "√(2·C·M)·(1 + ⅓·√(C/2M) + C/18M)" in GUIDE  # C/18M is Daly's ninth of C/2M


def test_no_interval_costs_less_than_the_one_in_the_guide() -> None:
    def lost(interval: float) -> float:
        """The share of the time that saves and crashes cost together, to first order."""
        return 20 / interval + interval / 2 / 21600

    best = young(20, 21600)
    assert all(lost(best) < lost(best * factor) for factor in (0.5, 0.9, 1.1, 2.0))
    assert lost(2 * best) / lost(best) == pytest.approx(1.25)
    assert lost(best) == pytest.approx(2 * 20 / best)  # crashes cost as much again


def test_the_conflict_in_the_guide_is_the_logged_one() -> None:
    found = re.search(r"`(every\.minutes: 1 requests [^`]*)`", GUIDE)
    assert found
    assert found[1] == conflict(
        Schedule(minutes=1, overhead_percent=2), "minutes", seconds_since_save=60, cost_seconds=2.8
    )
