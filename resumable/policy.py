"""When a checkpoint is due, as one pure function; knows no clock, no storage and no configuration file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Reason = Literal["steps", "epochs", "minutes", "overhead"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """How often to save, whichever comes first; None switches one off, all None leaves signals and the run's end."""

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
    save_seconds: float | None,
) -> Reason | None:
    """Why a checkpoint is due at this boundary, or None. Pure: the same arguments, the same answer.

    `step` is where the run stands, `last_step` where it stood at its last checkpoint (or where it resumed).
    `epoch_ended` is the number of epochs completed, given only at the boundary at which one of them ended.
    `seconds_since_save` counts from the end of the last save, `save_seconds` is what that save took, None if unknown.
    """
    if _crossed(schedule.steps, step=step, last_step=last_step):
        return "steps"
    if schedule.epochs is not None and epoch_ended is not None and epoch_ended % schedule.epochs == 0:
        return "epochs"
    if schedule.minutes is not None and seconds_since_save >= schedule.minutes * 60:
        return "minutes"
    if _affordable(schedule.overhead_percent, seconds_since_save=seconds_since_save, save_seconds=save_seconds):
        return "overhead"
    return None


def _crossed(every_steps: int | None, *, step: int, last_step: int) -> bool:
    # Multiples are counted from the start of the run, so that a save for another reason, or one that came late,
    # does not shift all later ones.
    return every_steps is not None and step // every_steps > last_step // every_steps


def _affordable(percent: float | None, *, seconds_since_save: float, save_seconds: float | None) -> bool:
    if percent is None or save_seconds is None:
        return False
    return seconds_since_save >= save_seconds * 100 / percent
