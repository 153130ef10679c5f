"""Decide, between two steps or epochs: report a failed save, leave on a signal, start a due save.

Independent of the kind of loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from resumable.checkpointing.checkpointer import Checkpointer
from resumable.checkpointing.position import Position
from resumable.checkpointing.save_pipeline import SaveStatus
from resumable.config.config import Config
from resumable.loop.best_saves import BestSaves
from resumable.loop.metrics import FiniteWatch, LoggedValue
from resumable.loop.process.preemption import Preemption, error_of, exit_code, signal_name
from resumable.loop.process.step_journal import StepJournal
from resumable.policy import save_policy, unused_settings
from resumable.policy.save_cost import Cost
from resumable.store.journal.writer import JournalWriter
from resumable.utils import failpoints
from resumable.utils.events import emit, warn

MAX_UNCLEAN_BOUNDARIES = 16
TOO_SOON = 2  # consecutive saves over their share of the time: one alone may have been an outlier


class Instant(NamedTuple):
    """One boundary: the counters as of now, what was logged, and a function that returns the whole position."""

    step: int
    epoch: int
    inside_epoch: bool
    logged: Callable[[], Mapping[str, LoggedValue]]
    position: Callable[[bool], Position]
    exhausted: bool  # no batch of the pass is left
    epoch_ended: bool
    last: bool


class Boundary:
    """Decide at each boundary, by the policy, the signals and the user's requests, and save."""

    def __init__(self, config: Config, checkpointer: Checkpointer, preemption: Preemption) -> None:
        self._checkpointer = checkpointer
        self._preemption = preemption
        self._config = config
        self._schedule = config.every.schedule()
        self._best_saves = BestSaves(config, checkpointer)
        self._watch = FiniteWatch(checkpointer.witnesses)
        self._journal: StepJournal | None = None
        self._place = checkpointer.status.saved or (0, 0)  # (step, epoch) of the last boundary
        self._epoch_began = 0  # the step at which the epoch in progress began
        self._empty_epochs = 0  # that ended without a step, in a row
        self._due: str | None = None
        self._unclean = 0
        self._cost = Cost()
        self._elsewhere = True  # whether the time since the last boundary includes more than one training step
        self._after_save = 0  # boundaries since the last save became durable, while its cost is being measured
        self._too_soon = 0  # consecutive saves over their share; frozen once the warning was logged
        self.saves = 0  # of this attempt that were begun
        self.stopping = False
        self.save_requested = False
        self.preempted = False  # whether a PREEMPT line already reports what is saved

    def begin_at(self, *, step: int, epoch: int) -> None:
        """Count from the beginning of a new run that is not 0: what the policy counts in steps was not skipped."""
        self._place = step, epoch
        self._epoch_began = step

    def forget(self, *, stopping: bool) -> None:
        """Reset after a restore: drop requests made after the checkpoint, reinstate those that it recorded."""
        self.stopping, self.save_requested = stopping, False
        self._place = self._checkpointer.status.saved or (0, 0)
        self._watch = FiniteWatch(self._checkpointer.witnesses)
        self._due = None
        self._elsewhere = True

    def see(self, logged: Mapping[str, LoggedValue], *, step: int) -> None:
        """Observe metrics that no boundary gets: they were logged before the first step of a pass."""
        self._watch.see(logged, step=step)
        self._best_saves.saw(logged)

    def record_in(self, journal: JournalWriter | None) -> None:
        """Record what boundaries log in the journal of the attempt, which is claimed now; None where it is off."""
        self._journal = StepJournal(journal) if journal is not None else None

    def settle_journal(self) -> None:
        """Pass everything that boundaries logged to the journal. Waits for devices."""
        if self._journal is not None:
            self._journal.settle()

    def reached(self, instant: Instant) -> None:
        """Save if due or requested, leave if there is a cause. Raises its error, and what a save failed with."""
        failpoints.reach("epoch" if instant.epoch_ended else "step", instant.step)
        logged = instant.logged()
        self.see(logged, step=instant.step)
        if logged and self._journal is not None:
            self._journal.note(logged, step=instant.step, epoch=instant.epoch, epoch_ended=instant.epoch_ended)
        status = self._checkpointer.notice_failure()
        now = time.monotonic()
        self._learn_cost(now, instant, status)
        self._due = self._due or status.retake or self._policy_says(now, instant, status)
        self._place = instant.step, instant.epoch
        finished = instant.last or (self.stopping and not instant.inside_epoch)
        if finished and self._preemption.pending is None:
            self._save_final(instant)
        elif self._preemption.pending is None:
            self._save_if_due(now, instant)
        if instant.epoch_ended:
            self._report_unused(instant)
        if self._preemption.pending is not None:  # read again: a signal may have come while a save was written
            self._save_before_leaving(instant, finished=finished)
            self.leave_if_requested()

    def save_start(self, instant: Instant) -> None:
        """Save before the first batch, so that refusals, permissions and full disks show at second 0."""
        self._watch.see(instant.logged(), step=instant.step)
        self._save(instant, "start")
        self._cost.first(self._checkpointer.status.stalled_seconds)
        self._checkpointer.drain()

    def leave_if_requested(self) -> None:
        """Raise the error of a signal or of `leave()`. For places that are no boundary: the last save remains."""
        self._elsewhere = True
        cause = self._preemption.pending
        if cause is None:
            return
        try:
            self._checkpointer.drain()
        except Exception as error:
            warn(f"the last save before leaving failed: {error}")
        saved, code, signal = self._is_saved(), exit_code(cause), signal_name(cause)
        where = {"saved": "yes"} if saved else {"saved": "no", "newest": self._checkpointer.newest_step}
        reason = None if signal else cause
        emit("PREEMPT", signal=signal, reason=reason, step=self._place[0], **where, exit=code)
        self.preempted = True
        raise error_of(cause)(code, signal=signal, step=self._place[0], saved=saved)

    def _report_unused(self, instant: Instant) -> None:
        self._best_saves.report_unlogged()
        self._empty_epochs = self._empty_epochs + 1 if instant.step == self._epoch_began else 0
        self._epoch_began = instant.step
        warning = unused_settings.uncounted_steps(self._schedule, empty_epochs=self._empty_epochs)
        if warning is not None:
            warn(warning)

    def _learn_cost(self, now: float, instant: Instant, status: SaveStatus) -> None:
        if self._schedule.overhead_percent is None:
            return
        # What lies between two passes or epochs, an evaluation and a replay are no step, however long they take.
        is_step = not self._elsewhere and instant.step == self._place[0] + 1 and not instant.epoch_ended
        self._elsewhere = instant.epoch_ended or instant.exhausted
        self._cost.reached(
            now,
            is_step=is_step,
            beside_save=self._beside_save(status),
            stalled_seconds=status.stalled_seconds,
            save_seconds=status.save_seconds,
        )

    def _beside_save(self, status: SaveStatus) -> bool:
        # Until the window of accumulation is over in which the save became durable: a save begins right after the
        # optimizer's step, and so would be compared with the shorter kind of steps only.
        if not self._cost.in_flight:
            return False
        if status.busy:
            self._after_save = 0
            return True
        self._after_save += 1
        return self._after_save <= MAX_UNCLEAN_BOUNDARIES and not self._clean()

    def _policy_says(self, now: float, instant: Instant, status: SaveStatus) -> str | None:
        return save_policy.due(
            self._schedule,
            step=instant.step,
            last_step=self._place[0],
            epoch_ended=instant.epoch if instant.epoch_ended else None,
            seconds_since_save=now - status.saved_at_seconds,
            cost_seconds=self._cost.seconds,
        )

    def _is_best(self, now: float, instant: Instant) -> bool:
        # A better value that is not saved here is lost: the next boundary no longer has the metric.
        return self._best_saves.wants_save(
            instant.logged(),
            step=instant.step,
            now=now,
            epoch_ended=instant.epoch_ended,
            cost_seconds=self._cost.estimated_seconds,
        )

    def _save_if_due(self, now: float, instant: Instant) -> None:
        reason = "best" if self._is_best(now, instant) else "request" if self.save_requested else None
        if reason is not None:
            if not self._is_saved():
                self._save(instant, reason, late=reason == "request" and not instant.epoch_ended)
                if reason == "best":
                    self._best_saves.saved(instant.step)
            self.save_requested = False
        elif self._due and not instant.exhausted and self._may_save():
            # With no batch left, the epoch's own boundary is next: resuming there runs the body at least once, so that
            # what it leaves behind (the last loss, say) exists in the code behind the loop.
            self._save(instant, self._due, late=not instant.epoch_ended)
        elif not self._due:
            self._checkpointer.prepare()
        if not self._is_saved() and not instant.exhausted:  # or the boundary of the epoch is next, and saves it
            self._best_saves.report_skipped()

    def _may_save(self) -> bool:
        # Only one save is in flight; and waiting is better than storing gradients that no optimizer has used yet.
        if self._checkpointer.status.busy:
            return False
        if self._clean():
            return True
        self._unclean += 1
        if self._unclean > MAX_UNCLEAN_BOUNDARIES:
            self._unclean = MAX_UNCLEAN_BOUNDARIES  # this loop is never clean: later saves do not wait in vain
            return True
        return False

    def _clean(self) -> bool:
        gradients = self._checkpointer.gradients
        return self._config.gradients == "always" or not gradients.ever_stepped or gradients.clean()

    def _save_final(self, instant: Instant) -> None:
        # No save comes due after this one, so it is retried until one consecutive failure too many is raised.
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
        return self._checkpointer.status.saved == self._place

    def _save(self, instant: Instant, reason: str, *, finished: bool = False, late: bool = False) -> None:
        self.settle_journal()
        status = self._checkpointer.status
        self._warn_of_conflict(reason, status)
        self._cost.begin(stalled_seconds=status.stalled_seconds, save_seconds=status.save_seconds)
        self._checkpointer.save(instant.position(finished), reason=reason, late=late, metrics=self._watch.settled())
        self._due, self.save_requested = None, False
        self.saves += 1

    def _warn_of_conflict(self, reason: str, status: SaveStatus) -> None:
        """Log once that another key of `every` makes saves come too soon for their share, again and again."""
        warned, retaken = self._too_soon == TOO_SOON, status.retake is not None
        if warned or retaken or reason not in ("steps", "epochs", "minutes", "overhead"):
            return
        seconds = time.monotonic() - status.saved_at_seconds
        cost = self._cost.measured_seconds
        exceeds = save_policy.exceeds(self._schedule, seconds_since_save=seconds, cost_seconds=cost)
        self._too_soon = self._too_soon + 1 if exceeds and reason != "overhead" else 0
        if self._too_soon == TOO_SOON and cost is not None:
            warn(save_policy.conflict(self._schedule, reason, seconds_since_save=seconds, cost_seconds=cost))
