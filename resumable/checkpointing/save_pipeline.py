"""The saves of one attempt: stage a snapshot, commit it beside training, count failures. Independent of any loop.

A snapshot is brought into files in one of three ways. It is *staged*: copied into host memory while training stands
still. It is *copied late*: training goes on, and optimizers wait for the copy. Or it is *streamed*: written out of the
live tensors piece by piece while training stands still. That is for a state beyond the memory that it may use, and for
the first save of a run, for the whole of which training waits anyway.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from torch import Tensor

from resumable.checkpointing.capture.snapshot import Snapshot, readable, split_for_late_copy
from resumable.checkpointing.commit import Commits, DedupCandidates
from resumable.checkpointing.save_state import BUSY, TRANSITIONS, SaveEvent, SaveState
from resumable.config.config import Config
from resumable.errors import ResumableError
from resumable.state.staging.file_images import FileImage
from resumable.state.staging.overlapped_copy import OptimizerGate, OverlappedCopy, TornCopyError
from resumable.state.staging.slab_images import SlabImage, Slabs, size_in_memory
from resumable.state.staging.stager import Stager
from resumable.utils.events import duration, emit, size, warn
from resumable.utils.memory import collector_paused
from resumable.utils.threads import Background
from resumable.utils.transitions import next_state

Blobs = Mapping[str, Mapping[str, Tensor]]

COPY_THREADS = min(2, os.cpu_count() or 1)
MAX_TORN_COPIES = 3  # in a row; more than that, and the loop is not suited to staging.mode: overlap


class SaveStatus(NamedTuple):
    """The saves of one attempt, as the training thread has noticed them; all times in seconds."""

    busy: bool
    """True while a save is written, or memory for one is prepared."""
    saved: tuple[int, int] | None
    """(step, epoch) of the newest save; None where there is none, or it failed."""
    retake: str | None
    """The reason of a save that was torn, and is due again; None where none is."""
    saved_at_seconds: float
    """Monotonic time at which training went on after the last save began."""
    save_seconds: float
    """Duration of the last save that became durable, from its capture on."""
    stalled_seconds: float
    """Time that training has waited for saves so far."""


def no_saves(*, resumed_at: tuple[int, int] | None, started: float) -> SaveStatus:
    """Return the saves of an attempt that has made none; the arguments are those of `SavePipeline`."""
    return SaveStatus(
        busy=False, saved=resumed_at, retake=None, saved_at_seconds=started, save_seconds=0.0, stalled_seconds=0.0
    )


class TornSaveError(Exception):
    """A save that came to nothing, because training wrote to the weights during its copy."""


@dataclass(frozen=True)
class _PendingSave:
    """One save: its snapshot, the records it may share, and the monotonic time before its capture."""

    snapshot: Snapshot
    candidates: DedupCandidates
    started: float

    @property
    def likely_same(self) -> set[str]:
        """Return the blobs whose content is probably that of the previous checkpoint."""
        return {name for name, before in self.candidates.items() if before is not None}


class SavePipeline:
    """One save in flight at a time, from the snapshot until it is durable.

    All methods belong to the training thread. What they return and raise is what that thread has noticed: a failure in
    the background changes nothing before `notice`.

    Args:
        config: The attempt's configuration.
        commits: Writes and commits what is staged.
        resumed_at: (step, epoch) of the checkpoint that the attempt resumed from, if any.
        stager: The host memory for staged files.
        started: Monotonic time in seconds at which the attempt began.
    """

    def __init__(
        self, config: Config, commits: Commits, *, resumed_at: tuple[int, int] | None, stager: Stager, started: float
    ) -> None:
        self._config = config
        self._commits = commits
        self._is_fresh = resumed_at is None
        self._stager = stager
        self._background = Background()
        self._gate = OptimizerGate(stager.hold) if config.staging.mode == "overlap" else None
        self._state = SaveState.IDLE
        self._status = no_saves(resumed_at=resumed_at, started=started)  # without the waits at the gate
        self._reason = ""  # of the newest save
        self._saves = self._failed_in_a_row = self._torn_in_a_row = 0
        self._save_seconds = 0.0  # written in the background, and noticed with the end of the save

    @property
    def status(self) -> SaveStatus:
        """Return the saves as of the last call of a method."""
        if self._gate is None:  # the very object: this is read at every boundary
            return self._status
        return self._status._replace(stalled_seconds=self._stalled_seconds())

    @property
    def is_first(self) -> bool:
        """Return whether no save has begun, and there is no checkpoint to resume from."""
        return self._is_fresh and self._saves == 0

    @property
    def may_prepare(self) -> bool:
        """Return whether `prepare` may be called: nothing is in flight, or due again."""
        return SaveEvent.PREPARE in TRANSITIONS[self._state]

    def prepare(self, blobs: Blobs, slabs: Mapping[str, Slabs]) -> None:
        """Allocate the memory that staging these blobs and the slabs of objects takes, beside training."""
        if not self._exceeds_memory(blobs, slabs):
            self._background.submit(self._stager.prepare(blobs, slabs))
            self._move(SaveEvent.PREPARE)

    # -- a save begins ------------------------------------------------------------------------------------------------

    def submit(self, capture: Callable[[], Snapshot], *, started: float, late: bool) -> None:
        """Bring a snapshot into files and commit it beside training; `drain` must have been called before.

        With `late`, and where the config allows it, the snapshot is copied late. Raises `StateError` for a state that
        cannot be stored.
        """
        with collector_paused():
            snapshot = capture()
            save = _PendingSave(snapshot, self._commits.dedup_candidates(snapshot.blobs), started)
            try:
                event = self._begin(save, late=late)
            except BaseException:
                self._stager.forget()  # what is staged will never be published
                raise
        if event is SaveEvent.STREAM:
            self._background.wait()
        self._move(event)
        self._reason = snapshot.reason
        self._saves += 1
        now = time.monotonic()
        self._status = self._status._replace(
            saved=(snapshot.position.step, snapshot.position.epoch),
            saved_at_seconds=now,
            stalled_seconds=self._status.stalled_seconds + now - started,
        )

    def _begin(self, save: _PendingSave, *, late: bool) -> SaveEvent:
        late = late and self._state is not SaveState.TORN and self._torn_in_a_row < MAX_TORN_COPIES
        if self.is_first or self._exceeds_memory(save.snapshot.blobs, save.snapshot.slabs):
            return self._stream(save)
        if late and self._gate is not None:
            return self._copy_late(save, self._gate)
        return self._stage(save)

    def _exceeds_memory(self, blobs: Blobs, slabs: Mapping[str, Slabs]) -> bool:
        """Return whether the images of these blobs and slabs are larger than the memory that staging may use."""
        max_bytes = self._config.staging.max_bytes
        with readable("the state"):
            in_slabs = sum(map(size_in_memory, slabs.values()))
            return max_bytes is not None and self._stager.needed(blobs) + in_slabs > max_bytes

    def _stream(self, save: _PendingSave) -> SaveEvent:
        with readable("the state"):
            images, slabs = self._stager.stream(
                save.snapshot.blobs, save.snapshot.slabs, max_bytes=self._config.staging.max_bytes
            )
        self._background.submit(lambda: self._write(save, images, slabs, stalled=partial(_seconds_since, save.started)))
        return SaveEvent.STREAM

    def _stage(self, save: _PendingSave) -> SaveEvent:
        self._stager.begin(save.snapshot.blobs)
        with readable("the state"):
            images = self._stager.stage(save.snapshot.blobs, threads=COPY_THREADS, likely_same=save.likely_same)
        slabs = self._stager.stage_slabs(save.snapshot.slabs, threads=COPY_THREADS)
        stall_seconds = _seconds_since(save.started)
        self._background.submit(lambda: self._write(save, images, slabs, stalled=lambda: stall_seconds))
        return SaveEvent.STAGE

    def _copy_late(self, save: _PendingSave, gate: OptimizerGate) -> SaveEvent:
        before = self._stalled_seconds()
        blobs, live = split_for_late_copy(save.snapshot)
        self._stager.begin(blobs)
        slabs = self._stager.stage_slabs(save.snapshot.slabs, threads=COPY_THREADS)  # more than optimizers write them
        copy = OverlappedCopy(live)
        gate.shut(copy)

        def stalled() -> float:
            return self._stalled_seconds() - before

        def copy_and_write() -> None:
            try:
                with readable("the state"):
                    images = self._stager.stage(blobs, threads=1, likely_same=save.likely_same, copied=copy.copied.set)
            finally:
                copy.copied.set()
            try:
                self._write(save, images, slabs, stalled=stalled, confirm_copy=copy.refuse_torn)
            except TornCopyError as error:
                raise TornSaveError(str(error)) from error

        self._background.submit(copy_and_write)
        return SaveEvent.COPY_LATE

    # -- in the background --------------------------------------------------------------------------------------------

    def _write(
        self,
        save: _PendingSave,
        images: Mapping[str, FileImage],
        slabs: Mapping[str, SlabImage],
        *,
        stalled: Callable[[], float],
        confirm_copy: Callable[[], None] = lambda: None,
    ) -> None:
        try:
            committed = self._commits.commit(save.snapshot, images, slabs, save.candidates, confirm_copy=confirm_copy)
        except BaseException:
            self._stager.forget()  # what is staged was never published
            raise
        stall_seconds, self._save_seconds = stalled(), _seconds_since(save.started)
        is_shared = committed.written_bytes < committed.total_bytes
        emit(
            "SAVED",
            step=save.snapshot.position.step,
            stall=duration(stall_seconds),
            total=duration(self._save_seconds),
            size=size(committed.total_bytes),
            written=size(committed.written_bytes) if is_shared else None,
            buffers=size(self._stager.nbytes),
            kept=committed.kept,
            reason=save.snapshot.reason,
        )

    # -- a save ends --------------------------------------------------------------------------------------------------

    def wait(self) -> None:
        """Wait until nothing is in flight; a failure stays until it is noticed."""
        if self._gate is not None:
            self._gate.settle()
        self._background.wait()

    def drain(self) -> SaveStatus:
        """Wait until the save in flight is durable, then `notice`."""
        before, started = self._stalled_seconds(), time.monotonic()
        self.wait()
        waited_seconds = _seconds_since(started) - (self._stalled_seconds() - before)
        self._status = self._status._replace(stalled_seconds=self._status.stalled_seconds + waited_seconds)
        return self.notice()

    def notice(self) -> SaveStatus:
        """Take note of how the save in flight ended, without waiting for it.

        A torn copy is due again. A storage that fails is raised after `max_failed_saves` saves in a row, and at once
        where there is no checkpoint yet. Every other failure is raised at once, such as being displaced by a newer
        attempt, or a state that cannot be stored.
        """
        if self._gate is not None:
            self._gate.settle_if_copied()
        if self._status.busy and not self._background.busy:
            failure = self._background.failure()
            if failure is None:
                self._note_finished()
            elif isinstance(failure, TornSaveError):
                self._note_torn(failure)
            else:
                self._note_failed(failure)
        return self.status

    def _note_finished(self) -> None:
        if self._state is SaveState.COPYING:
            self._torn_in_a_row = 0
        if self._state is not SaveState.PREPARING:
            self._failed_in_a_row = 0
        self._move(SaveEvent.FINISH)
        self._status = self._status._replace(save_seconds=self._save_seconds)

    def _note_torn(self, failure: TornSaveError) -> None:
        self._move(SaveEvent.TEAR)
        self._torn_in_a_row += 1
        is_last = self._torn_in_a_row == MAX_TORN_COPIES
        warn(
            f"a save was torn, and is made again at the next boundary: {failure}: staging.mode: overlap is for loops "
            f"in which optimizers alone write weights{'; from here on saves are staged at once' if is_last else ''}"
        )

    def _note_failed(self, failure: BaseException) -> None:
        self._move(SaveEvent.FAIL)
        self._failed_in_a_row += 1
        is_fatal = not isinstance(failure, OSError) or (self._is_fresh and self._saves == 1)
        limit = self._config.max_failed_saves
        if is_fatal or self._failed_in_a_row >= limit:
            raise failure
        message = failure.message if isinstance(failure, ResumableError) else str(failure)
        warn(f"save failed ({self._failed_in_a_row} of {limit} before training stops): {message}")

    def close(self) -> None:
        """Wait for what is in flight, log its failure, and let every optimizer pass; safe to call twice."""
        try:
            self.wait()
            failure = self._background.failure()
            if failure is not None:
                warn(f"the last save failed: {failure}")
        finally:
            if self._gate is not None:
                self._gate.close()

    def _move(self, event: SaveEvent) -> None:
        self._state = next_state(TRANSITIONS, self._state, event)
        has_failed = self._state in (SaveState.TORN, SaveState.FAILED)
        self._status = self._status._replace(
            busy=self._state in BUSY,
            saved=None if has_failed else self._status.saved,
            retake=self._reason if self._state is SaveState.TORN else None,
        )

    def _stalled_seconds(self) -> float:
        return self._status.stalled_seconds + (self._gate.waited_seconds if self._gate else 0.0)


def _seconds_since(started: float) -> float:
    return time.monotonic() - started
