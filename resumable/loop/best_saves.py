"""Decide when a better value of the metric in `keep.best` is saved for its own sake. Independent of loops."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from resumable.checkpointing.checkpointer import Checkpointer
from resumable.config.config import Config
from resumable.loop.metrics import LoggedValue
from resumable.policy import save_policy, unused_settings
from resumable.policy.retention import is_best
from resumable.utils.events import warn


class BestSaves:
    """Bound the saves of one attempt for better values: each at the end of an epoch, few in the middle of it.

    A value is compared with those that are durable. A better value that was skipped is gone: later steps no longer
    have its state.
    """

    def __init__(self, config: Config, checkpointer: Checkpointer) -> None:
        self._checkpointer = checkpointer
        self._rule = config.keep.rule()
        self._schedule = config.every.schedule()
        self._last_step: int | None = None  # of the last save for a better value
        self._last_seconds = 0.0
        self._skipped: str | None = None  # what was better at this boundary, and may not be saved for that
        self._reported = False
        best = config.keep.best
        is_configured = best is not None and "metric" in best.model_fields_set
        # The names that were logged, until the configured metric is among them or was reported.
        self._names: set[str] | None = set() if is_configured else None

    def wants_save(
        self, logged: Mapping[str, LoggedValue], *, step: int, now: float, epoch_ended: bool, cost_seconds: float
    ) -> bool:
        """Return whether to save at this boundary for what was logged.

        Waits for the save in flight only where the value is better than what is durable.
        """
        self._skipped = None
        metric = self._rule.best_metric
        if metric is None or metric not in logged:
            return False
        allowed = epoch_ended or save_policy.may_save_best(
            self._schedule,
            steps_since_best=None if self._last_step is None else step - self._last_step,
            seconds_since_best=now - self._last_seconds,
            cost_seconds=cost_seconds,
        )
        if not allowed and self._reported:
            return False  # before the value is looked at, which may wait for a device
        value = float(logged[metric])
        if not is_best(value, self._checkpointer.best_values(), self._rule):
            return False
        if not allowed:
            if not self._checkpointer.status.busy:  # what is in flight may be better still, and is not waited for
                self._skipped = f"{metric} at step {step}"
            return False
        self._checkpointer.drain()  # what is in flight may be better still
        return is_best(value, self._checkpointer.best_values(), self._rule)

    def saved(self, step: int) -> None:
        """Note that a better value was saved at `step`, just now."""
        self._last_step, self._last_seconds = step, self._checkpointer.status.saved_at_seconds

    def saw(self, names: Collection[str]) -> None:
        """Note the names of what was logged."""
        if self._names is not None:
            self._names = None if self._rule.best_metric in names else self._names | set(names)

    def report_unlogged(self) -> None:
        """Log once that a configured metric was never logged, but a similar name was; called at the end of epochs."""
        metric = self._rule.best_metric
        if metric is None or self._names is None:
            return
        warning = unused_settings.unlogged_metric(metric, self._names)
        if warning is not None and not self._checkpointer.best_values():  # an earlier launch may have logged it
            self._names = None
            warn(warning)

    def report_skipped(self) -> None:
        """Log once that a better value is lost; called where nothing else saved it either."""
        if self._skipped is None or self._reported:
            return
        self._reported = True
        percent = self._schedule.overhead_percent
        often = (
            f"once in {save_policy.BEST_SECONDS:g} s and {save_policy.BEST_STEPS} steps"
            if percent is None
            else f"as often as every.overhead_percent: {percent:g} allows"
        )
        warn(
            f"keep.best.metric: {self._skipped} is better than what is stored, and was not saved: in the middle of an "
            f"epoch a better value is saved at most {often}, at the end of one always; log it less often if each must "
            "be kept"
        )
