"""One launch of a training: the objects that live from its start to its end, and how they are closed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from resumable.audit.objects.watch import ObjectWatch
from resumable.checkpointing.checkpointer import Checkpointer
from resumable.checkpointing.position import Position
from resumable.config.config import Config
from resumable.data.addresses import PassAddress
from resumable.data.loader_settings import LoaderSettings
from resumable.data.open_pass import Data
from resumable.data.pass_base import Skipping
from resumable.loop.boundary import Boundary, Instant
from resumable.loop.metrics import LoggedValue, as_numbers
from resumable.loop.process.preemption import Preemption
from resumable.loop.process.progress_bar import TrainingBar
from resumable.loop.process.run_claims import RunClaim
from resumable.loop.restore_progress import RestoreProgress
from resumable.store.attempts import Attempt
from resumable.utils.environment import environment, versions
from resumable.utils.events import duration, emit, warn

_LOADERS = "loaders"  # the settings of loaders in the notes of a checkpoint


class EvaluationAddresses:
    """The addresses of evaluation passes: numbered by loop since the last boundary, with the step as their epoch."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def take(self, loop: str, *, step: int) -> PassAddress:
        """Return the address of the next pass of `loop`."""
        number = self._counts.get(loop, 0)
        self._counts[loop] = number + 1
        return PassAddress(loop=loop, number=number, epoch=step)

    def clear(self) -> None:
        """Count from 0 again: a boundary was reached, or a resume is about to stand at one."""
        self._counts.clear()


class Launch:
    """Owns the parts of one launch: the claim on its run, the checkpointer, signals, progress bar, boundary and data.

    Creating it finds the run and refuses other objects; nothing is claimed, trained or restored yet. Drivers of a loop
    (`Trainer`, the sessions of frameworks) build on it, call `start` once they can be closed, `begin_attempt` before
    anything is restored or saved, and `close` at their end.
    Parts that every driver needs are created here and nowhere else.
    """

    def __init__(
        self,
        config: Config,
        objects: Mapping[str, Any],
        *,
        restored_elsewhere: Collection[object] = (),
        steps: str | None = None,
    ) -> None:
        """Find the run.

        `restored_elsewhere` are objects that are restored before the data is; samplers may be among them. `steps` names
        what a step of this driver is, where that is not one batch.
        """
        self.config = config
        self._steps = steps
        self.claim = RunClaim(config)
        self.checkpointer = Checkpointer(config, objects)
        resumed = self.checkpointer.resumed
        self.bar = TrainingBar(config.progress, resumed_from=resumed.step if resumed else None)
        self.preemption = Preemption(config.signals, warn)
        self.boundary = Boundary(config, self.checkpointer, self.preemption)
        self.data = self._new_data(restored_elsewhere)
        self.progress = RestoreProgress(self.checkpointer.position(), resumes=resumed is not None)
        self._watch = ObjectWatch(
            config.audit, lambda: self.checkpointer.targets, resumes=lambda: self.checkpointer.resumed is not None
        )
        self.evaluations = EvaluationAddresses()
        self.begun = False  # whether a loop of this launch has begun
        self._attempt: Attempt | None = None
        self._reported_unsaved = False
        self._owner = os.getpid()

    def _new_data(self, restored_elsewhere: Collection[object]) -> Data:
        return Data(
            self.checkpointer.data_seed,
            signals=self.preemption.numbers,
            warn=warn,
            skipping=_skipping(self.bar, self.boundary),
            tolerates_others=self.config.audit.data == "warn",
            generator_rule=self.checkpointer.generator_rule,
            unwraps=self.checkpointer.unwraps,
            restored_elsewhere=restored_elsewhere,
            settings=_loader_settings(self.checkpointer),
        )

    # -- from its start to its end ------------------------------------------------------------------------------------

    def start(self, *, idle: Callable[[], bool], close: Callable[[], object]) -> None:
        """Hold the run in this program. `close` ends the driver when a later launch finds it `idle`."""
        self.claim.hold(idle=idle, close=close)

    def begin_attempt(self) -> bool:
        """Compare what is inside the objects, claim an attempt, and log where it starts; does nothing when begun.

        Returns True if another launch has saved since this one found the run: then it stands at that checkpoint.
        """
        if self._attempt is not None:
            return False
        found = self.checkpointer.resumed
        self.checkpointer.begin_attempt()
        self._attempt = self.checkpointer.attempt
        assert self._attempt is not None
        self.boundary.record_in(self.checkpointer.journal)
        self.claim.began(self._attempt.number)
        _log_start(self.config, self.checkpointer, self._attempt.number, steps=self._steps)
        resumed = self.checkpointer.resumed
        if resumed is None or resumed is found:
            return False
        self.progress.found_newer(self.checkpointer.position())
        self.bar.resumed_from(resumed.step)
        self.data.follow(generator_rule=self.checkpointer.generator_rule, unwraps=self.checkpointer.unwraps)
        return True

    @property
    def is_owner(self) -> bool:
        """True in the process that was launched: a forked child owns neither the run nor loader workers."""
        return os.getpid() == self._owner

    def close(self, *, trained: int | None, keep: str) -> None:
        """Finish the save in flight, release everything, and warn once of steps that are in no checkpoint.

        `trained` is the number of the last step that was trained, None where none was; `keep` is the hint of the
        warning. Safe to call twice.
        """
        self.bar.stop(complete=False)
        self._watch.close()
        self.preemption.uninstall()
        self.data.close()
        self.boundary.settle_journal()
        self.checkpointer.close()
        self.claim.release()
        self.warn_unsaved(trained=trained, keep=keep)

    def warn_unsaved(self, *, trained: int | None, keep: str) -> None:
        """Warn, at the first call, of steps that are in no checkpoint. The arguments are those of `close`."""
        if not self._reported_unsaved:
            self._reported_unsaved = True
            if trained is not None and not self.boundary.preempted:
                _warn_unsaved(self.checkpointer, trained, keep)

    # -- where it stands ----------------------------------------------------------------------------------------------

    def begin(self, instant: Callable[[], Instant]) -> None:
        """Note that a loop begins; the first one of a new run saves its very beginning, which is `instant()`."""
        if self.checkpointer.resumed is None and not self.begun:
            self.evaluations.clear()  # as after a resume from here
            self.boundary.save_start(instant())
        self.begun = True

    def look(self, *, epoch_ended: bool, has_frames: bool = True) -> None:
        """Look, at the boundary of now, for objects that change and are in no checkpoint.

        `has_frames` says that the code of the loop is the user's. Raises `AuditError` in the mode `strict`.
        """
        watch, saves = self._watch, self.boundary.saves
        if not (watch.looks_at_all or epoch_ended or saves != watch.saves_seen):
            return  # in every step of every loop: no call is made that need not be
        if watch.is_due(saves=saves, epoch_ended=epoch_ended):
            carried = self.checkpointer.carried
            self._watch.look(has_frames=has_frames, carried=carried.names if carried is not None else ())

    def report_done(self, note: str, *, step: int, epoch: int) -> None:
        """Log that the run stands at its end, and that there is nothing left to train."""
        emit("DONE", step=step, epoch=epoch, note=note)

    def instant(
        self,
        position: Callable[[], Position],
        logged: Callable[[], Mapping[str, LoggedValue]],
        *,
        step: int,
        epoch: int,
        inside_epoch: bool,
        exhausted: bool = False,
        epoch_ended: bool = False,
        last: bool = False,
    ) -> Instant:
        """Return the boundary of now. A save calls `position`, and completes it with samplers, metrics and `finished`.

        `exhausted` says that the pass in progress has no batch left, `last` that the loop ends with this boundary.
        """

        def completed(finished: bool) -> Position:
            reached = position()  # first: it may open the next pass, which draws from the samplers
            return replace(reached, samplers=self.data.state(), metrics=as_numbers(logged()), finished=finished)

        return Instant(step, epoch, inside_epoch, logged, completed, exhausted, epoch_ended, last)


