"""Decide which settings a loop does not use: a metric that nothing logs, an interval of steps where none is counted."""

from __future__ import annotations

from collections.abc import Collection

from resumable.policy.save_policy import Schedule
from resumable.utils.messages import listed, nearest


def unlogged_metric(metric: str, logged: Collection[str], *, configured: bool, over: bool) -> str | None:
    """Return the warning for a `keep.best.metric` that is none of the logged names, else None.

    A loop may log it for the first time after several epochs. So until the run is `over`, only a similar name counts as
    a mistake, and the default metric needs one at any time: `configured` says that the config names the metric.
    """
    similar = next(iter(nearest(metric, logged, cutoff=0.8)), None)
    if not logged or (similar is None and not (over and configured)):
        return None
    hint = f"did you mean {similar!r}?" if similar else "set it to one of them, or keep.best to null"
    return (
        f"keep.best.metric: {metric!r} was never logged, so no checkpoint is kept as the best; logged: "
        f"{listed(sorted(logged), most=5)}; {hint}"
    )


def uncounted_steps(schedule: Schedule, *, epoch: int, steps: int) -> str | None:
    """Return the warning for an epoch that counted no steps under an interval of steps, else None."""
    if steps or schedule.steps is None or schedule.epochs is not None:
        return None
    return (
        f"epoch {epoch} ended without a step, so `every.steps: {schedule.steps}` never saves, and an interrupted epoch "
        "begins again: iterate over trainer.batches(loader), or set every.epochs where an epoch has no batches"
    )
