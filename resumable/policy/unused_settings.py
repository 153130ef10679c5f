"""Decide which settings a loop does not use: a metric that nothing logs, an interval of steps where none is counted."""

from __future__ import annotations

from collections.abc import Collection

from resumable.policy.save_policy import Schedule
from resumable.utils.messages import listed, nearest

_EMPTY_EPOCHS = 2  # a loop may skip one


def unlogged_metric(metric: str, logged: Collection[str]) -> str | None:
    """Return the warning for a `keep.best.metric` under which nothing was logged, but under a similar name, else None.

    Without a similar name it may still be logged, by an evaluation after several epochs.
    """
    similar = next(iter(nearest(metric, logged, cutoff=0.85)), None)
    if similar is None or metric in logged:
        return None
    return (
        f"keep.best.metric: {metric!r} was never logged, so no checkpoint is kept as the best; logged: "
        f"{listed(sorted(logged), most=5)}; did you mean {similar!r}?"
    )


def uncounted_steps(schedule: Schedule, *, empty_epochs: int) -> str | None:
    """Return the warning for a second epoch in a row that counted no steps under an interval of steps, else None."""
    if empty_epochs != _EMPTY_EPOCHS or schedule.steps is None or schedule.epochs is not None:
        return None
    return (
        f"{empty_epochs} epochs in a row ended without a step, where `every.steps: {schedule.steps}` never saves: "
        "iterate over trainer.batches(loader), or set every.epochs where an epoch has no batches"
    )