def _loader_settings(checkpointer: Checkpointer) -> LoaderSettings:
    """Return the settings of loaders, compared with those at the checkpoint and noted in those to come."""
    settings = LoaderSettings(
        lambda: checkpointer.resumed.notes.get(_LOADERS) if checkpointer.resumed else None,
        report=lambda words: emit("CHANGED", words, note="this launch's are used from this pass on"),
    )
    checkpointer.notes[_LOADERS] = settings.note
    return settings


def _log_start(config: Config, checkpointer: Checkpointer, attempt: int, *, steps: str | None) -> None:
    """Log that the run is new or where it resumes, and what changed since that could change bits."""
    resumed = checkpointer.resumed
    if resumed is None:
        emit("NEW", run=config.location, data_seed=checkpointer.data_seed, attempt=attempt, steps=steps)
        return
    summary = resumed.manifest.position
    emit(
        "RESUME",
        step=resumed.step,
        epoch=resumed.epoch,
        batch=f"{summary['batch']}/{summary.get('length') or '?'}" if "batch" in summary else None,
        finished="yes" if resumed.manifest.finished else None,
        **{"from": resumed.name},
        age=duration(max(time.time() - resumed.manifest.created, 0)),
        digests="ok",
        attempt=attempt,
    )
    before, now = resumed.manifest, versions() | environment() | {"gradients": config.gradients}
    changed = _changes(before.versions | before.environment | {"gradients": before.config.get("gradients")}, now)
    if changed:
        emit("CHANGED", **changed, note="bits may differ from those of an uninterrupted run")


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    return {key: f"{before.get(key)}->{now[key]}" for key in now if before.get(key) != now[key]}


def _warn_unsaved(checkpointer: Checkpointer, trained: int, keep: str) -> None:
    newest = checkpointer.newest_step or 0
    if trained > newest:
        warn(
            f"{checkpointer.config.location}: trained up to step {trained}, but the newest checkpoint is of step "
            f"{newest}: the same command trains the rest again; to keep such steps, {keep}"
        )


def _skipping(bar: TrainingBar, boundary: Boundary) -> Skipping:
    """Return what a replay shows its progress with; the replay is left when a signal requests it."""

    @contextmanager
    def skipping(what: str, total: int) -> Iterator[Callable[[int], None]]:
        with bar.skipping(what, total) as show:

            def advance(batches: int) -> None:
                boundary.leave_if_requested()  # a replay may take longer than the grace of a preemption
                show(batches)

            yield advance

    return skipping
