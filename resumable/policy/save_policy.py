"""Decide when a checkpoint is due. Pure functions of counts and seconds; no clock, no storage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Reason = Literal["steps", "epochs", "minutes", "overhead"]

BEST_SECONDS = 30.0
BEST_STEPS = 100
TOLERANCE = 0.9  # a save may come this much early: the noise of the measurement is as large


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """How often to save, whichever comes first; None switches one off, all None leaves signals and the run's end.

    `minutes` is the most that may be lost. `overhead_percent` is the share of the time that saving may cost.
    """

    steps: int | None = None
    minutes: float | None = None
    epochs: int | None = None
    overhead_percent: float | None = None


def due(
    schedule: Schedule,
    *,
    step: int,
    last_step: int,
    epoch_ended: int | None = None,
    seconds_since_save: float,
    cost_seconds: float | None,
) -> Reason | None:
    """Return why a checkpoint is due at this boundary, or None. Pure.

    Args:
        schedule: How often to save.
        step: The number of completed steps.
        last_step: The same number at the last checkpoint, or where the run resumed.
        epoch_ended: The number of completed epochs, at a boundary at which one of them ended; otherwise None.
        seconds_since_save: Time since training continued after the last save.
        cost_seconds: What a save costs training in all, None while that is not measured.
    """
    if _crossed(schedule.steps, step=step, last_step=last_step):
        return "steps"
    if schedule.epochs is not None and epoch_ended is not None and epoch_ended % schedule.epochs == 0:
        return "epochs"
    if schedule.minutes is not None and seconds_since_save >= schedule.minutes * 60:
        return "minutes"
    if _paid_off(schedule.overhead_percent, seconds_since_save=seconds_since_save, cost_seconds=cost_seconds):
        return "overhead"
    return None


def may_save_best(
    schedule: Schedule, *, steps_since_best: int | None, seconds_since_best: float, cost_seconds: float
) -> bool:
    """Return whether a better value may be saved by itself, in the middle of an epoch. Pure.

    With `overhead_percent`, as often as that share allows. Otherwise once in `BEST_SECONDS` and `BEST_STEPS`, whichever
    is longer. Both count from the last save for a better value; `steps_since_best` is None before the first one.
    """
    if steps_since_best is None:
        return True
    percent = schedule.overhead_percent
    if percent is not None:
        return seconds_since_best >= interval_seconds(cost_seconds, percent)
    return seconds_since_best >= BEST_SECONDS and steps_since_best >= BEST_STEPS


def interval_seconds(cost_seconds: float, percent: float) -> float:
    """Return how long to train between two saves of this cost, so that they cost at most this share of the time."""
    return cost_seconds * 100 / percent


def exceeds(schedule: Schedule, *, seconds_since_save: float, cost_seconds: float | None) -> bool:
    """Return whether a save after so many seconds costs more than `overhead_percent` allows. Pure."""
    percent = schedule.overhead_percent
    if percent is None or cost_seconds is None:
        return False
    return seconds_since_save < TOLERANCE * interval_seconds(cost_seconds, percent)


def conflict(schedule: Schedule, reason: str, *, seconds_since_save: float, cost_seconds: float) -> str:
    """Describe two keys that cannot both hold, with the interval that each wants, in one sentence. Pure."""
    percent = schedule.overhead_percent
    assert percent is not None
    share = 100 * cost_seconds / seconds_since_save
    return (
        f"every.{reason}: {getattr(schedule, reason):g} requests a save every {seconds_since_save:.3g} s, "
        f"every.overhead_percent: {percent:g} allows one every {interval_seconds(cost_seconds, percent):.3g} s: "
        f"saving costs {share:.2g} % of the time; raise one of the two"
    )


def _crossed(every_steps: int | None, *, step: int, last_step: int) -> bool:
    # Multiples are counted from the start of the run, so that a save for another reason, or one that came late,
    # does not shift all later ones.
    return every_steps is not None and step // every_steps > last_step // every_steps


def _paid_off(percent: float | None, *, seconds_since_save: float, cost_seconds: float | None) -> bool:
    if percent is None or cost_seconds is None:
        return False
    return seconds_since_save >= interval_seconds(cost_seconds, percent)
