"""What is asked between two steps or two epochs: has a save failed, must we leave, is a save due; knows no loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from resumable import killpoints, policy
from resumable.checkpointer import Checkpointer
from resumable.config import Config
from resumable.errors import Preempted, ResumableError
from resumable.events import emit, warn
from resumable.position import Position
from resumable.retention import is_best
from resumable.signals import Preemption, exit_code

MAX_UNCLEAN_BOUNDARIES = 16


@dataclass(frozen=True)
class Instant:
    """One boundary: the counters as of now, what was logged, and how to write the whole position down."""

    step: int
    epoch: int
    inside_epoch: bool
    logged: Mapping[str, Any]
    position: Callable[[bool], Position]
    pass_over: bool
    epoch_ended: bool
    last: bool


class Boundary:
    """Decides at each boundary, with the policy, the signals and the user's own requests, and saves."""

    def __init__(self, config: Config, checkpointer: Checkpointer, preemption: Preemption) -> None:
        self._checkpointer = checkpointer
        self._preemption = preemption
        self._config = config
        self._schedule = config.every.schedule()
        self._asked_step = checkpointer.resumed.step if checkpointer.resumed else 0
        self._due: str | None = None
        self._unclean = 0
        self.stopping = False
        self.save_requested = False

    def forget(self, *, stopping: bool) -> None:
        """After a restore: what the code asked for since did not happen; what it had asked for before did."""
        self.stopping, self.save_requested = stopping, False
        self._due, self._unclean = None, 0

    def reached(self, instant: Instant) -> None:
        """Save if something asks for it, leave if a signal did. Raises `Preempted`, and what a save failed with."""
        killpoints.reach("epoch" if instant.epoch_ended else "step", instant.step)
        self._checkpointer.notice_failure()
        finished = instant.last or (self.stopping and not instant.inside_epoch)
        signal = self._preemption.pending
        self._due = self._due or self._policy_says(instant)
        self._asked_step = instant.step
        best = self._is_best(instant)
        if finished or signal or best or self.save_requested:
            reason = "final" if finished else "signal" if signal else "best" if best else "request"
            self._save_now(instant, reason, finished=finished, leaving=signal is not None)
        elif self._due and not instant.pass_over and self._may_save():
            # With no batch left, the epoch's own boundary is next: resuming there runs the body at least once, so that
            # what it leaves behind (the last loss, say) exists in the code behind the loop.
            self._save(instant, self._due, finished=False)
        if signal is not None:
            saved = self._checkpointer.saved == (instant.step, instant.epoch)
            self._leave(instant.step, saved=saved)

    def save_start(self, instant: Instant) -> None:
        """The checkpoint before the first batch: refusals, permissions and full disks show at second 0."""
        self._save(instant, "start", finished=False)
        self._checkpointer.drain()

    def leave_if_asked(self, step: int) -> None:
        """For places that are no boundary: leave with what was saved before."""
        if self._preemption.pending is not None:
            self._checkpointer.drain()
            self._leave(step, saved=False)

    def _policy_says(self, instant: Instant) -> str | None:
        return policy.due(
            self._schedule,
            step=instant.step,
            last_step=self._asked_step,
            epoch_ended=instant.epoch if instant.epoch_ended else None,
            seconds_since_save=time.monotonic() - self._checkpointer.saved_at_seconds,
            save_seconds=self._checkpointer.save_seconds,
        )

    def _is_best(self, instant: Instant) -> bool:
        # A best that is not saved here cannot be kept: the next boundary no longer has the metric.
        best = self._config.keep.best
        if best is None or best.metric not in instant.logged:
            return False
        self._checkpointer.drain()
        value = float(instant.logged[best.metric])
        return is_best(value, self._checkpointer.values_of(best.metric), self._config.keep.rule())

    def _may_save(self) -> bool:
        # One save in flight; and gradients that no optimizer has used yet are better waited out than stored.
        if self._checkpointer.busy:
            return False
        gradients = self._checkpointer.gradients
        if self._config.gradients == "always" or not gradients.ever_stepped or gradients.clean():
            return True
        self._unclean += 1
        return self._unclean > MAX_UNCLEAN_BOUNDARIES

    def _save_now(self, instant: Instant, reason: str, *, finished: bool, leaving: bool) -> None:
        try:
            if finished or self._checkpointer.saved != (instant.step, instant.epoch):
                self._save(instant, reason, finished=finished)
            if finished or leaving:
                self._checkpointer.drain()
            while finished and not leaving and self._checkpointer.saved is None:
                # No save comes due after this one. Ends: a failure in a row too many is raised.
                self._save(instant, reason, finished=True)
                self._checkpointer.drain()
        except ResumableError as error:
            if not leaving:
                raise
            warn(f"could not save before leaving: {error.message}")

    def _save(self, instant: Instant, reason: str, *, finished: bool) -> None:
        gradients = self._checkpointer.gradients
        unused = not (gradients.ever_stepped and gradients.clean())
        self._checkpointer.save(
            instant.position(finished),
            reason=reason,
            with_gradients=unused or self._config.gradients == "always",
        )
        self._due, self._unclean, self.save_requested = None, 0, False

    def _leave(self, step: int, *, saved: bool) -> None:
        signal = self._preemption.pending
        assert signal is not None
        code = exit_code(signal)
        emit("PREEMPT", signal=signal.name, step=step, saved="yes" if saved else "no", exit=code)
        raise Preempted(code, signal=signal.name, step=step, saved=saved)
