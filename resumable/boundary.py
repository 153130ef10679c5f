"""What is asked between two steps or two epochs: has a save failed, must we leave, is a save due; knows no loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from resumable import killpoints, policy
from resumable.checkpointer import Checkpointer
from resumable.config import Config
from resumable.errors import Preempted
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
        self._place = checkpointer.saved or (0, 0)  # (step, epoch) of the last boundary
        self._due: str | None = None
        self._unclean = 0
        self.stopping = False
        self.save_requested = False

    def forget(self, *, stopping: bool) -> None:
        """After a restore: what the code asked for since did not happen; what it had asked for before did."""
        self.stopping, self.save_requested = stopping, False
        self._due = None

    def reached(self, instant: Instant) -> None:
        """Save if something asks for it, leave if a signal did. Raises `Preempted`, and what a save failed with."""
        killpoints.reach("epoch" if instant.epoch_ended else "step", instant.step)
        self._checkpointer.notice_failure()
        self._due = self._due or self._policy_says(instant)
        self._place = instant.step, instant.epoch
        finished = instant.last or (self.stopping and not instant.inside_epoch)
        if finished and self._preemption.pending is None:
            self._save_final(instant)
        elif self._preemption.pending is None:
            self._save_if_asked(instant)
        if self._preemption.pending is not None:  # asked once more: it may have come while a save was written
            self._save_before_leaving(instant, finished=finished)
            self.leave_if_asked()

    def save_start(self, instant: Instant) -> None:
        """The checkpoint before the first batch: refusals, permissions and full disks show at second 0."""
        self._save(instant, "start")
        self._checkpointer.drain()

    def leave_if_asked(self) -> None:
        """Raise `Preempted` if a signal came; for places that are no boundary, with what was saved before."""
        signal = self._preemption.pending
        if signal is None:
            return
        try:
            self._checkpointer.drain()
        except Exception as error:
            warn(f"the last save before leaving failed: {error}")
        saved, code = self._is_saved(), exit_code(signal)
        emit("PREEMPT", signal=signal.name, step=self._place[0], saved="yes" if saved else "no", exit=code)
        raise Preempted(code, signal=signal.name, step=self._place[0], saved=saved)

    def _policy_says(self, instant: Instant) -> str | None:
        return policy.due(
            self._schedule,
            step=instant.step,
            last_step=self._place[0],
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

    def _save_if_asked(self, instant: Instant) -> None:
        asked = "best" if self._is_best(instant) else "request" if self.save_requested else None
        if asked is not None:
            if not self._is_saved():
                self._save(instant, asked)
            self.save_requested = False
        elif self._due and not instant.pass_over and self._may_save():
            # With no batch left, the epoch's own boundary is next: resuming there runs the body at least once, so that
            # what it leaves behind (the last loss, say) exists in the code behind the loop.
            self._save(instant, self._due)

    def _may_save(self) -> bool:
        # One save in flight; and gradients that no optimizer has used yet are better waited out than stored.
        if self._checkpointer.busy:
            return False
        gradients = self._checkpointer.gradients
        if self._config.gradients == "always" or not gradients.ever_stepped or gradients.clean():
            return True
        self._unclean += 1
        if self._unclean > MAX_UNCLEAN_BOUNDARIES:
            self._unclean = MAX_UNCLEAN_BOUNDARIES  # this loop is never clean: later saves do not wait in vain
            return True
        return False

    def _save_final(self, instant: Instant) -> None:
        # No save comes due after this one, so it is tried again until a failure in a row too many is raised.
        while True:
            self._save(instant, "final", finished=True)
            self._checkpointer.drain()
            if self._is_saved():
                return

    def _save_before_leaving(self, instant: Instant, *, finished: bool) -> None:
        for _ in range(2):  # the first failure may be that of an earlier save that was still in flight
            try:
                if not self._is_saved():
                    self._save(instant, "final" if finished else "signal", finished=finished)
                self._checkpointer.drain()
            except Exception as error:
                warn(f"could not save before leaving: {error}")
            if self._is_saved():
                return

    def _is_saved(self) -> bool:
        return self._checkpointer.saved == self._place

    def _save(self, instant: Instant, reason: str, *, finished: bool = False) -> None:
        self._checkpointer.save(instant.position(finished), reason=reason)
        self._due, self.save_requested = None, False
